package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/bench"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/scale"
	"github.com/penstock-cd/penstock/engine/record"
)

// Processes that Bench starts, by the first argument of BenchProcess.
const (
	processNATS   = "nats"
	processEngine = "engine"
)

// readyIn is how long such a process may take until it says that it is ready,
// or anything after that: with a million runs it takes its time.
const readyIn = 15 * time.Minute

// BenchProcess is another process of a benchmark: what to run, with options in
// JSON, until ctx or in ends. It says on out how far it is.
func BenchProcess(ctx context.Context, role, options string, in io.Reader, out io.Writer) error {
	ctx, cancel := scale.UntilClosed(ctx, in)
	defer cancel()
	switch role {
	case processNATS:
		var o scale.ServerOptions
		if err := json.Unmarshal([]byte(options), &o); err != nil {
			return err
		}
		return scale.Serve(ctx, o, out)
	case processEngine:
		var o engineProcess
		if err := json.Unmarshal([]byte(options), &o); err != nil {
			return err
		}
		return o.run(ctx, out)
	}
	return fmt.Errorf("bench: there is no process %q", role)
}

// engineProcess is an engine on a NATS server that runs apart.
type engineProcess struct {
	Dir      string `json:"dir"`
	External string `json:"external"` // path
	Lazy     bool   `json:"lazy"`
	// Steps is how many runs it starts, one after the other, when it is ready.
	Steps int `json:"steps,omitempty"`
	// Engines is how many there will be; this one then says when it has its share.
	Engines   int    `json:"engines,omitempty"`
	Workflows string `json:"workflows,omitempty"` // folder of definitions
}

// engineReady is what an engineProcess says when it answers.
type engineReady struct {
	Runs    int `json:"runs"`
	Waiting int `json:"waiting"`
}

// engineMemory is what it says next.
type engineMemory struct {
	Live int64 `json:"live"` // bytes of the heap that are in use
}

func (o engineProcess) run(ctx context.Context, out io.Writer) error {
	sync := broker.SyncAlways
	if o.Lazy {
		sync = broker.SyncLazy
	}
	var workflows []string
	if o.Workflows != "" {
		workflows = []string{o.Workflows}
	}
	e, err := New(Options{Dir: o.Dir, External: o.External, HTTP: "none", Sync: sync, Workflows: workflows, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-e.Ready():
	}
	say := json.NewEncoder(out)
	var r engineReady
	r.Runs, r.Waiting = e.index.Counts()
	err = say.Encode(r)
	runtime.GC()
	runtime.GC() // what finalizers and pools had held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	err = errors.Join(err, say.Encode(engineMemory{int64(m.HeapAlloc)}))
	if o.Steps > 0 {
		steps, failed := o.steps(ctx, e)
		err = errors.Join(err, failed, say.Encode(steps))
	}
	if o.Engines > 0 {
		err = errors.Join(err, say.Encode(engineShare{o.share(ctx, e)}))
	}
	return errors.Join(err, <-done)
}

// engineSteps says how long an engineProcess takes to start a run.
type engineSteps struct {
	Median time.Duration `json:"median"`
	P99    time.Duration `json:"p99"`
}

// steps starts runs, one after the other.
func (o engineProcess) steps(ctx context.Context, e *Engine) (engineSteps, error) {
	load := scale.NewLoad(e.peers.Do)
	var took []time.Duration
	for n := range o.Steps {
		id := record.Derive("bench", "step", o.Dir, n)
		began := time.Now()
		if err := load.Start(ctx, id); err != nil {
			return engineSteps{}, err
		}
		took = append(took, time.Since(began))
	}
	return engineSteps{bench.Median(took), bench.Quantile(took, 0.99)}, nil
}

// share waits until all engines are there and this one has its share of the
// partitions, which is not the same for each, and says how large it is.
func (o engineProcess) share(ctx context.Context, e *Engine) int {
	for ctx.Err() == nil {
		held, members := e.keeper.Held().Partitions, e.keeper.Members()
		if len(members) == o.Engines && held == lease.Desired(e.o.Instance, members).Partitions {
			return held.Len()
		}
		pause(ctx, 50*time.Millisecond)
	}
	return 0
}

// apart starts a process of BenchProcess.
func (o BenchOptions) apart(ctx context.Context, role string, options any) (*scale.Process, error) {
	if o.Process == nil {
		return nil, errors.New("bench: a way to start processes is needed")
	}
	p, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	return scale.Start(o.Process(ctx, "bench-process", role, string(p)))
}

// store is a NATS server in a process of its own.
type store struct {
	*scale.Process
	url    string
	logins map[string]broker.Login
}

func (o BenchOptions) startStore(ctx context.Context, dir string, lazy bool) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	options := scale.NewServer(dir, lazy)
	p, err := o.apart(ctx, processNATS, options)
	if err != nil {
		return nil, err
	}
	var at scale.Address
	if err := p.Hear(readyIn, &at); err != nil {
		p.Kill()
		return nil, fmt.Errorf("the NATS server: %w", err)
	}
	return &store{p, at.URL, options.Logins()}, nil
}

// waitsIn writes the definitions of the runs that wait, and gives their folder.
func waitsIn(dir string) (string, error) {
	defs := filepath.Join(dir, "definitions")
	if err := os.MkdirAll(defs, 0o700); err != nil {
		return "", err
	}
	return defs, os.WriteFile(filepath.Join(defs, "bench.yaml"), []byte(scale.Definitions), 0o600)
}

// external writes the file by which an engine finds the store.
func (s *store) external(dir string) (string, error) {
	p, err := json.Marshal(broker.External{URL: s.url, Accounts: s.logins})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "external.json")
	return path, os.WriteFile(path, p, 0o600)
}

// broker connects this process to the store.
func (s *store) broker(ctx context.Context, dir string) (*broker.Broker, error) {
	return broker.Start(ctx, broker.Options{Dir: dir, External: &broker.External{URL: s.url, Accounts: s.logins}})
}

// benchScale measures one of B4 to B8.
func benchScale(ctx context.Context, o BenchOptions, id string) ([]BenchResult, error) {
	dir := filepath.Join(o.Dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a million runs are gigabytes
	switch id {
	case "B4":
		return benchMillion(ctx, o, dir)
	case "B5":
		return benchTakeover(ctx, o, dir)
	case "B6":
		return benchHistory(ctx, o, dir)
	case "B7":
		return benchStart(ctx, o, dir)
	case "B8":
		return benchFiles(ctx, o, dir)
	}
	return nil, fmt.Errorf("bench: there is no %q", id)
}

// atMost is a result that must not be above target.
func atMost(id, what, unit string, value, target float64, shown string) BenchResult {
	return BenchResult{ID: id, What: what, Unit: unit, Value: value, Target: "≤ " + shown, Met: value <= target}
}

// beside puts the floor beside a value.
func (r BenchResult) beside(floor float64, what string) BenchResult {
	r.Floor, r.FloorIs = floor, what
	if floor > 0 {
		r.Ratio = r.Value / floor
	}
	return r
}

// medianOf does something several times and gives the median of its seconds.
func medianOf(times int, do func() (time.Duration, error)) (float64, error) {
	var took []time.Duration
	for range times {
		d, err := do()
		if err != nil {
			return 0, err
		}
		took = append(took, d)
	}
	return bench.Median(slices.Clone(took)).Seconds(), nil
}
