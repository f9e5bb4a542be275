package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// engineKilled kills the engine twice in the middle of the last run: while
// tasks run, and between the first and the second approval.
func (s *story) engineKilled(ctx context.Context) error {
	s.narrator.chapter("4. The engine is killed in the middle of a run")
	run, err := s.push(ctx, s.commits[4])
	if err != nil {
		return err
	}
	if _, err := s.feed.await(ctx, "the tests of run "+run, of(run, "verify.test", events.TaskQueued)); err != nil {
		return err
	}
	if err := s.killAndStart(ctx, run, "when the tests were handed out"); err != nil {
		return err
	}
	if err := s.waits(ctx, run); err != nil {
		return err
	}
	if err := s.approveAs(ctx, "marta", run); err != nil {
		return err
	}
	if err := s.killAndStart(ctx, run, "after marta's approval"); err != nil {
		return err
	}
	if err := s.approveAs(ctx, "li", run); err != nil {
		return err
	}
	if _, err := s.ended(ctx, run, "released"); err != nil {
		return err
	}
	if err := s.answered(ctx, s.commits[4].version); err != nil {
		return err
	}
	seen := s.customer.seen()
	if err := s.answeredAll(seen, "the run went on where it was, marta's approval counted, and production never stopped: %d requests, %d failed",
		seen.sent, seen.failed); err != nil {
		return err
	}
	s.notes.last = run
	return s.nothingTwice(ctx)
}

// killAndStart kills the server and starts it again, and checks that nothing
// that was recorded before is lost.
func (s *story) killAndStart(ctx context.Context, run, when string) error {
	before, err := s.records(ctx, run)
	if err != nil {
		return err
	}
	asked := s.customer.seen().sent
	pid := s.stand.server.cmd.Process.Pid
	began := time.Now()
	s.narrator.line(fmt.Sprintf("kill -9 %d: the engine and its NATS server are gone, %s", pid, when), "")
	s.stand.killServer()
	if err := s.stand.startServer(ctx); err != nil {
		return err
	}
	s.narrator.line(fmt.Sprintf("started again as process %d, ready after %.1fs", s.stand.server.cmd.Process.Pid, time.Since(began).Seconds()), "penstock status")
	after, err := s.records(ctx, run)
	if err != nil {
		return err
	}
	whole := len(after) >= len(before) && slices.EqualFunc(before, after[:len(before)], func(a, b events.StoredRecord) bool { return a.Hash == b.Hash })
	return s.claim(whole, "all %d records of the run are there, as they were; meanwhile production answered %d requests", len(before), s.customer.seen().sent-asked)
}

func (s *story) records(ctx context.Context, run string) ([]events.StoredRecord, error) {
	var all []events.StoredRecord
	for q := (events.GetRun{Run: run}); ; {
		var page events.Records
		if err := s.people["marta"].ask(ctx, events.VerbRecords, q, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Records...)
		if page.Next <= q.After {
			return all, nil
		}
		q.After = page.Next
	}
}
