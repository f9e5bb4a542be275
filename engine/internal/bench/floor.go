package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Floor is the bare loop. Its owner is a function that answers requests when
// the record is stored; it decides nothing, encodes nothing and keeps of a run
// how many records it has. Its worker has no goroutine for a task.
type Floor struct {
	b      *broker.Broker
	kind   string
	shape  *Shape
	log    *journal.Log
	tasks  journal.Publisher
	out    journal.Publisher
	told   func(Event)
	api    *nats.Subscription
	base   Counts
	cancel context.CancelFunc
	work   sync.WaitGroup

	behind atomic.Int64 // messages that are published and not stored
	next   atomic.Uint64
	mu     sync.Mutex
	runs   map[string]*floorRun
	moved  map[int]uint64 // by partition, since its last checkpoint
}

type floorRun struct {
	id, log, task string
	vp            int
	stored        atomic.Int32 // records
}

// NewFloor starts a server in dir and takes its partitions over.
func NewFloor(ctx context.Context, dir, sync, kind string, shape *Shape, log *slog.Logger) (f *Floor, err error) {
	f = &Floor{kind: kind, shape: shape, runs: map[string]*floorRun{}, moved: map[int]uint64{}}
	f.b, err = broker.Start(ctx, broker.Options{Dir: dir, Listen: broker.ListenNot, Sync: sync, Log: log})
	if err != nil {
		return nil, err
	}
	if err := f.open(ctx, sync); err != nil {
		return nil, errors.Join(err, f.Close(ctx))
	}
	return f, nil
}

func (f *Floor) open(ctx context.Context, sync string) error {
	if err := f.b.EnsureStreams(ctx); err != nil {
		return err
	}
	if err := f.b.EnsureTaskConsumer(ctx, events.DefaultPool, f.kind); err != nil {
		return err
	}
	js, err := jetstream.New(f.b.Engine)
	if err != nil {
		return err
	}
	if err := journal.EnsureStreams(ctx, js, journal.Streams(1)...); err != nil {
		return err
	}
	o := journal.Options{Sync: sync}
	if f.log, err = journal.Open(ctx, js, o); err != nil {
		return err
	}
	if f.tasks, err = publisher(ctx, f.b.Work, events.StreamTasks, o); err != nil {
		return err
	}
	if f.out, err = publisher(ctx, f.b.Notify, events.StreamOut, o); err != nil {
		return err
	}
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	if err := f.log.Own(ctx, vps, []byte("floor")); err != nil {
		return err
	}
	if f.base, err = stored(ctx, f.b); err != nil {
		return err
	}
	if f.api, err = f.b.Engine.QueueSubscribe("penstock.api.>", "penstock-engine", f.answer); err != nil {
		return err
	}
	if err := f.api.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.work.Go(func() { f.checkpoints(background) })
	keeper := audit.NewWriter(audit.Options{Source: unchained{f.log}, Store: audit.Open(js), Instance: "floor"})
	f.work.Go(func() { keeper.Run(background) })
	return nil
}

func publisher(ctx context.Context, nc *nats.Conn, stream string, o journal.Options) (journal.Publisher, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return journal.NewPublisher(ctx, js, stream, o)
}

// unchained is LOG for the writer of the audit log: the engine's own, since who
// reads the records in order and stores them again can hardly do less. Copied
// records do not follow each other by their hashes, so they go by the names of
// owner records, of which nobody asks that.
type unchained struct{ *journal.Log }

// From implements audit.Source.
func (u unchained) From(ctx context.Context, seq uint64, fn func(journal.Entry) error) error {
	return u.Log.From(ctx, seq, renamed(fn))
}

// Tail implements audit.Source.
func (u unchained) Tail(ctx context.Context, seq uint64, fn func(journal.Entry) error) error {
	return u.Log.Tail(ctx, seq, renamed(fn))
}

func renamed(fn func(journal.Entry) error) func(journal.Entry) error {
	return func(e journal.Entry) error {
		if rest, ok := strings.CutPrefix(e.Subject, "penstock.log."); ok {
			vp, _, _ := strings.Cut(rest, ".")
			e.Subject = "penstock.own." + vp
		}
		return fn(e)
	}
}

// Watch implements Side.
func (f *Floor) Watch(told func(Event)) { f.told = told }

// Start implements Side.
func (f *Floor) Start(context.Context) error {
	r := &floorRun{id: fmt.Sprintf("%0*d", len(f.shape.id), f.next.Add(1))}
	r.vp, r.log = events.Partition(record.Run, r.id), events.LogSubject(record.Run, r.id)
	r.task = events.TaskSubject(events.DefaultPool, f.kind, r.vp)
	f.mu.Lock()
	f.runs[r.id] = r
	f.mu.Unlock()
	f.store(r, 0, func() { f.told(Event{Run: r.id}) })
	return nil
}

// store appends a run's record n, counted from 0, and publishes what it makes.
func (f *Floor) store(r *floorRun, n int32, then func()) {
	st := f.shape.steps[n]
	f.log.Append(r.vp, r.log, f.shape.as(r.id, st.record), func(seq uint64, err error) {
		if err != nil {
			f.told(Event{Err: err})
			return
		}
		r.stored.Store(n + 1)
		f.mu.Lock()
		f.moved[r.vp] = max(f.moved[r.vp], seq)
		f.mu.Unlock()
		f.publish(r, f.tasks, st.tasks, r.task)
		f.publish(r, f.out, st.events, "")
		then()
	})
}

func (f *Floor) publish(r *floorRun, p journal.Publisher, list []journal.Message, subject string) {
	if len(list) == 0 {
		return
	}
	f.behind.Add(int64(len(list)))
	msgs := make([]journal.Message, len(list))
	for i, m := range list {
		m.Data = f.shape.as(r.id, m.Data)
		m.Done = func(_ uint64, err error) {
			f.behind.Add(-1)
			if err != nil {
				f.told(Event{Err: err})
			}
		}
		if subject != "" {
			m.Subject = subject
		}
		msgs[i] = m
	}
	p.Publish(msgs...)
}

var applied = []byte(`{"status":"applied","record":10}`)

// answer takes the finish of a task.
func (f *Floor) answer(m *nats.Msg) {
	id := runOf(m.Data)
	f.mu.Lock()
	r := f.runs[id]
	f.mu.Unlock()
	if r == nil {
		f.told(Event{Err: fmt.Errorf("request %s for run %q, which there is not", m.Subject, id)})
		return
	}
	n := r.stored.Load()
	f.store(r, n, func() {
		if err := m.Respond(applied); err != nil {
			f.told(Event{Err: err})
		}
		last := int(n)+1 == len(f.shape.steps)
		if last {
			f.mu.Lock()
			delete(f.runs, r.id)
			f.mu.Unlock()
		}
		f.told(Event{Run: r.id, Task: int(n), Last: last})
	})
}

// checkpoints stores every second how far each partition has come.
func (f *Floor) checkpoints(ctx context.Context) {
	for wait(ctx, time.Second) == nil {
		f.mu.Lock()
		data := make(map[int][]byte, len(f.moved))
		for vp, seq := range f.moved {
			data[vp] = fmt.Appendf(nil, `{"seq":%d}`, seq)
		}
		clear(f.moved)
		f.mu.Unlock()
		if len(data) == 0 {
			continue
		}
		if err := f.log.Checkpoint(ctx, data); err != nil && ctx.Err() == nil {
			f.told(Event{Err: err})
		}
	}
}

// Behind implements Side.
func (f *Floor) Behind() int64 { return f.behind.Load() }

// Stored implements Side.
func (f *Floor) Stored(ctx context.Context) (Counts, error) { return Since(ctx, f.b, f.base) }

// Since counts what a server has stored more than base.
func Since(ctx context.Context, b *broker.Broker, base Counts) (Counts, error) {
	c, err := stored(ctx, b)
	return Counts{c.Records - base.Records, c.Tasks - base.Tasks, c.Events - base.Events}, err
}

func stored(ctx context.Context, b *broker.Broker) (c Counts, err error) {
	js, err := jetstream.New(b.Engine)
	if err != nil {
		return c, err
	}
	if c.Records, err = journal.Count(ctx, js); err != nil {
		return c, err
	}
	for _, s := range []struct {
		nc     *nats.Conn
		stream string
		n      *uint64
	}{{b.Work, events.StreamTasks, &c.Tasks}, {b.Notify, events.StreamOut, &c.Events}} {
		js, err := jetstream.New(s.nc)
		if err != nil {
			return c, err
		}
		stream, err := js.Stream(ctx, s.stream)
		if err != nil {
			return c, fmt.Errorf("stream %s: %w", s.stream, err)
		}
		*s.n = stream.CachedInfo().State.LastSeq
	}
	return c, nil
}

// Close stops the floor and its server.
func (f *Floor) Close(ctx context.Context) error {
	if f.cancel != nil {
		f.cancel()
		f.work.Wait()
	}
	var errs []error
	if f.api != nil {
		errs = append(errs, f.api.Unsubscribe())
	}
	for _, p := range []journal.Publisher{f.tasks, f.out} {
		if p != nil {
			errs = append(errs, p.Close(ctx))
		}
	}
	if f.log != nil {
		errs = append(errs, f.log.Close(ctx))
	}
	return errors.Join(append(errs, f.b.Close(ctx))...)
}

func itoa(n uint64) string { return strconv.FormatUint(n, 36) }
