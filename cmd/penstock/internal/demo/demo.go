// Package demo is the demonstration of Penstock: a real service taken to
// production by a real server and real workers, told as a story.
//
// It makes a directory of its own below the system's temporary one, with
// everything in it: the data of the server, a git repository, credentials,
// the deployed processes. Server and workers are child processes of this
// program, so that killing them is real. Nothing outside that directory is
// read or written but the Go build cache, and no port is fixed, so that any
// number of demonstrations may run at a time.
//
// Every claim of the story is checked against what the server, the target and
// a client of the service say themselves; the first one that does not hold
// ends the demonstration with an error. Whatever ends it, no process is left.
package demo

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
	"time"
)

// Options say how the story is told.
type Options struct {
	Yes  bool // make the approvals without asking
	Keep bool // leave the directory
	// In and Out are where the person is. Terminal says that both are a
	// terminal; without one nothing is asked.
	In       io.Reader
	Out      io.Writer
	Terminal bool
	Colour   bool
	// Executable is the penstock program that becomes server and worker.
	Executable string
	// Command is how the reader starts that program: "penstock".
	Command string
}

// ErrQuit is what ends a demonstration that its reader had enough of.
var ErrQuit = errors.New("the reader had enough")

// Run tells the story. Its error says which claim did not hold, or what was
// missing. It returns nil when the reader quit.
func Run(ctx context.Context, o Options) (err error) {
	if err := ready(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "penstock-demo-")
	if err != nil {
		return fmt.Errorf("a directory for the demonstration: %w", err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	heeding, free := heedSignals(ctx)
	defer free()
	n := newNarrator(o)
	defer n.close()
	if !o.Terminal && !o.Yes {
		n.line("this is no terminal: nothing is asked, the approvals are made as with --yes", "")
		o.Yes = true
	}
	ctx, lost := context.WithCancelCause(heeding)
	s := &story{options: o, layout: layout{dir}, narrator: n, began: time.Now(),
		stand: newStand(o.Executable, layout{dir}, lost)}
	defer func() {
		interrupted := heeding.Err() != nil
		lost(nil)
		err = s.end(interrupted, err)
	}()
	return s.tell(ctx)
}

// ready reports what the demonstration needs and does not find.
func ready(ctx context.Context) error {
	if runtime.GOOS == "windows" {
		return errors.New("the demonstration deploys to processes on this machine, which needs Linux, macOS or another Unix")
	}
	for _, tool := range []struct{ name, is, how string }{
		{"git", "the demonstration builds from a real repository", "install it from your package manager, or from https://git-scm.com"},
		{"go", "the demonstration compiles and tests a real service", "install the Go toolchain from https://go.dev/dl, or put its bin directory into PATH"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("%s was not found in PATH: %s; %s", tool.name, tool.is, tool.how)
		}
	}
	// A go that cannot run, such as a version manager's empty shell, would
	// only show as a failed build.
	if out, err := exec.CommandContext(ctx, "go", "version").CombinedOutput(); err != nil {
		return fmt.Errorf("go does not run: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// layout is where things lie in the directory of a demonstration.
type layout struct{ dir string }

func (l layout) data() string       { return filepath.Join(l.dir, "server") }
func (l layout) targets() string    { return filepath.Join(l.dir, "targets") }
func (l layout) work() string       { return filepath.Join(l.dir, "work") }
func (l layout) workflows() string  { return filepath.Join(l.dir, "workflows") }
func (l layout) repository() string { return filepath.Join(l.dir, "shop") }
func (l layout) logs() string       { return filepath.Join(l.dir, "log") }

// credential is the file of somebody's credential.
func (l layout) credential(name string) string { return filepath.Join(l.dir, name+".json") }

func (l layout) environment(name string) string { return filepath.Join(l.targets(), name) }
