// Package relay carries out what records say to the outside: tasks go to the
// workers' account, signed by the engine, events to the subscribers'.
//
// It works from memory, right after a record is stored. How far it has come
// is a checkpoint for each partition; when a partition is taken, the records
// behind its checkpoint are carried out again. So everything is published at
// least once: a repeated task has the same id and is granted once, a repeated
// event has the same id and is the same event.
//
// A checkpoint never passes a record that may be stored and is not carried
// out. For that, every record takes a ticket before it is appended: the
// checkpoint stays below whatever an outstanding ticket may turn out to be.
// The checkpoint also names the newest record that is known as stored, with
// its hash: when that is not there any more, or is another one, records were
// lost, and the partition must not go on.
package relay

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
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
	Log  *slog.Logger
}

// Relay implements owner.Relay.
type Relay struct {
	o      Options
	queue  queue
	turn   sync.Mutex                              // of who publishes, so that nothing overtakes
	flying atomic.Int64                            // records that may be on their way into the journal
	parts  [events.Partitions]atomic.Pointer[part] // those that are taken

	mu    sync.Mutex
	pools map[[2]string]bool

	again repeats

	storing chan struct{} // full while one stores checkpoints, so that none goes back
	once    sync.Once
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
}

// New makes a relay; it begins its work with the first Take.
func New(o Options) *Relay {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Relay{o: o, queue: newQueue(), pools: map[[2]string]bool{}, storing: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// part is a partition for as long as it is taken.
type part struct {
	relay *Relay
	vp    int
	gone  atomic.Bool // another engine carries it out now

	mu             sync.Mutex
	oldest, newest *ticket          // tickets that are not done, by age
	stored         owner.Mark       // newest record that is known as stored
	ckpt           owner.Checkpoint // as it is stored; its numbers only grow
	anew           bool             // its checkpoint is to be replaced, whatever it says
	left           bool             // a ticket was left: the position stays
	limit          uint64           // at or below this
	halted         string           // why it has to stay stopped
	empty          chan struct{}    // closed when no ticket is left, where somebody waits for that
}

// ticket is a record that may be on its way.
type ticket struct {
	part       *part
	floor      uint64 // no sequence that it may get is at or below
	r          *record.Record
	ahead      atomic.Pointer[made] // what it leads to, made before it was stored
	left       int                  // messages that are not published yet
	done       bool
	prev, next *ticket
}

// Begin implements owner.Relay.
func (r *Relay) Begin(vp int) owner.Ticket {
	r.flying.Add(1)
	p := r.parts[vp].Load()
	if p == nil { // it was lost meanwhile: what is appended will be refused
		p = &part{relay: r, vp: vp}
		p.gone.Store(true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begin(p.stored.Seq)
}

func (p *part) begin(floor uint64) *ticket {
	t := &ticket{part: p, floor: floor, prev: p.newest}
	if p.newest != nil {
		p.newest.next = t
	} else {
		p.oldest = t
	}
	p.newest = t
	return t
}

// Stored implements owner.Ticket: the record is carried out.
func (t *ticket) Stored(at owner.Mark, rec *record.Record) {
	p := t.part
	nothing := len(rec.Tasks)+len(rec.Events) == 0
	p.mu.Lock()
	t.r = rec
	if at.Seq > p.stored.Seq {
		p.stored = at
	}
	if nothing {
		p.finish(t)
	}
	p.mu.Unlock()
	if !nothing {
		p.relay.queue.put(t)
	}
	p.relay.landed()
}

// Ahead implements owner.Ticket. Where others are on their way too, one
// signature for all of them costs less.
func (t *ticket) Ahead(rec *record.Record) {
	r := t.part.relay
	if len(rec.Tasks) == 0 || r.flying.Load() > 1 || !r.poolsKnown(rec) {
		return
	}
	runtime.Gosched() // the record is sent first
	whole := true
	none := func() { whole = false }
	m := &made{r.tasksOf(rec, t.part.vp, none), r.eventsOf(rec, none)}
	if r.sign(m.tasks); whole {
		t.ahead.Store(m)
	}
}

// Drop implements owner.Ticket: nothing was stored.
func (t *ticket) Drop() {
	t.part.mu.Lock()
	t.part.finish(t)
	t.part.mu.Unlock()
	t.part.relay.landed()
}

// Leave implements owner.Ticket: whoever takes the partition next finds out.
// The checkpoint does not pass it, and nobody waits for it.
func (t *ticket) Leave() {
	p := t.part
	p.mu.Lock()
	if !p.left {
		p.left, p.limit = true, t.floor
	}
	p.limit = min(p.limit, t.floor)
	p.finish(t)
	p.mu.Unlock()
	p.relay.landed()
}

// finish takes a ticket off the list.
func (p *part) finish(t *ticket) {
	if t.done {
		return
	}
	t.done = true
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		p.oldest = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		p.newest = t.prev
	}
	if p.oldest == nil && p.empty != nil {
		close(p.empty)
		p.empty = nil
	}
}

// position is the sequence up to which everything has been carried out.
func (p *part) position() uint64 {
	pos := p.stored.Seq
	if p.left {
		pos = min(pos, p.limit)
	}
	for t := p.oldest; t != nil; t = t.next {
		pos = min(pos, t.floor)
	}
	return pos
}

// drained waits until no ticket is left, or ctx ends.
func (p *part) drained(ctx context.Context) error {
	p.mu.Lock()
	if p.oldest == nil {
		p.mu.Unlock()
		return nil
	}
	if p.empty == nil {
		p.empty = make(chan struct{})
	}
	empty := p.empty
	p.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Halt implements owner.Relay: the next checkpoint says so.
func (r *Relay) Halt(vp int, why string) {
	if p := r.parts[vp].Load(); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.halted = why
	}
}

// Drop implements owner.Relay.
func (r *Relay) Drop(vp int) {
	if p := r.parts[vp].Swap(nil); p != nil {
		p.gone.Store(true)
	}
}

// Newest implements owner.Relay.
func (r *Relay) Newest(vp int) owner.Mark {
	p := r.parts[vp].Load()
	if p == nil {
		return owner.Mark{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stored
}

// Release implements owner.Relay.
func (r *Relay) Release(ctx context.Context, vps []int) error {
	var parts []*part
	for _, vp := range vps {
		if p := r.parts[vp].Load(); p != nil {
			parts = append(parts, p)
		}
	}
	err := r.settle(ctx, parts)
	for _, p := range parts {
		if r.parts[p.vp].CompareAndSwap(p, nil) {
			p.gone.Store(true)
		}
	}
	return err
}

// settle carries out what is left of partitions, and stores their checkpoints.
func (r *Relay) settle(ctx context.Context, parts []*part) (err error) {
	for _, p := range parts {
		if err = p.drained(ctx); err != nil {
			break // what is left is carried out by whoever takes them next
		}
	}
	if err != nil { // how far they have come is noted all the same
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		ctx = last
	}
	return errors.Join(err, r.checkpoint(ctx, slices.Values(parts)))
}

// queue are the records that are to be carried out. It takes all that come:
// whoever brings one must not wait, and how many there may be is limited where
// commands come in.
type queue struct {
	mu      sync.Mutex
	waiting []*ticket
	wake    chan struct{}
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

func (q *queue) put(tickets ...*ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, tickets...)
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// all reports whether something holds of all that wait.
func (q *queue) all(holds func(*ticket) bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !slices.ContainsFunc(q.waiting, func(t *ticket) bool { return !holds(t) })
}

// take gives all that wait.
func (q *queue) take() []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	tickets := q.waiting
	q.waiting = nil
	return tickets
}

// maxGroup is how many records are carried out at once.
const maxGroup = 512

// landed notes that the outcome of a record is known. When no other is on its
// way, what waits is carried out at once, by whoever brought the last one:
// nothing else waits for that goroutine, and another one would have to wake up.
func (r *Relay) landed() {
	if r.flying.Add(-1) > 0 || !r.queue.all(func(t *ticket) bool { return r.poolsKnown(t.r) }) || !r.turn.TryLock() {
		r.queue.nudge()
		return
	}
	defer r.turn.Unlock()
	r.publishAll()
}

// loop publishes what is queued, as much at once as there is, so that one
// signature covers a group.
func (r *Relay) loop() {
	for {
		select {
		case <-r.queue.wake:
		case <-r.ctx.Done():
			return
		}
		// The records of a group are stored together: let all of them come
		// first, since one group of many costs far less than many of a few.
		runtime.Gosched()
		r.turn.Lock()
		r.publishAll()
		r.turn.Unlock()
	}
}

func (r *Relay) publishAll() {
	for group := range slices.Chunk(r.queue.take(), maxGroup) {
		r.publish(group)
	}
}

// made is what a record leads to; the tasks are signed.
type made struct{ tasks, out []journal.Message }

// outgoing are messages, and the record that each belongs to.
type outgoing struct {
	msgs []journal.Message
	of   []*ticket
}

func (o *outgoing) add(t *ticket, msgs ...journal.Message) {
	o.msgs = append(o.msgs, msgs...)
	for range msgs {
		o.of = append(o.of, t)
	}
}

// publish hands the tasks of a group to the publishers, and then the events,
// for which nobody waits.
func (r *Relay) publish(group []*ticket) {
	group = slices.DeleteFunc(group, func(t *ticket) bool { return t.part.gone.Load() }) // whoever has the partition now carries it out
	var tasks, out outgoing
	for _, t := range group {
		t.left = len(t.r.Tasks) + len(t.r.Events)
		if m := t.ahead.Load(); m != nil {
			tasks.add(t, m.tasks...)
		} else {
			tasks.add(t, r.tasksOf(t.r, t.part.vp, func() { r.published(t) })...)
		}
	}
	r.sign(tasks.msgs)
	r.send(r.o.Tasks, tasks.msgs, tasks.of)
	if len(group) == 1 {
		runtime.Gosched() // the task is sent before the events are made
	}
	for _, t := range group {
		if m := t.ahead.Load(); m != nil {
			out.add(t, m.out...)
		} else {
			out.add(t, r.eventsOf(t.r, func() { r.published(t) })...)
		}
	}
	r.send(r.o.Out, out.msgs, out.of)
}

// tasksOf makes the messages of a record's tasks, which are not signed yet. One
// that cannot be made is told of.
func (r *Relay) tasksOf(rec *record.Record, vp int, none func()) (msgs []journal.Message) {
	for _, task := range rec.Tasks {
		r.ensurePool(task.Pool, task.Kind)
		body, err := task.AppendJSON(make([]byte, 0, 512))
		if err != nil { // unreachable unless a value cannot be encoded, which the record has been
			r.o.Log.Error("a task cannot be encoded", "task", task.ID, "error", err)
			none()
			continue
		}
		msgs = append(msgs, journal.Message{Subject: events.TaskSubject(task.Pool, task.Kind, vp), Data: body})
	}
	return msgs
}

// eventsOf makes the messages of a record's events; see tasksOf.
func (r *Relay) eventsOf(rec *record.Record, none func()) (msgs []journal.Message) {
	for i, ev := range rec.Events {
		m, err := outMessage(rec, i, ev)
		if err != nil {
			r.o.Log.Error("an event cannot be encoded", "run", rec.ID, "error", err)
			none()
			continue
		}
		msgs = append(msgs, m)
	}
	return msgs
}

// sign signs the tasks that are not signed yet, with one signature.
func (r *Relay) sign(tasks []journal.Message) {
	bodies := make([][]byte, 0, len(tasks))
	for i := range tasks {
		if tasks[i].Header == nil {
			bodies = append(bodies, tasks[i].Data)
		}
	}
	sigs := events.SignGroup(r.o.Key, bodies)
	for i := range tasks {
		if tasks[i].Header == nil {
			tasks[i].Header = map[string][]string{events.HeaderSignature: {sigs[0]}}
			sigs = sigs[1:]
		}
	}
}

// send publishes messages; one that was not stored is published again, with
// growing pauses, until it is.
func (r *Relay) send(p journal.Publisher, msgs []journal.Message, of []*ticket) {
	for i := range msgs {
		msgs[i].Done = func(_ uint64, err error) {
			if err == nil {
				r.published(of[i])
				return
			}
			again := &repeat{r: r, p: p, m: msgs[i], t: of[i], i: i, wait: 100 * time.Millisecond}
			again.m.Done = again.done
			again.done(0, err)
		}
	}
	if len(msgs) > 0 {
		p.Publish(msgs...)
	}
}

// repeat is a message of a record that is published again until it is stored.
type repeat struct {
	r    *Relay
	p    journal.Publisher
	m    journal.Message
	t    *ticket
	i    int // its place in its group
	wait time.Duration
}

func (x *repeat) done(_ uint64, err error) {
	if err == nil {
		x.r.published(x.t)
		return
	}
	if x.r.ctx.Err() != nil || x.t.part.gone.Load() {
		return
	}
	x.r.again.tell(x.r.o.Log, x.m.Subject, err)
	// In their order, when several of a group come back together.
	time.AfterFunc(x.wait+time.Duration(x.i)*time.Microsecond, func() { x.p.Publish(x.m) })
	x.wait = min(2*x.wait, 10*time.Second)
}

// repeats are messages that are published again. While a stream is away they
// are many, and one line tells of them all.
type repeats struct {
	mu   sync.Mutex
	n    int
	told time.Time
}

// tellEvery is how often they are told of.
const tellEvery = 5 * time.Second

func (a *repeats) tell(log *slog.Logger, subject string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	if time.Since(a.told) < tellEvery {
		return
	}
	log.Warn("messages are published again", "messages", a.n, "the last of them", subject, "error", err)
	a.n, a.told = 0, time.Now()
}

func (r *Relay) published(t *ticket) {
	t.part.mu.Lock()
	defer t.part.mu.Unlock()
	if t.left--; t.left > 0 {
		return
	}
	r.o.Log.LogAttrs(r.ctx, slog.LevelDebug, "record relayed", slog.String("aggregate", t.r.Aggregate), slog.String("id", t.r.ID), slog.Int64("record", t.r.V))
	t.part.finish(t)
}

// poolsKnown reports whether nothing has to be made before a record's tasks are
// published.
func (r *Relay) poolsKnown(rec *record.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(rec.Tasks, func(t *events.Task) bool { return !r.pools[[2]string{t.Pool, t.Kind}] })
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
		Header: outHeader, Data: p}, nil
}

// outHeader is that of every event; nobody changes it.
var outHeader = map[string][]string{"Content-Type": {events.ContentType}}

// Emit publishes an event that stands in no record, for example that
// definitions were applied.
func (r *Relay) Emit(e events.Event, env, workflow string) error {
	p, err := e.MarshalJSON()
	if err != nil {
		return err
	}
	r.o.Out.Publish(journal.Message{Subject: events.OutSubject(events.DefaultTenant, env, workflow, events.ShortType(e.Type)),
		Header: outHeader, Data: p, Done: func(_ uint64, err error) {
			if err != nil {
				r.o.Log.Warn("an event was not published", "type", e.Type, "error", err)
			}
		}})
	return nil
}

// taken gives the partitions that are taken.
func (r *Relay) taken(yield func(*part) bool) {
	for vp := range r.parts {
		if p := r.parts[vp].Load(); p != nil && !yield(p) {
			return
		}
	}
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
		if err := r.checkpoint(r.ctx, r.taken); err != nil && r.ctx.Err() == nil {
			r.o.Log.Warn("checkpoints were not stored", "error", err)
		}
	}
}

// checkpoint stores the checkpoints of those partitions that have moved.
func (r *Relay) checkpoint(ctx context.Context, parts iter.Seq[*part]) error {
	r.storing <- struct{}{}
	defer func() { <-r.storing }()
	data := map[int][]byte{}
	moved := map[*part]owner.Checkpoint{}
	for p := range parts {
		if c, ok := p.moved(); ok {
			data[p.vp], _ = json.Marshal(c) // numbers and a hash always encode
			moved[p] = c
		}
	}
	if len(data) == 0 {
		return nil
	}
	if err := r.o.Journal.Checkpoint(ctx, data); err != nil {
		return err
	}
	for p, c := range moved {
		p.mu.Lock()
		p.ckpt, p.anew = c, false
		p.mu.Unlock()
	}
	return nil
}

// moved gives the checkpoint as it should be, and whether it is not.
func (p *part) moved() (owner.Checkpoint, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.ckpt
	c.Seq = max(c.Seq, p.position())
	if p.stored.Seq >= c.Last {
		c.Last, c.Hash = p.stored.Seq, p.stored.Hash
	}
	c.Stop = cmp.Or(c.Stop, p.halted)
	return c, p.anew || c.Stop != p.ckpt.Stop || c.Seq != p.ckpt.Seq || c.Last != p.ckpt.Last || c.Hash != p.ckpt.Hash
}

// Close stores last checkpoints and ends the relay.
func (r *Relay) Close(ctx context.Context) {
	if err := r.settle(ctx, slices.Collect(r.taken)); err != nil {
		r.o.Log.Warn("what was not carried out is carried out after the next start", "error", err)
	}
	r.cancel()
	r.work.Wait()
	r.o.Tasks.Close(ctx)
	r.o.Out.Close(ctx)
}
