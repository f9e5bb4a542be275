package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// child is a process of this program: the server or a worker.
type child struct {
	name  string
	log   string // file with what it says on stderr
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	meant atomic.Bool   // its end is wanted
}

// children starts processes from one thread that lives as long as this
// program: on Linux the kernel kills a child when the thread that started it
// ends, which must not be one that the runtime may end earlier.
type children struct {
	executable string
	logs       string
	start      chan func()
	// lost is told when a child ends that nobody ended.
	lost func(error)
}

func newChildren(executable, logs string, lost func(error)) *children {
	c := &children{executable: executable, logs: logs, start: make(chan func()), lost: lost}
	go func() {
		runtime.LockOSThread()
		for f := range c.start {
			f()
		}
	}()
	return c
}

// run starts this program with other arguments, in a process group of its
// own that gets no Ctrl-C from the terminal. out gets its stdout, may be nil.
func (c *children) run(name string, out *os.File, args ...string) (*child, error) {
	p := &child{name: name, log: filepath.Join(c.logs, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(c.executable, args...)
	p.cmd.Env, p.cmd.Stderr = scrubbed(os.Environ()), log
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.SysProcAttr = childAttr()
	started := make(chan error)
	c.start <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	go func() {
		err := p.cmd.Wait()
		close(p.done)
		if !p.meant.Load() {
			c.lost(fmt.Errorf("the %s ended by itself (%v); it said: %s", name, err, p.tail()))
		}
	}()
	return p, nil
}

// scrubbed is an environment without what would lead a child to another
// server, or a go command away from the little module that it shall build.
func scrubbed(env []string) []string {
	var out []string
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "PENSTOCK_") && !strings.HasPrefix(name, "NATS_") && !strings.HasPrefix(name, "GIT_") && name != "GOFLAGS" && name != "GOPROXY" {
			out = append(out, v)
		}
	}
	return append(out, "GOFLAGS=-mod=mod", "GOPROXY=off")
}

// kill ends the process hard, and waits until it has gone.
func (p *child) kill() {
	p.meant.Store(true)
	killGroup(p.cmd.Process.Pid)
	<-p.done
}

// stop asks the process to end, and kills it when it has not within patience.
func (p *child) stop(patience time.Duration) {
	p.meant.Store(true)
	terminate(p.cmd.Process)
	select {
	case <-p.done:
		killGroup(p.cmd.Process.Pid) // whatever it left
	case <-time.After(patience):
		p.kill()
	}
}

// tail is the last that the process said.
func (p *child) tail() string {
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 2000 {
		f.Seek(-2000, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}

// command runs this program as a person would, and gives what it prints.
func (c *children) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.executable, args...)
	cmd.Env, cmd.WaitDelay = scrubbed(os.Environ()), time.Second
	cmd.SysProcAttr = childAttr()
	out, err := runLocked(c, cmd)
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return out, nil
}

func runLocked(c *children, cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	c.start <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}
