package bench_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/bench"
)

// fake is a side whose runs do their tasks at once and store extra messages.
type fake struct {
	told  func(bench.Event)
	runs  atomic.Uint64
	extra uint64
	fails bool
	empty uint64 // so many runs end without a task
	ended atomic.Uint64
	held  atomic.Int64 // how many messages it is behind
	asked atomic.Uint64
}

func (f *fake) Watch(told func(bench.Event)) { f.told = told }

func (f *fake) Start(context.Context) error {
	if f.fails {
		return errors.New("it does not start")
	}
	n := f.runs.Add(1)
	id := fmt.Sprint(n)
	go func() {
		defer f.ended.Add(1)
		if n <= f.empty {
			f.told(bench.Event{Run: id, Last: true})
			return
		}
		for task := range bench.Tasks + 1 {
			f.told(bench.Event{Run: id, Task: task, Last: task == bench.Tasks})
		}
	}()
	return nil
}

func (f *fake) Serve(int) (func() error, error) { return func() error { return nil }, nil }

func (f *fake) Behind() int64 {
	f.asked.Add(1)
	return f.held.Load()
}

var perRun = bench.Counts{Records: 6, Tasks: 5, Events: 18}

func (f *fake) Stored(context.Context) (bench.Counts, error) {
	c := perRun.Times(f.runs.Load())
	c.Events += f.extra
	return c, nil
}

func TestThroughputCountsTripsAndEndsAllRuns(t *testing.T) {
	f := &fake{}
	r := bench.NewRunner(f)
	rate, err := r.Throughput(t.Context(), 7, 0, 20*time.Millisecond)
	if err != nil || rate.PerSecond <= 0 {
		t.Fatalf("%+v, %v", rate, err)
	}
	if r.Runs() != f.runs.Load() || r.Trips() != int64(bench.Tasks*r.Runs()) {
		t.Errorf("%d runs started, %d counted, %d trips", f.runs.Load(), r.Runs(), r.Trips())
	}
	if err := r.Check(t.Context(), perRun); err != nil {
		t.Error(err)
	}
}

func TestASideThatIsFarBehindBeginsNoMoreRunsUntilItIsNot(t *testing.T) {
	f := &fake{empty: 7} // so that it goes on until others have begun
	f.held.Store(1_000_000)
	done := make(chan error, 1)
	go func() {
		_, err := bench.NewRunner(f).Throughput(t.Context(), 7, 0, time.Millisecond)
		done <- err
	}()
	until(t, func() bool { return f.ended.Load() == 7 })
	asked := f.asked.Load()
	until(t, func() bool { return f.asked.Load() >= asked+2 })
	if n := f.runs.Load(); n != 7 {
		t.Errorf("%d runs were begun, and 7 were in flight", n)
	}
	f.held.Store(0)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := f.runs.Load(); n <= 7 {
		t.Errorf("%d runs were begun when it was not behind any more", n)
	}
}

// until waits for ok.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for t.Context().Err() == nil && !ok() {
		runtime.Gosched()
	}
}

func TestLatencyHasOneSampleForEachTrip(t *testing.T) {
	took, err := bench.NewRunner(&fake{}).Latency(t.Context(), 4)
	if err != nil || len(took) != 4*bench.Tasks {
		t.Errorf("%d samples, %v", len(took), err)
	}
}

func TestSideThatStoresMoreIsAnError(t *testing.T) {
	r := bench.NewRunner(&fake{extra: 1})
	if _, err := r.Latency(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context(), perRun); err == nil || !strings.Contains(err.Error(), "Events:19") {
		t.Errorf("error %v", err)
	}
}

func TestRunThatDoesNotStartIsAnError(t *testing.T) {
	if _, err := bench.NewRunner(&fake{fails: true}).Throughput(t.Context(), 2, 0, time.Millisecond); err == nil {
		t.Error("no error")
	}
}

func TestMedianAndQuantile(t *testing.T) {
	if m := bench.Median([]float64{9, 1, 5}); m != 5 {
		t.Errorf("median of three: %v", m)
	}
	if m := bench.Median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median of four: %v", m)
	}
	if m := bench.Median([]float64{}); m != 0 {
		t.Errorf("median of none: %v", m)
	}
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[99-i] = i + 1
	}
	for q, want := range map[float64]int{0.5: 50, 0.99: 99, 1: 100, 0.001: 1} {
		if got := bench.Quantile(hundred, q); got != want {
			t.Errorf("quantile %v: %d, want %d", q, got, want)
		}
	}
}
