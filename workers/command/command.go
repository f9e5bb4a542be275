// Package command is the shipped kind "command": it runs a command that the
// workflow names.
//
// Inputs: run, the program and its arguments (there is no shell in between);
// repository and commit, to run it in a fresh checkout instead of an empty
// directory; env, further variables. Outputs: exitCode, and output when the
// last line that is not blank of what the command printed is a JSON object.
//
// A command that fails is a failed task with the code "exit_<n>"; it keeps
// its outputs. What it prints is the task's output.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/exec"
	"github.com/penstock-cd/penstock/workers/gitsrc"
	"github.com/penstock-cd/penstock/workers/proc"
)

// CodeBadInput is the code of a task whose inputs make no sense.
const CodeBadInput = "bad_input"

// maxLine is how long a last line may be to be read as the output, in bytes.
const maxLine = 48 << 10

// Handler does tasks of the kind "command".
type Handler struct{}

var _ workers.Handler = Handler{}

type inputs struct {
	Run        []string          `json:"run"`
	Repository string            `json:"repository"`
	Commit     string            `json:"commit"`
	Env        map[string]string `json:"env"`
}

// Do runs the command.
func (Handler) Do(ctx context.Context, job *workers.Job) events.Result {
	in, err := read(job.With)
	if err != nil {
		return workers.Fail(CodeBadInput, err.Error(), false)
	}
	dir := job.Dir
	if in.Repository != "" {
		job.Progress("fetching " + in.Commit)
		dir = filepath.Join(job.Dir, "source")
		if _, err := gitsrc.Clone(ctx, gitsrc.Request{Repository: in.Repository, Commit: in.Commit, Dir: dir, Note: job.Note}); err != nil {
			return notFetched(ctx, err)
		}
	}
	fmt.Fprintf(job.Note, "running %s\n", strings.Join(in.Run, " "))
	job.Progress("running " + in.Run[0])
	var tail proc.Tail
	last := &lastLine{}
	err = proc.Run(ctx, proc.Command{Args: in.Run, Dir: dir, Env: environment(job, in.Env),
		Stdout: io.MultiWriter(job.Stdout, &tail, last), Stderr: io.MultiWriter(job.Stderr, &tail)})
	return judge(ctx, err, last, &tail)
}

func read(with map[string]any) (in inputs, err error) {
	text, err := json.Marshal(with)
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return in, fmt.Errorf("inputs: %w", err)
	}
	if len(in.Run) == 0 || in.Run[0] == "" {
		return in, errors.New("input run is empty: give the program and its arguments, as in [make, test]")
	}
	if (in.Repository == "") != (in.Commit == "") {
		return in, errors.New("inputs repository and commit belong together: give both or none")
	}
	for _, name := range slices.Sorted(maps.Keys(in.Env)) {
		if !variable.MatchString(name) {
			return in, fmt.Errorf("input env: %q is not the name of a variable", name)
		}
	}
	return in, nil
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment lets nothing of a workflow say what the task is: those come last.
func environment(job *workers.Job, env map[string]string) []string {
	var extra []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		extra = append(extra, name+"="+env[name])
	}
	return proc.Env(append(extra, exec.Variables(&job.Task)...)...)
}

func notFetched(ctx context.Context, err error) events.Result {
	if ctx.Err() != nil {
		return workers.Interrupted(ctx)
	}
	if e, ok := errors.AsType[*events.TaskError](err); ok {
		return events.Result{Outcome: events.Failed, Error: e}
	}
	return workers.Fail(gitsrc.CodeCloneFailed, err.Error(), true)
}

func judge(ctx context.Context, err error, last *lastLine, tail *proc.Tail) events.Result {
	if _, ok := errors.AsType[*proc.StartError](err); ok {
		return workers.Fail(exec.CodeStartFailed, err.Error(), false)
	}
	exit, failed := errors.AsType[*proc.ExitError](err)
	switch {
	case err == nil:
		return events.Result{Outcome: events.Succeeded, Outputs: outputs(0, last)}
	case !failed && ctx.Err() != nil:
		return workers.Interrupted(ctx)
	case !failed:
		return workers.Fail(exec.CodeStartFailed, err.Error(), true)
	}
	code, message := fmt.Sprintf("exit_%d", exit.Code), exit.Error()
	if exit.Code < 0 {
		code = exec.CodeKilled
	}
	if lines := tail.Lines(5); lines != "" {
		message += "\n" + lines
	}
	result := workers.Fail(code, message, false)
	result.Outputs = outputs(exit.Code, last)
	return result
}

func outputs(exitCode int, last *lastLine) map[string]any {
	out := map[string]any{"exitCode": exitCode}
	var object map[string]any
	if line := last.text(); len(line) > 0 && json.Unmarshal(line, &object) == nil && object != nil {
		out["output"] = object
	}
	return out
}

// lastLine keeps the last line that is not blank, complete or not.
type lastLine struct {
	line []byte // the last complete one
	rest []byte // what follows it
	skip bool   // the line that is being written is too long
}

func (l *lastLine) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		if !l.skip {
			l.rest = append(l.rest, part...)
		}
		if len(l.rest) > maxLine {
			l.rest, l.skip = nil, true
		}
		if part[len(part)-1] == '\n' {
			l.line = l.text()
			l.rest, l.skip = nil, false
		}
	}
	return len(p), nil
}

func (l *lastLine) text() []byte {
	if l.skip {
		return nil // longer than an output may be
	}
	if rest := bytes.TrimSpace(l.rest); len(rest) > 0 {
		return rest
	}
	return l.line
}
