package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/internal/relay"
	"github.com/penstock-cd/penstock/engine/internal/router"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// engine is one life of an engine's process: the real parts, put together as
// package engine does, on a connection to the fake server.
type engine struct {
	w        *world
	name     string // it keeps its name from one life to the next
	instance string
	conn     map[string]*fakejs.Client // its connections, by what they are for
	ctx      context.Context
	cancel   context.CancelFunc
	over     chan struct{} // closed when nothing of it is left
	work     sync.WaitGroup
	dead     atomic.Bool
	step     atomic.Int64 // by how much its wall clock is wrong

	mu    sync.Mutex
	owner *owner.Owner
	relay *relay.Relay
	log   *journal.Log
	lease *lease.Lease
	hands *hands
}

func newEngine(w *world, name string, life int) *engine {
	e := &engine{w: w, name: name, instance: fmt.Sprintf("%s-%d", name, life), over: make(chan struct{})}
	e.conn = map[string]*fakejs.Client{}
	for _, part := range parts {
		e.conn[part] = w.server.Client(e.client(part))
	}
	e.ctx, e.cancel = context.WithCancel(w.ctx)
	return e
}

// parts of an engine have connections of their own, as they have in accounts of
// their own; so their events can be told apart.
var parts = []string{"audit", "bus", "janitor", "log", "lease", "out", "router", "tasks"}

// client is the name of a connection in events.
func (e *engine) client(part string) string { return e.instance + " " + part }

func (e *engine) disconnect() {
	for _, part := range parts {
		e.conn[part].Disconnect()
	}
}

func (e *engine) reconnect() {
	for _, part := range parts {
		e.conn[part].Reconnect()
	}
}

func (e *engine) hangUp() {
	for _, part := range parts {
		e.conn[part].Close()
	}
}

// run lives until it is killed, or has left.
func (e *engine) run() {
	defer close(e.over)
	defer e.w.ended(e)
	for wait := time.Second; ; {
		err := e.open()
		if err == nil {
			err = e.lease.Run(e.ctx)
		}
		left := err == nil && e.ctx.Err() == nil
		e.close()
		if left || e.ctx.Err() != nil {
			e.cancel()
			e.hangUp()
			e.work.Wait()
			return
		}
		e.mu.Lock()
		e.log, e.owner, e.relay, e.lease = nil, nil, nil, nil
		e.mu.Unlock()
		pause(e.ctx, wait)
	}
}

// kill ends it as kill -9 does: what it has sent may arrive, nothing else
// happens any more.
func (e *engine) kill() {
	e.dead.Store(true)
	e.hangUp()
	e.cancel()
}

// leave ends it in good order.
func (e *engine) leave() {
	e.mu.Lock()
	l := e.lease
	e.mu.Unlock()
	if l == nil {
		e.kill()
		return
	}
	e.work.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
		defer cancel()
		l.Leave(ctx)
	})
}

func (e *engine) open() error {
	opts := journal.Options{Sync: e.w.plan.sync}
	log, err := journal.OpenOn(e.ctx, e.conn["log"], opts)
	if err != nil {
		return err
	}
	tasks, err := journal.NewPublisherOn(e.ctx, e.conn["tasks"], events.StreamTasks, opts)
	if err == nil {
		var out journal.Publisher
		if out, err = journal.NewPublisherOn(e.ctx, e.conn["out"], events.StreamOut, opts); err == nil {
			return e.assemble(log, e.w.plan.publisher(tasks), out)
		}
		closeNow(tasks)
	}
	closeNow(log)
	return err
}

func closeNow(c interface{ Close(context.Context) error }) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx) // what was not sent is failed
}

func (e *engine) assemble(log *journal.Log, tasks, out journal.Publisher) error {
	kv, err := e.conn["lease"].KeyValue(e.ctx, bucketLive)
	if err != nil {
		for _, c := range []interface{ Close(context.Context) error }{tasks, out, log} {
			closeNow(c)
		}
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	quiet := slog.New(slog.DiscardHandler)
	index := projection.New()
	e.log = log
	e.hands = &hands{e: e, running: map[string]func(){}}
	e.relay = relay.New(relay.Options{Journal: e.w.plan.journal(log), Tasks: tasks, Out: out, Key: e.w.key, Log: quiet,
		Pool: func(ctx context.Context, pool, kind string) error {
			return ensureConsumer(ctx, e.conn["tasks"], pool, kind)
		}})
	e.lease = lease.New(lease.Options{Board: lease.OnBucket(kv), Hands: e.hands, Log: quiet,
		Beat: time.Second + time.Duration(1+e.w.luck(e.instance, 9999)), // not at an instant at which something else ends
		Self: lease.Member{Instance: e.instance, Version: "sim", Core: run.CoreVersion, Record: record.FormatVersion, Offers: singletons}})
	l := e.lease
	e.step.Store(0) // an owner believes the clock that it begins with
	e.owner = owner.New(owner.Options{Journal: e.w.plan.journal(log), Catalogs: e.w.cats, Relay: e.relay, Observe: index.Observe, Instance: e.instance,
		Beat: beat, BeatOut: beatOut, Log: quiet, Send: e.send, Lost: func(vp int, _ error) { l.Lost(vp) },
		Wall: e.wall, Mono: mono, Asleep: func() time.Duration { return 0 }, ClockHeld: func(why string) {
			if why != "" {
				e.w.saw("timers held")
			}
		}})
	return nil
}

// wall is the wall clock of its machine, which steps; mono goes on evenly.
func (e *engine) wall() time.Time { return time.Now().Round(0).Add(time.Duration(e.step.Load())) }

func mono() time.Duration { return time.Since(epoch) }

// misset sets the wall clock wrong: either by so little that it is believed, or
// by so much that timers must be held.
func (e *engine) misset(n int) {
	by := time.Duration(n-500) * mostBelieved / 500
	if n%2 == 0 {
		by = time.Duration(n-500) * time.Second
		if by.Abs() < time.Minute {
			by = time.Minute
		}
	}
	e.step.Store(int64(by))
}

// mostBelieved is by how much the clocks of a simulation are wrong at most while
// they are believed. From one such to another is less than what owners hold
// timers for.
const mostBelieved = 14 * time.Second

// send brings a command of one of its aggregates to whoever owns the other one.
func (e *engine) send(ctx context.Context, agg, id string, in record.Input) events.Answer {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, _ := e.w.once(ctx, e.client("bus"), agg, id, in)
	return a
}

// Do implements router.Doer.
func (e *engine) Do(ctx context.Context, agg, id string, in record.Input) events.Answer {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, _ := e.w.once(ctx, e.client("bus"), agg, id, in)
	return a
}

// singleton does the work of one until ctx ends.
func (e *engine) singleton(ctx context.Context, name string) {
	conn := e.conn[name]
	kv, err := conn.KeyValue(ctx, bucketMarks)
	for err != nil && pause(ctx, time.Second) {
		kv, err = conn.KeyValue(ctx, bucketMarks)
	}
	if err != nil {
		return
	}
	quiet := slog.New(slog.DiscardHandler)
	switch name {
	case "router":
		_ = router.Run(ctx, router.Options{Ingress: conn, Marks: kv, Owner: e, Listening: e.listening, Log: quiet}) // it ends with ctx only
	case "audit":
		e.mu.Lock()
		log, o := e.log, e.owner
		e.mu.Unlock()
		audit.NewWriter(audit.Options{Source: log, Store: auditStore{audit.Open(conn), conn}, Instance: e.instance, Log: quiet, Stop: func(vp int, err error) {
			if !e.w.plan.unwatched {
				o.Stop(vp, err)
			}
		}}).Run(ctx)
	case "janitor":
		e.mu.Lock()
		log := e.log
		e.mu.Unlock()
		e.work.Go(func() { e.tidy(ctx, log, conn, kv) })
		janitor.Run(ctx, janitor.Options{Work: conn, Ext: conn, Log: quiet,
			Mark: func(ctx context.Context) (uint64, error) { return router.Mark(ctx, kv, conn) }})
	}
}

// Records of what has ended stay for keepRecords, and the last one of each for
// keepLast, until nobody asks any more.
const (
	keepRecords = 10 * time.Second
	keepLast    = 10 * time.Minute
)

// tidy removes the records that the audit log has, more often than a real
// janitor does, and a month ahead, as that one keeps the last records for a month.
func (e *engine) tidy(ctx context.Context, log *journal.Log, conn *fakejs.Client, kv jetstream.KeyValue) {
	const ahead = janitor.KeepLast - keepLast
	r := &janitor.Records{Audit: auditStore{audit.Open(conn), conn}, Log: conn, Marks: kv, Keep: ahead + keepRecords, Logger: slog.New(slog.DiscardHandler),
		Now:    func() time.Time { return time.Now().Add(ahead) },
		Passed: func(ctx context.Context) (map[int]uint64, error) { return carriedOut(ctx, log) },
		Note:   func(int) { e.w.saw("records removed") }}
	for pause(ctx, 7*time.Second) {
		if e.w.plan.hasty {
			e.w.hasten(ctx, conn)
			continue
		}
		_, _ = r.Sweep(ctx) // it goes on with the next one
	}
}

// carriedOut gives for each partition up to where it is carried out, as package
// engine does.
func carriedOut(ctx context.Context, log *journal.Log) (map[int]uint64, error) {
	stored, err := log.LoadCheckpoints(ctx)
	passed := map[int]uint64{}
	for vp, p := range stored {
		var c owner.Checkpoint
		if err := json.Unmarshal(p, &c); err != nil {
			return nil, err
		}
		passed[vp] = c.Seq
	}
	return passed, err
}

// listening gives the runs that listen for an event, from what all engines
// have recorded by now.
func (e *engine) listening(ctx context.Context, event []byte) ([]string, error) {
	e.mu.Lock()
	log := e.log
	e.mu.Unlock()
	index := projection.New()
	err := log.LastPerSubject(ctx, []string{"penstock.log.>"}, func(entry journal.Entry) error {
		seen, err := owner.EntryOf(entry)
		if err == nil {
			index.Observe(seen)
		}
		return err
	})
	return index.Listening(event), err
}

// holds says whether it answers for a partition.
func (e *engine) holds(vp int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.dead.Load() && e.owner != nil && e.owner.Owns(vp)
}

// do carries out a command that has come over the bus. As package peer does, it
// answers from what it remembers only while its lease is valid.
func (e *engine) do(agg, id string, in record.Input) (a events.Answer) {
	e.mu.Lock()
	o, l := e.owner, e.lease
	e.mu.Unlock()
	none := events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner}
	if o == nil || e.dead.Load() || !l.Valid() {
		return none
	}
	ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
	defer cancel()
	if in.Kind == heartbeat {
		a = o.Heartbeat(ctx, events.HeartbeatRequest{Run: id, Task: in.Attempt.Task, Worker: in.Attempt.Worker})
	} else {
		a = o.Do(ctx, agg, id, in)
	}
	if a.Record == 0 && !l.Valid() {
		return none
	}
	return a
}

// heartbeat is a worker's sign of life, which is no command.
const heartbeat = "heartbeat"

// close ends its parts in the order in which package engine does.
func (e *engine) close() {
	if e.owner == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if e.ctx.Err() != nil {
		cancel() // killed: nothing is waited for
	}
	e.hands.stopAll()
	e.owner.Close(ctx)
	e.relay.Close(ctx)
	if err := e.log.Close(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		e.w.book.fail("the journal cannot be closed: %v", err)
	}
}

// auditStore is the stream of the audit log on the fake server: what goes
// around jetstream.JetStream in the real one goes another way here.
type auditStore struct {
	*audit.Stream
	conn *fakejs.Client
}

func (s auditStore) Append(ctx context.Context, after uint64, msgs []audit.Out) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list := make([]*nats.Msg, len(msgs))
	for i, m := range msgs {
		list[i] = &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{}}
	}
	list[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(after, 10))
	seq, err := s.conn.PublishBatch(ctx, list...)
	refused := new(jetstream.APIError)
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == 10071:
		return fmt.Errorf("%w: %w", audit.ErrBehind, err)
	case err == nil && seq != after+uint64(len(msgs)):
		return audit.ErrBehind
	}
	return err
}
