// Package broker gives the engine its connections to NATS, one for each of
// the accounts that it works in, on a server in this process or on an
// external one, and decides who else may connect and do what.
//
// The security model is the same for both. Accounts are the boundary: nobody
// but the engine is in ENGINE, NOTIFY holds what users may see, workers and
// publishers have an account of their own with JetStream, and people and bots
// are in USERS, which has none. The engine's API crosses accounts by service
// imports, below a subject that belongs to each principal alone, so the token
// in that subject is who asks.
//
// With the embedded server principals are data: AddPrincipal and
// RevokePrincipal take effect at once. With an external one they are that
// server's configuration (see Configuration), and only the tokens for HTTP are
// kept here, in a bucket that all engines of the installation share.
//
// A data directory belongs to one process: a second one is refused.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// How the embedded server stores before it acknowledges.
const (
	SyncAlways = "always" // on disk before the acknowledgement
	SyncLazy   = "lazy"   // every two minutes: a power cut loses what was acknowledged
)

// DefaultListen is where the embedded server listens.
const DefaultListen = "127.0.0.1:4222"

// ListenNot keeps the embedded server from listening: only this process
// reaches it.
const ListenNot = "none"

// Options say what to start.
type Options struct {
	// Dir is the data directory. It is made when there is none. It must be
	// on a local disk.
	Dir string
	// Listen is host:port of the embedded server, DefaultListen when empty;
	// port 0 takes a free one. See ListenNot.
	Listen string
	// Sync is SyncAlways (when empty) or SyncLazy.
	Sync string
	// MaxStore is how much the embedded server may store, in bytes. When 0 it
	// is 80 % of what is free at the first start, and that stays.
	MaxStore int64
	// Replicas of every stream. When 0 an external cluster of three servers has
	// 3, or as many as it has already; everything else has 1.
	Replicas int
	// External is the server to use instead of the embedded one.
	External *External
	// Strict refuses an external server that could lose what it has
	// acknowledged, or does not let that be seen; else that is a warning.
	Strict bool
	// Log gets what the server and the connections report.
	Log *slog.Logger
}

// Broker holds the engine's connections. A connection that is lost is made
// again, however long that takes; one that is closed for good ends Lost.
type Broker struct {
	Engine *nats.Conn // account ENGINE
	Work   *nats.Conn // account WORK_default
	Notify *nats.Conn // account NOTIFY
	Ext    *nats.Conn // account EXT_default

	opts       Options
	log        *slog.Logger
	lock       *os.File
	principals *principals
	watcher    jetstream.KeyWatcher // of the principals of an external server
	auth       *authenticator       // nil when external
	server     *server.Server       // nil when external
	url        string
	named      map[string]string // keys of accounts, of a server in operator mode
	maxStore   int64
	space      *space // nil when external
	brokenMu   sync.Mutex
	broken     map[string]error // streams that take no writes
	lost       context.Context
	lose       context.CancelCauseFunc
	closing    atomic.Bool
	closeOnce  sync.Once
	closeErr   error
}

const readyTimeout = 30 * time.Second

// Start starts the embedded server or reaches the external one, and connects.
// It does not make streams: see EnsureStreams.
func Start(ctx context.Context, o Options) (*Broker, error) {
	o.Listen = cmp.Or(o.Listen, DefaultListen)
	o.Sync = cmp.Or(o.Sync, SyncAlways)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sync != SyncAlways && o.Sync != SyncLazy {
		return nil, fmt.Errorf("sync %q: must be %q or %q", o.Sync, SyncAlways, SyncLazy)
	}
	if o.Dir == "" {
		return nil, errors.New("data directory: none is given")
	}
	b := &Broker{opts: o, log: o.Log}
	b.lost, b.lose = context.WithCancelCause(context.Background())
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(err, b.Close(context.WithoutCancel(ctx)))
	}
	return b, nil
}

func (b *Broker) start(ctx context.Context) (err error) {
	if err := os.MkdirAll(b.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if b.lock, err = lockDir(b.opts.Dir); err != nil {
		return err
	}
	if b.principals, err = openPrincipals(b.opts.Dir); err != nil {
		return err
	}
	if b.opts.External != nil {
		return b.connectExternal(ctx)
	}
	b.opts.Replicas = 1
	return b.startEmbedded(ctx)
}

// Replicas is how many copies every stream has.
func (b *Broker) Replicas() int { return b.opts.Replicas }

// URL is where clients reach NATS; empty when the server does not listen.
func (b *Broker) URL() string { return b.url }

// Lost ends when a connection was closed for good, with the cause, or when the
// broker is closed.
func (b *Broker) Lost() context.Context { return b.lost }

// InProcess is how clients in this process reach the embedded server; nil
// when the server is an external one.
func (b *Broker) InProcess() nats.InProcessConnProvider {
	if b.server == nil {
		return nil
	}
	return b.server
}

// conns are the connections by account.
func (b *Broker) conns() map[string]**nats.Conn {
	return map[string]**nats.Conn{
		events.AccountEngine: &b.Engine,
		events.AccountWork:   &b.Work,
		events.AccountNotify: &b.Notify,
		events.AccountExt:    &b.Ext,
	}
}

// connOptions are those of every connection of the engine.
func (b *Broker) connOptions(account string) []nats.Option {
	host, _ := os.Hostname()
	log := b.log.With("account", account)
	return []nats.Option{
		nats.Name("penstock/engine/" + host),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(300*time.Millisecond, time.Second),
		nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("nats connection", "error", err, "subject", subject)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the connection to nats, connecting again", "error", err)
			}
		}),
		// Nothing connects a closed connection again, and the engine cannot do
		// without: it ends, and is started again.
		nats.ClosedHandler(func(nc *nats.Conn) {
			if b.closing.Load() {
				return
			}
			err := fmt.Errorf("the connection to nats, account %s, was closed: %w", account, cmp.Or(nc.LastError(), nats.ErrConnectionClosed))
			log.Error("the engine cannot go on", "error", err)
			b.lose(err)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to nats again", "url", nc.ConnectedUrlRedacted()) }),
	}
}

// Close sends what waits in the connections, closes them and stops the
// embedded server, waiting until it has written everything. What still uses
// the connections must have ended before.
func (b *Broker) Close(ctx context.Context) error {
	b.closeOnce.Do(func() { b.closeErr = b.close(ctx) })
	return b.closeErr
}

func (b *Broker) close(ctx context.Context) error {
	b.closing.Store(true)
	b.lose(nil)
	if b.space != nil {
		b.space.close()
	}
	if b.watcher != nil {
		_ = b.watcher.Stop() // else it ends with its connection
	}
	for _, nc := range b.conns() {
		if *nc == nil {
			continue
		}
		if (*nc).IsConnected() {
			flush, cancel := context.WithTimeout(ctx, 2*time.Second)
			_ = (*nc).FlushWithContext(flush) // who needs an acknowledgement has waited for it
			cancel()
		}
		(*nc).Close()
	}
	var err error
	if b.server != nil {
		stopped := make(chan struct{})
		go func() {
			b.server.Shutdown()
			b.server.WaitForShutdown()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-ctx.Done():
			err = fmt.Errorf("embedded nats server: did not stop in time: %w", context.Cause(ctx))
		}
	}
	if b.lock != nil {
		err = errors.Join(err, b.lock.Close())
	}
	return err
}
