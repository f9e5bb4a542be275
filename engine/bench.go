package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/bench"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// BenchKind is the kind of the tasks that Bench has done.
const BenchKind = "bench"

// BenchOptions say what to measure. The zero value of a field is its default.
type BenchOptions struct {
	// Dir is where the data of both sides goes, on the disk that is to be
	// measured. Required; the caller removes it.
	Dir string
	// Work does tasks of BenchKind that comes on conn, so many at a time as
	// slots, until ctx ends. Its handler does nothing. Required.
	Work func(ctx context.Context, conn *bus.Conn, slots int) error
	// Process makes the command that runs BenchProcess, or another command of
	// this program, in a process of its own. Required for B4 and more.
	Process func(ctx context.Context, args ...string) *exec.Cmd
	// Only are the ids of what to measure, B1 to B8; all of them when empty.
	Only []string
	// InFlight are numbers of runs in flight, for B1 and B2; 100 and 1000.
	InFlight []int
	// Span is how long a side is measured at a time; 2 s.
	Span time.Duration
	// Rounds is how often each side is measured; 3.
	Rounds int
	// Trips is how many task round trips a round of B3 has; 250.
	Trips int
	// Runs is how many runs wait in B4; 100,000. In B5 they are 10,000 at most.
	Runs int
	// Progress is told, in a line, what is measured now; may be nil.
	Progress func(line string)
	Log      *slog.Logger
}

// BenchReport is what was measured and where.
type BenchReport struct {
	Version string        `json:"version"`
	Cores   int           `json:"cores"`
	Load    string        `json:"load,omitempty"` // the system's load averages before, where it tells them
	PerRun  bench.Counts  `json:"perRun"`         // messages that a run stores, on both sides
	Bytes   int           `json:"bytesPerRun"`    // of these messages, without headers
	Span    float64       `json:"seconds"`        // that a side is measured at a time
	Rounds  int           `json:"rounds"`
	Results []BenchResult `json:"results"`
}

// BenchResult is one number and the floor's beside it.
type BenchResult struct {
	ID    string  `json:"id"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Floor float64 `json:"floor"` // 0 where there is none
	Ratio float64 `json:"ratio"` // Value/Floor
	// FloorIs says what the floor is, where it is not the bare loop that
	// stores and hands out the same.
	FloorIs string `json:"floorIs,omitempty"`
	Note    string `json:"note,omitempty"`
	// CPU and FloorCPU are microseconds of processor time for each round
	// trip, workers and the NATS server included; 0 where they are not known.
	CPU      float64 `json:"cpuMicros,omitempty"`
	FloorCPU float64 `json:"floorCpuMicros,omitempty"`
	Target   string  `json:"target"`
	Met      bool    `json:"met"`
}

// benchIDs are what Bench can measure.
var benchIDs = []string{"B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"}

func (o BenchOptions) withDefaults() (BenchOptions, error) {
	if o.Dir == "" || o.Work == nil {
		return o, errors.New("bench: a directory and a worker are needed")
	}
	for _, id := range o.Only {
		if !slices.Contains(benchIDs, id) {
			return o, fmt.Errorf("bench: there is no %q; there are %s", id, strings.Join(benchIDs, ", "))
		}
	}
	for _, n := range o.InFlight {
		if n < 1 || n > 10_000 {
			return o, fmt.Errorf("bench: %d runs in flight: must be from 1 to 10000", n)
		}
	}
	if o.Span < 0 || o.Span > time.Minute {
		return o, fmt.Errorf("bench: %v: must be at most a minute", o.Span)
	}
	if len(o.Only) == 0 {
		o.Only = benchIDs
	}
	if len(o.InFlight) == 0 {
		o.InFlight = []int{100, 1000}
	}
	if o.Runs < 0 || o.Runs > 10_000_000 {
		return o, fmt.Errorf("bench: %d runs that wait: must be from 1 to 10000000", o.Runs)
	}
	o.Runs = cmp.Or(o.Runs, 100_000)
	o.Span, o.Rounds, o.Trips = cmp.Or(o.Span, 2*time.Second), cmp.Or(o.Rounds, 3), cmp.Or(o.Trips, 250)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Bench measures Penstock and the floor in turns and gives the medians.
func Bench(ctx context.Context, o BenchOptions) (*BenchReport, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &BenchReport{Version: Version(), Cores: runtime.NumCPU(), Load: loadAverage(), Span: o.Span.Seconds(), Rounds: o.Rounds}
	for _, sync := range []string{broker.SyncAlways, broker.SyncLazy} {
		ids := map[string][]string{broker.SyncAlways: {"B1", "B3"}, broker.SyncLazy: {"B2"}}[sync]
		ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(o.Only, id) })
		if len(ids) == 0 {
			continue
		}
		if err := benchSync(ctx, o, r, sync, ids); err != nil {
			return nil, err
		}
	}
	for _, id := range o.Only {
		if slices.Contains([]string{"B1", "B2", "B3"}, id) {
			continue
		}
		results, err := benchScale(ctx, o, id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		r.Results = append(r.Results, results...)
	}
	slices.SortStableFunc(r.Results, func(a, b BenchResult) int { return strings.Compare(a.ID, b.ID) })
	return r, nil
}

// benchPair are both sides at work.
type benchPair struct {
	o        BenchOptions
	penstock *benchEngine
	floor    *bench.Floor
	runners  [2]*bench.Runner // of Penstock and of the floor
	perRun   bench.Counts
}

// benchSync measures everything that is measured with one way to sync.
func benchSync(ctx context.Context, o BenchOptions, r *BenchReport, sync string, ids []string) (err error) {
	p := &benchPair{o: o}
	defer func() { err = errors.Join(err, p.close()) }()
	var shape *bench.Shape
	onSide(ctx, penstockSide, func(ctx context.Context) {
		if p.penstock, err = startBenchEngine(ctx, o, filepath.Join(o.Dir, "penstock-"+sync), sync); err == nil {
			shape, err = p.penstock.shape(ctx)
		}
	})
	if err != nil {
		return err
	}
	onSide(ctx, floorSide, func(ctx context.Context) {
		p.floor, err = bench.NewFloor(ctx, filepath.Join(o.Dir, "floor-"+sync), sync, BenchKind, shape, o.Log)
	})
	if err != nil {
		return err
	}
	p.runners = [2]*bench.Runner{bench.NewRunner(p.penstock), bench.NewRunner(p.floor)}
	p.perRun = shape.PerRun()
	r.PerRun, r.Bytes = p.perRun, shape.Bytes()
	for _, id := range ids {
		switch id {
		case "B1":
			err = p.throughput(ctx, r, id, "durable task round trips", 15_000)
		case "B2":
			err = p.throughput(ctx, r, id, "task round trips with lazy sync", 18_000)
		case "B3":
			err = p.latency(ctx, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

// The sides, in the order of benchPair.runners.
const (
	penstockSide = iota
	floorSide
)

// sideNames are the sides' names, for people and as labels in profiles.
var sideNames = [2]string{"penstock", "floor"}

// onSide has all that do does, and the goroutines that it begins, stand in a
// profile under the label side.
func onSide(ctx context.Context, side int, do func(ctx context.Context)) {
	pprof.Do(ctx, pprof.Labels("side", sideNames[side]), do)
}

func (p *benchPair) close() error {
	var errs []error
	if p.floor != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		errs = append(errs, p.floor.Close(ctx))
	}
	if p.penstock != nil {
		errs = append(errs, p.penstock.close())
	}
	return errors.Join(errs...)
}

// serving has workers on both sides while do runs, and then compares what
// both have stored.
func (p *benchPair) serving(ctx context.Context, slots int, do func() error) (err error) {
	for i, side := range []bench.Side{p.penstock, p.floor} {
		var stop func() error
		onSide(ctx, i, func(context.Context) { stop, err = side.Serve(slots) })
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if err := do(); err != nil {
		return err
	}
	for i, runner := range p.runners {
		if err := runner.Check(ctx, p.perRun); err != nil {
			return fmt.Errorf("%s: %w", sideNames[i], err)
		}
	}
	return nil
}

// throughput measures round trips per second for each number of runs in
// flight. least is the target at a thousand of them.
func (p *benchPair) throughput(ctx context.Context, r *BenchReport, id, what string, least float64) error {
	for _, n := range p.o.InFlight {
		var got, cpu [2][]float64
		err := p.serving(ctx, n, func() error {
			for round := range p.o.Rounds {
				p.o.Progress(fmt.Sprintf("%s: %s, %d runs in flight, round %d of %d", id, what, n, round+1, p.o.Rounds))
				for i, runner := range p.runners {
					var v bench.Rate
					var err error
					onSide(ctx, i, func(ctx context.Context) { v, err = runner.Throughput(ctx, n, p.o.Span/4, p.o.Span) })
					if err == nil { // the other side is not to store what this one has left
						err = runner.Check(ctx, p.perRun)
					}
					if err != nil {
						return fmt.Errorf("%s: %w", sideNames[i], err)
					}
					got[i] = append(got[i], v.PerSecond)
					cpu[i] = append(cpu[i], float64(v.CPU.Nanoseconds())/1000)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		res := benchResult(id, fmt.Sprintf("%s, %d runs in flight", what, n), "1/s", bench.Median(got[0]), bench.Median(got[1]))
		res.CPU, res.FloorCPU = bench.Median(cpu[0]), bench.Median(cpu[1])
		res.Target, res.Met = "ratio ≥ 0.7", res.Ratio >= 0.7
		if n == 1000 {
			res.Target, res.Met = fmt.Sprintf("ratio ≥ 0.7 and ≥ %.0f/s", least), res.Met && res.Value >= least
		}
		r.Results = append(r.Results, res)
	}
	return nil
}

// latency measures how long a round trip takes when nothing else is done.
func (p *benchPair) latency(ctx context.Context, r *BenchReport) error {
	quantiles := []float64{0.5, 0.99}
	var got [2][2][]float64 // by quantile, by side
	rounds := 3 * p.o.Rounds
	runs := max(1, p.o.Trips/bench.Tasks)
	err := p.serving(ctx, runtime.NumCPU(), func() error {
		for round := range rounds {
			p.o.Progress(fmt.Sprintf("B3: latency of a task round trip, round %d of %d", round+1, rounds))
			for i, runner := range p.runners {
				var took []time.Duration
				var err error
				onSide(ctx, i, func(ctx context.Context) { took, err = runner.Latency(ctx, runs) })
				if err != nil {
					return err
				}
				for q, at := range quantiles {
					got[q][i] = append(got[q][i], float64(bench.Quantile(took, at).Microseconds())/1000)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for q, at := range quantiles {
		res := benchResult("B3", fmt.Sprintf("latency of one task round trip, idle, durable, p%g", 100*at), "ms",
			bench.Median(got[q][0]), bench.Median(got[q][1]))
		res.Target, res.Met = "ratio ≤ 1.5", res.Ratio <= 1.5
		r.Results = append(r.Results, res)
	}
	return nil
}

func benchResult(id, what, unit string, value, floor float64) BenchResult {
	res := BenchResult{ID: id, What: what, Unit: unit, Value: value, Floor: floor}
	if floor > 0 {
		res.Ratio = value / floor
	}
	return res
}

// loadAverage is what Linux says of it, "" elsewhere.
func loadAverage() string {
	p, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(p))[:3], " ")
}

// benchEngine is Penstock as it is measured: a whole engine, to which workers
// come over the bus. Runs are started, and watched, inside the process.
type benchEngine struct {
	e      *Engine
	work   func(ctx context.Context, conn *bus.Conn, slots int) error
	base   bench.Counts
	next   atomic.Uint64
	told   atomic.Pointer[func(bench.Event)]
	cancel context.CancelFunc
	done   chan error
}

const benchDefinitions = `apiVersion: penstock/v1
kind: TaskKind
metadata: {name: ` + BenchKind + `, description: does nothing}
spec: {runs: repeatable}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: bench}
spec:
  initial: one
  states:
    one: {task: bench, next: two, onFail: failed}
    two: {task: bench, next: three, onFail: failed}
    three: {task: bench, next: four, onFail: failed}
    four: {task: bench, next: five, onFail: failed}
    five: {task: bench, next: done, onFail: failed}
    done: {final: succeeded}
    failed: {final: failed}
`

func startBenchEngine(ctx context.Context, o BenchOptions, dir, sync string) (*benchEngine, error) {
	b := &benchEngine{work: o.Work, done: make(chan error, 1)}
	defs := filepath.Join(dir, "definitions")
	if err := os.MkdirAll(defs, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(defs, "bench.yaml"), []byte(benchDefinitions), 0o600); err != nil {
		return nil, err
	}
	e, err := New(Options{Dir: filepath.Join(dir, "data"), Listen: broker.ListenNot, HTTP: "none", Sync: sync, Workflows: []string{defs}, Log: o.Log})
	if err != nil {
		return nil, err
	}
	e.observe = b.observe
	b.e = e
	ctx, b.cancel = context.WithCancel(ctx)
	go func() { b.done <- e.Run(ctx) }()
	select {
	case err := <-b.done:
		b.cancel()
		return nil, cmp.Or(err, context.Cause(ctx))
	case <-e.Ready():
		return b, nil
	}
}

func (b *benchEngine) close() error {
	b.cancel()
	return <-b.done
}

// shape makes one run and reads what it stored; counting begins after it.
func (b *benchEngine) shape(ctx context.Context) (*bench.Shape, error) {
	ended := make(chan bench.Event, 1)
	b.Watch(func(e bench.Event) {
		if e.Last || e.Err != nil {
			ended <- e
		}
	})
	stop, err := b.Serve(1)
	if err != nil {
		return nil, err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.Start(ctx); err != nil {
		return nil, err
	}
	select {
	case e := <-ended:
		if e.Err != nil {
			return nil, e.Err
		}
		shape, err := bench.ReadShape(ctx, b.e.broker, e.Run)
		if err != nil {
			return nil, err
		}
		b.base, err = bench.Since(ctx, b.e.broker, bench.Counts{})
		return shape, err
	case <-ctx.Done():
		return nil, fmt.Errorf("the first run did not end: %w", context.Cause(ctx))
	}
}

// Start implements bench.Side.
func (b *benchEngine) Start(ctx context.Context) error {
	id := record.Derive("bench", b.next.Add(1))
	a := b.e.owner.Do(ctx, record.Run, id, record.Input{ID: id, Kind: record.InStart, By: "bench", Admin: true,
		Start: &record.Start{Run: id, Workflow: "bench"}})
	if a.Status != events.StatusApplied {
		return fmt.Errorf("a run was not started: %s %s %s", a.Status, a.Code, a.Reason)
	}
	return nil
}

// Watch implements bench.Side.
func (b *benchEngine) Watch(told func(bench.Event)) { b.told.Store(&told) }

// observe is told of every state as it is stored.
func (b *benchEngine) observe(e owner.Entry) {
	s, ok := e.State.(*run.State)
	told := b.told.Load()
	if !ok || told == nil {
		return
	}
	n := len(s.Ended)
	switch {
	case s.Done() && s.Outcome != events.Succeeded:
		(*told)(bench.Event{Err: fmt.Errorf("run %s ended %s", s.ID, s.Outcome)})
	case e.V == 1:
		(*told)(bench.Event{Run: s.ID})
	case n > 0 && s.Ended[n-1].V == e.V:
		(*told)(bench.Event{Run: s.ID, Task: n, Last: s.Done()})
	}
}

// Serve implements bench.Side.
func (b *benchEngine) Serve(slots int) (stop func() error, err error) {
	name := fmt.Sprintf("bench%d", b.next.Add(1))
	cred, err := b.e.broker.AddPrincipal(bus.KindWorker, name, "")
	if err != nil {
		return nil, err
	}
	cred.TaskKeys = b.e.Info().TaskKeys
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := bus.Connect(ctx, &cred, bus.InProcess(b.e.broker.InProcess()), bus.WithLogger(b.e.o.Log))
	if err != nil {
		cancel()
		return nil, err
	}
	var failed error
	var working sync.WaitGroup
	working.Go(func() { failed = b.work(ctx, conn, slots) })
	return func() error {
		cancel()
		working.Wait()
		conn.Close()
		return errors.Join(failed, b.e.broker.RevokePrincipal(bus.KindWorker, name))
	}, nil
}

// Behind implements bench.Side.
func (b *benchEngine) Behind() int64 {
	return b.e.tasks.waiting.Load() + b.e.out.waiting.Load()
}

// Stored implements bench.Side.
func (b *benchEngine) Stored(ctx context.Context) (bench.Counts, error) {
	return bench.Since(ctx, b.e.broker, b.base)
}
