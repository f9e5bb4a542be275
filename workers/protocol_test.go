package workers_test

import (
	"crypto/ed25519"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/exec"
)

func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := osexec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed, so this worker cannot be tried here", program)
	}
	return path
}

func TestTasksAreDoneOverARealBusWithTheDocumentedPermissionsOnly(t *testing.T) {
	w := newWire(t)
	shell := needs(t, "sh")
	stop := start(t, workers.Options{Conn: w.connect(), Concurrency: 3, Kinds: map[string]workers.Handler{wireKind: exec.Handler{
		Args: []string{shell, "-c", `read task; echo "task $PENSTOCK_TASK in $PENSTOCK_ENVIRONMENT" >&2; printf '{"seen": %s}' "$task"`}}}})
	var tasks []events.Task
	for i := range 7 {
		tasks = append(tasks, w.task(fmt.Sprintf("t%d", i), map[string]any{"text": "hello"}))
	}
	w.publish(w.key, tasks...)
	for _, next := range tasks {
		r := w.result(next.ID)
		seen, _ := r.Outputs["seen"].(map[string]any)
		if r.Outcome != events.Succeeded || seen["id"] != next.ID || seen["fence"].(map[string]any)["grant"] != 7.0 {
			t.Errorf("result of %s: %+v, %+v", next.ID, r, r.Error)
		}
		chunks := w.output(next)
		if got, want := textOf(chunks, "stderr"), "task "+next.ID+" in staging\n"; got != want {
			t.Errorf("log of %s: %q, want %q", next.ID, got, want)
		}
	}
	mustStop(t, stop)
	if n := w.unacknowledged(); n != 0 {
		t.Errorf("%d messages were not acknowledged", n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := cmp.Diff([]string{wireKind}, w.hellos[0].Kinds); d != "" || !w.hellos[len(w.hellos)-1].Bye {
		t.Errorf("hellos: %+v", w.hellos)
	}
}

func TestPythonScriptIsAWorkerThroughExec(t *testing.T) {
	python := needs(t, "python3")
	w := newWire(t)
	script := `
import json, sys
task = json.load(sys.stdin)
print("counting", file=sys.stderr)
text = task["with"]["text"]
if not text:
    print(json.dumps({"outcome": "failed", "error": {"code": "no_text", "message": "there is no text", "retryable": True}}))
    sys.exit(3)
print(json.dumps({"letters": len(text)}))`
	stop := start(t, workers.Options{Conn: w.connect(), Kinds: map[string]workers.Handler{wireKind: exec.Handler{Args: []string{python, "-c", script}}}})
	w.publish(w.key, w.task("good", map[string]any{"text": "abc"}), w.task("bad", map[string]any{"text": ""}))
	if d := cmp.Diff(events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"letters": 3.0}}, w.result("good")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(workers.Fail("no_text", "there is no text", true), w.result("bad")); d != "" {
		t.Error(d)
	}
	mustStop(t, stop)
}

// The script in testdata was written from docs/workers.md and uses sockets and
// the standard library only.
func TestWorkerInPythonNeedsNothingButTheDocumentedProtocol(t *testing.T) {
	python := needs(t, "python3")
	w := newWire(t)
	w.cred.URL = w.srv.ClientURL()
	host, port, _ := strings.Cut(strings.TrimPrefix(w.cred.URL, "nats://"), ":")
	cmd := osexec.Command(python, "testdata/worker.py")
	cmd.Env = append(os.Environ(), "NATS_HOST="+host, "NATS_PORT="+port, "NATS_USER="+w.cred.User, "NATS_PASSWORD="+w.cred.Password,
		"WORKER_NAME="+w.cred.Name, "WORKER_POOL="+w.cred.Pool, "WORKER_KIND="+wireKind, "TASK_KEYS="+strings.Join(w.cred.TaskKeys, " "))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })

	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.granted["taken"] = "somebody else"
	w.mu.Unlock()
	w.publish(stranger, w.task("forged", map[string]any{"text": "x"}))
	group := []events.Task{w.task("taken", nil), w.task("one", map[string]any{"text": "a b c"}), w.task("two", map[string]any{"text": "ab"}),
		w.task("three", map[string]any{"text": "abcd"}), w.task("cancelled", map[string]any{"text": "wait"})}
	w.publish(w.key, group...)
	for id, letters := range map[string]float64{"one": 3, "two": 2, "three": 4} {
		if d := cmp.Diff(events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"letters": letters}}, w.result(id)); d != "" {
			t.Error(d)
		}
	}
	w.until("a heartbeat of the task that waits", func() bool { return len(w.beats["cancelled"]) > 0 })
	w.mu.Lock()
	w.verdicts["cancelled"] = events.Cancel
	w.mu.Unlock()
	if r := w.result("cancelled"); r.Outcome != events.Cancelled {
		t.Errorf("reported %+v", r)
	}
	if got := textOf(w.output(group[1]), "stdout"); got != "counting 'a b c'\ndone\n" {
		t.Errorf("its output is %q", got)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it did not end on SIGTERM")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.granted["forged"] != "" || w.granted["taken"] != "somebody else" {
		t.Errorf("granted: %v", w.granted)
	}
	if len(w.hellos) < 2 || !w.hellos[len(w.hellos)-1].Bye {
		t.Errorf("hellos: %+v", w.hellos)
	}
	if n := w.unacknowledged(); n != 0 {
		t.Errorf("%d messages were not acknowledged", n)
	}
}
