package main

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine"
)

// checkBench checks everything of a report but how fast it was.
func checkBench(t *testing.T, r *engine.BenchReport, want ...string) {
	t.Helper()
	var got []string
	for _, x := range r.Results {
		got = append(got, x.ID+" "+x.What)
		if x.Value <= 0 || x.Floor <= 0 || math.Abs(x.Ratio-x.Value/x.Floor) > 1e-9 || x.Unit == "" || x.Target == "" {
			t.Errorf("%+v", x)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	// A start, and a finish of each task, which begins at once; the run itself
	// checks that both sides stored as much.
	if r.PerRun.Records != 6 || r.PerRun.Tasks != 5 || r.PerRun.Events < 11 || r.Bytes == 0 || r.Cores == 0 {
		t.Errorf("report %+v", r)
	}
}

func TestBenchMeasuresBothSidesAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	profile := filepath.Join(t.TempDir(), "cpu.pprof")
	got := penstock(t, "bench", "--only", "b1", "--inflight", "3,8", "--seconds", "0.1", "--rounds", "1", "--dir", dir, "--profile", profile, "-o", "json")
	if got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.stderr)
	}
	var report engine.BenchReport
	if err := json.Unmarshal([]byte(got.out), &report); err != nil {
		t.Fatal(err)
	}
	checkBench(t, &report, "B1 durable task round trips, 3 runs in flight", "B1 durable task round trips, 8 runs in flight")
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("profile: %v, %v", info, err)
	}
}

func TestBenchMeasuresLazySyncAndLatency(t *testing.T) {
	a := newApp(strings.NewReader(""), io.Discard, io.Discard)
	var lines []string
	report, err := engine.Bench(t.Context(), engine.BenchOptions{Dir: t.TempDir(), Work: a.benchWorker, Only: []string{"B3", "B2"},
		InFlight: []int{4}, Span: 50 * time.Millisecond, Rounds: 1, Trips: 10, Progress: func(l string) { lines = append(lines, l) }})
	if err != nil {
		t.Fatal(err)
	}
	checkBench(t, report, "B2 task round trips with lazy sync, 4 runs in flight",
		"B3 latency of one task round trip, idle, durable, p50", "B3 latency of one task round trip, idle, durable, p99")
	if len(lines) == 0 {
		t.Error("nothing was told of the progress")
	}
}

// TestBenchMeasuresRunsThatWait starts the processes that a person's bench
// does, with few runs.
func TestBenchMeasuresRunsThatWait(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server and two engines")
	}
	program, err := exec.LookPath("penstock")
	if err != nil {
		t.Fatal(err)
	}
	report, err := engine.Bench(t.Context(), engine.BenchOptions{Dir: t.TempDir(), Work: newApp(strings.NewReader(""), io.Discard, io.Discard).benchWorker,
		Only: []string{"B4"}, Runs: 200, Process: func(ctx context.Context, args ...string) *exec.Cmd { return exec.CommandContext(ctx, program, args...) }})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results; len(r) != 3 || r[0].Unit != "B" || r[1].Unit != "s" || r[1].Value <= 0 || r[1].Floor <= 0 || r[1].FloorIs == "" || r[0].Note == "" ||
		r[2].Unit != "ms" || r[2].Value <= 0 || r[2].Floor <= 0 {
		t.Errorf("%+v", r)
	}
}

// TestBenchKillsAnEngine does so with few runs: what was acknowledged is there.
func TestBenchKillsAnEngine(t *testing.T) {
	if os.Getenv("PENSTOCK_BENCH") == "" {
		t.Skip("starts a server and three engines, and waits for as long as they take; PENSTOCK_BENCH=1 runs it")
	}
	program, err := exec.LookPath("penstock")
	if err != nil {
		t.Fatal(err)
	}
	report, err := engine.Bench(t.Context(), engine.BenchOptions{Dir: t.TempDir(), Work: newApp(strings.NewReader(""), io.Discard, io.Discard).benchWorker,
		Only: []string{"B5"}, Runs: 100, Process: func(ctx context.Context, args ...string) *exec.Cmd { return exec.CommandContext(ctx, program, args...) }})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results; len(r) != 2 || r[0].Unit != "s" || r[0].Value <= 0 || r[1].Value != 0 || !r[1].Met || r[1].Note == "" {
		t.Errorf("%+v", r)
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	for _, args := range [][]string{{"--only", "B9"}, {"--seconds", "0"}, {"--seconds", "61"}, {"--inflight", "0"}, {"--inflight", "20000"}, {"--rounds", "0"}, {"--runs", "-1"}} {
		if got := penstock(t, append([]string{"bench", "--dir", t.TempDir()}, args...)...); got.code == 0 {
			t.Errorf("bench %v: exit 0: %s", args, got.out)
		}
	}
}
