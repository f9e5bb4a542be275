package lease

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/penstock-cd/penstock/events"
)

// Alone holds everything for the only engine that there can be: the one with
// the embedded server, which the lock on the data directory keeps alone. It
// tells nobody and waits for nobody.
type Alone struct {
	hands   Hands
	self    Member
	health  func() Health
	settled chan struct{}
	leave   chan struct{}
	over    chan struct{}
	leaving sync.Once
	held    atomic.Pointer[Set]
}

// NewAlone makes the keeper of an engine that is alone.
func NewAlone(o Options) *Alone {
	a := &Alone{hands: o.Hands, self: o.Self, health: o.Health, settled: make(chan struct{}), leave: make(chan struct{}), over: make(chan struct{})}
	if a.health == nil {
		a.health = func() Health { return Health{} }
	}
	a.held.Store(&Set{})
	return a
}

// Run implements Keeper: it takes everything at once.
func (a *Alone) Run(ctx context.Context) error {
	defer close(a.over)
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	if err := a.hands.Take(ctx, vps); err != nil {
		return fmt.Errorf("take the partitions: %w", err)
	}
	all := Partitions(vps...).Union(Singletons(a.self.Offers...))
	a.held.Store(&all)
	for _, name := range a.self.Offers {
		a.hands.Start(name)
	}
	close(a.settled)
	select {
	case <-ctx.Done():
		return nil
	case <-a.leave:
	}
	for _, name := range a.self.Offers {
		a.hands.Stop(name)
	}
	return nil
}

// Settled implements Keeper.
func (a *Alone) Settled() <-chan struct{} { return a.settled }

// Leave implements Keeper. Nobody waits for the partitions, so they are not
// released: closing the owner carries out what is left.
func (a *Alone) Leave(ctx context.Context) {
	a.leaving.Do(func() { close(a.leave) })
	select {
	case <-a.over:
	case <-ctx.Done():
	}
}

// Valid implements Keeper.
func (a *Alone) Valid() bool { return true }

// Lost implements Keeper. Somebody writes here who ought not to be there: the
// partition stays lost.
func (a *Alone) Lost(vp int) {
	for {
		old := a.held.Load()
		now := old.Minus(Partitions(vp))
		if a.held.CompareAndSwap(old, &now) {
			return
		}
	}
}

// Held implements Keeper.
func (a *Alone) Held() Set { return *a.held.Load() }

// Members implements Keeper.
func (a *Alone) Members() []Member {
	m := a.self
	m.Holds, m.Health = a.Held(), a.health()
	return []Member{m}
}

// TaskKeys implements Keeper.
func (a *Alone) TaskKeys() []string { return []string{a.self.TaskKey} }
