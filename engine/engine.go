// Package engine is Penstock's engine: embed it with New and Run, or start it
// with penstock server.
//
// It is the imperative shell around the pure core (engine/run, engine/env):
// it connects to NATS, or starts a server in this process; takes its
// partitions over; reads incoming events; answers requests on the bus and
// over HTTP; publishes tasks and events; and stores every transition as one
// record before anybody hears of it. What decides anything is in the core;
// what is stored is in engine/record.
package engine

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/api"
	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/definitions"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/peer"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/internal/relay"
	"github.com/penstock-cd/penstock/engine/internal/router"
	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/engine/internal/sources"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// Options say what to run. The zero value of a field is its default.
type Options struct {
	// Dir is the data directory: credentials, keys and, with the embedded
	// server, everything that is stored. Required.
	Dir string
	// Listen is where the embedded NATS server listens; 127.0.0.1:4222. Port 0
	// takes a free one, and the same one again at the next start if it can.
	Listen string
	// HTTP is where the HTTP API listens; DefaultHTTP. Port 0 takes a free one
	// likewise, "none" keeps it from listening.
	HTTP string
	// URL is what others reach the HTTP API by, where it is not the address at
	// which it listens: behind a proxy, in a container. It is told to people
	// and stands in credentials.
	URL string
	// NATS is what others reach the NATS server by, where it is not the address
	// at which it listens. It stands in credentials.
	NATS string
	// Sync is "always" (the default: an answer means on disk) or "lazy".
	Sync string
	// MaxStore is how many bytes the embedded server may store.
	MaxStore int64
	// KeepRecords is how long the records of a run stay in the store after it
	// has ended; 24h. The audit log has them for ever, and they are read from
	// there. For ever when negative.
	KeepRecords time.Duration
	// External, Creds and Context say which NATS server to use instead of the
	// embedded one, and how to log in there: External is a URL or the path of a
	// file, Creds a folder of credentials files, Context a name of contexts of
	// the nats client. Environment variables of that client fill in the rest.
	External, Creds, Context string
	// Replicas of every stream. When 0 they are as many as there are already,
	// else 3 on a cluster of three servers, else 1.
	Replicas int
	// Strict refuses an external server that could lose what it has acknowledged.
	Strict bool
	// Workflows are folders of definitions, or branches of Git repositories
	// (git+https://host/repository#branch:path), that are put in force and watched.
	Workflows []string
	// WorkflowsPoll is how often Git repositories are asked for something new; 1m.
	WorkflowsPoll time.Duration
	// WebhookSecret signs webhooks of Git servers, upon which these repositories
	// are asked at once. Without one no such webhook is taken.
	WebhookSecret string
	// Heartbeat and HeartbeatTimeout say how often workers report, and when
	// one that does not is lost.
	Heartbeat, HeartbeatTimeout time.Duration
	Instance                    string // name of this engine; host and process when empty
	Version                     string
	Log                         *slog.Logger
}

// DefaultHTTP is where the HTTP API listens.
const DefaultHTTP = "127.0.0.1:8420"

// Engine is an engine. Make it with New; Run runs it once.
type Engine struct {
	o     Options
	ready chan struct{}
	once  sync.Once

	broker  *broker.Broker
	js      jetStreams
	kv      jetstream.KeyValue // definitions, and the router's mark
	log     journal.Journal
	audit   *audit.Stream
	notes   *audit.Notes
	defs    *definitions.Store
	index   *projection.Index
	tail    *follower // of the log, for the index; nil where the owner tells it
	owner   *owner.Owner
	peers   *peer.Peers
	keeper  lease.Keeper
	relay   *relay.Relay
	svc     *service.Service
	sources *sources.Sources
	key     ed25519.PrivateKey
	http    net.Listener
	info    events.ServerInfo // as it was at the start
	hands   *hands

	fail       func(error)   // ends the engine
	begun      chan struct{} // closed when definitions were looked for once
	looked     sync.Once
	scheduling atomic.Bool   // this engine keeps the schedules
	again      chan struct{} // they are to be set again

	tasks, out *backlog // what the relay publishes to

	observe owner.Observer // for Bench; may be nil

	// The clocks, for tests; those of the machine when nil.
	wall func() time.Time
	mono func() time.Duration

	// logged gives the log to use in place of the one that was opened, for
	// tests; nil takes it as it is.
	logged func(journal.Journal) journal.Journal
}

// New checks options; it starts nothing.
func New(o Options) (*Engine, error) {
	if o.Dir == "" {
		return nil, errors.New("engine: a data directory is needed")
	}
	o.HTTP = cmp.Or(o.HTTP, DefaultHTTP)
	o.Heartbeat = cmp.Or(o.Heartbeat, run.Heartbeat)
	o.HeartbeatTimeout = cmp.Or(o.HeartbeatTimeout, run.HeartbeatTimeout)
	if o.HeartbeatTimeout < 2*o.Heartbeat {
		return nil, fmt.Errorf("engine: the heartbeat timeout %v must be at least twice the heartbeat %v", o.HeartbeatTimeout, o.Heartbeat)
	}
	o.KeepRecords = cmp.Or(o.KeepRecords, 24*time.Hour)
	if o.WorkflowsPoll = cmp.Or(o.WorkflowsPoll, time.Minute); o.WorkflowsPoll < time.Second {
		return nil, fmt.Errorf("engine: repositories of definitions cannot be asked every %v, but every second at most", o.WorkflowsPoll)
	}
	if _, err := sources.New(sources.Options{Places: o.Workflows}); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Instance == "" {
		host, _ := os.Hostname()
		o.Instance = fmt.Sprintf("%s-%d", cmp.Or(host, "engine"), os.Getpid())
	}
	o.Version = o.version()
	return &Engine{o: o, ready: make(chan struct{}), begun: make(chan struct{}), again: make(chan struct{}, 1)}, nil
}

func (o Options) version() string { return cmp.Or(o.Version, Version()) }

// Version is the version of this program, from its build.
func Version() string {
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "(devel)"
}

// Ready is closed when the engine answers.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Info tells where it listens and what it holds; complete once Ready is closed.
func (e *Engine) Info() events.ServerInfo {
	select {
	case <-e.ready:
		return e.describe(context.Background())
	default:
		return e.info
	}
}

// Run runs until ctx ends, which is a clean stop and no error.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.open(ctx); err != nil {
		e.close()
		return err
	}
	err := e.serve(ctx)
	e.close()
	return err
}

// open starts everything up to the point where the engine can answer.
func (e *Engine) open(ctx context.Context) (err error) {
	before, web := lastAddresses(e.o.Dir)
	e.o.Listen, e.o.HTTP = samePort(e.o.Listen, before), samePort(e.o.HTTP, web)
	o := e.o
	if e.broker, err = openBroker(ctx, o); err != nil {
		return err
	}
	if err := e.broker.EnsureStreams(ctx); err != nil {
		return err
	}
	if e.key, err = taskKey(o.Dir); err != nil {
		return err
	}
	if e.js, err = accounts(e.broker); err != nil {
		return err
	}
	if e.log, err = journal.Open(ctx, e.js.engine, journal.Options{Sync: o.Sync}); err != nil {
		return err
	}
	if err := e.mendCheckpoints(ctx); err != nil {
		return err
	}
	if e.logged != nil {
		e.log = e.logged(e.log)
	}
	e.audit = audit.Open(e.js.engine)
	e.notes = audit.NewNotes(e.audit, o.Instance, o.Log)
	if e.kv, err = e.js.engine.KeyValue(ctx, events.BucketDefs); err != nil {
		return err
	}
	if e.defs, err = definitions.Open(ctx, e.kv, o.Log); err != nil {
		return err
	}
	if err := e.listen(); err != nil {
		return err
	}
	if err := e.start(ctx); err != nil {
		return err
	}
	return nil
}

// start makes what the engine is made of. It owns nothing yet.
func (e *Engine) start(ctx context.Context) error {
	tasks, out, err := e.publishers(ctx)
	if err != nil {
		return err
	}
	e.index = projection.New()
	e.tasks, e.out = newBacklog("tasks", tasks), newBacklog("events", out)
	e.relay = relay.New(relay.Options{Journal: e.log, Tasks: e.tasks, Out: e.out, Key: e.key, Pool: e.broker.EnsureTaskConsumer, Log: e.o.Log})
	e.owner = owner.New(owner.Options{Journal: e.log, Catalogs: e.defs, Relay: e.relay, Observe: e.observed, Running: e.deployed, Serving: e.serving, Absent: e.absent, Full: e.broker.Full, Queued: e.relay.Prepare, Stopped: e.partitionStopped, ClockHeld: e.clockHeld,
		Wall: e.wall, Mono: e.mono, Send: e.send, Lost: e.lost, Missing: e.missing, Instance: e.o.Instance, Beat: e.o.Heartbeat, BeatOut: e.o.HeartbeatTimeout, Log: e.o.Log})
	if err := e.ensureConsumers(ctx); err != nil {
		return err
	}
	if err := e.share(ctx); err != nil {
		return err
	}
	e.svc, err = service.New(service.Options{Owner: e.peers, Definitions: e.defs, Index: e.index, Journal: e.log, Audit: e.audit, Notes: e.notes, Partitions: e.owner,
		Broker: e.broker, Emit: e.relay.Emit, Changed: e.applied, Info: e.describe, Hello: e.tellHello, AcceptClock: e.acceptClocks, OtherEpochs: e.otherEpochs, Log: e.o.Log})
	if err != nil {
		return err
	}
	e.sources, err = sources.New(sources.Options{Places: e.o.Workflows, Poll: e.o.WorkflowsPoll, Cache: filepath.Join(e.o.Dir, "git"),
		Service: e.svc, Store: e.defs, Log: e.o.Log})
	if err != nil {
		return err
	}
	e.defs.Hold(e.sources.Names()...)
	return e.listenToPeers()
}

// deployed is what an environment runs, as far as the index knows.
func (e *Engine) deployed(environment string) *record.Deployment {
	if state := e.index.Environment(environment); state != nil {
		return state.Deployed
	}
	return nil
}

// absent reports whether it is certain that an aggregate has no record. Where
// there is no other engine the index was told of every run that is taken, when
// it is taken, and of every record since, before it is answered: a start need
// not ask the store.
func (e *Engine) absent(agg, id string) bool {
	return e.tail == nil && agg == record.Run && !e.index.Has(id)
}

// serving is how many live workers take tasks of a kind.
func (e *Engine) serving(pool, kind string) (n int, known bool) { return e.svc.Serving(pool, kind) }

// observed tells the index, where nothing else does, and whoever else looks,
// of a state.
func (e *Engine) observed(entry owner.Entry) {
	if e.tail == nil || e.tail.owing() {
		e.index.Observe(entry)
	}
	if e.observe != nil {
		e.observe(entry)
	}
}

// jetStreams are the streams of each account.
type jetStreams struct{ engine, work, notify, ext jetstream.JetStream }

func accounts(b *broker.Broker) (js jetStreams, err error) {
	for conn, dst := range map[*nats.Conn]*jetstream.JetStream{b.Engine: &js.engine, b.Work: &js.work, b.Notify: &js.notify, b.Ext: &js.ext} {
		if *dst, err = jetstream.New(conn); err != nil {
			return js, err
		}
	}
	return js, nil
}

// publishers are those of the relay.
func (e *Engine) publishers(ctx context.Context) (tasks, out journal.Publisher, err error) {
	opts := journal.Options{Sync: e.o.Sync}
	if tasks, err = journal.NewPublisher(ctx, e.js.work, events.StreamTasks, opts); err != nil {
		return nil, nil, err
	}
	out, err = journal.NewPublisher(ctx, e.js.notify, events.StreamOut, opts)
	return tasks, out, err
}

// setSchedules tells every schedule what the definitions in force say of it,
// those that they do not have any more included.
func (e *Engine) setSchedules(ctx context.Context) error {
	ids := append(env.ScheduleIDs(e.defs.Current()), e.index.Schedules()...)
	slices.Sort(ids)
	var errs []error
	for _, id := range slices.Compact(ids) {
		a := e.peers.Do(ctx, record.Schedule, id, record.Input{ID: "set", Kind: record.InScheduleSet, By: "engine"})
		if !a.Final() {
			errs = append(errs, fmt.Errorf("schedule %s is not set: %s", id, a.Reason))
		}
	}
	return errors.Join(errs...)
}

// ensureConsumers makes the consumers of all task kinds that there are, so
// that workers can wait for the first task.
func (e *Engine) ensureConsumers(ctx context.Context) error {
	for kind := range e.defs.Current().Kinds {
		if err := e.broker.EnsureTaskConsumer(ctx, events.DefaultPool, kind); err != nil {
			return err
		}
	}
	return nil
}

// listen opens the HTTP listener and fills in what the engine says of itself.
func (e *Engine) listen() (err error) {
	e.info = events.ServerInfo{Version: e.o.Version, Instance: e.o.Instance, StartedAt: time.Now().UTC(), NATS: cmp.Or(e.o.NATS, e.broker.URL()),
		Data: e.o.Dir, TaskKeys: []string{base64.StdEncoding.EncodeToString(e.key.Public().(ed25519.PublicKey))}}
	if e.o.HTTP == "none" {
		return nil
	}
	if e.http, err = net.Listen("tcp", e.o.HTTP); err != nil {
		return fmt.Errorf("the HTTP API cannot listen on %s: %w (choose another address with --http, or none)", e.o.HTTP, err)
	}
	e.info.HTTP = cmp.Or(e.o.URL, "http://"+e.http.Addr().String())
	return nil
}

// serve answers until ctx ends or the engine cannot go on.
func (e *Engine) serve(asked context.Context) error {
	ctx, stop := context.WithCancelCause(asked)
	defer stop(nil)
	var work sync.WaitGroup
	fail := func(what string, err error) {
		if err != nil {
			stop(fmt.Errorf("%s: %w", what, err))
		}
	}
	e.fail = stop
	// What is held is given back before it ends, so it does not end with ctx.
	holding, release := context.WithCancel(context.WithoutCancel(asked))
	defer release()
	var held sync.WaitGroup
	if e.tail != nil {
		held.Go(func() { fail("the log", e.tail.run(holding)) })
		work.Go(func() { e.defs.Follow(ctx, e.definitionsChanged) })
	}
	held.Go(func() { fail("partitions", e.keeper.Run(holding)) })
	if e.settle(ctx) {
		listening := make(chan struct{})
		work.Go(func() { fail("api on the bus", e.svc.Serve(ctx, func() { close(listening) })) })
		work.Go(func() { e.broker.Watch(ctx, e.frozen) })
		work.Go(func() { e.watchRecord(ctx) })
		if e.http != nil {
			work.Go(func() { fail("http", e.serveHTTP(ctx)) })
		}
		if err := e.writeCredentials(); err != nil {
			stop(err)
		}
		select {
		case <-listening:
			if ctx.Err() == nil {
				e.once.Do(func() { close(e.ready) })
			}
		case <-ctx.Done():
		}
	}
	work.Go(func() {
		select {
		case <-e.broker.Lost().Done():
			stop(context.Cause(e.broker.Lost()))
		case <-ctx.Done():
		}
	})
	<-ctx.Done()
	e.leave(release)
	held.Wait()
	work.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Cause(asked)) {
		return cause
	}
	return nil // it was asked to, whatever for
}

// ErrFrozen is why Run ends when a stream of the embedded server takes nothing
// more. An engine that is started again takes what it can.
var ErrFrozen = broker.ErrFrozen

// frozen tells everybody of a stream that takes no writes, or does again.
func (e *Engine) frozen(f broker.Frozen) {
	if f.Err == nil {
		e.o.Log.Info("a stream takes writes again", "stream", f.Stream)
		e.svc.Emit(events.StoreRecovered, events.Happening{By: f.Stream})
		return
	}
	e.o.Log.Error("a stream takes no writes; nothing goes on until it does", "stream", f.Stream, "error", f.Err)
	e.svc.Emit(events.StoreFrozen, events.Happening{By: f.Stream, Reason: f.Err.Error()})
}

// settleIn is how long an engine waits for its share before it answers.
const settleIn = 15 * time.Second

// settle waits until the engine holds what it is to hold at its start, and
// until definitions were looked for where they are on this host: a folder that
// cannot be read is an error. False when ctx ended first.
func (e *Engine) settle(ctx context.Context) bool {
	timeout := time.NewTimer(settleIn)
	defer timeout.Stop()
	select {
	case <-e.keeper.Settled():
	case <-timeout.C: // others hold on to it, or the board does not answer
		if e.tail == nil {
			return e.settle(ctx)
		}
	case <-ctx.Done():
		return false
	}
	if e.tail != nil && e.tail.owing() { // another engine has what was to be taken here
		if err := e.tail.load(ctx, nil, nil); err != nil {
			e.fail(fmt.Errorf("the log: %w", err))
			return false
		}
	}
	for e.keeper.Held().Has(watching) { // until another engine is to look at them
		select {
		case <-e.begun:
			return ctx.Err() == nil
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// leaveIn is how long an engine that is stopped may take to hand over.
const leaveIn = 8 * time.Second

// leave hands over what the engine holds.
func (e *Engine) leave(release func()) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveIn)
	defer cancel()
	e.keeper.Leave(ctx)
	release()
	e.hands.stop()
}

// route reads events until ctx ends.
func (e *Engine) route(ctx context.Context) {
	err := router.Run(ctx, router.Options{Ingress: e.js.ext, Marks: e.kv, Owner: e.peers, Listening: e.listening, Lost: e.ingressLost, Log: e.o.Log})
	if err != nil {
		e.o.Log.Error("incoming events are not read any more", "error", err)
	}
}

// clean makes room in the streams until ctx ends.
func (e *Engine) clean(ctx context.Context) {
	var records sync.WaitGroup
	records.Go(func() { e.removeRecords(ctx) })
	defer records.Wait()
	janitor.Run(ctx, janitor.Options{Work: e.js.work, Ext: e.js.ext, Log: e.o.Log,
		Mark: func(ctx context.Context) (uint64, error) { return router.Mark(ctx, e.kv, e.js.ext) }})
}

func (e *Engine) serveHTTP(ctx context.Context) error {
	srv := &http.Server{Handler: api.New(api.Options{Service: e.svc, Authenticate: e.broker.AuthenticateToken,
		Stats: e.stats, PushSecret: e.o.WebhookSecret, Pushed: e.poke, Backup: e.backup, Version: e.o.Version, Log: e.o.Log}), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(last) != nil {
			srv.Close()
		}
	}()
	if err := srv.Serve(e.http); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// close stops in the reverse order of open; every part may be missing.
func (e *Engine) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if e.http != nil {
		e.http.Close()
	}
	if e.peers != nil {
		e.peers.Close()
	}
	if e.owner != nil {
		e.owner.Close(ctx)
	}
	if e.relay != nil {
		// What cannot be published now, for example because the disk is full,
		// is published after the next start.
		waits, over := context.WithTimeout(ctx, 2*time.Second)
		e.relay.Close(waits)
		over()
	}
	if e.notes != nil {
		closeNotes(ctx, e.notes, e.o.Log)
	}
	if e.log != nil {
		e.log.Close(ctx)
	}
	if e.broker != nil { // whatever else took long: it stores what it has
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.broker.Close(ctx); err != nil {
			e.o.Log.Warn("the connections were not closed cleanly", "error", err)
		}
	}
}

// stats are the numbers for metrics and probes.
func (e *Engine) stats() api.Stats {
	s := api.Stats{Applied: e.owner.Applied()}
	s.Runs, s.Waiting = e.index.Counts()
	s.Workers, s.Engines = e.svc.Workers(), e.engines()
	if e.keeper.Held().Has(watching) {
		s.Sources = e.sources.Status()
	}
	s.Frozen = e.broker.Broken()
	s.Ready = cmp.Or(errors.Join(slices.Collect(maps.Values(s.Frozen))...), e.tasks.stuck(), e.out.stuck())
	if !e.broker.Engine.IsConnected() {
		s.Ready = errors.New("not connected to NATS")
	}
	return s
}
