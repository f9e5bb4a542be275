package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/bench"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// A run that goes round and round, with a task in each round.
const loopDefinitions = `apiVersion: penstock/v1
kind: TaskKind
metadata: {name: round, description: does nothing}
spec: {runs: once}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: loop}
spec:
  initial: there
  states:
    there: {task: round, next: back, onFail: failed}
    back: {task: round, transitions: [{when: 'visits("there") < 1000000', to: there}], next: done, onFail: failed}
    done: {final: succeeded}
    failed: {final: failed}
`

const (
	longHistory  = 10_000
	shortHistory = 10
	loops        = 8  // runs that go round at the same time
	roundSteps   = 60 // records of each in a measurement
	roundTimes   = 15 // measurements of each kind, in turns
)

// looper drives runs round, as fast as an engine in this process lets it.
type looper struct{ e *Engine }

// benchHistory measures how fast runs go on that have gone on for long,
// beside runs that have just begun.
func benchHistory(ctx context.Context, o BenchOptions, dir string) (results []BenchResult, err error) {
	e, stop, err := startWith(ctx, o, dir, broker.SyncLazy, loopDefinitions)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	l := looper{e}
	o.Progress(fmt.Sprintf("B6: %d runs are made %d records long", loops, longHistory))
	old, err := l.runs(ctx, "old", longHistory)
	if err != nil {
		return nil, err
	}
	var long, short []float64
	for i := range roundTimes {
		o.Progress(fmt.Sprintf("B6: transitions of runs with %d and with %d records, round %d of %d", longHistory, shortHistory, i+1, roundTimes))
		young, err := l.runs(ctx, fmt.Sprint("young", i), shortHistory)
		if err != nil {
			return nil, err
		}
		s, err := l.rate(ctx, young)
		if err != nil {
			return nil, err
		}
		g, err := l.rate(ctx, old)
		if err != nil {
			return nil, err
		}
		short, long = append(short, s), append(long, g)
	}
	what := fmt.Sprintf("transitions of %d runs with %d records each, lazy sync", loops, longHistory)
	r := BenchResult{ID: "B6", What: what, Unit: "1/s", Value: bench.Median(long), Target: "ratio ≥ 0.9"}.
		beside(bench.Median(short), fmt.Sprintf("the same with %d records", shortHistory))
	r.Met = r.Ratio >= 0.9
	return []BenchResult{r}, nil
}

// startWith starts an engine in this process with definitions in force.
func startWith(ctx context.Context, o BenchOptions, dir, sync, definitions string) (*Engine, func() error, error) {
	defs := filepath.Join(dir, "definitions")
	if err := os.MkdirAll(defs, 0o700); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(defs, "bench.yaml"), []byte(definitions), 0o600); err != nil {
		return nil, nil, err
	}
	e, err := New(Options{Dir: filepath.Join(dir, "data"), Listen: broker.ListenNot, HTTP: "none", Sync: sync, Workflows: []string{defs}, Log: o.Log})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	select {
	case err := <-done:
		cancel()
		return nil, nil, errors.Join(err, context.Cause(ctx))
	case <-e.Ready():
	}
	return e, func() error { cancel(); return <-done }, nil
}

// runs starts runs and has each make so many records.
func (l looper) runs(ctx context.Context, name string, records int64) ([]string, error) {
	var ids []string
	for i := range loops {
		id := record.Derive("bench", "loop", name, i)
		a := l.e.owner.Do(ctx, record.Run, id, record.Input{ID: id, Kind: record.InStart, By: "bench", Admin: true,
			Start: &record.Start{Run: id, Workflow: "loop"}})
		if a.Status != events.StatusApplied {
			return nil, fmt.Errorf("a run was not started: %s %s %s", a.Status, a.Code, a.Reason)
		}
		ids = append(ids, id)
	}
	return ids, l.all(ids, func(id string) error { return l.turn(ctx, id, records) })
}

func (l looper) all(ids []string, do func(id string) error) error {
	var work sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		work.Go(func() { errs[i] = do(id) })
	}
	work.Wait()
	return errors.Join(errs...)
}

// rate has runs go on, and gives how many records they make in a second.
func (l looper) rate(ctx context.Context, ids []string) (float64, error) {
	began := time.Now()
	err := l.all(ids, func(id string) error { return l.turn(ctx, id, roundSteps) })
	return float64(len(ids)*roundSteps) / time.Since(began).Seconds(), err
}

// turn has a run make that many more records: the task that it waits for is
// begun, or is done.
func (l looper) turn(ctx context.Context, id string, records int64) error {
	for range records {
		state, _, err := l.e.owner.State(ctx, record.Run, id)
		if err != nil {
			return err
		}
		s, ok := state.(*run.State)
		if !ok || s == nil || len(s.Tasks) == 0 {
			return fmt.Errorf("run %s is not there", id)
		}
		t := s.Tasks[0]
		in := record.Input{Kind: record.InAttemptStart, By: "worker:bench", Attempt: &record.Attempt{Task: t.ID, Worker: "bench", Pool: t.Pool}}
		if _, running := s.Running()[t.ID]; running {
			in.Kind, in.Attempt.Result = record.InAttemptFinish, &events.Result{Outcome: events.Succeeded}
		}
		in.ID = t.ID + "/" + in.Kind
		if a := l.e.owner.Do(ctx, record.Run, id, in); a.Status != events.StatusApplied {
			return fmt.Errorf("run %s does not go on: %s %s %s", id, a.Status, a.Code, a.Reason)
		}
	}
	return nil
}
