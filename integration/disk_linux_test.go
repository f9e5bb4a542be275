package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// needsStrace skips where a process cannot be traced, which is how the disk of
// a server is made to fail here.
func needsStrace(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("strace", "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		missing(t, "strace", fmt.Sprintf("%v %s (a container needs --cap-add SYS_PTRACE)", err, out))
	}
}

// tamper attaches strace to a process, so that system calls of it go wrong
// from now on, until the process ends or stop is called.
func tamper(t testing.TB, pid int, inject string) (stop func()) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-o", os.DevNull, "-p", strconv.Itoa(pid), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:"+inject)
	said, err := cmd.StderrPipe()
	require(t, err)
	require(t, cmd.Start())
	s := bufio.NewScanner(said)
	for s.Scan() && !strings.Contains(s.Text(), "attached") {
		t.Log(s.Text())
	}
	go func() {
		for s.Scan() {
		}
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // detaches; it may be gone already
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// onDiskNow copies a data directory while its server is stopped, and has every
// fsync of the server fail from that moment on: what the copy does not hold
// never comes to disk.
func (s *server) onDiskNow(inject string) (copied string) {
	s.t.Helper()
	pid := s.proc.cmd.Process.Pid
	require(s.t, syscall.Kill(pid, syscall.SIGSTOP))
	copied = filepath.Join(s.t.TempDir(), "data")
	output(s.t, ".", nil, "cp", "-a", s.plan.Dir, copied)
	tamper(s.t, pid, inject)
	require(s.t, syscall.Kill(pid, syscall.SIGCONT))
	return copied
}

// TestFailingFsyncIsNeverAcknowledged has the disk refuse to sync while
// people and services ask for things. Whatever is acknowledged then would be
// lost by a power cut: nothing may be. After a restart everything goes on,
// from what the disk had when it failed and from what was in memory.
func TestFailingFsyncIsNeverAcknowledged(t *testing.T) {
	t.Parallel()
	needsStrace(t)
	random, rounds := drawn(t, 2)
	for range rounds {
		s := newServer(t, serverPlan{Heartbeat: 300 * time.Millisecond, HeartbeatLimit: 3 * time.Second}, people+kinds+road)
		s.start()
		c := newClient(s)
		wp := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
		w := spawn(t, "worker", wp)
		c.drive("before")
		waits := c.waiting("waits")
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond) // the moment is what is drawn
		copied := s.onDiskNow("error=EIO:when=1+")
		c.unacknowledged(waits)
		s.proc.kill()
		w.kill()

		// Two worlds: in one, memory came to disk after all.
		before, err := os.ReadFile(wp.Ledger)
		require(t, err)
		for _, dir := range []string{s.plan.Dir, copied} {
			s.plan.Dir = dir
			wp.Ledger = filepath.Join(t.TempDir(), "ledger")
			require(t, os.WriteFile(wp.Ledger, before, 0o600))
			s.start()
			w := spawn(t, "worker", wp)
			c.drive("after in " + filepath.Base(filepath.Dir(dir)))
			c.reckon(wp.Ledger)
			w.kill()
			s.proc.kill()
			// The copy knows nothing of what was driven since.
			c.driven, c.cancelled = c.driven[:1], c.cancelled[:1]
		}
		t.Log(c.sum)
	}
}

// waiting starts a run that waits for an approval, and gives it.
func (c *client) waiting(id string) string {
	c.t.Helper()
	var v events.RunView
	c.must(c.li, events.VerbStart, events.StartRun{ID: id, Workflow: "hold"}, &v)
	c.note(v.ID, id)
	c.asked(v.ID)
	return v.ID
}

// unacknowledged asks for everything while nothing can be stored.
func (c *client) unacknowledged(waits string) {
	c.t.Helper()
	content := approval(c.get(waits)).Content
	ctx, cancel := context.WithTimeout(c.t.Context(), 12*time.Second) // longer than the engine waits for the disk
	defer cancel()
	told := make(chan string)
	for name, ask := range map[string]func() error{
		"a start": func() error {
			_, err := c.marta.Request(ctx, events.VerbStart, events.StartRun{ID: "lost", Workflow: "hold"}, nil)
			return err
		},
		"a decision": func() error {
			_, err := c.marta.Request(ctx, events.VerbDecide, events.Decide{ID: "lost", Run: waits, Decision: events.Approve, Content: content}, nil)
			return err
		},
		"a cancel": func() error {
			_, err := c.li.Request(ctx, events.VerbCancel, events.CancelRun{ID: "lost", Run: waits}, nil)
			return err
		},
		"an event": func() error {
			return c.git.Publish(ctx, &events.Event{ID: "lost", Source: c.source, Type: "com.example.change.merged", Data: []byte(`{"change": "lost"}`)})
		},
	} {
		go func() {
			if ask() == nil {
				told <- name
			}
			told <- ""
		}()
	}
	for range 4 {
		if what := <-told; what != "" {
			c.t.Errorf("%s was acknowledged though it cannot be on disk", what)
			<-told
		}
	}
}

// TestSlowDiskLosesNothing makes every sync slow, and some slower than the
// engine waits for an answer, so that it does not know what was stored.
func TestSlowDiskLosesNothing(t *testing.T) {
	t.Parallel()
	needsStrace(t)
	for _, inject := range []string{"delay_enter=100000", "delay_enter=7000000:when=6+60"} {
		t.Run(inject, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, serverPlan{Heartbeat: time.Second, HeartbeatLimit: 30 * time.Second}, people+kinds+road)
			s.start()
			c := newClient(s)
			wp := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
			spawn(t, "worker", wp)
			stop := tamper(t, s.proc.cmd.Process.Pid, inject)
			for i := range 2 {
				c.drive(fmt.Sprint("slow-", i))
			}
			stop()
			c.reckon(wp.Ledger)
			t.Log(c.sum)
		})
	}
}

// TestPowerCutKeepsWhatWasAcknowledged kills a server at a moment that is
// drawn and takes from its files what a power cut may take. Everything that
// was acknowledged is there, and everything goes on.
func TestPowerCutKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	needsStrace(t)
	random, rounds := drawn(t, 3)
	s := newServer(t, serverPlan{Heartbeat: 500 * time.Millisecond, HeartbeatLimit: 5 * time.Second}, people+kinds+road)
	d := s.startTraced()
	c := newClient(s)
	wp := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
	spawn(t, "worker", wp)
	leave := c.crowd(8)
	cuts := make(chan struct{})
	go func() {
		defer close(cuts)
		for range rounds {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond) // the moment is what is drawn
			s.proc.kill()
			d.cutTail(s, random)
			d = s.startTraced()
			cuts <- struct{}{}
		}
	}()
	for range cuts {
		c.drive(fmt.Sprintf("change-%d", c.changes()))
	}
	leave()
	c.reckon(wp.Ledger)
	t.Logf("%d power cuts; %s", rounds, c.sum)
}

// disk is what is known of files by the system calls of a server: how much of
// each had been synced when it was killed.
type disk struct {
	trace   string
	files   map[string]*diskFile
	renamed []string // targets of renames that were not synced, and did not exist before
	open    map[string]openFile
}

type diskFile struct{ size, synced int64 }

type openFile struct {
	at   int64
	sync bool
}

// startTraced starts the server with its writing on record. What it finds
// counts as synced.
func (s *server) startTraced() *disk {
	s.t.Helper()
	d := &disk{trace: filepath.Join(s.t.TempDir(), "trace"), files: map[string]*diskFile{}, open: map[string]openFile{}}
	_ = filepath.WalkDir(s.plan.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil // there is no directory yet
		}
		if info, err := e.Info(); err == nil {
			d.files[path] = &diskFile{info.Size(), info.Size()}
		}
		return nil
	})
	s.proc = spawnIn(s.t, []string{"strace", "-D", "-f", "-y", "--seccomp-bpf", "-s", "0", "-o", d.trace, "-e", "signal=SIGKILL",
		"-e", "trace=openat,lseek,write,writev,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"}, "server", s.plan)
	if alive, err := s.ready(); err != nil || !alive {
		s.t.Errorf("the server ended before it was ready: %v\n%s", err, s.proc.log)
	}
	return d
}

var (
	traced  = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	fdPath  = regexp.MustCompile(`^(\d+)<([^>]*)>`)
	quoted  = regexp.MustCompile(`"([^"]*)"`)
	resumed = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)`)
)

// cutTail does to the files of a server that was killed what a power cut may
// do: of each a random part of what was not synced is lost, and so is a file
// that was renamed to where it is after the last sync.
func (d *disk) cutTail(s *server, random *rand.Rand) {
	s.t.Helper()
	d.read(s)
	for _, path := range d.renamed {
		if strings.HasPrefix(path, s.plan.Dir) && random.IntN(2) == 0 {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.t.Error(err)
			}
			s.t.Logf("power cut: %s is not there, it had been renamed after the last sync", strings.TrimPrefix(path, s.plan.Dir))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		file := d.files[path]
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(path, s.plan.Dir) || info.Size() <= file.synced {
			continue
		}
		keep := file.synced + random.Int64N(info.Size()-file.synced+1)
		s.t.Logf("power cut: %s had %d bytes, %d of them synced, and keeps %d", strings.TrimPrefix(path, s.plan.Dir), info.Size(), file.synced, keep)
		if err := os.Truncate(path, keep); err != nil {
			s.t.Error(err)
		}
	}
}

// read reads the trace of a server that was killed.
func (d *disk) read(s *server) {
	s.t.Helper()
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ killed by SIGKILL`, s.proc.cmd.Process.Pid))
	var p []byte
	eventually(s.t, "the trace is whole", func() (_ bool, err error) {
		p, err = os.ReadFile(d.trace)
		return end.Match(p), err
	})
	unfinished := map[string]string{}
	for line := range strings.Lines(string(p)) {
		line = strings.TrimSuffix(line, "\n")
		thread, _, _ := strings.Cut(line, " ")
		if before, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			unfinished[thread] = before
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = unfinished[thread] + m[2]
		}
		if m := traced.FindStringSubmatch(line); m != nil {
			if result, err := strconv.ParseInt(m[4], 10, 64); err == nil && result >= 0 {
				d.call(m[2], m[3], result)
			}
		}
	}
}

func (d *disk) file(path string) *diskFile {
	if d.files[path] == nil {
		d.files[path] = &diskFile{}
	}
	return d.files[path]
}

// call notes what a system call did.
func (d *disk) call(name, args string, result int64) {
	fd, path := "", ""
	if m := fdPath.FindStringSubmatch(args); m != nil {
		fd, path = m[1], m[2]
	}
	switch name {
	case "openat":
		m := quoted.FindStringSubmatch(args)
		o := openFile{sync: strings.Contains(args, "SYNC")}
		if m != nil && (strings.Contains(args, "O_RDWR") || strings.Contains(args, "O_WRONLY")) {
			f := d.file(m[1])
			if strings.Contains(args, "O_TRUNC") {
				*f = diskFile{}
			}
			if strings.Contains(args, "O_APPEND") {
				o.at = f.size
			}
		}
		d.open[strconv.FormatInt(result, 10)] = o
	case "lseek":
		o := d.open[fd]
		o.at = result
		d.open[fd] = o
	case "write", "writev":
		o := d.open[fd]
		o.at += result
		d.open[fd] = o
		d.wrote(path, o.at, o.sync)
	case "pwrite64":
		at, _ := strconv.ParseInt(strings.TrimSpace(args[strings.LastIndexByte(args, ',')+1:]), 10, 64)
		d.wrote(path, at+result, d.open[fd].sync)
	case "ftruncate":
		size, _ := strconv.ParseInt(strings.TrimSpace(args[strings.LastIndexByte(args, ',')+1:]), 10, 64)
		f := d.file(path)
		f.size, f.synced = size, min(f.synced, size)
	case "fsync", "fdatasync":
		f := d.file(path)
		f.synced = f.size
		d.renamed = nil // a journal commits in order
	case "rename", "renameat", "renameat2":
		if m := quoted.FindAllStringSubmatch(args, 2); len(m) == 2 {
			if d.files[m[1][1]] == nil {
				d.renamed = append(d.renamed, m[1][1])
			}
			d.files[m[1][1]] = d.file(m[0][1])
			delete(d.files, m[0][1])
		}
	case "unlink", "unlinkat":
		if m := quoted.FindStringSubmatch(args); m != nil {
			delete(d.files, m[1])
		}
	}
}

func (d *disk) wrote(path string, end int64, sync bool) {
	f := d.file(path)
	f.size = max(f.size, end)
	if sync {
		f.synced = max(f.synced, end)
	}
}
