package owner

import (
	"cmp"
	"container/list"
	"sync"
	"time"
)

// How many states are kept in memory while nothing is done with them, and how
// large the records are that they were read from. What is forgotten is read
// again when it is needed.
const (
	residentStates = 100_000
	residentBytes  = 256 << 20
	residentFor    = time.Minute
)

// resident knows the lanes that rest, those that have rested longest first. It
// may know some that run again, or that are gone: whoever forgets a lane looks.
type resident struct {
	states int
	bytes  int64

	mu    sync.Mutex
	order *list.List    // of *resting; a lane knows its place
	held  int64         // bytes of what is in order
	over  chan struct{} // there is too much
}

// resting is a lane that rests.
type resting struct {
	p     *partition
	k     key
	l     *lane
	size  int64
	since time.Time
}

func newResident(o Options) *resident {
	return &resident{states: residentStates, bytes: cmp.Or(o.Resident, residentBytes), order: list.New(), over: make(chan struct{}, 1)}
}

// rests notes that a lane has come to rest now. Its partition's mu is held.
func (r *resident) rests(p *partition, k key, l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.place == nil {
		l.place = r.order.PushBack(&resting{p: p, k: k, l: l})
	}
	r.order.MoveToBack(l.place)
	x := l.place.Value.(*resting)
	r.held += int64(l.size) - x.size
	if x.size, x.since = int64(l.size), l.used; r.tooMuch() {
		select {
		case r.over <- struct{}{}:
		default:
		}
	}
}

// gone notes that a lane is forgotten.
func (r *resident) gone(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(l)
}

func (r *resident) remove(l *lane) {
	if l.place != nil {
		r.held -= r.order.Remove(l.place).(*resting).size
		l.place = nil
	}
}

func (r *resident) tooMuch() bool { return r.order.Len() > r.states || r.held > r.bytes }

// next takes out the lane that has rested longest, if that is too long or there
// is too much.
func (r *resident) next(now time.Time) *resting {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.order.Front()
	if first == nil {
		return nil
	}
	x := first.Value.(*resting)
	if !r.tooMuch() && now.Sub(x.since) <= residentFor {
		return nil
	}
	r.remove(x.l)
	return x
}

// evict forgets states, until the owner is closed.
func (o *Owner) evict() {
	tick := time.NewTicker(residentFor / 6)
	defer tick.Stop()
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-tick.C:
		case <-o.resident.over:
		}
		for x := o.resident.next(time.Now()); x != nil; x = o.resident.next(time.Now()) {
			x.p.forget(x.k, x.l)
		}
	}
}

// forget forgets the state of an aggregate, unless something is done with it.
func (p *partition) forget(k key, l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lanes[k] == l && !l.running && len(l.queue) == 0 {
		delete(p.lanes, k)
	}
}
