package local

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
)

func TestPruneKeepsTheNewestAndWhatIsInUse(t *testing.T) {
	dir := t.TempDir()
	for i := range 6 {
		path := filepath.Join(dir, fmt.Sprint("a", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i) * time.Minute)
		os.Chtimes(path, at, at)
	}
	for name, age := range map[string]time.Duration{".part-old": 2 * time.Hour, ".part-new": 0} {
		os.WriteFile(filepath.Join(dir, name), nil, 0o600)
		os.Chtimes(filepath.Join(dir, name), time.Now().Add(-age), time.Now().Add(-age))
	}
	prune(dir, 2, func(name string) bool { return name == "a0" })
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff(left, []string{".part-new", "a0", "a4", "a5"}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestOutputOfAnInstanceIsCapped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o, err := openOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99) + "\n"
	for range 5 * outputCap / len(line) {
		fmt.Fprint(o, line)
	}
	fmt.Fprint(o, "the end\n")
	o.Close()
	for _, p := range []string{path, path + ".1"} {
		if info, err := os.Stat(p); err != nil || info.Size() > outputCap {
			t.Errorf("%s: %v %v", p, info, err)
		}
	}
	if got := tail(path, 120); got != line+"the end\n" && got != "the end\n" {
		t.Errorf("tail %q", got)
	}
}

func TestStateForgetsOldResultsAndKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	var s state
	for i := range keepResults + 5 {
		s.Pending = append(s.Pending, pending{Attempt: fmt.Sprint(i)})
		s.settle(fmt.Sprint(i), workers.Fail("x", "y", false))
	}
	if err := s.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, first := got.result("4")
	last, ok := got.result(fmt.Sprint(keepResults + 4))
	if first || !ok || last.Error.Code != "x" || len(got.Pending) != 0 {
		t.Errorf("first %v, last %v, pending %v", first, last, got.Pending)
	}
}

func TestStateThatCannotBeSavedChangesNothing(t *testing.T) {
	s := newSupervisor(filepath.Join(t.TempDir(), "gone"), state{}, slog.New(slog.DiscardHandler)) // a directory that is not there takes no file
	refused, err := s.submit(deploy.Request{Attempt: "a", Fence: events.Fence{Grant: 3}})
	if err == nil || refused != nil || len(s.deployments) != 0 || s.state.Fence.Grant != 0 {
		t.Errorf("submit: %v, %v, state %+v", refused, err, s.state)
	}
	if err := s.settle("a"); err == nil || s.deployment("a") != nil {
		t.Errorf("settle: %v", err)
	}
}
