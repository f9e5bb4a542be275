package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/scale"
)

// millionSteps is how many runs are started while others wait.
const millionSteps = 500

// stateSize is how many bytes the states of idle runs have.
const stateSize = 1024

// benchMillion starts an engine, in a process of its own, on a store with no
// run and on one with many that wait for an approval.
func benchMillion(ctx context.Context, o BenchOptions, dir string) (results []BenchResult, err error) {
	s, err := o.startStore(ctx, filepath.Join(dir, "nats"), true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	o.Progress("B4: an engine without runs")
	empty, err := o.startIdle(ctx, s, filepath.Join(dir, "empty"), 0)
	if err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("B4: %d runs that wait for an approval are stored", o.Runs))
	filled, err := fillStore(ctx, s, filepath.Join(dir, "filling"), journal.SyncLazy, o.Runs)
	if err != nil {
		return nil, err
	}
	there := o.Runs + millionSteps // those of the engine before are there too
	o.Progress(fmt.Sprintf("B4: an engine with %d runs, between two readings", o.Runs))
	before, err := readStore(ctx, s, filepath.Join(dir, "reading"), there)
	if err != nil {
		return nil, err
	}
	full, err := o.startIdle(ctx, s, filepath.Join(dir, "full"), there)
	if err != nil {
		return nil, err
	}
	after, err := readStore(ctx, s, filepath.Join(dir, "reading"), there+millionSteps)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d runs waiting for an approval", o.Runs)
	each := float64(full.live-empty.live) / float64(there)
	memory := atMost("B4", what+": engine memory for each, with its timer", "B", each, 160, "100 B and 60 B for the timer")
	memory.Note = fmt.Sprintf("states of %d bytes, records of %d; resident after the start %d MB, of an engine without runs %d MB",
		filled.State, filled.Bytes/int64(o.Runs), full.resident>>20, empty.resident>>20)
	ready := atMost("B4", what+": from the start of the process to ready", "s", full.ready.Seconds(), 15, "15 s").
		beside(min(before, after).Seconds(), "bare ordered reading of the last record of each")
	ready.Note = fmt.Sprintf("without runs %.2f s; the reading took %.2f s before and %.2f s after it", empty.ready.Seconds(), before.Seconds(), after.Seconds())
	const most = 1.5
	step := BenchResult{ID: "B4", What: fmt.Sprintf("one run started while %d wait, p99", o.Runs), Unit: "ms", Target: fmt.Sprintf("ratio ≤ %g", most),
		Value: milliseconds(full.P99), Note: fmt.Sprintf("the median is %.2f ms, and %.2f ms while none waits", milliseconds(full.Median), milliseconds(empty.Median))}.
		beside(milliseconds(empty.P99), "the same while no other run waits")
	step.Met = step.Ratio <= most
	return []BenchResult{memory, ready, step}, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// idle is an engine that has nothing to do.
type idle struct {
	ready          time.Duration // from the start of its process
	live, resident int64
	engineSteps
}

// startIdle starts an engine that must find so many runs, measures it and stops it.
func (o BenchOptions) startIdle(ctx context.Context, s *store, dir string, runs int) (found idle, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return found, err
	}
	external, err := s.external(dir)
	if err != nil {
		return found, err
	}
	defs, err := waitsIn(dir)
	if err != nil {
		return found, err
	}
	began := time.Now()
	p, err := o.apart(ctx, processEngine, engineProcess{Dir: filepath.Join(dir, "data"), External: external, Lazy: true, Workflows: defs, Steps: millionSteps})
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	var r engineReady
	if err := p.Hear(readyIn, &r); err != nil {
		return found, err
	}
	found.ready = time.Since(began)
	if r.Runs != runs || r.Waiting != runs {
		return found, fmt.Errorf("the engine knows %d runs, of which %d wait; there are %d", r.Runs, r.Waiting, runs)
	}
	var m engineMemory
	if err := p.Hear(readyIn, &m); err != nil {
		return found, err
	}
	found.live, found.resident = m.Live, p.Resident()
	return found, p.Hear(readyIn, &found.engineSteps)
}

// fillStore stores runs, and brings them into the audit log.
func fillStore(ctx context.Context, s *store, dir, sync string, runs int) (filled scale.Filled, err error) {
	err = s.inLog(ctx, dir, sync, func(js jetstream.JetStream, j journal.Journal) error {
		if filled, err = scale.Fill(ctx, j, runs, stateSize); err != nil {
			return fmt.Errorf("runs are stored: %w", err)
		}
		return audited(ctx, js, j)
	})
	return filled, err
}

// audited brings what the log has into the audit log.
func audited(ctx context.Context, js jetstream.JetStream, j journal.Journal) error {
	last, err := j.Last(ctx, journal.AllRecords)
	for tries := 1; err != nil && tries < 10 && ctx.Err() == nil; tries++ { // the server may be busy with what it was given
		last, err = j.Last(ctx, journal.AllRecords)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := audit.NewWriter(audit.Options{Source: j, Store: audit.Open(js), Instance: "bench"})
	var work sync.WaitGroup
	work.Go(func() { w.Run(ctx) })
	for ctx.Err() == nil && w.Confirmed() < last.Seq {
		pause(ctx, 20*time.Millisecond)
	}
	err = ctx.Err()
	cancel()
	work.Wait()
	return err
}

// readStore reads the last record of each run as fast as that can be done.
func readStore(ctx context.Context, s *store, dir string, runs int) (took time.Duration, err error) {
	err = s.inLog(ctx, dir, journal.SyncLazy, func(js jetstream.JetStream, _ journal.Journal) error {
		runtime.GC() // not of what was done before
		took, err = scale.Read(ctx, js, runs)
		return err
	})
	if err != nil {
		err = fmt.Errorf("runs are read: %w", err)
	}
	return took, err
}

// inLog connects this process to the store's log.
func (s *store) inLog(ctx context.Context, dir, sync string, do func(jetstream.JetStream, journal.Journal) error) (err error) {
	b, err := s.broker(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	if err := b.EnsureStreams(ctx); err != nil {
		return err
	}
	js, err := jetstream.New(b.Engine)
	if err != nil {
		return err
	}
	j, err := journal.Open(ctx, js, journal.Options{Sync: sync, AckTimeout: time.Minute})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close(context.WithoutCancel(ctx))) }()
	return do(js, j)
}
