//go:build unix

package proc_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/workers/proc"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// TestMain lets the test binary stand in for a worker that dies.
func TestMain(m *testing.M) {
	if script := os.Getenv("PROC_TEST_WORKER"); script != "" {
		proc.Run(context.Background(), proc.Command{Args: []string{"sh", "-c", script}, Dir: "/", Env: proc.Env()})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type ran struct {
	stdout, stderr string
	err            error
}

func run(t *testing.T, args ...string) ran {
	t.Helper()
	return runIn(t, t.Context(), proc.Command{Args: args})
}

func runIn(t *testing.T, ctx context.Context, c proc.Command) ran {
	t.Helper()
	var stdout, stderr workertest.Output
	c.Stdout, c.Stderr = &stdout, &stderr
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Env == nil {
		c.Env = proc.Env()
	}
	err := proc.Run(ctx, c)
	return ran{stdout.String(), stderr.String(), err}
}

// witness tells whether a process of a script still lives: the script opens
// the pipe named $WITNESS for writing, and every process it starts holds it.
type witness struct {
	t    *testing.T
	path string
	fd   int
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	path := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	return &witness{t, path, fd}
}

func (w *witness) env() []string { return proc.Env("WITNESS=" + w.path) }

// read gives what the script wrote, and whether somebody still holds the pipe.
func (w *witness) read() (text string, held bool) {
	buf := make([]byte, 100)
	n, err := syscall.Read(w.fd, buf)
	return string(buf[:max(n, 0)]), n > 0 || errors.Is(err, syscall.EAGAIN)
}

func (w *witness) wait(what string, until func(text string, held bool) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !until(w.read()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// cancelWhenReady ends the context as soon as the script has written to the pipe.
func (w *witness) cancelWhenReady() context.Context {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	go func() {
		for ctx.Err() == nil {
			if text, _ := w.read(); text != "" {
				cancel(errors.New("enough"))
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return ctx
}

func TestArgumentsArriveAsTheyAre(t *testing.T) {
	got := run(t, "printf", `%s\n`, "$HOME", "*", "a b; echo c")
	if want := "$HOME\n*\na b; echo c\n"; got.err != nil || got.stdout != want {
		t.Errorf("printed %q, %v; want %q", got.stdout, got.err, want)
	}
}

func TestOnlyTheListedEnvironmentIsPassed(t *testing.T) {
	t.Setenv("CLOUD_SECRET", "s3cret")
	t.Setenv("GOFLAGS", "-trimpath")
	t.Setenv("GIT_ASKPASS", "/bin/askpass")
	got := runIn(t, t.Context(), proc.Command{Args: []string{"env"}, Env: proc.Env("GIT_ASKPASS", "NOT_THERE", "CI=true", "HOME=/elsewhere")})
	lines := strings.Split(got.stdout, "\n")
	for line, want := range map[string]bool{"CLOUD_SECRET=s3cret": false, "GOFLAGS=-trimpath": true, "GIT_ASKPASS=/bin/askpass": true,
		"CI=true": true, "HOME=/elsewhere": true, "NOT_THERE=": false, "PATH=" + os.Getenv("PATH"): true} {
		has := false
		for _, l := range lines {
			has = has || l == line
		}
		if has != want {
			t.Errorf("%s passed: %v, want %v", line, has, want)
		}
	}
	if got := runIn(t, t.Context(), proc.Command{Args: []string{"/usr/bin/env"}, Env: []string{}}); got.stdout != "" {
		t.Errorf("an empty environment became %q", got.stdout)
	}
}

func TestACommandOfATaskHasPlacesOfItsOwn(t *testing.T) {
	t.Setenv("HOME", "")
	dir := t.TempDir()
	env, err := proc.EnvIn(dir, "A=1")
	if err != nil {
		t.Fatal(err)
	}
	got := runIn(t, t.Context(), proc.Command{Args: []string{"sh", "-c", `cd "$TMPDIR" && pwd && cd && pwd && echo $CI $A`}, Env: env})
	if want := dir + "/tmp\n" + dir + "/home\ntrue 1\n"; got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
}

func TestOutputAndStdinAreConnected(t *testing.T) {
	got := runIn(t, t.Context(), proc.Command{Args: []string{"sh", "-c", "cat; echo oops >&2; pwd >&2"},
		Stdin: strings.NewReader("input"), Dir: "/"})
	if got.err != nil || got.stdout != "input" || got.stderr != "oops\n/\n" {
		t.Errorf("got %+v", got)
	}
	big := runIn(t, t.Context(), proc.Command{Args: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20))})
	if big.err != nil {
		t.Errorf("a command that does not read its input: %v", big.err)
	}
}

func TestTheExitIsReported(t *testing.T) {
	var exit *proc.ExitError
	if got := run(t, "sh", "-c", "exit 7"); !errors.As(got.err, &exit) || exit.Code != 7 || exit.Signal != "" {
		t.Errorf("exit 7 became %v", got.err)
	}
	if got := run(t, "sh", "-c", "kill -9 $$"); !errors.As(got.err, &exit) || exit.Code != -1 || exit.Signal != "killed" {
		t.Errorf("kill -9 became %v", got.err)
	}
	var start *proc.StartError
	got := run(t, "no-such-program-here")
	if !errors.As(got.err, &start) || !strings.Contains(got.err.Error(), "not installed") {
		t.Errorf("a missing program became %v", got.err)
	}
	if got := run(t); !errors.As(got.err, &start) {
		t.Errorf("no command became %v", got.err)
	}
	got = runIn(t, t.Context(), proc.Command{Args: []string{"true"}, Dir: "/no/such/directory"})
	if !errors.As(got.err, &start) {
		t.Errorf("a missing directory became %v", got.err)
	}
}

func TestAProgramIsNeverTakenFromTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho trapped\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := runIn(t, t.Context(), proc.Command{Args: []string{"tool"}, Dir: dir, Env: []string{"PATH=:.:" + os.Getenv("PATH")}})
	if got.err == nil || got.stdout != "" {
		t.Errorf("ran %q from the working directory", got.stdout)
	}
	if got := runIn(t, t.Context(), proc.Command{Args: []string{"./tool"}, Dir: dir}); got.stdout != "trapped\n" {
		t.Errorf("./tool gave %q, %v", got.stdout, got.err)
	}
}

func TestCancelReachesTheWholeProcessGroup(t *testing.T) {
	w := newWitness(t)
	script := `exec 3>"$WITNESS"; trap '' TERM; sh -c 'trap "" TERM; echo ready >&3; while :; do sleep 1; done' & wait; while :; do sleep 1; done`
	got := runIn(t, w.cancelWhenReady(), proc.Command{Args: []string{"sh", "-c", script}, Env: w.env(), Grace: 50 * time.Millisecond})
	if got.err == nil || !strings.Contains(got.err.Error(), "enough") {
		t.Errorf("error %v does not say why it was stopped", got.err)
	}
	w.wait("no process holds the pipe", func(_ string, held bool) bool { return !held })
}

func TestCancelLetsAProcessCleanUp(t *testing.T) {
	w := newWitness(t)
	script := `exec 3>"$WITNESS"; sh -c 'trap "echo tidy; exit" TERM; echo ready >&3; while :; do sleep 0.01; done'; :`
	got := runIn(t, w.cancelWhenReady(), proc.Command{Args: []string{"sh", "-c", script}, Env: w.env(), Grace: time.Minute})
	if got.err == nil || got.stdout != "tidy\n" {
		t.Errorf("printed %q, %v; want the output of the clean-up", got.stdout, got.err)
	}
}

func TestNothingStartsAfterTheContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := runIn(t, ctx, proc.Command{Args: []string{"echo", "hello"}}); !errors.Is(got.err, context.Canceled) || got.stdout != "" {
		t.Errorf("got %+v", got)
	}
}

func TestNothingIsLeftInTheBackground(t *testing.T) {
	w := newWitness(t)
	script := `exec 3>"$WITNESS"; sh -c 'trap "" TERM; echo late; echo ready >&3; while :; do sleep 1; done' & head -c1 <"$WITNESS" >/dev/null; exit 3`
	got := runIn(t, t.Context(), proc.Command{Args: []string{"sh", "-c", script}, Env: w.env(), Grace: 20 * time.Millisecond})
	var exit *proc.ExitError
	if !errors.As(got.err, &exit) || exit.Code != 3 || got.stdout != "late\n" {
		t.Errorf("got %+v, want exit code 3 and the output of the background process", got)
	}
	w.wait("no process holds the pipe", func(_ string, held bool) bool { return !held })
}

func TestAProcessThatLeftTheGroupDoesNotHoldTheTask(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("needs setsid")
	}
	w := newWitness(t)
	script := `exec 3>"$WITNESS"; setsid sh -c 'echo $$; echo ready >&3; exec sleep 600' & head -c1 <"$WITNESS" >/dev/null`
	got := runIn(t, t.Context(), proc.Command{Args: []string{"sh", "-c", script}, Env: w.env()})
	pid, err := strconv.Atoi(strings.TrimSpace(got.stdout))
	if got.err != nil || err != nil {
		t.Fatalf("got %+v", got)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the escaped process was not there any more: %v", err)
	}
}

func TestAWriterThatFailsDoesNotBlockTheCommand(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if err := proc.Run(t.Context(), proc.Command{Args: []string{"head", "-c", "1000000", "/dev/zero"}, Dir: "/", Env: proc.Env(), Stdout: w}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestTheCommandDiesWithItsWorker(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can do it")
	}
	w := newWitness(t)
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), "PROC_TEST_WORKER=exec 3>"+w.path+"; echo ready >&3; exec sleep 600")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer worker.Wait()
	defer worker.Process.Kill()
	w.wait("the command runs", func(text string, _ bool) bool { return text != "" })
	worker.Process.Kill()
	w.wait("the command is gone", func(_ string, held bool) bool { return !held })
}

func TestTailKeepsTheLastLines(t *testing.T) {
	var tail proc.Tail
	for i := range 10_000 {
		tail.Write([]byte("line " + strconv.Itoa(i) + "\n\n"))
	}
	if got, want := tail.Lines(2), "line 9998\nline 9999"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	tail.Write([]byte(strings.Repeat("x", 100_000)))
	if got := tail.Lines(3); len(got) > 5000 || !strings.HasSuffix(got, "xxx") {
		t.Errorf("kept %d bytes", len(got))
	}
	if got := new(proc.Tail).Lines(3); got != "" {
		t.Errorf("an empty tail is %q", got)
	}
}
