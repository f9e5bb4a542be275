// Package proc runs the command of a task, so that nothing of it outlives the
// task.
//
//   - A command is a list of arguments. There is never a shell in between,
//     and nothing in an argument is expanded.
//   - It runs in a directory that is named, with the environment that is
//     given; nothing is inherited beyond that (see Env).
//   - It is the leader of a process group of its own. When the context ends,
//     the whole group is asked to end (SIGTERM) and, after a grace period,
//     killed (SIGKILL). The same happens to what a command leaves behind in
//     the background when it exits by itself.
//   - Run returns when the group is gone and its output has been written. A
//     process that left the group on purpose (setsid) is not followed; its
//     hold on the output is cut.
//   - On Linux the command is killed when the worker dies, even by kill -9.
//
// On Windows there are no signals: the group is sent Ctrl-Break, then its
// process tree is killed.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// DefaultGrace is the time between asking a group to end and killing it.
const DefaultGrace = 10 * time.Second

// outputGrace bounds the wait for output after the group is gone: only a
// process that has left the group can still hold the pipe then.
const outputGrace = 2 * time.Second

// Command says what to run.
type Command struct {
	Args   []string  // the program, looked up in PATH of Env, and its arguments
	Dir    string    // where it runs; required
	Env    []string  // the complete environment, "NAME=value"; a later one wins
	Stdin  io.Reader // nil is empty
	Stdout io.Writer // nil discards; one Write at a time
	Stderr io.Writer // may be the same as Stdout if that is safe for concurrent use
	// Grace replaces DefaultGrace; negative kills at once.
	Grace time.Duration
}

// ExitError says that a command ran and did not succeed.
type ExitError struct {
	Program string
	Code    int    // exit code, -1 when a signal ended it
	Signal  string // name of that signal, for example "killed"
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("%s was ended by a signal: %s", e.Program, e.Signal)
	}
	return fmt.Sprintf("%s ended with exit code %d", e.Program, e.Code)
}

// StartError says that a command could not be started.
type StartError struct {
	Program string
	Err     error
}

func (e *StartError) Error() string {
	if errors.Is(e.Err, exec.ErrNotFound) {
		return fmt.Sprintf("%s is not installed on this worker, or not in its PATH", e.Program)
	}
	return fmt.Sprintf("%s could not be started: %v", e.Program, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// Run runs c to its end. The error is nil for exit code 0, a *ExitError when
// the command failed, a *StartError when it could not be started, and wraps
// context.Cause(ctx) when ctx ended before the command did.
func Run(ctx context.Context, c Command) error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return &StartError{Program: "the command", Err: errors.New("it is empty")}
	}
	if ctx.Err() != nil {
		return stopped(ctx, c)
	}
	path, err := lookPath(c)
	if err != nil {
		return &StartError{Program: c.Args[0], Err: err}
	}
	out, err := newOutput(c.Stdout, c.Stderr)
	if err != nil {
		return &StartError{Program: c.Args[0], Err: err}
	}
	defer out.close()
	cmd := &exec.Cmd{Path: path, Args: c.Args, Dir: c.Dir, Env: c.Env, Stdin: c.Stdin,
		Stdout: out.stdout.w, Stderr: out.stderr.w, WaitDelay: outputGrace}
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would inherit
	}
	isolate(cmd)
	return supervise(ctx, cmd, out, c)
}

func stopped(ctx context.Context, c Command) error {
	return fmt.Errorf("%s was stopped: %w", c.Args[0], context.Cause(ctx))
}

func supervise(ctx context.Context, cmd *exec.Cmd, out *output, c Command) error {
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel takes the death of the thread that started a process
		// for the death of its parent, so the thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return &StartError{Program: c.Args[0], Err: err}
	}
	out.follow()
	group := cmd.Process.Pid
	var err error
	ended := false
	select {
	case err = <-exited:
		endGroup(group, c.grace()) // what it left in the background
	case <-ctx.Done():
		ended = true
		stopGroup(group, c.grace(), exited)
	}
	out.drain()
	if ended {
		return stopped(ctx, c)
	}
	return exitError(c.Args[0], cmd, err)
}

// stopGroup ends a group whose leader still runs.
func stopGroup(group int, grace time.Duration, exited <-chan error) {
	deadline := time.Now().Add(grace)
	if grace > 0 {
		terminate(group)
		select {
		case <-exited:
			endGroup(group, time.Until(deadline))
			return
		case <-time.After(grace):
		}
	}
	kill(group)
	<-exited
	endGroup(group, 0)
}

// endGroup ends what remains of a group whose leader has been waited for.
// Looking again and again is the only way to see others than a child end.
func endGroup(group int, grace time.Duration) {
	if !alive(group) {
		return
	}
	if grace > 0 {
		terminate(group)
		if gone(group, grace) {
			return
		}
	}
	kill(group)
	gone(group, outputGrace)
}

func gone(group int, within time.Duration) bool {
	deadline := time.Now().Add(within)
	for wait := time.Millisecond; alive(group); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(wait)
	}
	return true
}

func (c Command) grace() time.Duration {
	if c.Grace == 0 {
		return DefaultGrace
	}
	return c.Grace
}

func exitError(program string, cmd *exec.Cmd, err error) error {
	if err == nil || cmd.ProcessState.Success() { // else about a stdin that was not read to its end
		return nil
	}
	return &ExitError{Program: program, Code: cmd.ProcessState.ExitCode(), Signal: signalName(cmd.ProcessState)}
}

// lookPath finds the program in the PATH that the command will see rather
// than in the worker's, relative paths counting from its directory.
func lookPath(c Command) (string, error) {
	program := c.Args[0]
	switch {
	case filepath.Base(program) != program:
		return program, nil // a path: exec resolves it from Dir
	case runtime.GOOS == "windows": // has rules of its own, PATHEXT among them
		return exec.LookPath(program)
	}
	var path string
	for _, kv := range c.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for dir := range strings.SplitSeq(path, string(os.PathListSeparator)) {
		if !strings.HasPrefix(dir, string(os.PathSeparator)) {
			continue // a relative PATH would let a checkout replace a program
		}
		file := dir + string(os.PathSeparator) + program
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", exec.ErrNotFound
}

// output copies what a command prints to the writers it was given. The pipes
// are ours, not exec's, so that the exit of the leader is seen while others
// of its group still hold them.
type output struct {
	stdout, stderr pipe
	copying        sync.WaitGroup
}

type pipe struct {
	r, w *os.File
	to   io.Writer
}

func newOutput(stdout, stderr io.Writer) (*output, error) {
	o := &output{stdout: pipe{to: stdout}, stderr: pipe{to: stderr}}
	for _, p := range []*pipe{&o.stdout, &o.stderr} {
		var err error
		if p.to == nil {
			p.to = io.Discard
		}
		if p.r, p.w, err = os.Pipe(); err != nil {
			o.close()
			return nil, fmt.Errorf("no pipe for its output: %w", err)
		}
	}
	return o, nil
}

// follow starts to copy; the command holds the other ends now.
func (o *output) follow() {
	for _, p := range []*pipe{&o.stdout, &o.stderr} {
		p.w.Close()
		o.copying.Go(func() {
			if _, err := io.Copy(p.to, p.r); err != nil {
				io.Copy(io.Discard, p.r) // a writer that fails must not block the command
			}
		})
	}
}

// drain waits until all output has been copied, at most outputGrace.
func (o *output) drain() {
	done := make(chan struct{})
	go func() { o.copying.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(outputGrace):
		o.stdout.r.Close()
		o.stderr.r.Close()
		<-done
	}
}

func (o *output) close() {
	for _, f := range []*os.File{o.stdout.r, o.stdout.w, o.stderr.r, o.stderr.w} {
		if f != nil {
			f.Close()
		}
	}
}
