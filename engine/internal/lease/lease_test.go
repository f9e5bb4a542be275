package lease_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/lease/leasetest"
	"github.com/penstock-cd/penstock/events"
)

// world is engines on one board, in the time of synctest.
type world struct {
	*testing.T
	board  leasetest.Board
	mu     sync.Mutex
	holder map[int]string // by partition, as the hands have it
	runs   map[string]string
	twice  []string
	fails  error // of taking
}

func newWorld(t *testing.T) *world {
	return &world{T: t, holder: map[int]string{}, runs: map[string]string{}}
}

// engine is one of them.
type engine struct {
	*world
	*lease.Lease
	name  string
	kill  context.CancelFunc
	ended chan error
	takes time.Duration // how long taking takes
}

var offers = []string{"janitor", "router"}

func (w *world) start(name string) *engine { return w.startWith(name, 0) }

func (w *world) startWith(name string, takes time.Duration) *engine {
	e := &engine{world: w, name: name, ended: make(chan error, 1), takes: takes}
	e.Lease = lease.New(lease.Options{Board: &w.board, Hands: e, Self: lease.Member{Instance: name, TaskKey: "key of " + name, Offers: offers}})
	var ctx context.Context
	ctx, e.kill = context.WithCancel(w.Context())
	go func() { e.ended <- e.Run(ctx) }()
	return e
}

func (e *engine) Take(ctx context.Context, vps []int) error {
	select {
	case <-time.After(e.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fails != nil {
		return e.fails
	}
	for _, vp := range vps {
		if h := e.holder[vp]; h != "" {
			e.twice = append(e.twice, fmt.Sprintf("%d: %s and %s", vp, h, e.name))
		}
		e.holder[vp] = e.name
	}
	return nil
}

func (e *engine) Release(_ context.Context, vps []int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, vp := range vps {
		if e.holder[vp] == e.name {
			delete(e.holder, vp)
		}
	}
	return nil
}

func (e *engine) Start(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if by := e.runs[name]; by != "" {
		e.twice = append(e.twice, name+": "+by+" and "+e.name)
	}
	e.runs[name] = e.name
}

func (e *engine) Stop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs[name] == e.name {
		delete(e.runs, name)
	}
}

// die ends an engine as a kill does: what it holds stays as it is until its
// lease runs out, from when nobody counts on it.
func (e *engine) die() {
	e.kill()
	<-e.ended
	e.mu.Lock()
	defer e.mu.Unlock()
	for vp, h := range e.holder {
		if h == e.name {
			delete(e.holder, vp)
		}
	}
	for name, h := range e.runs {
		if h == e.name {
			delete(e.runs, name)
		}
	}
}

// share counts what an engine holds, by its hands.
func (w *world) share(name string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.holder {
		if h == name {
			n++
		}
	}
	return n
}

// after lets time pass and says whether everything is held once, by these.
func (w *world) after(d time.Duration, engines ...*engine) {
	w.Helper()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.twice) > 0 {
		w.Fatalf("two held the same: %v", w.twice)
	}
	var names []string
	for _, e := range engines {
		names = append(names, e.name)
	}
	for vp := range events.Partitions {
		if !slices.Contains(names, w.holder[vp]) {
			w.Fatalf("after %v partition %d is held by %q, not by one of %v", d, vp, w.holder[vp], names)
		}
	}
	for _, name := range offers {
		if !slices.Contains(names, w.runs[name]) {
			w.Fatalf("after %v the %s is run by %q, not by one of %v", d, name, w.runs[name], names)
		}
	}
}

func (w *world) end(engines ...*engine) {
	for _, e := range engines {
		e.kill()
	}
}

func TestTheFirstEngineTakesEverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(10*time.Millisecond, a)
		select {
		case <-a.Settled():
		default:
			t.Error("it is not settled")
		}
		if n := a.Held().Partitions.Len(); n != events.Partitions || !a.Valid() {
			t.Errorf("it holds %d, valid %v", n, a.Valid())
		}
		w.end(a)
	})
}

func TestEnginesShareAndHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		b := w.start("b")
		w.after(100*time.Millisecond, a, b)
		c := w.start("c")
		w.after(100*time.Millisecond, a, b, c)
		for _, e := range []*engine{a, b, c} {
			if n := w.share(e.name); n < 40 || n > 140 || n != e.Held().Partitions.Len() {
				t.Errorf("%s holds %d, and says %d", e.name, n, e.Held().Partitions.Len())
			}
			if n := len(e.Members()); n != 3 || e.Members()[0].Instance != e.name {
				t.Errorf("%s sees %d engines", e.name, n)
			}
			if got := e.TaskKeys(); len(got) != 3 || got[0] != "key of "+e.name {
				t.Errorf("%s knows the keys %v", e.name, got)
			}
		}
		began := time.Now()
		b.Leave(t.Context())
		if took := time.Since(began); took > time.Second {
			t.Errorf("leaving took %v", took)
		}
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
		w.after(100*time.Millisecond, a, c)
		if got := w.board.Keys(); slices.Contains(got, "engine.b") {
			t.Errorf("it has left an entry: %v", got)
		}
		w.end(a, c)
	})
}

func TestAnEngineThatDiesIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.after(time.Second, a, b)
		b.die()
		time.Sleep(5 * time.Second)
		if w.share("a") == events.Partitions {
			t.Error("it was given up too soon")
		}
		w.after(2100*time.Millisecond, a)
		w.end(a)
	})
}

func TestAFreshEngineNeedNotWaitForThoseOfLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		a.die()
		time.Sleep(time.Hour)
		b := w.start("b")
		w.after(10*time.Millisecond, b)
		w.end(b)
	})
}

func TestAnEngineThatIsStartedAgainUnderItsNameNeedNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		a.die()
		again := w.start("a")
		w.after(10*time.Millisecond, again)
		w.end(again)
	})
}

func TestOfTwoWithOneNameTheEarlierEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		other := w.start("a")
		if err := <-a.ended; !errors.Is(err, lease.ErrReplaced) {
			t.Errorf("it ended with %v", err)
		}
		other.kill()
		<-other.ended
	})
}

func TestAnOutageMakesNobodyGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b, c := w.start("a"), w.start("b"), w.start("c")
		w.after(3*time.Second, a, b, c)
		before := w.share("a")
		w.board.SetDown(true)
		time.Sleep(5 * time.Second)
		if !a.Valid() {
			t.Error("the lease has run out already")
		}
		time.Sleep(time.Minute)
		if a.Valid() || w.share("a")+w.share("b")+w.share("c") > 0 {
			t.Errorf("the lease is valid: %v; partitions are held: %d", a.Valid(), w.share("a"))
		}
		w.board.SetDown(false)
		w.after(3*time.Second, a, b, c)
		if w.share("a") != before {
			t.Errorf("it holds %d, before %d", w.share("a"), before)
		}
		w.end(a, b, c)
	})
}

func TestAWatchThatTheServerHasForgottenBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.after(3*time.Second, a, b)
		w.board.Forget()
		w.after(5*time.Second, a, b)
		b.die()
		w.after(8*time.Second, a)
		w.end(a)
	})
}

func TestAPartitionThatWasLostIsTakenBackOnlyWhenNobodyHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		w.mu.Lock()
		delete(w.holder, 7)
		w.mu.Unlock()
		a.Lost(7)
		time.Sleep(time.Second)
		if a.Held().Partitions.Has(7) {
			t.Error("it is still said to be held, or was taken back at once")
		}
		w.after(3*time.Second, a)
		w.end(a)
	})
}

func TestWhatCannotBeTakenIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = errors.New("no")
		a := w.start("a")
		time.Sleep(time.Second)
		if n := a.Held().Partitions.Len(); n != 0 {
			t.Errorf("it says that it holds %d", n)
		}
		w.mu.Lock()
		w.fails = nil
		w.mu.Unlock()
		w.after(5*time.Second, a)
		w.end(a)
	})
}

func TestAnEngineIsAliveWhileItTakesForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		w.after(time.Second, a)
		b := w.startWith("b", time.Minute)
		w.after(2*time.Minute, a, b)
		if n := w.share("b"); n < 64 {
			t.Errorf("it holds %d", n)
		}
		w.end(a, b)
	})
}

func TestLeavingDoesNotWaitForATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.startWith("a", time.Hour)
		time.Sleep(time.Second)
		began := time.Now()
		a.Leave(t.Context())
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		<-a.ended
	})
}

func TestEntriesThatCannotBeReadAreNoEngines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.board.Put(t.Context(), "engine.odd", []byte("{"), 0); err != nil {
			t.Fatal(err)
		}
		a := w.start("a")
		w.after(time.Second, a)
		if n := len(a.Members()); n != 1 {
			t.Errorf("%d engines", n)
		}
		w.end(a)
	})
}

func TestEntriesOfLongAgoAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.after(time.Second, a, b)
		b.die()
		w.after(3*time.Minute, a)
		if got := w.board.Keys(); slices.Contains(got, "engine.b") || !slices.Contains(got, "engine.a") {
			t.Errorf("the board has %v", got)
		}
		if got := a.TaskKeys(); len(got) != 2 {
			t.Errorf("the keys of what was signed before: %v", got)
		}
		w.end(a)
	})
}

func TestAloneHoldsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := &engine{world: w, name: "a", kill: func() {}}
		a := lease.NewAlone(lease.Options{Hands: e, Self: lease.Member{Instance: "a", TaskKey: "k", Offers: offers}})
		ended := make(chan error, 1)
		go func() { ended <- a.Run(t.Context()) }()
		<-a.Settled()
		w.after(0, e)
		if a.Lost(3); a.Held().Partitions.Has(3) || a.Held().Partitions.Len() != events.Partitions-1 {
			t.Error("what is lost is held")
		}
		a.Leave(t.Context())
		if err := <-ended; err != nil || len(w.runs) > 0 {
			t.Errorf("%v; %v still run", err, w.runs)
		}
	})
}

func TestAnEngineSeesBeforeItJoinsWhetherOthersAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sees := func(name string, want bool) {
			t.Helper()
			if others, err := lease.Others(t.Context(), &w.board, name); err != nil || others != want {
				t.Errorf("%s sees others: %v, %v; want %v", name, others, err, want)
			}
		}
		sees("a", false)
		a := w.start("a")
		<-a.Settled()
		sees("a", false) // what an earlier process of this name has told
		sees("b", true)
		a.kill()
		sees("b", true)
		time.Sleep(7 * time.Second)
		sees("b", false)
		w.board.SetDown(true)
		if _, err := lease.Others(t.Context(), &w.board, "b"); err == nil {
			t.Error("nobody is seen on a board that does not answer, and that is no error")
		}
		w.board.SetDown(false)
	})
}
