package demo

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// ledger counts what was done, from two sides that do not know each other:
// the records of the runs, and what the target started.
type ledger struct {
	records  int
	repeated int            // transitions or attempts that are recorded more than once
	deploys  map[string]int // deployments that were granted, by environment
	started  map[string]int // attempts that were granted, by task id; those that began at once may be missing
	queued   map[string]int
	finished map[string]int
}

func newLedger() *ledger {
	return &ledger{deploys: map[string]int{}, started: map[string]int{}, queued: map[string]int{}, finished: map[string]int{}}
}

// enter reads the records of a run, oldest first.
func (l *ledger) enter(stored []events.StoredRecord) error {
	environments := map[string]string{} // of tasks that deploy
	prev := ""
	for i, st := range stored {
		r, err := record.Decode(st.Record)
		if err != nil {
			return err
		}
		if r.V < int64(i+1) {
			l.repeated++
		} else if r.V > int64(i+1) || r.Prev != prev {
			return fmt.Errorf("run %s: record %d stands at place %d, or does not follow the one before", r.ID, r.V, i+1)
		}
		prev = st.Hash
		l.records++
		for _, t := range r.Tasks {
			l.count(l.queued, t.ID)
			if t.Kind == "deploy" && t.Environment != nil {
				environments[t.ID] = t.Environment.Name
			}
		}
		if r.Answer.Status != events.StatusApplied || r.In.Attempt == nil {
			continue
		}
		switch id := r.In.Attempt.Task; r.In.Kind {
		case record.InAttemptStart:
			l.count(l.started, id)
			if env := environments[id]; env != "" {
				l.deploys[env]++
			}
		case record.InAttemptFinish:
			l.count(l.finished, id)
		}
	}
	return nil
}

// count counts a task that may stand in a column once.
func (l *ledger) count(column map[string]int, id string) {
	if column[id]++; column[id] > 1 {
		l.repeated++
	}
}

// nothingTwice compares what the records say with what was really started.
func (s *story) nothingTwice(ctx context.Context) error {
	l := newLedger()
	for _, run := range s.runs {
		stored, err := s.records(ctx, run)
		if err != nil {
			return err
		}
		if err := l.enter(stored); err != nil {
			return err
		}
	}
	s.notes.repeated = l.repeated
	attempts := maps.Clone(l.started)
	maps.Copy(attempts, l.finished)
	if err := s.claim(l.repeated == 0 && len(attempts) > 0, "%d records of %d runs: versions without a gap, %d attempts, each granted once and ended once, %d repeated transitions",
		l.records, len(s.runs), len(attempts), l.repeated); err != nil {
		return err
	}
	for _, environment := range []string{"staging", "production"} {
		// One file for each process that was ever started there.
		logs, err := filepath.Glob(filepath.Join(s.environment(environment), "logs", "*.log"))
		if err != nil {
			return err
		}
		if err := s.claim(len(logs) == l.deploys[environment], "%s: %d deployments were granted, and %d processes were started", environment, l.deploys[environment], len(logs)); err != nil {
			return err
		}
	}
	return nil
}
