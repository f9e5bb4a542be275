package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
)

func (a *app) benchCommand() *cobra.Command {
	var o engine.BenchOptions
	var only, profile, dir string
	var seconds float64
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine, beside the fastest bare loop over the same store",
		Long: `Runs an engine, and beside it the floor: a bare loop that stores the same
messages with the same durability and hands out the same tasks, with no engine
in it. Both are measured in turns, in this process and without the network;
the ratio tells what the engine costs, whatever else the machine is doing.
docs/performance.md says what the numbers mean.

  B1  task round trips per second, on disk before each answer
  B2  the same, synced to disk now and then
  B3  how long one round trip takes on an idle system

The others start processes of their own, and have another floor or none:

  B4  many runs that wait: memory for each, and how long a start takes
  B5  how long others take to take over for an engine that was killed, and what is lost
  B6  how fast a run goes on that has a long history
  B7  cold start and idle memory of a server
  B8  check of 1,000 workflow files, and 1,000 scenario tests`,
		Example: `  penstock bench
  penstock bench --only B4 --runs 1000000
  penstock bench --only B1 --inflight 100,1000,4000 --seconds 5
  penstock bench --only B1 --inflight 1000 --profile cpu.pprof`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Only, o.Span = words(strings.ToUpper(only)), time.Duration(seconds*float64(time.Second))
			o.Work, o.Process = a.benchWorker, self
			if !a.quietBench() {
				o.Progress = func(line string) { a.note("%s", line) }
			}
			return a.bench(cmd.Context(), o, dir, profile)
		},
	}
	f := cmd.Flags()
	f.StringVar(&only, "only", "", "measure only these `IDS`, with commas (default: all)")
	f.IntSliceVar(&o.InFlight, "inflight", []int{100, 1000}, "`NUMBERS` of runs in flight for B1 and B2")
	f.Float64Var(&seconds, "seconds", 2, "how long a side is measured at a time, at most 60")
	f.IntVar(&o.Runs, "runs", 100_000, "`NUMBER` of runs that wait, for B4; a million take a few gigabytes of disk (B5 has 10,000 at most)")
	f.IntVar(&o.Rounds, "rounds", 3, "how often each side is measured, for latency three times as often; medians are shown")
	f.StringVar(&dir, "dir", "", "`DIR` on the disk to measure (default: the system's temporary directory)")
	f.StringVar(&profile, "profile", "", "write a CPU profile of this process, both sides of B1 to B3, to this `FILE`")
	return cmd
}

// self is the command that runs this program again.
func self(ctx context.Context, args ...string) *exec.Cmd {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return exec.CommandContext(ctx, program, args...)
}

// benchProcessCommand is what a benchmark starts; people never call it.
func (a *app) benchProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bench-process ROLE OPTIONS",
		Hidden: true,
		Args:   args("ROLE", "OPTIONS"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return stopped(cmd.Context(), engine.BenchProcess(cmd.Context(), arg[0], arg[1], a.stdin, a.stdout))
		},
	}
}

func (a *app) quietBench() bool { return a.output == "json" && !terminal(a.stderr) }

func (a *app) bench(ctx context.Context, o engine.BenchOptions, dir, profile string) (err error) {
	if o.Span <= 0 || o.Rounds < 1 || o.Rounds > 100 {
		return usagef("bench: --seconds must be above 0, --rounds from 1 to 100")
	}
	if o.Dir, err = os.MkdirTemp(dir, "penstock-bench-*"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	if profile != "" {
		stop, err := profileTo(profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	report, err := engine.Bench(ctx, o)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(report)
	}
	a.printBench(report)
	return nil
}

func profileTo(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}

// benchWorker is a worker as others write them, whose tasks are nothing to do.
func (a *app) benchWorker(ctx context.Context, conn *bus.Conn, slots int) error {
	nothing := workers.HandlerFunc(func(context.Context, *workers.Job) events.Result {
		return events.Result{Outcome: events.Succeeded}
	})
	w, err := workers.New(workers.Options{Conn: workers.OnBus(conn), Kinds: map[string]workers.Handler{engine.BenchKind: workers.WithoutDir(nothing)},
		Concurrency: slots, Name: "bench", Version: engine.Version(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return stopped(ctx, w.Run(ctx))
}

func (a *app) printBench(r *engine.BenchReport) {
	fields(a.stdout, "", "Cores", strconv.Itoa(r.Cores), "Load before", r.Load, "Version", r.Version,
		"A run stores", fmt.Sprintf("%d records, %d tasks, %d events; %d bytes", r.PerRun.Records, r.PerRun.Tasks, r.PerRun.Events, r.Bytes))
	fmt.Fprintln(a.stdout)
	t := table{head: []string{"ID", "WHAT", "PENSTOCK", "FLOOR", "RATIO", "CPU", "FLOOR CPU", "TARGET", "MET"}}
	notes := []string{}
	for _, x := range r.Results {
		met, floor, ratio := "no", "", ""
		if x.Met {
			met = "yes"
		}
		if x.Floor > 0 {
			floor, ratio = benchNumber(x.Floor, x.Unit), fmt.Sprintf("%.2f", x.Ratio)
		}
		t.add(x.ID, x.What, benchNumber(x.Value, x.Unit), floor, ratio, benchCPU(x.CPU), benchCPU(x.FloorCPU), x.Target, met)
		if x.FloorIs != "" {
			notes = append(notes, fmt.Sprintf("%s, %s: the floor is %s", x.ID, x.What, x.FloorIs))
		}
		if x.Note != "" {
			notes = append(notes, fmt.Sprintf("%s, %s: %s", x.ID, x.What, x.Note))
		}
	}
	t.print(a.stdout, "")
	for i, n := range notes {
		if i == 0 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprintln(a.stdout, n)
	}
}

func benchNumber(v float64, unit string) string {
	if unit == "1/s" {
		return fmt.Sprintf("%.0f/s", v)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

func benchCPU(micros float64) string {
	if micros == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f µs", micros)
}
