package exec_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/exec"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// shell is a handler that runs a script.
func shell(t *testing.T, script string) exec.Handler {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the scripts are for a POSIX shell")
	}
	return exec.Handler{Args: []string{"sh", "-c", script}}
}

func TestWhatACommandPrintsAndItsExitCodeMakeTheResult(t *testing.T) {
	succeeded := func(outputs map[string]any) events.Result {
		return events.Result{Outcome: events.Succeeded, Outputs: outputs}
	}
	for name, c := range map[string]struct {
		script string
		want   events.Result
	}{
		"nothing":                  {`true`, succeeded(nil)},
		"blank":                    {`echo; echo`, succeeded(nil)},
		"outputs":                  {`echo '{"version": 3}'`, succeeded(map[string]any{"version": 3.0})},
		"outputs in several lines": {`printf '{\n"version":\n3}\n'`, succeeded(map[string]any{"version": 3.0})},
		"outcome":                  {`echo '{"outcome": "succeeded", "outputs": {"a": "b"}}'`, succeeded(map[string]any{"a": "b"})},
		"failure with exit code 0": {`echo '{"outcome": "failed", "error": {"code": "locked", "message": "m", "retryable": true}}'`,
			workers.Fail("locked", "m", true)},
		"failure with exit code 4": {`echo '{"outcome": "failed", "error": {"code": "locked", "message": "m"}}'; exit 4`,
			workers.Fail("locked", "m", false)},
		"inconclusive": {`echo '{"outcome": "inconclusive", "error": {"code": "unknown", "message": "m"}}'`,
			events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "unknown", Message: "m"}}},
		"exit code":              {`echo one >&2; echo two >&2; exit 7`, workers.Fail("exit_7", "sh ended with exit code 7\none\ntwo", false)},
		"exit code and outputs":  {`echo '{"version": 3}'; exit 7`, workers.Fail("exit_7", "sh ended with exit code 7", false)},
		"success with exit code": {`echo '{"outcome": "succeeded"}'; exit 7`, workers.Fail("exit_7", "sh ended with exit code 7", false)},
		"signal":                 {`kill -9 $$`, workers.Fail(exec.CodeKilled, "sh was ended by a signal: killed", false)},
		"facts": {`echo '{"outcome": "succeeded", "facts": {"authors": ["a@b"]}}'`,
			events.Result{Outcome: events.Succeeded, Facts: map[string]any{"authors": []any{"a@b"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := shell(t, c.script).Do(t.Context(), workertest.New(t, nil))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWhatIsNoResultIsAFailureThatShowsIt(t *testing.T) {
	for name, c := range map[string]struct{ script, shows string }{
		"text":           {`echo all fine`, "all fine"},
		"list":           {`echo '[1]'`, "[1]"},
		"null":           {`echo null`, "null"},
		"two objects":    {`echo '{} {}'`, "{} {}"},
		"unknown member": {`echo '{"outcome": "succeeded", "output": {}}'`, `"output"`},
		"too long":       {`head -c 2000000 /dev/zero`, "1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			got := shell(t, c.script).Do(t.Context(), workertest.New(t, nil))
			if got.Outcome != events.Failed || got.Error.Code != exec.CodeBadResult || !strings.Contains(got.Error.Message, c.shows) {
				t.Errorf("got %s, %+v", got.Outcome, got.Error)
			}
		})
	}
}

func TestCommandThatIsNotThereSaysSo(t *testing.T) {
	got := exec.Handler{Args: []string{"no-such-program-here"}}.Do(t.Context(), workertest.New(t, nil))
	if got.Outcome != events.Failed || got.Error.Code != exec.CodeStartFailed || !strings.Contains(got.Error.Message, "no-such-program-here") {
		t.Errorf("got %+v, %+v", got, got.Error)
	}
}

func TestCommandGetsItsTaskOnStandardInputAndInItsVariables(t *testing.T) {
	t.Setenv("WORKER_PASSWORD", "1234")
	t.Setenv("REGION", "north")
	job := workertest.New(t, map[string]any{"plan": "add-index"})
	job.Environment = &events.TaskEnvironment{Name: "staging"}
	job.Fence = events.Fence{Grant: 7, Version: 12}
	h := shell(t, `cat > task.json; env > env.txt`)
	h.Env = []string{"REGION", "LEVEL=high"}
	if got := h.Do(t.Context(), job); got.Outcome != events.Succeeded {
		t.Fatalf("got %+v, %+v", got, got.Error)
	}
	text, err := os.ReadFile(filepath.Join(job.Dir, "task.json"))
	if err != nil {
		t.Fatal(err)
	}
	var task events.Task
	if err := json.Unmarshal(text, &task); err != nil || !strings.HasSuffix(string(text), "}\n") || strings.Count(string(text), "\n") != 1 {
		t.Errorf("standard input was %q: %v", text, err)
	}
	if d := cmp.Diff(job.Task, task); d != "" {
		t.Error(d)
	}
	env, err := os.ReadFile(filepath.Join(job.Dir, "env.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := "\n" + string(env)
	for _, want := range []string{"PENSTOCK_TASK=task-1", "PENSTOCK_RUN=run-1", "PENSTOCK_WORKFLOW=sample", "PENSTOCK_STATE=work", "PENSTOCK_ATTEMPT=1",
		"PENSTOCK_MODE=run", "PENSTOCK_FENCE=7.12", "PENSTOCK_ENVIRONMENT=staging", "REGION=north", "LEVEL=high"} {
		if !strings.Contains(lines, "\n"+want+"\n") {
			t.Errorf("the command does not see %s", want)
		}
	}
	if strings.Contains(lines, "1234") {
		t.Error("the command sees a variable of the worker that it has no business with")
	}
}

func TestLogIsStreamedAndItsLastLineIsTheProgress(t *testing.T) {
	job := workertest.New(t, nil)
	var progress []string
	job.Progress = func(line string) { progress = append(progress, line) }
	shell(t, `echo one >&2; printf 'two\n\nthr' >&2; printf 'ee\n' >&2`).Do(t.Context(), job)
	if got := workertest.Text(job.Stderr); got != "one\ntwo\n\nthree\n" {
		t.Errorf("the log is %q", got)
	}
	if len(progress) == 0 || progress[len(progress)-1] != "three" {
		t.Errorf("progress is %q", progress)
	}
	if got := workertest.Text(job.Stdout); got != "" {
		t.Errorf("the result is in the output: %q", got)
	}
}

// stopped runs a script, ends its context with cause when it has printed a
// line, and gives the result.
func stopped(t *testing.T, h exec.Handler, cause error) events.Result {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	job := workertest.New(t, nil)
	job.Progress = func(string) { cancel(cause) }
	return h.Do(ctx, job)
}

func TestCancelIsReportedByItsCause(t *testing.T) {
	for outcome, cause := range map[string]error{events.Cancelled: workers.ErrCancelled, events.TimedOut: workers.ErrTimeout, events.Failed: workers.ErrStopping} {
		if got := stopped(t, shell(t, `echo ready >&2; exec sleep 1000`), cause); got.Outcome != outcome {
			t.Errorf("%v: got %+v", cause, got)
		}
	}
}

func TestResultThatIsPrintedOnTheWayOutCounts(t *testing.T) {
	got := stopped(t, shell(t, `trap 'echo "{\"outcome\": \"succeeded\", \"outputs\": {\"version\": 4}}"; exit 0' TERM
		echo ready >&2; while :; do sleep 0.05; done`), workers.ErrCancelled)
	if d := cmp.Diff(events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"version": 4.0}}, got); d != "" {
		t.Error(d)
	}
}

func TestCommandThatIgnoresSIGTERMIsKilled(t *testing.T) {
	h := shell(t, `trap '' TERM; echo ready >&2; while :; do sleep 0.05; done`)
	h.Grace = 100 * time.Millisecond
	if got := stopped(t, h, workers.ErrCancelled); got.Outcome != events.Cancelled {
		t.Errorf("got %+v", got)
	}
}
