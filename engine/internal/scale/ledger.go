package scale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// Do has a command carried out by whoever owns the partition of a run.
type Do func(ctx context.Context, agg, id string, in record.Input) events.Answer

// Load gives commands to engines, and keeps a ledger of what was acknowledged:
// runs of the workflow of Definitions are started, and cancelled.
type Load struct {
	do   Do
	next atomic.Int64

	mu        sync.Mutex
	started   map[string]bool // acknowledged; true when the cancelling was too
	inputs    int
	ending    atomic.Bool
	work      sync.WaitGroup
	exhausted error
}

// patience is how long a command may be without a final answer.
const patience = 2 * time.Minute

// NewLoad makes a Load that does nothing yet.
func NewLoad(do Do) *Load { return &Load{do: do, started: map[string]bool{}} }

// Begin has so many at a time start runs and cancel them, until End.
func (l *Load) Begin(ctx context.Context, at int) {
	for range at {
		l.work.Go(func() {
			for !l.ending.Load() {
				if err := l.round(ctx); err != nil {
					l.mu.Lock()
					l.exhausted = errors.Join(l.exhausted, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
}

// End ends the load when what is under way is answered: the record is compared
// with the ledger when nothing changes it any more. The error says what had no
// answer for too long.
func (l *Load) End() error {
	l.ending.Store(true)
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.exhausted
}

func (l *Load) round(ctx context.Context) error {
	id := record.Derive("bench", "load", l.next.Add(1))
	if err := l.Start(ctx, id); err != nil {
		return err
	}
	in := record.Input{ID: id + "/cancel", Kind: record.InCancel, By: "bench", Admin: true, Cancel: &events.CancelRun{ID: id + "/cancel", Run: id}}
	return l.acked(ctx, id, in, true)
}

// Start starts a run and enters it in the ledger.
func (l *Load) Start(ctx context.Context, id string) error {
	in := record.Input{ID: id, Kind: record.InStart, By: "bench", Admin: true, Start: &record.Start{Run: id, Workflow: "waits", Inputs: record.Values{"note": "x"}}}
	return l.acked(ctx, id, in, false)
}

// acked repeats a command, with the same id, until it is acknowledged.
func (l *Load) acked(ctx context.Context, id string, in record.Input, ends bool) error {
	deadline := time.Now().Add(patience)
	for {
		a := l.do(ctx, record.Run, id, in)
		switch {
		case a.Status == events.StatusApplied || a.Status == events.StatusAlready:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.started[id] = ends
			l.inputs++
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case a.Status != events.StatusBusy || time.Now().After(deadline):
			return fmt.Errorf("%s of run %s: %s %s %s", in.Kind, id, a.Status, a.Code, a.Reason)
		}
	}
}

// Inputs is how many were acknowledged.
func (l *Load) Inputs() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inputs
}

// Lost gives the acknowledged inputs of which the record knows nothing: runs
// that are not there, and those that were cancelled and have not ended. Of
// runs beside those of the ledger it gives how many are there.
func (l *Load) Lost(ctx context.Context, j journal.Journal) (lost []string, others int, err error) {
	last := map[string]record.Summary{}
	err = j.LastPerSubject(ctx, []string{journal.AllRecords}, func(e journal.Entry) error {
		got, err := owner.EntryOf(e)
		if err == nil && got.Aggregate == record.Run {
			last[got.ID] = got.Summary
		}
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, ended := range l.started {
		s, there := last[id]
		delete(last, id)
		switch {
		case !there:
			lost = append(lost, fmt.Sprintf("start of %s in partition %d", id, events.Partition(record.Run, id)))
		case ended && s.Status != run.StatusDone:
			lost = append(lost, fmt.Sprintf("cancel of %s in partition %d, which is %s", id, events.Partition(record.Run, id), s.Status))
		}
	}
	return lost, len(last), err
}

// Everywhere starts a run in each partition, all at once, and gives how long
// it took until the last of them was acknowledged.
func (l *Load) Everywhere(ctx context.Context) (time.Duration, error) {
	ids := map[int]string{}
	for len(ids) < events.Partitions {
		id := record.Derive("bench", "everywhere", l.next.Add(1))
		ids[events.Partition(record.Run, id)] = id
	}
	began := time.Now()
	errs := make([]error, events.Partitions)
	var work sync.WaitGroup
	for vp, id := range ids {
		work.Go(func() { errs[vp] = l.Start(ctx, id) })
	}
	work.Wait()
	return time.Since(began), errors.Join(errs...)
}
