// Package lease decides which engine holds what: each of the 256 partitions,
// and each of a few singletons (the router, the janitor and so on), belongs to
// one of the engines that are alive.
//
// Every engine tells the others once a second that it is alive, and what it
// holds, in one entry on a board (a key-value bucket). The bitmap in that entry
// is the claim; there is none for each partition. An engine counts as gone when
// its counter has not moved for six seconds of the observer's own time: no
// clock is compared with another one. Time in which the observer itself heard
// nothing does not count, so that an outage of the board, or a process that
// stood still, does not make everybody gone.
//
// From the engines that are alive everybody computes by rendezvous hashing who
// should hold what (Decide), so only the share of an engine that comes or goes
// moves. An engine first lets go of what it should not hold and says so; then
// the other one claims it on the board, waits until it has seen its own claim
// there without an earlier one of somebody else, and takes it. So nothing has
// two holders as long as everybody is heard. When somebody is not heard, there
// may be two for a moment. This package decides who tries; who wins is decided
// by the fence of the partition (package journal), and the one that has lost
// is told by Lost.
//
// An engine whose own entry could not be stored for six seconds counts itself
// as gone, before others do: Valid is false from that moment, it lets go of
// everything, and joins again when the board answers. An engine that ends says
// that it is leaving, releases everything, and removes its entry.
//
// Engines have names that differ. One that finds its name used by a later
// process ends with ErrReplaced; a process that was killed and started again
// under its name need not wait for its own lease.
package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Hands take and release. They are called by one goroutine at a time, except
// that both Release and Take end soon after their context does.
type Hands interface {
	// Take makes this engine the owner of partitions, all of them or none.
	Take(ctx context.Context, vps []int) error
	// Release lets go of partitions. Whatever it returns, they are not held
	// afterwards.
	Release(ctx context.Context, vps []int) error
	// Start begins the work of a singleton and returns at once; Stop ends it
	// and returns when it has ended.
	Start(name string)
	Stop(name string)
}

// Keeper holds partitions and singletons for an engine: a Lease among others,
// or Alone.
type Keeper interface {
	// Run holds until ctx ends, which is as if the process had been killed,
	// or until Leave has done its work. An error is one with which the engine
	// cannot go on.
	Run(ctx context.Context) error
	// Settled is closed when what is to be taken at the start is taken.
	Settled() <-chan struct{}
	// Leave releases everything, so that others can take it, until ctx ends.
	Leave(ctx context.Context)
	// Valid reports whether others still count on what this engine holds.
	Valid() bool
	// Lost says that another engine has taken a partition. It never waits.
	Lost(vp int)
	// Held is what is held and taken.
	Held() Set
	// Members are the engines that are alive, this one first, others by name.
	Members() []Member
	// TaskKeys are the public keys of this engine and of all others that were
	// there lately.
	TaskKeys() []string
}

// Options configure a Lease.
type Options struct {
	Board  Board
	Hands  Hands
	Self   Member        // Instance, Version, Core, Record, TaskKey, HTTP and Offers
	Health func() Health // what to tell with each heartbeat; may be nil
	Beat   time.Duration // between two heartbeats; 1 s
	Expiry time.Duration // after which an engine counts as gone; six beats
	Log    *slog.Logger
}

// ErrReplaced says that a later process has this engine's name.
var ErrReplaced = errors.New("another engine was started with this engine's name")

// Lease is a Keeper among others. Its fields below box belong to the
// goroutine of Run.
type Lease struct {
	o       Options
	key     string
	base    time.Time
	settled chan struct{}
	over    chan struct{}
	leave   atomic.Bool
	until   atomic.Int64 // the lease is valid until then, in nanoseconds since base

	mu      sync.Mutex
	box     []func() // to be done by Run
	wake    chan struct{}
	shown   []Member
	holding Set
	keys    []string

	now      time.Time // at the beginning of a turn
	me       Member
	held     Set    // taken
	claims   Set    // to be taken
	claimed  uint64 // counter of the entry in which they stood first
	heard    bool   // that entry was seen, and nobody has claimed them before
	taking   bool   // they are being taken
	lost     Set    // while they were
	cooling  map[int]time.Time
	job      context.CancelFunc // of what Hands do now; nil when nothing
	lapsed   bool               // the lease has run out, and not everything is released yet
	seen     map[string]*seen   // by key
	clock    time.Duration      // time in which the board was heard
	echo     time.Time          // when our own entry was seen last; zero: not since the lease is valid
	first    bool               // it was seen once
	revision uint64             // of our own entry, as far as known
	putting  bool
	began    time.Time // the newest put
	again    bool      // put once more when the put on its way is over
	stored   time.Time // when a revision that was not seen yet was stored
	awaited  uint64    // the newest of these; 0: none
	given    bool      // this watch has given our own entry
	caught   bool      // a watch has given what there was
	watching context.CancelFunc
	taskKeys map[string]taskKey
	keyPut   time.Time
	failed   error
	work     sync.WaitGroup
}

// seen is another engine, or this one, as the board has it.
type seen struct {
	m        Member
	revision uint64
	at       time.Time     // by the server's clock
	changed  time.Duration // by Lease.clock
	foreign  bool          // no engine's entry
	removing bool
}

// New makes a lease; Run joins the others.
func New(o Options) *Lease {
	o.Beat = cmp.Or(o.Beat, beat)
	o.Expiry = cmp.Or(o.Expiry, expiry/beat*o.Beat)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Health == nil {
		o.Health = func() Health { return Health{} }
	}
	l := &Lease{o: o, key: engineKey(o.Self.Instance), base: time.Now(), settled: make(chan struct{}), over: make(chan struct{}),
		wake: make(chan struct{}, 1), cooling: map[int]time.Time{}, seen: map[string]*seen{}, taskKeys: map[string]taskKey{}}
	l.me = o.Self
	l.me.Format, l.me.Life, l.me.Since = formatVersion, newLife(), time.Now().UTC()
	l.me.Offers = Singletons(o.Self.Offers...).Singletons
	l.show()
	return l
}

// How often an engine tells of itself where nothing else is said, and after
// which time without a word it counts as gone.
const (
	beat   = time.Second
	expiry = 6 * beat
)

const enginePrefix = "engine."

func engineKey(instance string) string { return enginePrefix + events.Token(instance) }

// post has f done by Run.
func (l *Lease) post(f func()) {
	l.mu.Lock()
	l.box = append(l.box, f)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Lease) mail() []func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	box := l.box
	l.box = nil
	return box
}

// TaskKeys implements Keeper.
func (l *Lease) TaskKeys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.keys)
}

// Settled implements Keeper.
func (l *Lease) Settled() <-chan struct{} { return l.settled }

// Valid implements Keeper.
func (l *Lease) Valid() bool { return int64(time.Since(l.base)) < l.until.Load() }

// Lost implements Keeper.
func (l *Lease) Lost(vp int) {
	l.post(func() {
		gone := Partitions(vp)
		l.lost = l.lost.Union(gone)
		l.cool(gone)
		l.held = l.held.Minus(gone)
		l.put()
	})
}

// Held implements Keeper.
func (l *Lease) Held() Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holding
}

// Members implements Keeper.
func (l *Lease) Members() []Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.shown)
}

// Leave implements Keeper.
func (l *Lease) Leave(ctx context.Context) {
	l.leave.Store(true)
	l.post(func() {
		if l.taking {
			l.job() // what is not taken yet need not be released
		}
		l.put()
	})
	select {
	case <-l.over:
	case <-ctx.Done():
	}
}

// Run implements Keeper.
func (l *Lease) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer close(l.over)
	defer l.work.Wait()
	defer cancel()
	tick := time.NewTicker(l.o.Beat)
	defer tick.Stop()
	entries := l.watch(ctx)
	for ctx.Err() == nil {
		l.show()
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-entries:
			if !open {
				entries = l.watch(ctx)
				continue
			}
			l.turn()
			l.see(ctx, e)
		case <-l.wake:
			l.turn()
			for _, f := range l.mail() {
				f()
			}
		case <-tick.C:
			l.turn()
			l.beat(ctx)
		}
		l.send(ctx)
		if l.failed != nil {
			return l.failed
		}
		if l.act(ctx) {
			l.remove(ctx)
			l.show()
			return nil
		}
	}
	return nil
}

// turn begins a turn of Run. What is done in it counts as done now, even if
// the process stands still in the middle of it.
func (l *Lease) turn() {
	l.now = time.Now()
	if l.lapsed || l.echo.IsZero() || int64(l.now.Sub(l.base)) < l.until.Load() {
		return
	}
	l.o.Log.Error("this engine's lease has run out: it was not renewed in time, because NATS did not answer or the process stood still; everything is released",
		"partitions", l.held.Partitions.Len(), "singletons", l.held.Singletons)
	l.lapsed = true
	l.echo = time.Time{} // nothing is taken before we have seen how things stand
	if l.job != nil {
		l.job()
	}
}

// beat is what is to be done with each heartbeat.
func (l *Lease) beat(ctx context.Context) {
	l.put()
	if l.deaf() {
		l.watching() // the channel is closed, and the watch begins anew
	}
	l.clear(ctx)
	if l.caught && l.now.Sub(l.keyPut) > keyRefresh {
		l.putTaskKey(ctx)
	}
}

// show publishes what others may read.
func (l *Lease) show() {
	var others []Member
	for key, s := range l.seen {
		if key != l.key && l.alive(s) {
			others = append(others, s.m)
		}
	}
	slices.SortFunc(others, func(a, b Member) int { return strings.Compare(a.Instance, b.Instance) })
	me := l.me
	me.Holds, me.Leaving, me.Health = l.held, l.leave.Load(), l.o.Health()
	keys := l.publicKeys(others)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown, l.holding, l.keys = append([]Member{me}, others...), l.held, keys
}

// encode is the entry as it is to be told now.
func (l *Lease) encode() ([]byte, error) {
	l.me.Counter++
	l.me.Leaving = l.leave.Load()
	l.me.Holds = l.held.Union(l.claims)
	l.me.Health = l.o.Health().bounded()
	return json.Marshal(l.me)
}

// put asks for the entry to be stored as it is now.
func (l *Lease) put() { l.again = true }

// send stores the entry where put asked for it, one store at a time.
func (l *Lease) send(ctx context.Context) {
	if !l.again || l.putting || !l.caught {
		return
	}
	value, err := l.encode()
	if err != nil { // unreachable: texts and numbers always encode
		l.failed = err
		return
	}
	l.again, l.putting = false, true
	last, began := l.revision, l.now
	l.began = began
	l.work.Go(func() {
		one, cancel := context.WithTimeout(ctx, l.o.Expiry/2)
		defer cancel()
		revision, err := l.o.Board.Put(one, l.key, value, last)
		l.post(func() { l.putDone(revision, began, err) })
	})
}

func (l *Lease) putDone(revision uint64, began time.Time, err error) {
	l.putting = false
	if err != nil {
		l.o.Log.Warn("this engine's lease was not renewed; it is tried again", "error", err)
		l.await(1) // the watch tells what stands there
		return
	}
	l.renewed(began)
	l.revision = max(l.revision, revision)
	if s := l.seen[l.key]; s == nil || s.revision < revision {
		l.await(revision)
	}
}

// renewed notes that an entry was stored by a put that began then.
func (l *Lease) renewed(began time.Time) {
	if !l.lapsed {
		l.until.Store(max(l.until.Load(), int64(began.Add(l.o.Expiry).Sub(l.base))))
	}
}

// await notes that an own entry of a revision, at least, is to be seen soon.
func (l *Lease) await(revision uint64) {
	if l.awaited == 0 {
		l.stored = time.Now()
	}
	l.awaited = revision
}

// deaf reports whether what was stored ought to have been seen by now: the
// server has lost the watch, as it does when it is started again.
func (l *Lease) deaf() bool {
	return l.awaited > 0 && time.Since(l.stored) > 2*l.o.Beat
}

// remove takes the entry of an engine that has left off the board.
func (l *Lease) remove(ctx context.Context) {
	one, cancel := context.WithTimeout(ctx, l.o.Expiry/2)
	defer cancel()
	if err := l.o.Board.Delete(one, l.key, l.revision); err != nil {
		l.o.Log.Warn("this engine's lease was not removed; it runs out", "error", err)
	}
}

// watch gives the entries of the board, again and again until ctx ends. The
// channel is closed when the watch has to begin anew.
func (l *Lease) watch(ctx context.Context) <-chan Entry {
	ctx, l.watching = context.WithCancel(ctx)
	l.awaited, l.given = 0, false
	out := make(chan Entry)
	l.work.Go(func() {
		defer close(out)
		defer pause(ctx, l.o.Beat/4)
		in, err := l.o.Board.Watch(ctx)
		if err != nil {
			l.o.Log.Warn("the other engines cannot be watched; it is tried again", "error", err)
			return
		}
		for e := range in {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
