//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/cmd/penstock/internal/demo"
)

// watched collects output and calls a function once, as soon as a text stands
// in it.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
	mark string
	then func()
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.then != nil && strings.Contains(w.text.String(), w.mark) {
		w.then()
		w.then = nil
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// demoHome gives demonstrations a place of their own.
func demoHome(t *testing.T) (dir, penstock string) {
	t.Helper()
	if testing.Short() {
		t.Skip("the demonstration compiles and deploys a service")
	}
	for _, tool := range []string{"git", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the demonstration needs %s", tool)
		}
	}
	penstock, err := exec.LookPath("penstock") // the one that TestMain installs
	if err != nil {
		t.Fatal(err)
	}
	dir, err = os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return dir, penstock
}

// demoProcess is a demonstration in a process of its own.
func demoProcess(t *testing.T, penstock string, out *watched, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, penstock, append([]string{"demo"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// nothingLeft checks that no file and no process of a demonstration is left.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "penstock-demo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found := processesAt(dir + "/")
		if len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes are left:\n%s", strings.Join(found, "\n"))
			return
		}
	}
}

// processesAt lists the processes whose command line or working directory is
// below dir. One that only waits for its parent to notice does not count: it
// has neither any more.
func processesAt(dir string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		if bytes.Contains(line, []byte(dir)) || strings.HasPrefix(cwd, dir) {
			found = append(found, fmt.Sprintf("%s in %s: %s", p, cwd, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func TestTwoDemosAtTheSameTimeTellTheWholeStory(t *testing.T) {
	dir, penstock := demoHome(t)
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("PENSTOCK_CREDENTIAL", "/nowhere/of-another-server.json") // must not reach the children
	outs := make([]watched, 2)
	var both sync.WaitGroup
	for i := range outs {
		args := [][]string{{"--yes"}, nil}[i] // without a terminal nothing is asked either way
		both.Go(func() {
			if err := demoProcess(t, penstock, &outs[i], args...).Run(); err != nil {
				t.Errorf("demo %d: %v\n%s", i+1, err, &outs[i])
			}
		})
	}
	both.Wait()
	for i := range outs {
		said := outs[i].String()
		for _, want := range []string{
			"test and scan were handed out together",
			"the engine refuses her approval: ana wrote this change",
			"quorum does not hold: 2 more release-manager",
			"ran as a process beside the old one",
			"a failing test is held at the gate",
			"it never became healthy and was taken away",
			"the run went on where it was",
			"5 runs verified",
			"failed requests               0\n",
			"kills of the engine           2\n",
			"repeated transitions          0\n",
		} {
			if !strings.Contains(said, want) {
				t.Errorf("demo %d does not say %q", i+1, want)
			}
		}
		if strings.Contains(said, "\x1b") || strings.Contains(said, "\r") {
			t.Errorf("demo %d writes for a terminal, where there is none", i+1)
		}
	}
	if !strings.Contains(outs[1].String(), "this is no terminal") {
		t.Error("the demo does not say that it asks nothing")
	}
	nothingLeft(t, dir)
	if touched, _ := os.ReadDir(state); len(touched) > 0 {
		t.Errorf("the demo touched the user's state: %v", touched)
	}
}

// The reader tries everything that the prompt offers, and then stops
// while production runs.
func TestDemoLetsItsReaderDecide(t *testing.T) {
	dir, penstock := demoHome(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	enough := errors.New("enough")
	ctx, stop := context.WithCancelCause(ctx)
	out := &watched{mark: "production answers with v1", then: func() { stop(enough) }}
	err := demo.Run(ctx, demo.Options{In: strings.NewReader("x\na\nw\nr\n"), Out: out, Terminal: true, Executable: penstock, Command: "penstock"})
	if !errors.Is(err, enough) {
		t.Errorf("the demo ended with %v\n%s", err, out)
	}
	said := out.String()
	for _, want := range []string{"What now?", "m, a, w, r or q?", "ana is refused: ana wrote this change", "cannot:  ana wrote this change",
		"marta says: rejected", "the same commit comes again", "li says: approved"} {
		before, after, ok := strings.Cut(said, want)
		if !ok {
			t.Fatalf("after %q the demo does not say %q", before[max(0, len(before)-200):], want)
		}
		said = after
	}
	if n := strings.Count(out.String(), "tries to approve it"); n != 1 {
		t.Errorf("ana tried %d times", n)
	}
	nothingLeft(t, dir)
}

func TestDemoEndsWhenItsReaderQuits(t *testing.T) {
	dir, penstock := demoHome(t)
	out := &watched{}
	err := demo.Run(t.Context(), demo.Options{In: strings.NewReader("q\n"), Out: out, Terminal: true, Executable: penstock, Command: "penstock"})
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	nothingLeft(t, dir)
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	dir, penstock := demoHome(t)
	var cmd *exec.Cmd
	out := &watched{mark: "starts run"} // go build begins
	cmd = demoProcess(t, penstock, out, "--yes")
	out.then = func() {
		for range 2 { // impatience must not keep it from putting everything away
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if got := exitCode(cmd.Run()); got != "130" {
		t.Errorf("it exits with %s, want 130\n%s", got, out)
	}
	nothingLeft(t, dir)
}

func TestDemoSaysWhichToolIsMissing(t *testing.T) {
	_, penstock := demoHome(t)
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ tools, want string }{
		{"", "git was not found in PATH"},
		{git, "go was not found in PATH"},
	} {
		bin := t.TempDir()
		if c.tools != "" {
			if err := os.Symlink(c.tools, filepath.Join(bin, filepath.Base(c.tools))); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", bin)
		out := &watched{}
		if got := exitCode(demoProcess(t, penstock, out, "--yes").Run()); got != "1" || !strings.Contains(out.String(), c.want) {
			t.Errorf("exit %s, want 1 and %q:\n%s", got, c.want, out)
		}
	}
}
