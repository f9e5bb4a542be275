package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// epoch is when the clock of every simulation begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	bucketMarks = "PENSTOCK_DEFS"
	bucketLive  = "PENSTOCK_LIVE"
	beat        = 4 * time.Second
	beatOut     = 16 * time.Second
)

// world is one simulated installation.
type world struct {
	t      *testing.T
	plan   plan
	net    *net
	server *fakejs.Server
	admin  *fakejs.Client
	cats   *catalogs
	key    ed25519.PrivateKey
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup // of people and workers
	book   *book          // what is checked
	target *target

	mu      sync.Mutex
	engines []*engine // those that have not ended
	lives   map[string]int
	workers []*worker
	asked   map[string]asked // by command id: what people have asked for
	due     []due
	seen    map[string]int // what happened that not every run sees
	calm    atomic.Bool    // no more faults
}

// asked is a command of a person, to be repeated later.
type asked struct {
	who, agg, id string
	in           record.Input
}

// server's streams, as the broker makes them.
func streams(replicas int) []jetstream.StreamConfig {
	base := jetstream.StreamConfig{Replicas: replicas, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, DenyDelete: true}
	named := func(name, subject string, change func(*jetstream.StreamConfig)) jetstream.StreamConfig {
		c := base
		c.Name, c.Subjects = name, []string{subject}
		change(&c)
		return c
	}
	return append(journal.Streams(replicas),
		named(events.StreamIngress, "penstock.ev.default.>", func(c *jetstream.StreamConfig) { c.Duplicates = 2 * time.Minute }),
		named(events.StreamTasks, "penstock.task.>", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true }),
		named(events.StreamOut, "penstock.out.>", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish, c.Discard = true, jetstream.DiscardOld }),
		named(events.StreamAudit, "penstock.audit.>", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish, c.DenyPurge = true, true }))
}

func newWorld(t *testing.T, p plan, cats *catalogs) *world {
	w := &world{t: t, plan: p, net: newNet(p.seed), cats: cats.anew(), lives: map[string]int{}, asked: map[string]asked{}, seen: map[string]int{}}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	w.target = &target{highest: map[string]events.Fence{}, done: map[string]int{}}
	w.server = fakejs.New(fakejs.Options{Net: w, Broken: p.broken})
	w.net.last = w.server.Last
	w.admin = w.server.Client("admin")
	for _, cfg := range streams(p.replicas) {
		w.must(second(w.admin.CreateStream(w.ctx, cfg)))
	}
	for _, name := range []string{bucketMarks, bucketLive} {
		w.must(second(w.admin.CreateKeyValue(w.ctx, jetstream.KeyValueConfig{Bucket: name, History: 1})))
	}
	for _, kind := range kinds {
		w.must(ensureConsumer(w.ctx, w.admin, events.DefaultPool, kind))
	}
	w.book = newBook(w)
	return w
}

var kinds = []string{"make", "move"}

func second[A, B any](_ A, b B) B { return b }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// Submit implements fakejs.Net: what the administrator does to set the world
// up happens at once.
func (w *world) Submit(e *fakejs.Event) {
	if e.Client == "admin" {
		e.Arrive(fakejs.Fate{})
		return
	}
	w.net.Submit(e)
}

// ensureConsumer makes the consumer of a kind's workers, as the broker does.
func ensureConsumer(ctx context.Context, c *fakejs.Client, pool, kind string) error {
	_, err := c.CreateConsumer(ctx, events.StreamTasks, jetstream.ConsumerConfig{Durable: events.TaskConsumer(pool, kind),
		FilterSubject: "penstock.task." + events.Token(pool) + "." + events.Token(kind) + ".*", DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 2000})
	return err
}

// saw counts what has happened that is worth to be told.
func (w *world) saw(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

// living gives the engines that have not ended, by name.
func (w *world) living() []*engine {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := slices.Clone(w.engines)
	slices.SortFunc(list, func(a, b *engine) int { return strings.Compare(a.instance, b.instance) })
	return list
}

func (w *world) engine(name string) *engine {
	for _, e := range w.living() {
		if e.name == name {
			return e
		}
	}
	return nil
}

// once brings a command to an engine that says that it holds the partition,
// and the answer back, or neither.
func (w *world) once(ctx context.Context, from, agg, id string, in record.Input) (events.Answer, bool) {
	came := make(chan events.Answer, 1)
	what := fmt.Sprintf("%s/%s %s", agg, id, in.ID)
	w.net.Submit(&fakejs.Event{Client: from, Kind: fakejs.Request, Stream: "bus", Verb: in.Kind, What: what, Arrive: func(f fakejs.Fate) {
		e := w.holder(events.Partition(agg, id))
		if e == nil || f.Nobody || f.Refuse != nil {
			came <- events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner, Reason: "nobody answers for the partition"}
			return
		}
		w.net.Submit(&fakejs.Event{Client: e.client("bus"), Kind: fakejs.Delivery, Stream: "bus", Verb: in.Kind, What: what, Arrive: func(fakejs.Fate) {
			e.work.Go(func() {
				a := e.do(agg, id, in)
				w.book.answered(agg, id, in, a)
				w.net.Submit(&fakejs.Event{Client: e.client("bus"), Kind: fakejs.Answer, Stream: "bus", Verb: in.Kind, What: what + " " + a.Status, Arrive: func(fakejs.Fate) {
					if !f.Mute {
						came <- a
					}
				}})
			})
		}})
	}})
	select {
	case a := <-came:
		return a, true
	case <-ctx.Done():
		return events.Answer{Status: events.StatusBusy, Reason: "no answer in time"}, false
	}
}

// holder chooses among the engines that say that they hold a partition.
func (w *world) holder(vp int) *engine {
	var claim []*engine
	for _, e := range w.living() {
		if e.holds(vp) {
			claim = append(claim, e)
		}
	}
	if len(claim) == 0 {
		return nil
	}
	return claim[w.net.rng.IntN(len(claim))]
}

// ask repeats a command until it is answered for good, or ctx ends.
func (w *world) ask(ctx context.Context, from, agg, id string, in record.Input) (events.Answer, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		a, _ := w.once(one, from, agg, id, in)
		cancel()
		if a.Final() {
			return a, nil
		}
		if !pause(ctx, wait) {
			return a, ctx.Err()
		}
	}
}

// hasten removes the older half of LOG, as no janitor may.
func (w *world) hasten(ctx context.Context, c *fakejs.Client) {
	if s, err := c.Stream(ctx, events.StreamLog); err == nil {
		_ = s.Purge(ctx, jetstream.WithPurgeSubject("penstock.log.>"), jetstream.WithPurgeSequence(s.CachedInfo().State.LastSeq/2))
	}
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// start starts an engine under a name; there must be none.
func (w *world) start(name string) {
	w.mu.Lock()
	w.lives[name]++
	e := newEngine(w, name, w.lives[name])
	w.engines = append(w.engines, e)
	w.mu.Unlock()
	go e.run()
}

// ended is told by an engine that has ended.
func (w *world) ended(e *engine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.engines = slices.DeleteFunc(w.engines, func(x *engine) bool { return x == e })
}

// close ends everything and waits for it.
func (w *world) close() {
	w.net.close()
	w.stop()
	for _, e := range w.living() {
		e.kill()
		<-e.over
	}
	for _, wk := range w.workers {
		wk.client.Close()
	}
	w.work.Wait()
	w.admin.Close()
	time.Sleep(time.Minute) // who still waits for messages waits for less
}

// run lets the world live through its plan: first with everything that the
// plan does to it, then in peace until every run has ended or waits for people.
func (w *world) run() error {
	for _, name := range engineNames[:w.plan.engines] {
		w.start(name)
	}
	for i := range w.plan.workers {
		w.employ(fmt.Sprintf("w%d", i+1))
	}
	w.net.sleep(0)
	next := 0
	for time.Since(epoch) < w.plan.lasts {
		for ; next < len(w.plan.deeds) && w.plan.deeds[next].time() <= time.Since(epoch); next++ {
			w.net.note("%v", w.plan.deeds[next])
			w.plan.deeds[next].do(w)
		}
		w.overdue()
		w.net.step(500 * time.Millisecond)
		if err := w.book.look(); err != nil {
			return err
		}
	}
	for ; next < len(w.plan.deeds); next++ { // what people do counts even when it comes late
		w.plan.deeds[next].do(w)
	}
	w.peace()
	return w.settle()
}

// peace ends all faults: whatever is down comes up again.
func (w *world) peace() {
	w.net.note("peace")
	w.calm.Store(true)
	w.due = nil
	w.net.heal()
	for _, name := range []string{events.StreamLog, events.StreamTasks, events.StreamOut, events.StreamCkpt} {
		w.server.Limit(name, -1)
	}
	w.server.Thaw()
	for _, name := range []string{events.StreamLog, events.StreamTasks, events.StreamCkpt, events.StreamAudit} {
		w.rejoin(name, w.plan.seed%2 == 0)
	}
	w.server.Reconnect()
	for _, e := range w.living() {
		e.step.Store(0)
	}
	w.manned()
	for _, wk := range slices.Clone(w.workers) {
		if wk.dead {
			w.employ(wk.name)
		}
	}
}

// manned starts the engines that are not there; one that was leaving when
// peace began has gone later.
func (w *world) manned() {
	for _, name := range engineNames[:w.plan.engines] {
		w.startAgain(name)
	}
}

// rest is for how long nothing may be left to do before a world counts as at rest.
const rest = 15 * time.Second

// settle runs until every run has ended or waits for people.
func (w *world) settle() error {
	end, since, seen := time.Now().Add(w.plan.patience), time.Now(), 0
	for time.Now().Before(end) {
		w.manned()
		w.net.step(5 * time.Second)
		if err := w.book.look(); err != nil {
			return err
		}
		switch {
		case w.book.seen != seen:
			since, seen = time.Now(), w.book.seen
		case time.Since(since) < rest: // the audit log may be a second behind what was stored last
		case w.book.settled() == nil:
			if w.plan.ages {
				if err := w.age(); err != nil {
					return err
				}
			}
			return w.book.last()
		default: // a timer may be far away
			since = time.Now()
		}
	}
	return w.book.last()
}

// age lets time pass until what has ended needs no record any more.
func (w *world) age() error {
	for end := time.Now().Add(keepLast + time.Minute); time.Now().Before(end); {
		w.net.step(5 * time.Second)
		if err := w.book.look(); err != nil {
			return err
		}
	}
	w.saw("records of long ago")
	// Until LOG is as long again, what the audit log had beyond its end keeps what
	// is behind it.
	if w.net.count["power cut"] > 0 {
		return nil
	}
	return w.book.left()
}

var engineNames = []string{"e1", "e2", "e3"}

// singletons that engines share among themselves.
var singletons = []string{"audit", "janitor", "router"}

// hands carry out what the lease decides.
type hands struct {
	e *engine

	mu      sync.Mutex
	running map[string]func()
}

func (h *hands) Take(ctx context.Context, vps []int) error    { return h.e.owner.Take(ctx, vps) }
func (h *hands) Release(ctx context.Context, vps []int) error { return h.e.owner.Release(ctx, vps) }

func (h *hands) Start(name string) {
	ctx, cancel := context.WithCancel(h.e.ctx)
	over := make(chan struct{})
	h.mu.Lock()
	h.running[name] = func() {
		cancel()
		<-over
	}
	h.mu.Unlock()
	h.e.work.Go(func() {
		defer close(over)
		h.e.singleton(ctx, name)
	})
}

func (h *hands) Stop(name string) {
	h.mu.Lock()
	end := h.running[name]
	delete(h.running, name)
	h.mu.Unlock()
	if end != nil {
		end()
	}
}

func (h *hands) stopAll() {
	h.mu.Lock()
	names := slices.Sorted(maps.Keys(h.running))
	h.mu.Unlock()
	for _, name := range names {
		h.Stop(name)
	}
}

var _ lease.Hands = (*hands)(nil)
