package command_test

import (
	"context"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"os"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/command"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// script is the inputs that run a shell script.
func script(t *testing.T, text string) map[string]any {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the scripts are for a POSIX shell")
	}
	return map[string]any{"run": []any{"sh", "-c", text}}
}

func TestOutputsAreTheExitCodeAndTheLastLineWhenItIsAnObject(t *testing.T) {
	for text, want := range map[string]map[string]any{
		`true`:                          {"exitCode": 0},
		`echo hello`:                    {"exitCode": 0},
		`echo log; echo '{"a": [1]}'`:   {"exitCode": 0, "output": map[string]any{"a": []any{1.0}}},
		`echo '{"a": 1}'; echo; echo`:   {"exitCode": 0, "output": map[string]any{"a": 1.0}},
		`printf '{"a": 1}'`:             {"exitCode": 0, "output": map[string]any{"a": 1.0}},
		`echo '{"a": 1}'; echo the end`: {"exitCode": 0},
		`echo '[1]'`:                    {"exitCode": 0},
		`echo null`:                     {"exitCode": 0},
		`printf '{"a": "%060000d"}' 0`:  {"exitCode": 0},
	} {
		got := command.Handler{}.Do(t.Context(), workertest.New(t, script(t, text)))
		if d := cmp.Diff(events.Result{Outcome: events.Succeeded, Outputs: want}, got); d != "" {
			t.Errorf("%s:\n%s", text, d)
		}
	}
}

func TestFailureKeepsItsOutputsAndSaysWhy(t *testing.T) {
	job := workertest.New(t, script(t, `echo on stdout; echo on stderr >&2; echo '{"done": 2}'; exit 3`))
	got := command.Handler{}.Do(t.Context(), job)
	if d := cmp.Diff(map[string]any{"exitCode": 3, "output": map[string]any{"done": 2.0}}, got.Outputs); d != "" {
		t.Error(d)
	}
	if got.Outcome != events.Failed || got.Error.Code != "exit_3" || !strings.Contains(got.Error.Message, "on stderr") {
		t.Errorf("got %s, %+v", got.Outcome, got.Error)
	}
	if out, log := workertest.Text(job.Stdout), workertest.Text(job.Stderr); !strings.HasPrefix(out, "on stdout\n") || log != "on stderr\n" {
		t.Errorf("the output is %q and %q", out, log)
	}
}

func TestVariablesAreThoseOfTheWorkflowAndOfTheTask(t *testing.T) {
	with := script(t, `printf '{"level": "%s", "run": "%s", "password": "%s"}\n' "$LEVEL" "$PENSTOCK_RUN" "$WORKER_PASSWORD"`)
	with["env"] = map[string]any{"LEVEL": "high", "PENSTOCK_RUN": "forged"}
	t.Setenv("WORKER_PASSWORD", "1234")
	got := command.Handler{}.Do(t.Context(), workertest.New(t, with))
	want := map[string]any{"exitCode": 0, "output": map[string]any{"level": "high", "run": "run-1", "password": ""}}
	if d := cmp.Diff(want, got.Outputs); d != "" {
		t.Error(d)
	}
}

func TestInputsThatMakeNoSenseAreRefused(t *testing.T) {
	run := []any{"true"}
	for name, with := range map[string]map[string]any{
		"no run":                    {},
		"empty run":                 {"run": []any{}},
		"empty program":             {"run": []any{""}},
		"run is text":               {"run": "make test"},
		"repository without commit": {"run": run, "repository": "/srv/repo"},
		"commit without repository": {"run": run, "commit": "main"},
		"bad name of a variable":    {"run": run, "env": map[string]any{"A=B": "c"}},
	} {
		got := command.Handler{}.Do(t.Context(), workertest.New(t, with))
		if got.Outcome != events.Failed || got.Error.Code != command.CodeBadInput {
			t.Errorf("%s: got %+v, %+v", name, got, got.Error)
		}
	}
}

func TestCommandRunsInAFreshCheckoutOfTheCommit(t *testing.T) {
	if _, err := osexec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	repository := filepath.Join(t.TempDir(), "repo")
	commit := func(content string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(repository, "version"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		git(t, repository, "add", ".")
		git(t, repository, "-c", "user.name=Ana", "-c", "user.email=ana@acme.example", "commit", "--quiet", "-m", content)
		return git(t, repository, "rev-parse", "HEAD")
	}
	git(t, ".", "init", "--quiet", repository)
	first := commit("one")
	commit("two")
	with := script(t, `printf '{"version": "%s"}' "$(cat version)"; touch new`)
	with["repository"], with["commit"] = repository, first
	got := command.Handler{}.Do(t.Context(), workertest.New(t, with))
	want := events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"exitCode": 0, "output": map[string]any{"version": "one"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(filepath.Join(repository, "new")); err == nil {
		t.Error("the command ran in the repository itself")
	}
	with["commit"] = strings.Repeat("0", 40)
	if got := (command.Handler{}).Do(t.Context(), workertest.New(t, with)); got.Outcome != events.Failed || got.Error.Code != "no_such_commit" {
		t.Errorf("got %+v, %+v", got, got.Error)
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := osexec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// cancelOn ends a context when something is written to it.
type cancelOn struct{ cancel func() }

func (c cancelOn) Write(p []byte) (int, error) { c.cancel(); return len(p), nil }

func TestCancelEndsTheCommand(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	job := workertest.New(t, script(t, `echo ready; exec sleep 1000`))
	job.Stdout = cancelOn{func() { cancel(workers.ErrCancelled) }}
	if got := (command.Handler{}).Do(ctx, job); got.Outcome != events.Cancelled {
		t.Errorf("got %+v", got)
	}
}
