package journal_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/journal/journaltest"
)

func TestMemoryKeepsThePromises(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Harness {
		m := journal.NewMemory(nil)
		open := func(t *testing.T) journal.Journal {
			j := m.Open()
			t.Cleanup(func() { closeJournal(t, j) })
			return j
		}
		all := func(f journal.Fault) { m.Inject(func(string, []byte) journal.Fault { return f }) }
		return journaltest.Harness{
			Open: open,
			OpenShaky: func(t *testing.T) (journal.Journal, func(), func()) {
				return open(t), func() { all(journal.FaultUnknownStored) }, func() { all(journal.FaultNone) }
			},
			Restart: func(*testing.T) {}, // the store outlives every restart
			Fill: func(*testing.T) func() {
				all(journal.FaultFull)
				return func() { all(journal.FaultNone) }
			},
		}
	})
}

func TestJetStreamKeepsThePromises(t *testing.T) {
	for _, sync := range []string{journal.SyncAlways, journal.SyncLazy} {
		t.Run(sync, func(t *testing.T) {
			journaltest.Run(t, func(t *testing.T) journaltest.Harness { return newBroker(t, sync).harness() })
		})
	}
}

// broker is a server on a port of its own, which it keeps across restarts.
type broker struct {
	t      testing.TB
	sync   string
	dir    string
	port   int
	server *server.Server
}

func newBroker(t testing.TB, sync string) *broker {
	b := &broker{t: t, sync: sync, dir: t.TempDir(), port: -1}
	b.start()
	t.Cleanup(b.stop)
	nc := b.connect(b.server.ClientURL())
	js := b.jetStream(nc)
	if err := journal.EnsureStreams(t.Context(), js, journal.Streams(1)...); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) start() {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: b.port, JetStream: true, StoreDir: b.dir,
		NoSigs: true, NoLog: true, SyncAlways: b.sync == journal.SyncAlways,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		b.t.Fatal("the server did not start")
	}
	b.server, b.port = s, s.Addr().(*net.TCPAddr).Port
}

func (b *broker) stop() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

func (b *broker) connect(url string, opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	opts = append(opts, nats.ReconnectWait(20*time.Millisecond), nats.MaxReconnects(-1), nats.ReconnectJitter(0, 0))
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

func (b *broker) jetStream(nc *nats.Conn) jetstream.JetStream {
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	return js
}

func (b *broker) open(t testing.TB, nc *nats.Conn, timeout time.Duration) *journal.Log {
	t.Helper()
	j, err := journal.Open(context.Background(), b.jetStream(nc), journal.Options{Sync: b.sync, AckTimeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeJournal(t, j) })
	return j
}

func closeJournal(t testing.TB, j journal.Journal) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := j.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

const slow = 30 * time.Second // a busy machine is no lost answer

func (b *broker) harness() journaltest.Harness {
	return journaltest.Harness{
		Open: func(t *testing.T) journal.Journal { return b.open(t, b.connect(b.server.ClientURL()), slow) },
		OpenShaky: func(t *testing.T) (journal.Journal, func(), func()) {
			p := newProxy(t, b.server.Addr().String())
			j := b.open(t, b.connect("nats://"+p.addr(), nats.PingInterval(time.Hour)), 2*time.Second)
			return j, func() { p.mute.Store(true) }, p.heal
		},
		Restart: func(t *testing.T) {
			b.stop()
			b.start()
		},
		Fill: func(t *testing.T) func() {
			js := b.jetStream(b.connect(b.server.ClientURL()))
			set := func(limit int64) {
				s, err := js.Stream(t.Context(), "PENSTOCK_LOG")
				if err != nil {
					t.Fatal(err)
				}
				cfg := s.CachedInfo().Config
				cfg.MaxBytes = limit
				if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			set(1)
			return func() { set(-1) }
		},
	}
}

// proxy passes bytes between clients and the server; muted, it swallows what
// the server says.
type proxy struct {
	t    *testing.T
	l    net.Listener
	to   string
	mute atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, to: to}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			srv, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, srv)
			p.mu.Unlock()
			wg.Go(func() { p.pass(srv, client, false) })
			wg.Go(func() { p.pass(client, srv, true) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) pass(to io.Writer, from io.Reader, answers bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			p.cutOne(to)
			return
		}
		if answers && p.mute.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) cutOne(c io.Writer) { _ = c.(net.Conn).Close() }

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// heal lets answers through again, on a new connection: bytes are missing in
// the old one.
func (p *proxy) heal() {
	p.mute.Store(false)
	p.cut()
}
