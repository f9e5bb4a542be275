// Package relay carries out what records say to the outside: tasks go to the
// workers' account, signed by the engine, events to the subscribers'.
//
// It works from memory, right after a record is stored. How far it has come
// is a checkpoint for each partition; after a start the records behind the
// checkpoint are carried out again. So everything is published at least once:
// a repeated task has the same id and is granted once, a repeated event has
// the same id and is the same event.
//
// A checkpoint never passes a record that may be stored and is not carried
// out. For that, every record takes a ticket before it is appended: the
// checkpoint stays below whatever an outstanding ticket may turn out to be.
package relay

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Options configure a Relay.
type Options struct {
	Journal journal.Journal
	Tasks   journal.Publisher // to events.StreamTasks
	Out     journal.Publisher // to events.StreamOut
	Key     ed25519.PrivateKey
	// Pool is called once for each pool and kind before its first task, so
	// that the consumer of its workers is there.
	Pool func(ctx context.Context, pool, kind string) error
	// Stop is told of a partition whose checkpoint stands ahead of its
	// records, or whose records cannot be read.
	Stop func(vp int, err error)
	Log  *slog.Logger
}

// Relay implements owner.Relay.
type Relay struct {
	o     Options
	queue chan *ticket

	mu      sync.Mutex
	oldest  *ticket // list of tickets that are not done, by age
	newest  *ticket
	highest uint64
	seen    map[int]uint64 // highest sequence by partition since its last checkpoint
	stored  map[int]uint64 // sequence of each partition's stored checkpoint; it only grows
	pools   map[[2]string]bool

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Checkpoint is what is stored for a partition.
type Checkpoint struct {
	Seq uint64 `json:"seq"` // everything of the partition up to here has been carried out
}

// New makes a relay; Start begins its work.
func New(o Options) *Relay {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Stop == nil {
		o.Stop = func(vp int, err error) {
			o.Log.Error("a partition cannot be carried out", "partition", vp, "error", err)
		}
	}
	r := &Relay{o: o, queue: make(chan *ticket, 4096), seen: map[int]uint64{}, stored: map[int]uint64{}, pools: map[[2]string]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// ticket is a record that may be on its way.
type ticket struct {
	relay      *Relay
	floor      uint64 // no sequence that it may get is at or below
	seq        uint64
	r          *record.Record
	left       int // messages that are not published yet
	done       bool
	prev, next *ticket
}

// Begin implements owner.Relay.
func (r *Relay) Begin() owner.Ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begin(r.highest)
}

func (r *Relay) begin(floor uint64) *ticket {
	t := &ticket{relay: r, floor: floor}
	t.prev = r.newest
	if r.newest != nil {
		r.newest.next = t
	} else {
		r.oldest = t
	}
	r.newest = t
	return t
}

// Stored implements owner.Ticket: the record is carried out.
func (t *ticket) Stored(seq uint64, rec *record.Record) {
	t.relay.mu.Lock()
	t.seq, t.r = seq, rec
	t.relay.highest = max(t.relay.highest, seq)
	vp := events.Partition(rec.Aggregate, rec.ID)
	t.relay.seen[vp] = max(t.relay.seen[vp], seq)
	t.relay.mu.Unlock()
	if len(rec.Tasks)+len(rec.Events) == 0 {
		t.relay.finish(t)
		return
	}
	t.relay.queue <- t
}

// Drop implements owner.Ticket: nothing was stored.
func (t *ticket) Drop() { t.relay.finish(t) }

// finish takes a ticket off the list.
func (r *Relay) finish(t *ticket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.done {
		return
	}
	t.done = true
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		r.oldest = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		r.newest = t.prev
	}
}

// position is the sequence up to which everything has been carried out.
func (r *Relay) position() uint64 {
	pos := r.highest
	for t := r.oldest; t != nil; t = t.next {
		pos = min(pos, t.floor)
	}
	return pos
}

// Start reads what was not carried out before, and begins. last gives the
// sequence of the last record of each partition, as far as any. A partition
// whose checkpoint is ahead of its records has lost some: it is stopped, and
// the others go on.
func (r *Relay) Start(ctx context.Context, last map[int]uint64) error {
	// New records are stored meanwhile: no checkpoint may pass those of before
	// that have not been read yet.
	r.mu.Lock()
	reading := r.begin(0)
	r.mu.Unlock()
	defer r.finish(reading)
	r.work.Go(r.loop)
	r.work.Go(r.checkpoints)
	at, err := r.load(ctx)
	if err != nil {
		return err
	}
	from := uint64(0)
	for vp := range events.Partitions {
		switch {
		case last[vp] < at[vp]:
			r.o.Stop(vp, fmt.Errorf("its checkpoint stands at %d, its last record at %d: the tail of the record was lost", at[vp], last[vp]))
		case last[vp] > at[vp] && (from == 0 || at[vp]+1 < from):
			from = at[vp] + 1
		}
	}
	if from == 0 {
		return nil
	}
	return r.o.Journal.From(ctx, from, func(e journal.Entry) error {
		if !strings.HasPrefix(e.Subject, "penstock.log.") {
			return nil // an owner record
		}
		var vp int
		if _, err := fmt.Sscanf(e.Subject, "penstock.log.%d.", &vp); err != nil || e.Seq <= at[vp] {
			return nil
		}
		rec, err := record.Decode(e.Data)
		if err != nil {
			r.o.Stop(vp, fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, err))
			return nil
		}
		r.mu.Lock()
		t := r.begin(e.Seq - 1)
		r.mu.Unlock()
		t.Stored(e.Seq, rec)
		return nil
	})
}

// load reads the checkpoints.
func (r *Relay) load(ctx context.Context) (map[int]uint64, error) {
	stored, err := r.o.Journal.LoadCheckpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	at := map[int]uint64{}
	for vp, p := range stored {
		var c Checkpoint
		if err := json.Unmarshal(p, &c); err != nil {
			return nil, fmt.Errorf("checkpoint of partition %d: %w", vp, err)
		}
		at[vp] = c.Seq
	}
	r.mu.Lock()
	r.stored = maps.Clone(at)
	r.mu.Unlock()
	return at, nil
}

// maxGroup is how many records are carried out at once.
const maxGroup = 512

// loop publishes what is queued, as much at once as there is, so that one
// signature covers a group.
func (r *Relay) loop() {
	for {
		var group []*ticket
		select {
		case t := <-r.queue:
			group = append(group, t)
		case <-r.ctx.Done():
			return
		}
		// The records of a group are stored together and their lanes wake
		// together: let all of them come first, since one group of many costs
		// far less than many of a few.
		runtime.Gosched()
		for more := true; more && len(group) < maxGroup; {
			select {
			case t := <-r.queue:
				group = append(group, t)
			default:
				more = false
			}
		}
		r.publish(group)
	}
}

// publish hands the tasks and events of a group to the publishers.
func (r *Relay) publish(group []*ticket) {
	var tasks, out []journal.Message
	var taskOf, outOf []*ticket
	var bodies [][]byte
	for _, t := range group {
		t.left = len(t.r.Tasks) + len(t.r.Events)
		vp := events.Partition(t.r.Aggregate, t.r.ID)
		for _, task := range t.r.Tasks {
			r.ensurePool(task.Pool, task.Kind)
			body, err := task.AppendJSON(make([]byte, 0, 512))
			if err != nil { // unreachable unless a value cannot be encoded, which the record has been
				r.o.Log.Error("a task cannot be encoded", "task", task.ID, "error", err)
				r.published(t)
				continue
			}
			bodies = append(bodies, body)
			tasks = append(tasks, journal.Message{Subject: events.TaskSubject(task.Pool, task.Kind, vp), Data: body})
			taskOf = append(taskOf, t)
		}
		for i, ev := range t.r.Events {
			m, err := outMessage(t.r, i, ev)
			if err != nil {
				r.o.Log.Error("an event cannot be encoded", "run", t.r.ID, "error", err)
				r.published(t)
				continue
			}
			out = append(out, m)
			outOf = append(outOf, t)
		}
	}
	for i, sig := range events.SignGroup(r.o.Key, bodies) {
		tasks[i].Header = map[string][]string{events.HeaderSignature: {sig}}
	}
	r.send(r.o.Tasks, tasks, taskOf)
	r.send(r.o.Out, out, outOf)
}

// send publishes messages; one that was not stored is published again, with
// growing pauses, until it is.
func (r *Relay) send(p journal.Publisher, msgs []journal.Message, of []*ticket) {
	for i := range msgs {
		wait, t, m := 100*time.Millisecond, of[i], &msgs[i]
		m.Done = func(_ uint64, err error) {
			if err == nil {
				r.published(t)
				return
			}
			if r.ctx.Err() != nil {
				return
			}
			r.o.Log.Warn("a message is published again", "subject", m.Subject, "error", err)
			time.AfterFunc(wait, func() { p.Publish(*m) })
			wait = min(2*wait, 10*time.Second)
		}
	}
	if len(msgs) > 0 {
		p.Publish(msgs...)
	}
}

func (r *Relay) published(t *ticket) {
	r.mu.Lock()
	t.left--
	over := t.left == 0
	r.mu.Unlock()
	if over {
		r.o.Log.LogAttrs(r.ctx, slog.LevelDebug, "record relayed", slog.String("aggregate", t.r.Aggregate), slog.String("id", t.r.ID), slog.Int64("record", t.r.V))
		r.finish(t)
	}
}

func (r *Relay) ensurePool(pool, kind string) {
	k := [2]string{pool, kind}
	r.mu.Lock()
	known := r.pools[k]
	r.pools[k] = true
	r.mu.Unlock()
	if known || r.o.Pool == nil {
		return
	}
	err := r.o.Pool(r.ctx, pool, kind)
	if err == nil {
		return
	}
	r.o.Log.Error("the consumer of a task kind cannot be made yet", "pool", pool, "kind", kind, "error", err)
	r.work.Go(func() {
		for wait := 250 * time.Millisecond; err != nil; wait = min(2*wait, 30*time.Second) {
			select {
			case <-time.After(wait):
			case <-r.ctx.Done():
				return
			}
			err = r.o.Pool(r.ctx, pool, kind)
		}
	})
}

// Prepare sees to it that the workers of a pool and kind find their tasks.
func (r *Relay) Prepare(pool, kind string) { r.ensurePool(pool, kind) }

// outMessage makes the CloudEvent of an event of a record. Its id is derived
// from the record, so that a repeat is the same event.
func outMessage(rec *record.Record, i int, ev record.Emitted) (journal.Message, error) {
	h := ev.Data
	data, err := ev.Data.AppendJSON(make([]byte, 0, 512))
	if err != nil {
		return journal.Message{}, err
	}
	e := events.Event{ID: record.Derive(rec.Aggregate, rec.ID, rec.V, i), Source: "/penstock/" + rec.Aggregate + "/" + events.Token(rec.ID),
		Type: ev.Type, Subject: rec.ID, Time: time.UnixMilli(rec.T), DataContentType: "application/json", Data: data}
	p, err := e.MarshalJSON()
	if err != nil {
		return journal.Message{}, err
	}
	return journal.Message{Subject: events.OutSubject(events.DefaultTenant, h.Environment, h.Workflow, events.ShortType(ev.Type)),
		Header: map[string][]string{"Content-Type": {events.ContentType}}, Data: p}, nil
}

// Emit publishes an event that stands in no record, for example that
// definitions were applied.
func (r *Relay) Emit(e events.Event, env, workflow string) error {
	p, err := e.MarshalJSON()
	if err != nil {
		return err
	}
	r.o.Out.Publish(journal.Message{Subject: events.OutSubject(events.DefaultTenant, env, workflow, events.ShortType(e.Type)),
		Header: map[string][]string{"Content-Type": {events.ContentType}}, Data: p, Done: func(_ uint64, err error) {
			if err != nil {
				r.o.Log.Warn("an event was not published", "type", e.Type, "error", err)
			}
		}})
	return nil
}

// checkpoints stores how far the relay has come, every second.
func (r *Relay) checkpoints() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		r.checkpoint(r.ctx)
	}
}

// checkpoint stores the position for the partitions that have moved.
func (r *Relay) checkpoint(ctx context.Context) {
	r.mu.Lock()
	pos := r.position()
	data := map[int][]byte{}
	moved := map[int]uint64{}
	for vp, seq := range r.seen {
		if seq <= pos && seq <= r.stored[vp] {
			delete(r.seen, vp)
		}
		if to := min(seq, pos); to > r.stored[vp] {
			data[vp], _ = json.Marshal(Checkpoint{Seq: to}) // a number always encodes
			moved[vp] = to
		}
	}
	r.mu.Unlock()
	if len(data) == 0 {
		return
	}
	if err := r.o.Journal.Checkpoint(ctx, data); err != nil {
		r.o.Log.Warn("checkpoints were not stored", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for vp, seq := range moved {
		r.stored[vp] = seq
		if r.seen[vp] == seq {
			delete(r.seen, vp)
		}
	}
}

// Close stores a last checkpoint and ends the relay.
func (r *Relay) Close(ctx context.Context) {
	for {
		r.mu.Lock()
		idle := r.oldest == nil
		r.mu.Unlock()
		if idle || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	r.checkpoint(ctx)
	r.cancel()
	r.work.Wait()
	r.o.Tasks.Close(ctx)
	r.o.Out.Close(ctx)
}
