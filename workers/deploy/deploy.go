// Package deploy is the worker of kind "deploy": it brings an artifact to an
// environment by a strategy.
//
// Three things work together, each behind an interface, so that one can come
// without the others:
//
//   - a Driver knows one sort of target ("local", later "kubernetes",
//     "command"). It is chosen by the only key of the environment's target
//     and owns where the steps are carried out.
//   - a Target is one environment as a strategy sees it: start a release
//     beside what runs, wait for its health, share out the traffic, stop it.
//   - a Strategy is the order of those steps (recreate, blue-green, later
//     rolling and canary). It is the same for every target.
//
// Run is the frame around a strategy, and the promise of this package: in the
// end either the new release is live, or everything is as it was before
// (Facts["undone"] is true), or the outcome is inconclusive and a person has
// to look. A cancel and a timeout undo as a failure does. There is one point
// of no return, Rollout.Commit; after it the old release is only cleared away.
//
// A deployment must not run twice. A driver therefore compares the fence of
// the task with the highest its target has seen, remembers the result of each
// attempt on the target, and can tell afterwards what became of an attempt
// whose worker was lost (Driver.Settle).
package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// Kind is the task kind of this worker.
const Kind = "deploy"

// FactUndone is the fact of a Result that did not succeed which says that
// nothing of the attempt remains on the target.
const FactUndone = "undone"

// Driver carries out deployments on one sort of target. Its results follow
// the promise of this package.
type Driver interface {
	// Deploy carries r out, or, if the target knows the attempt already,
	// waits for its end and returns the same result again. When ctx ends the
	// deployment is undone before Deploy returns.
	Deploy(ctx context.Context, r Request, from workers.Artifacts, to Reporter) events.Result
	// Settle returns the result of the attempt r.Attempt, whose worker was
	// lost, waiting for its end when it is still going on. An attempt that
	// never reached the target is refused there from now on; its result is
	// failed, code "not_started", undone. Only the attempt, the environment and
	// the target of r are set. When ctx ends the attempt is left alone.
	Settle(ctx context.Context, r Request, to Reporter) events.Result
}

// Reporter takes what people want to see while a deployment runs. Its
// methods are safe for concurrent use.
type Reporter interface {
	Progress(line string) // where it stands, one line
	Note(line string)     // what was done, one line
	Output(text string)   // what the deployed program printed
}

// New gives the handler of kind "deploy" over the drivers by the name of
// their sort of target, which is the key under "target" of an Environment.
func New(drivers map[string]Driver) workers.Handler {
	return &handler{drivers: maps.Clone(drivers)}
}

type handler struct{ drivers map[string]Driver }

// Do implements workers.Handler.
func (h *handler) Do(ctx context.Context, job *workers.Job) events.Result {
	driver, conf, err := h.driver(job)
	if err != nil {
		return untouched("invalid_target", err.Error(), false)
	}
	to := jobReporter{job}
	r := newRequest(job, conf)
	if job.Mode == events.ModeStatus {
		attempt, _ := job.With["attempt"].(string)
		if attempt == "" {
			return events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "no_attempt",
				Message: "the status task does not say which attempt it asks for (with.attempt)"}}
		}
		r.Attempt = attempt
		return driver.Settle(ctx, r, to)
	}
	if err := r.read(job.With); err != nil {
		return untouched("invalid_input", err.Error(), false)
	}
	return driver.Deploy(ctx, r, job.Artifacts, to)
}

// driver finds who serves the environment's target, and its configuration.
func (h *handler) driver(job *workers.Job) (Driver, map[string]any, error) {
	known := strings.Join(slices.Sorted(maps.Keys(h.drivers)), ", ")
	if job.Environment == nil {
		return nil, nil, fmt.Errorf("task %s names no environment; a deployment needs one, with a target (%s)", job.State, known)
	}
	names := slices.Sorted(maps.Keys(job.Environment.Target))
	if len(names) != 1 {
		return nil, nil, fmt.Errorf("environment %q: its target must have exactly one key out of: %s; it has %d", job.Environment.Name, known, len(names))
	}
	d, ok := h.drivers[names[0]]
	if !ok {
		return nil, nil, fmt.Errorf("environment %q: target %q is not known to this worker; it knows: %s", job.Environment.Name, names[0], known)
	}
	switch conf := job.Environment.Target[names[0]].(type) {
	case nil:
		return d, nil, nil
	case map[string]any:
		return d, conf, nil
	default:
		return nil, nil, fmt.Errorf("environment %q: target %q must be a mapping", job.Environment.Name, names[0])
	}
}

// untouched is the result of a deployment that failed before its first effect.
func untouched(code, message string, retryable bool) events.Result {
	r := workers.Fail(code, message, retryable)
	r.Facts = map[string]any{FactUndone: true}
	return r
}

// jobReporter reports to the task's output and heartbeats.
type jobReporter struct{ job *workers.Job }

func (j jobReporter) Progress(line string) {
	if j.job.Progress != nil {
		j.job.Progress(line)
	}
}

func (j jobReporter) Note(line string) {
	if j.job.Note != nil {
		fmt.Fprintln(j.job.Note, line)
	}
}

func (j jobReporter) Output(text string) {
	if j.job.Stdout != nil {
		io.WriteString(j.job.Stdout, text)
	}
}
