package sim

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
)

// net holds everything that is on its way and lets it arrive one by one, in an
// order that the seed decides. Nothing else in a simulation moves meanwhile:
// before each choice every goroutine waits.
type net struct {
	rng  *rand.Rand
	hash hash.Hash // of what was chosen
	log  []string  // the same in words; for failures

	last func(stream string) uint64

	mu      sync.Mutex
	parked  []*parked
	number  uint64
	arrived chan struct{}
	closed  bool

	held  map[string]time.Time // by process: nothing of it moves until then
	fates []fate               // for the events to come
	count map[string]int       // faults that have struck, by kind
}

type parked struct {
	*fakejs.Event
	number uint64
	since  time.Time
}

// fate waits for an event that it fits.
type fate struct {
	name string
	fits func(*fakejs.Event) bool
	lost bool
	give fakejs.Fate
	then func(e *fakejs.Event, before uint64) // once it has arrived; before was the last sequence of its stream
}

func newNet(seed uint64) *net {
	return &net{rng: rand.New(rand.NewPCG(seed, 0x5eed)), hash: sha256.New(), arrived: make(chan struct{}, 1),
		held: map[string]time.Time{}, count: map[string]int{}}
}

// Submit implements fakejs.Net.
func (n *net) Submit(e *fakejs.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.number++
	n.parked = append(n.parked, &parked{e, n.number, time.Now()})
	select {
	case n.arrived <- struct{}{}:
	default:
	}
}

// close drops what is on its way and all that is still to come.
func (n *net) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed, n.parked = true, nil
}

// of is the process that a connection belongs to.
func of(client string) string {
	name, _, _ := strings.Cut(client, " ")
	return name
}

// hold lets nothing of a process move for a while.
func (n *net) hold(process string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[process] = time.Now().Add(d)
}

// heal ends what is still to befall events.
func (n *net) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fates, n.held = nil, map[string]time.Time{}
}

// strike has something befall the next event that it fits.
func (n *net) strike(f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fates = append(n.fates, f)
}

// drop loses what is on its way of a process, or some of it.
func (n *net) drop(process string, all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sort()
	n.parked = slices.DeleteFunc(n.parked, func(p *parked) bool {
		return of(p.Client) == process && p.Kind != fakejs.Delivery && (all || n.rng.IntN(2) == 0)
	})
}

// sort puts what is parked in an order that does not depend on which goroutine
// was faster.
func (n *net) sort() {
	slices.SortStableFunc(n.parked, func(a, b *parked) int {
		return cmp.Or(a.since.Compare(b.since), strings.Compare(a.Client, b.Client), strings.Compare(string(a.Kind), string(b.Kind)),
			strings.Compare(a.Stream, b.Stream), strings.Compare(a.Verb, b.Verb), strings.Compare(a.What, b.What), cmp.Compare(a.number, b.number))
	})
}

// choose takes the next event out, with its fate; nil when nothing may move now.
func (n *net) choose() (*parked, fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sort()
	now := time.Now()
	var may []int
	for i, p := range n.parked {
		if until, held := n.held[of(p.Client)]; held && now.Before(until) {
			continue
		}
		may = append(may, i)
	}
	if len(may) == 0 {
		return nil, fate{}
	}
	i := may[n.rng.IntN(len(may))]
	p := n.parked[i]
	n.parked = slices.Delete(n.parked, i, i+1)
	for j, f := range n.fates {
		if f.fits(p.Event) {
			n.fates = slices.Delete(n.fates, j, j+1)
			n.count[f.name]++
			return p, f
		}
	}
	return p, fate{}
}

// onItsWay is how many events are.
func (n *net) onItsWay() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.parked)
}

// step lets one event arrive, or lets time pass when there is none that may.
// idle is for how long at most.
func (n *net) step(idle time.Duration) {
	synctest.Wait()
	if n.rng.IntN(10) == 0 { // the network takes its time
		n.sleep(time.Duration(n.rng.IntN(20)) * time.Millisecond)
	}
	p, f := n.choose()
	if p == nil {
		n.note("nothing moves; on its way: %d", n.onItsWay())
		n.wait(idle)
		return
	}
	n.note("%d: %s %s %s %s %s %s", n.onItsWay(), p.Client, p.Kind, p.Stream, p.Verb, p.What, f.name)
	if f.lost {
		return
	}
	n.sleep(time.Duration(1 + n.rng.IntN(99_999))) // to an instant at which nothing else happens
	before := n.last(p.Stream)
	p.Arrive(f.give)
	if f.then != nil {
		f.then(p.Event, before)
	}
	synctest.Wait()
}

func (n *net) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wait lets time pass until something is on its way, for at most a while.
func (n *net) wait(most time.Duration) {
	select { // what has come before has been looked at
	case <-n.arrived:
	default:
	}
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-n.arrived:
	case <-t.C:
	}
	synctest.Wait()
}

// kept is how many of the last choices are told when a simulation fails.
const kept = 40000

func (n *net) note(format string, args ...any) {
	line := fmt.Sprintf("%12s ", time.Since(epoch).Round(time.Millisecond)) + fmt.Sprintf(format, args...)
	fmt.Fprintln(n.hash, line)
	if n.log = append(n.log, line); len(n.log) > 2*kept {
		n.log = slices.Clone(n.log[kept:])
	}
}
