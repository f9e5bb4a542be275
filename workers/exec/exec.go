// Package exec makes a worker of any program: one run of a command does one
// task. It needs nothing of Penstock, NATS or this package.
//
//   - The task is on its standard input, as one line of JSON (events.Task).
//   - Its standard error is the task's log; the last line of it is shown as
//     the progress.
//   - Its standard output is the result, as one JSON object: either
//     {"outcome": …, "outputs": {…}, "error": {"code": …, "message": …, "retryable": …}, "facts": {…}},
//     or, when it has no member "outcome", the outputs of a success.
//     Nothing at all is a success without outputs.
//   - It runs in an empty directory of its own, with the variables that
//     Variables lists and few others (package proc).
//   - An exit code other than 0 is a failure with the code "exit_<n>" and the
//     last lines of the log as message, unless the result says more. What is
//     not a result is a failure with the code "bad_result".
//   - When the task is cancelled, times out or is lost, the process group of
//     the command is sent SIGTERM, and SIGKILL after a grace period. A result
//     with an outcome that it prints in between counts.
package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/proc"
)

// Codes of failures.
const (
	CodeStartFailed = "start_failed" // the command could not be started on this worker
	CodeBadResult   = "bad_result"   // what it printed is not a result
	CodeKilled      = "killed"       // a signal that did not come from the worker ended it
)

// maxResult is how much a command may print as its result, in bytes.
const maxResult = 1 << 20

// Handler does each task by running a command.
type Handler struct {
	Args []string // the program and its arguments; nothing in them is expanded
	// Env are further variables for the command: "NAME=value", or "NAME" to
	// pass on the worker's own.
	Env   []string
	Grace time.Duration // between SIGTERM and SIGKILL; proc.DefaultGrace when 0
}

var _ workers.Handler = Handler{}

// Do runs the command.
func (h Handler) Do(ctx context.Context, job *workers.Job) events.Result {
	task, err := json.Marshal(job.Task)
	if err != nil {
		return workers.Fail(CodeStartFailed, "the task is not JSON: "+err.Error(), false)
	}
	var tail proc.Tail
	result := &capture{}
	err = proc.Run(ctx, proc.Command{
		Args: h.Args, Dir: job.Dir, Grace: h.Grace,
		Env:    proc.Env(append(h.Env[:len(h.Env):len(h.Env)], Variables(&job.Task)...)...),
		Stdin:  bytes.NewReader(append(task, '\n')),
		Stdout: result,
		Stderr: io.MultiWriter(job.Stderr, &tail, &lastLine{tell: job.Progress}),
	})
	return h.judge(ctx, err, result, &tail)
}

// Variables are those that tell a command about its task: PENSTOCK_TASK,
// PENSTOCK_RUN, PENSTOCK_WORKFLOW, PENSTOCK_STATE, PENSTOCK_ATTEMPT,
// PENSTOCK_MODE ("run" or "status"), PENSTOCK_FENCE ("<grant>.<version>",
// compared number by number), and PENSTOCK_ENVIRONMENT, empty without one.
func Variables(t *events.Task) []string {
	environment, mode := "", events.ModeRun
	if t.Environment != nil {
		environment = t.Environment.Name
	}
	if t.Mode != "" {
		mode = t.Mode
	}
	return []string{
		"PENSTOCK_TASK=" + t.ID, "PENSTOCK_RUN=" + t.Run, "PENSTOCK_WORKFLOW=" + t.Workflow, "PENSTOCK_STATE=" + t.State,
		fmt.Sprintf("PENSTOCK_ATTEMPT=%d", t.Attempt), "PENSTOCK_MODE=" + mode,
		fmt.Sprintf("PENSTOCK_FENCE=%d.%d", t.Fence.Grant, t.Fence.Version), "PENSTOCK_ENVIRONMENT=" + environment,
	}
}

// judge makes the result of how the command ended and what it printed.
func (h Handler) judge(ctx context.Context, err error, out *capture, tail *proc.Tail) events.Result {
	if _, ok := errors.AsType[*proc.StartError](err); ok {
		return workers.Fail(CodeStartFailed, err.Error(), false)
	}
	result, said, problem := parse(out)
	exit, failed := errors.AsType[*proc.ExitError](err)
	stopped := err != nil && !failed && ctx.Err() != nil
	switch {
	case stopped && problem == nil && said:
		return result
	case stopped:
		return workers.Interrupted(ctx)
	case failed && problem == nil && said && result.Outcome != events.Succeeded:
		return result
	case failed:
		return exitResult(exit, tail)
	case err != nil:
		return workers.Fail(CodeStartFailed, err.Error(), true)
	case problem != nil:
		return workers.Fail(CodeBadResult, fmt.Sprintf("%s printed no result: %v", h.Args[0], problem), false)
	}
	return result
}

func exitResult(exit *proc.ExitError, tail *proc.Tail) events.Result {
	code := fmt.Sprintf("exit_%d", exit.Code)
	if exit.Code < 0 {
		code = CodeKilled
	}
	message := exit.Error()
	if lines := tail.Lines(5); lines != "" {
		message += "\n" + lines
	}
	return workers.Fail(code, message, false)
}

// parse reads a result; said tells whether it names its outcome itself.
func parse(out *capture) (result events.Result, said bool, problem error) {
	if out.over {
		return result, false, fmt.Errorf("it is longer than %d bytes", maxResult)
	}
	text := bytes.TrimSpace(out.buf.Bytes())
	if len(text) == 0 {
		return events.Result{Outcome: events.Succeeded}, false, nil
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return result, false, fmt.Errorf("standard output is not one JSON object (logs belong on standard error): %s", excerpt(text))
	}
	if _, said = members["outcome"]; !said {
		return events.Result{Outcome: events.Succeeded, Outputs: members}, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&result); err != nil {
		return result, true, err
	}
	return result, true, nil
}

func excerpt(text []byte) string {
	const most = 80
	s := strings.ToValidUTF8(string(text[:min(len(text), most)]), "?")
	if len(text) > most {
		s += "…"
	}
	return fmt.Sprintf("%q", s)
}

// capture keeps what is written, up to maxResult bytes.
type capture struct {
	buf  bytes.Buffer
	over bool
}

func (c *capture) Write(p []byte) (int, error) {
	if c.buf.Len()+len(p) > maxResult {
		c.over = true
		return len(p), nil
	}
	return c.buf.Write(p)
}

// lastLine tells the last complete line that is not blank.
type lastLine struct {
	mu   sync.Mutex
	rest []byte
	tell func(string)
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n')
	if end >= 0 {
		done := bytes.TrimSpace(l.rest[:end])
		if line := bytes.TrimSpace(done[bytes.LastIndexByte(done, '\n')+1:]); len(line) > 0 {
			l.tell(string(line))
		}
		l.rest = bytes.Clone(l.rest[end+1:])
	}
	if len(l.rest) > 4<<10 {
		l.rest = l.rest[:0] // no line for people is as long
	}
	return len(p), nil
}
