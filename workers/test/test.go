// Package test does tasks of kind "test": it fetches a commit, runs the test
// command in it, and reads the report.
//
// Inputs:
//
//	repository, commit  what to test (see package gitsrc)
//	directory           where in the checkout to run the command; its top by default
//	command             program and arguments, no shell; by default, where there is a go.mod,
//	                    go test -json -count=1 -cover -coverprofile … ./...
//	format              "go": the command prints the events of go test -json;
//	                    "junit": it writes JUnit XML; by default junit where there is a report
//	report              the JUnit file, or a pattern with *, ? and ** (any directories),
//	                    relative to the top of the checkout
//	suite, url          passed to the command as PENSTOCK_SUITE and PENSTOCK_URL
//
// Outputs: passed, failed and skipped count tests; failures names the failed
// ones, the first 100; coverage is in percent; durationMs is that of the
// command alone.
//
// What counts as a test is what go test -v prints a result for: every test,
// and every subtest beside its parent, so the numbers are those that people
// see at their terminal. A package that fails without a failed test (it does
// not compile, panics, exits) counts as one failed test, so that it cannot
// pass unseen. In JUnit every testcase element counts, whatever the counts
// in its suite's attributes say; an error of a whole suite counts as one.
//
// Coverage is exact with the default command: covered statements of all. With
// another command it is the mean of the percentages that go test -cover prints
// for packages with statements, and 0 when it prints none and with JUnit.
//
// The outcome is succeeded when the tests ran and the report could be read,
// also when tests failed: how many may fail is for the gate to say. It is
// failed, with these codes, when there is nothing for a gate to judge:
// tests_unreadable (no report, or a broken one), test_command_failed (it did
// not start, or it failed though no test did), no_test_command, bad_inputs,
// and those of package gitsrc.
//
// A report that is in the checkout before the command runs is removed first:
// it says nothing about this run.
package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/gitsrc"
	"github.com/penstock-cd/penstock/workers/proc"
)

// Options of the handler; the zero value is good.
type Options struct {
	// Grace is the time between asking a cancelled command to end and
	// killing it; proc.DefaultGrace when 0.
	Grace time.Duration
}

// New is the handler of kind "test".
func New(o Options) workers.Handler { return &handler{o} }

type handler struct{ Options }

// Formats of a report.
const (
	formatGo    = "go"
	formatJUnit = "junit"
)

type inputs struct {
	Repository string   `json:"repository"`
	Commit     string   `json:"commit"`
	Directory  string   `json:"directory"`
	Command    []string `json:"command"`
	Format     string   `json:"format"`
	Report     string   `json:"report"`
	Suite      string   `json:"suite"`
	URL        string   `json:"url"`
}

// Do tests.
func (h *handler) Do(ctx context.Context, job *workers.Job) events.Result {
	outputs, err := h.test(ctx, job)
	var failed *events.TaskError
	switch {
	case err == nil:
		return events.Result{Outcome: events.Succeeded, Outputs: outputs}
	case ctx.Err() != nil:
		return workers.Interrupted(ctx)
	case errors.As(err, &failed):
		return events.Result{Outcome: events.Failed, Error: failed}
	}
	return workers.Fail("worker_error", err.Error(), true)
}

func fail(code, format string, args ...any) error {
	return &events.TaskError{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (h *handler) test(ctx context.Context, job *workers.Job) (map[string]any, error) {
	in, err := read(job)
	if err != nil {
		return nil, err
	}
	job.Progress("fetching the source")
	src, err := gitsrc.Clone(ctx, gitsrc.Request{Repository: in.Repository, Commit: in.Commit,
		Dir: filepath.Join(job.Dir, "src"), Note: job.Note})
	if err != nil {
		return nil, err
	}
	p, err := h.plan(job, in, src)
	if err != nil {
		return nil, err
	}
	if in.Format == formatJUnit {
		if err := removeReports(src.Dir, in.Report); err != nil {
			return nil, err
		}
	}
	job.Progress("testing: " + strings.Join(p.command, " "))
	o, err := h.run(ctx, job, in, p)
	if err != nil {
		return nil, err
	}
	r, err := o.report(in, src.Dir)
	if err != nil {
		return nil, err
	}
	coverage := o.goTest.coverage()
	if p.profile != "" {
		coverage = profileCoverage(p.profile, coverage)
	}
	fmt.Fprintf(job.Note, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return map[string]any{"passed": r.passed, "failed": r.failed, "skipped": r.skipped, "coverage": coverage,
		"failures": r.names(), "durationMs": o.took.Milliseconds()}, nil
}

func read(job *workers.Job) (in inputs, err error) {
	b, err := json.Marshal(job.With)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		return in, fail("bad_inputs", "the inputs of the tests cannot be read: %v", err)
	}
	if in.Format == "" {
		in.Format = formatGo
		if in.Report != "" {
			in.Format = formatJUnit
		}
	}
	switch {
	case in.Format != formatGo && in.Format != formatJUnit:
		return in, fail("bad_inputs", "format %q: it is go or junit", in.Format)
	case in.Format == formatJUnit && in.Report == "":
		return in, fail("bad_inputs", "format junit needs `report`: which files the command writes, relative to the top of the checkout")
	case in.Format == formatGo && in.Report != "":
		return in, fail("bad_inputs", "format go reads what the command prints, and `report` names a file: use one of them")
	case in.Report != "" && !filepath.IsLocal(filepath.FromSlash(in.Report)):
		return in, fail("bad_inputs", "report %q: give a path inside the checkout", in.Report)
	}
	return in, nil
}

// plan is what to run. profile is where the coverage will be, if anywhere.
type plan struct {
	command []string
	dir     string
	env     []string
	profile string
}

func (h *handler) plan(job *workers.Job, in inputs, src *gitsrc.Checkout) (p plan, err error) {
	if p.dir, err = src.Directory(in.Directory); err != nil {
		return p, err
	}
	extra := []string{"PENSTOCK_RUN=" + job.Run, "PENSTOCK_COMMIT=" + src.Commit}
	if in.Suite != "" {
		extra = append(extra, "PENSTOCK_SUITE="+in.Suite)
	}
	if in.URL != "" {
		extra = append(extra, "PENSTOCK_URL="+in.URL)
	}
	if p.env, err = proc.EnvIn(job.Dir, extra...); err != nil {
		return p, err
	}
	if p.command = in.Command; len(p.command) > 0 {
		return p, nil
	}
	if _, err := os.Stat(filepath.Join(p.dir, "go.mod")); err != nil || in.Format != formatGo {
		return p, fail("no_test_command", "say with `command` how to test commit %s: only a directory with a go.mod, and no `report`, has a default", src.Commit)
	}
	p.profile = filepath.Join(job.Dir, "cover.out")
	// -count=1: a result from a cache says nothing about what runs at PENSTOCK_URL
	p.command = []string{"go", "test", "-json", "-count=1", "-cover", "-coverprofile=" + p.profile, "./..."}
	return p, nil
}

// outcome is what came of the command.
type outcome struct {
	goTest *goReader
	tail   proc.Tail
	err    error // why the command failed
	took   time.Duration
}

func (h *handler) run(ctx context.Context, job *workers.Job, in inputs, p plan) (*outcome, error) {
	fmt.Fprintf(job.Note, "running %s\n", strings.Join(p.command, " "))
	o := &outcome{}
	shown := io.MultiWriter(&o.tail, job.Stdout)
	o.goTest = &goReader{out: shown, progress: job.Progress}
	stdout := io.Writer(o.goTest)
	if in.Format == formatJUnit {
		stdout = shown
	}
	start := time.Now()
	o.err = proc.Run(ctx, proc.Command{Args: p.command, Dir: p.dir, Env: p.env, Grace: h.Grace,
		Stdout: stdout, Stderr: io.MultiWriter(&o.tail, job.Stderr)})
	o.took = time.Since(start)
	o.goTest.close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, ok := errors.AsType[*proc.StartError](o.err); ok {
		return nil, fail("test_command_failed", "the tests did not run: %v", o.err)
	}
	return o, nil
}

// report reads what the tests reported and holds it against the exit of the
// command.
func (o *outcome) report(in inputs, checkout string) (r *report, err error) {
	if in.Format == formatJUnit {
		r, err = readReports(checkout, in.Report)
	} else {
		r, err = o.goTest.report()
	}
	if err != nil {
		message := fmt.Sprintf("the result of the tests cannot be read: %v", err)
		if o.err != nil {
			message += fmt.Sprintf("; %v", o.err)
		}
		return nil, fail("tests_unreadable", "%s", o.withTail(message))
	}
	if o.err != nil && r.failed == 0 {
		return nil, fail("test_command_failed", "%s", o.withTail(fmt.Sprintf("no test failed, and yet %v", o.err)))
	}
	return r, nil
}

func (o *outcome) withTail(message string) string {
	if said := o.tail.Lines(10); said != "" {
		return message + "\n" + said
	}
	return message
}
