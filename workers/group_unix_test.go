//go:build unix

package workers_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/exec"
)

func TestCancelReachesTheWholeProcessGroup(t *testing.T) {
	w := newWire(t)
	shell := needs(t, "sh")
	stop := start(t, workers.Options{Conn: w.connect(), Kinds: map[string]workers.Handler{wireKind: exec.Handler{
		Args: []string{shell, "-c", `sleep 1000 & echo "child $!" >&2; wait`}}}})
	next := w.task("t1", nil)
	w.publish(w.key, next)
	child := 0
	w.until("the progress to name the child", func() bool {
		beats := w.beats["t1"]
		if len(beats) == 0 {
			return false
		}
		_, pid, _ := strings.Cut(beats[len(beats)-1], "child ")
		child, _ = strconv.Atoi(pid)
		return child > 0
	})
	w.mu.Lock()
	w.verdicts["t1"] = events.Cancel
	w.mu.Unlock()
	if r := w.result("t1"); r.Outcome != events.Cancelled {
		t.Errorf("reported %+v", r)
	}
	if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) && !zombie(child) {
		t.Errorf("the child %d still runs: %v", child, err)
	}
	mustStop(t, stop)
}

// zombie reports whether a process has ended and only waits to be reaped.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}
