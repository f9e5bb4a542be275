package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

func newLife() string { return rand.Text()[:10] }

// see takes what the board says.
func (l *Lease) see(ctx context.Context, e Entry) {
	switch {
	case e.Caught:
		if !l.given {
			l.revision = 0 // there is no entry of ours
		}
		l.caught = true
		l.put()
		l.putTaskKey(ctx)
	case strings.HasPrefix(e.Key, keyPrefix):
		l.seeTaskKey(e)
	case strings.HasPrefix(e.Key, enginePrefix):
		l.seeEngine(ctx, e)
	}
}

func (l *Lease) seeEngine(ctx context.Context, e Entry) {
	own := e.Key == l.key
	if own {
		l.given, l.revision = true, e.Revision
		if e.Revision >= l.awaited {
			l.awaited = 0
		}
	}
	if e.Value == nil {
		delete(l.seen, e.Key)
		if own { // somebody took us for dead for long
			l.put()
		}
		return
	}
	m, err := decodeMember(e.Value)
	if err != nil {
		l.o.Log.Warn("an engine's entry cannot be read and is passed over", "key", e.Key, "error", err)
		l.seen[e.Key] = &seen{revision: e.Revision, foreign: true}
		return
	}
	s := l.seen[e.Key]
	if s == nil {
		s = &seen{changed: l.clock}
		l.seen[e.Key] = s
	}
	if s.m.Counter != m.Counter || s.m.Life != m.Life {
		s.changed = l.clock
	}
	s.m, s.revision, s.at, s.foreign = m, e.Revision, e.At, false
	switch {
	case own && m.Life == l.me.Life:
		l.hear(ctx, e.At)
	case own && l.first:
		l.failed = ErrReplaced
	}
}

// hear has seen our own entry: the board works, and what it says is as new as
// that entry.
func (l *Lease) hear(ctx context.Context, at time.Time) {
	if !l.echo.IsZero() {
		l.clock += min(l.now.Sub(l.echo), 2*l.o.Beat)
	}
	if l.seen[l.key].m.Counter == l.me.Counter {
		l.renewed(l.began)
	}
	if l.Valid() {
		l.echo = l.now
	}
	if !l.first {
		l.first = true
		l.bury(at)
		l.clearTaskKeys(ctx, at)
	}
	if !l.claims.Empty() && !l.heard && l.seen[l.key].m.Counter >= l.claimed {
		l.confirm()
	}
}

// confirm keeps of what we claim what nobody else has claimed before us.
func (l *Lease) confirm() {
	for key, s := range l.seen {
		if key != l.key && l.alive(s) {
			l.claims = l.claims.Minus(s.m.Holds)
		}
	}
	l.heard = !l.claims.Empty()
	if !l.heard {
		l.put()
	}
}

// bury makes those count as gone at once who told nothing for long before we
// came, by the server's clock, which stamps all entries. Were it wrong, the
// fence would still decide.
func (l *Lease) bury(now time.Time) {
	for key, s := range l.seen {
		if key != l.key && now.Sub(s.at) > l.o.Expiry {
			s.changed = l.clock - l.o.Expiry
		}
	}
}

// alive reports whether an engine counts as alive.
func (l *Lease) alive(s *seen) bool { return !s.foreign && l.clock-s.changed < l.o.Expiry }

// members are the engines that are alive, with what each holds or claims.
func (l *Lease) members() []Member {
	me := l.me
	me.Leaving, me.Holds = l.leave.Load(), l.held.Union(l.claims)
	all := []Member{me}
	for key, s := range l.seen {
		if key != l.key && l.alive(s) {
			all = append(all, s.m)
		}
	}
	return all
}

// act does what is to be done now, one thing at a time. It reports whether
// this engine has left.
func (l *Lease) act(ctx context.Context) (left bool) {
	switch {
	case l.job != nil:
	case l.lapsed || l.leave.Load():
		l.claims, l.heard = Set{}, false
		if !l.held.Empty() {
			l.release(ctx, l.held)
			break
		}
		if l.lapsed = false; !l.leave.Load() {
			l.put()
		}
		return l.leave.Load() && !l.putting
	case l.echo.IsZero() || !l.Valid():
	default:
		l.share(ctx)
	}
	return false
}

// share does the next thing by which everybody comes to have what he should.
func (l *Lease) share(ctx context.Context) {
	take, release := Decide(l.me.Instance, l.members())
	take, release = take.Minus(l.cooled()), release.Intersect(l.held)
	switch {
	case !release.Empty():
		l.release(ctx, release)
	case l.heard:
		l.take(ctx)
	case !l.claims.Empty():
	case !take.Empty():
		l.claims, l.claimed = take, l.me.Counter+1
		l.put()
		l.send(ctx)
	default:
		l.settle()
	}
}

// settle says that all is taken that was to be taken at the start, and shows it
// first: who hears of it asks what is held.
func (l *Lease) settle() {
	select {
	case <-l.settled:
	default:
		l.show()
		close(l.settled)
	}
}

// begin has the hands do something; done is called with what came of it.
func (l *Lease) begin(ctx context.Context, do func(ctx context.Context) error, done func(error)) {
	ctx, l.job = context.WithCancel(ctx)
	l.work.Go(func() {
		err := do(ctx)
		l.post(func() {
			l.job()
			l.job = nil
			done(err)
		})
	})
}

// takingIsLong is after how long a takeover is told of that is not over.
const takingIsLong = 30 * time.Second

// take takes what was claimed. Singletons need none of the partitions, so they
// do not wait for them.
func (l *Lease) take(ctx context.Context) {
	claims := l.claims
	l.taking, l.lost = true, Set{}
	l.begin(ctx, func(ctx context.Context) error {
		for _, name := range claims.Singletons {
			l.o.Hands.Start(name)
		}
		if claims.Partitions.Len() == 0 {
			return nil
		}
		late := time.AfterFunc(takingIsLong, func() {
			l.o.Log.Warn("taking partitions over takes long; nothing goes on in them meanwhile", "partitions", claims.Partitions.Len(), "for", takingIsLong)
		})
		defer late.Stop()
		return l.o.Hands.Take(ctx, claims.Partitions.List())
	}, l.taken)
}

// taken notes what became of the claims.
func (l *Lease) taken(err error) {
	got := l.claims
	if err != nil {
		l.o.Log.Error("partitions could not be taken; it is tried again", "partitions", got.Partitions.Len(), "error", err)
		failed := Set{Partitions: got.Partitions}
		l.cool(failed)
		got = got.Minus(failed)
	}
	l.held = l.held.Union(got.Minus(l.lost))
	l.claims, l.heard, l.taking = Set{}, false, false
	l.o.Log.Info("taken", "partitions", got.Partitions.Len(), "singletons", got.Singletons, "held", l.held.Partitions.Len())
	l.put()
}

// releaseIn is how long what is under way in a partition may take to be carried out.
const releaseIn = 20 * time.Second

// release lets go of what is held, and says so when it is done.
func (l *Lease) release(ctx context.Context, gone Set) {
	limit := releaseIn
	if l.lapsed {
		limit = l.o.Beat // others have it by now, or nobody can write
	}
	l.begin(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		for _, name := range gone.Singletons {
			l.o.Hands.Stop(name)
		}
		if gone.Partitions.Len() == 0 {
			return nil
		}
		return l.o.Hands.Release(ctx, gone.Partitions.List())
	}, func(err error) {
		if err != nil {
			l.o.Log.Warn("partitions were not released cleanly; who takes them carries out what is left", "error", err)
		}
		l.held = l.held.Minus(gone)
		l.o.Log.Info("released", "partitions", gone.Partitions.Len(), "singletons", gone.Singletons, "held", l.held.Partitions.Len())
		l.put()
	})
}

// cool keeps this engine from trying again at once.
func (l *Lease) cool(s Set) {
	for _, vp := range s.Partitions.List() {
		l.cooling[vp] = l.now.Add(2 * l.o.Beat)
	}
}

func (l *Lease) cooled() (s Set) {
	for vp, until := range l.cooling {
		if l.now.After(until) {
			delete(l.cooling, vp)
			continue
		}
		s = s.Union(Partitions(vp))
	}
	return s
}

// clear removes the entries of engines that are gone for long.
func (l *Lease) clear(ctx context.Context) {
	for key, s := range l.seen {
		if key == l.key || s.foreign || s.removing || l.clock-s.changed < 20*l.o.Expiry {
			continue
		}
		s.removing = true
		l.drop(ctx, key, s.revision)
	}
}

// drop removes an entry that has not changed.
func (l *Lease) drop(ctx context.Context, key string, revision uint64) {
	l.work.Go(func() {
		one, cancel := context.WithTimeout(ctx, l.o.Expiry)
		defer cancel()
		if err := l.o.Board.Delete(one, key, revision); err != nil && !errors.Is(err, ErrConflict) && ctx.Err() == nil {
			l.o.Log.Warn("an entry that nobody needs any more was not removed", "key", key, "error", err)
		}
	})
}

// Task keys stay known when their engine is gone: what it has signed may still
// wait for a worker.
const (
	keyPrefix   = "key."
	keyRefresh  = 24 * time.Hour
	keyLifetime = 30 * keyRefresh
)

type taskKey struct {
	public   string
	revision uint64
	at       time.Time
}

func (l *Lease) seeTaskKey(e Entry) {
	if e.Value == nil {
		delete(l.taskKeys, e.Key)
		return
	}
	l.taskKeys[e.Key] = taskKey{string(e.Value), e.Revision, e.At}
}

// putTaskKey tells our key.
func (l *Lease) putTaskKey(ctx context.Context) {
	if l.me.TaskKey == "" {
		return
	}
	l.keyPut = l.now
	key, known := keyPrefix+events.Token(l.me.TaskKey), uint64(0)
	if k, ok := l.taskKeys[key]; ok {
		known = k.revision
	}
	l.work.Go(func() {
		one, cancel := context.WithTimeout(ctx, l.o.Expiry)
		defer cancel()
		if _, err := l.o.Board.Put(one, key, []byte(l.me.TaskKey), known); err != nil && ctx.Err() == nil {
			l.o.Log.Warn("the key that signs tasks was not told to the other engines", "error", err)
		}
	})
}

// clearTaskKeys removes keys that nobody has used for so long that nothing
// signed with them can wait any more.
func (l *Lease) clearTaskKeys(ctx context.Context, now time.Time) {
	for key, k := range l.taskKeys {
		if now.Sub(k.at) > keyLifetime && k.public != l.me.TaskKey {
			l.drop(ctx, key, k.revision)
		}
	}
}

// publicKeys are our key, those on the board and those of living engines.
func (l *Lease) publicKeys(others []Member) []string {
	var list []string
	for _, k := range l.taskKeys {
		list = append(list, k.public)
	}
	for _, m := range others {
		list = append(list, m.TaskKey)
	}
	slices.Sort(list)
	list = slices.DeleteFunc(slices.Compact(list), func(k string) bool { return k == "" || k == l.me.TaskKey })
	return append([]string{l.me.TaskKey}, list...)
}
