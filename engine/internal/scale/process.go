package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Process is another process.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   io.ReadCloser
	said  *json.Decoder
	errs  *tail
}

// Start starts a process.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, errs: &tail{}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin, p.out, p.said, cmd.Stderr = in, out, json.NewDecoder(out), p.errs
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Hear reads the next thing that the process prints, which is JSON. A process
// that prints nothing for that long is killed.
func (p *Process) Hear(within time.Duration, v any) error {
	late := time.AfterFunc(within, func() { p.cmd.Process.Kill() })
	err := p.said.Decode(v)
	switch silent := !late.Stop(); {
	case err != nil && silent:
		return fmt.Errorf("process %d said nothing for %v and was killed: %w: %s", p.cmd.Process.Pid, within, err, p.errs)
	case err != nil:
		return fmt.Errorf("process %d says nothing more: %w: %s", p.cmd.Process.Pid, err, p.errs)
	}
	return nil
}

// Stop asks the process to end, as its closed input and a signal do, and
// waits for it.
func (p *Process) Stop() error {
	p.stdin.Close()
	_ = p.cmd.Process.Signal(os.Interrupt) // there is none on Windows
	patience := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() })
	defer patience.Stop()
	io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.String() == "signal: interrupt" {
		return nil // it was at its end already, and did not heed signals any more
	}
	if err != nil {
		return fmt.Errorf("process %d: %w: %s", p.cmd.Process.Pid, err, p.errs)
	}
	return nil
}

// Kill ends the process as a crash does, and waits until it is gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait() // it was killed
}

// Resident is how much memory the process has, in bytes; 0 where the system
// does not tell.
func (p *Process) Resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil {
				return kB * 1024
			}
		}
	}
	return 0
}

// UntilClosed gives a context that ends with ctx, or when in ends: with it a
// child does not outlive its parent.
func UntilClosed(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-4096):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
