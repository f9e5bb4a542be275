package integration_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// cable is how something is connected to a server; it can be pulled out.
type cable struct {
	l     net.Listener
	to    string
	mu    sync.Mutex
	out   bool
	conns map[net.Conn]bool
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require(t, err)
	c := &cable{l: l, to: to, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); c.pull() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(in)
		}
	}()
	return c
}

func (c *cable) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	c.mu.Lock()
	if c.out {
		c.mu.Unlock()
		return
	}
	c.conns[in], c.conns[out] = true, true
	c.mu.Unlock()
	go func() {
		_, _ = io.Copy(in, out) // it ends when one of them is closed
		in.Close()
	}()
	_, _ = io.Copy(out, in)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, in)
	delete(c.conns, out)
}

// pull ends all connections, and lets nothing through any more.
func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = true
	for conn := range c.conns {
		conn.Close()
	}
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = false
}

// TestEnginesGoOnForEachOtherWhileRunsAreDriven has three engines and a worker
// share one server. One engine is stopped and started again, and another one
// loses its connections and gets them back, while people start, approve and
// cancel runs.
func TestEnginesGoOnForEachOtherWhileRunsAreDriven(t *testing.T) {
	t.Parallel()
	s := newServerApart(t, serverPlan{Instance: "first", Heartbeat: 300 * time.Millisecond, HeartbeatLimit: 3 * time.Second}, people+kinds+road)
	s.start()
	cord := newCable(t, strings.TrimPrefix(s.apart.url(), "nats://"))
	other := func(name, url string) serverPlan {
		plan := s.plan
		plan.Instance, plan.Dir, plan.Listen = name, filepath.Join(t.TempDir(), "data"), freeAddress(t)
		p, err := os.ReadFile(s.plan.External)
		require(t, err)
		plan.External = filepath.Join(t.TempDir(), "external.json")
		require(t, os.WriteFile(plan.External, []byte(strings.ReplaceAll(string(p), s.apart.url(), url)), 0o600))
		return plan
	}
	begin := func(plan serverPlan) *process {
		proc := spawn(t, "server", plan)
		if alive, err := s.readyOf(proc); err != nil || !alive {
			t.Fatalf("the engine %s ended before it was ready: %v\n%s", plan.Instance, err, proc.log)
		}
		return proc
	}
	second := other("second", s.apart.url())
	stopped := begin(second)
	begin(other("third", "nats://"+cord.l.Addr().String()))
	c := newClient(s)
	w := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
	spawn(t, "worker", w)
	// among waits until these engines hold all partitions among them, each some.
	among := func(names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint("the partitions are held by ", names), func() (bool, error) {
			var info events.ServerInfo
			c.must(c.admin, events.VerbServer, struct{}{}, &info)
			held, all := 0, len(info.Engines) == len(names)
			for _, e := range info.Engines {
				held += e.Partitions
				all = all && e.Partitions > 0 && strings.Contains(strings.Join(names, " "), e.Instance)
			}
			return all && held == events.Partitions, fmt.Errorf("%+v", info.Engines)
		})
	}
	drive := func() { c.drive(fmt.Sprint("change-", c.changes())) }

	among("first", "second", "third")
	leave := c.crowd(3)
	drive()
	require(t, stopped.cmd.Process.Signal(syscall.SIGTERM))
	drive()
	if <-stopped.ended; stopped.err != nil {
		t.Errorf("the engine that was stopped ended with %v\n%s", stopped.err, stopped.log)
	}
	among("first", "third")
	drive()
	cord.pull()
	drive()
	among("first")
	drive()
	cord.plug()
	begin(second)
	drive()
	among("first", "second", "third")
	drive()
	leave()
	c.reckon(w.Ledger)
	t.Log(c.sum)
}
