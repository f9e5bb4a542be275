package owner_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/relay"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// node is an engine of a group: an owner and its relay, on a store that all
// of them share.
type node struct {
	*owner.Owner
	relay   *relay.Relay
	mu      sync.Mutex
	lost    map[int]int // how often a partition was reported lost
	stopped map[int]error
}

// group is several engines on one store.
type group struct {
	t     *testing.T
	m     *journal.Memory
	nodes []*node
}

func newGroup(t *testing.T, m *journal.Memory) *group { return &group{t: t, m: m} }

// join adds an engine that owns nothing yet. What its aggregates send to
// others reaches whoever owns them.
func (g *group) join(name string) *node {
	g.t.Helper()
	j := g.m.Open()
	n := &node{lost: map[int]int{}, stopped: map[int]error{}}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	n.relay = relay.New(relay.Options{Journal: j, Tasks: g.m.Publisher(events.StreamTasks), Out: g.m.Publisher(events.StreamOut), Key: key})
	n.Owner = owner.New(owner.Options{Journal: j, Catalogs: catalogs{compile(g.t, definitions)}, Relay: n.relay, Instance: name,
		Beat: time.Second, BeatOut: time.Minute, Send: g.try,
		Lost:    func(vp int, _ error) { n.note(func() { n.lost[vp]++ }) },
		Stopped: func(vp int, err error) { n.note(func() { n.stopped[vp] = err }) }})
	g.nodes = append(g.nodes, n)
	g.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		n.Close(ctx)
		n.relay.Close(ctx)
	})
	return n
}

func (n *node) note(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) take(t *testing.T, vps ...int) {
	t.Helper()
	if err := n.Take(t.Context(), vps); err != nil {
		t.Fatal(err)
	}
}

func all() []int { return span(0, events.Partitions) }

func span(from, to int) (vps []int) {
	for vp := from; vp < to; vp++ {
		vps = append(vps, vp)
	}
	return vps
}

// try asks every engine once.
func (g *group) try(ctx context.Context, agg, id string, in record.Input) events.Answer {
	var a events.Answer
	first := rand.IntN(len(g.nodes))
	for i := range g.nodes {
		n := g.nodes[(first+i)%len(g.nodes)]
		if a = n.Do(ctx, agg, id, in); a.Code != events.CodeNotOwner {
			return a
		}
	}
	return a
}

// do repeats a command until somebody has carried it out.
func (g *group) do(agg, id string, in record.Input) events.Answer {
	for {
		a := g.try(g.t.Context(), agg, id, in)
		if a.Final() || g.t.Context().Err() != nil {
			return a
		}
		time.Sleep(time.Millisecond)
	}
}

// job takes a run of the workflow "job" from its start to its end.
func (g *group) job(id string) {
	g.do(record.Run, id, record.Input{ID: "start-" + id, Kind: record.InStart, By: "admin", Admin: true,
		Start: &record.Start{Run: id, Workflow: "job"}})
	task := g.taskOf(id)
	g.do(record.Run, id, record.Input{ID: "s", Kind: record.InAttemptStart, By: "worker:w", Attempt: &record.Attempt{Task: task, Worker: "w"}})
	a := g.do(record.Run, id, record.Input{ID: "f", Kind: record.InAttemptFinish, By: "worker:w",
		Attempt: &record.Attempt{Task: task, Worker: "w", Result: &events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"n": 1.0}}}})
	if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		g.t.Errorf("%s: its result is answered %+v", id, a)
	}
}

// taskOf gives the id of the first task of a run.
func (g *group) taskOf(id string) string {
	for g.t.Context().Err() == nil {
		for _, n := range g.nodes {
			state, _, err := n.State(g.t.Context(), record.Run, id)
			if s, ok := state.(*run.State); err == nil && ok && s != nil {
				return s.Tasks[0].ID
			}
		}
		time.Sleep(time.Millisecond)
	}
	return ""
}

// load has runs go from start to end until stopped; wait gives their ids.
func (g *group) load(lanes int) (wait func() []string) {
	stop := make(chan struct{})
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("r%d-%d", lane, i)
				g.job(id)
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	return func() []string {
		close(stop)
		wg.Wait()
		return ids
	}
}

// published waits until the event of each run's end has been published.
func (g *group) published(ids []string) {
	g.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		out, _ := g.m.Published(events.StreamOut)
		ended := map[string]bool{}
		for _, e := range out {
			var ev events.Event
			if err := ev.UnmarshalJSON(e.Data); err != nil {
				g.t.Fatal(err)
			}
			if ev.Type == events.RunFinished {
				ended[ev.Subject] = true
			}
		}
		missing := ""
		for _, id := range ids {
			if !ended[id] {
				missing = id
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("of %d runs only the end of %d was told, of %s not", len(ids), len(ended), missing)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestPartitionsAreHandedOverUnderLoadAndNothingIsLostOrDoubled(t *testing.T) {
	g := newGroup(t, journal.NewMemory(nil))
	a, b := g.join("a"), g.join("b")
	a.take(t, all()...)
	wait := g.load(8)
	from, to := a, b
	for round := range 6 {
		for vp := 0; vp < events.Partitions; vp += 32 {
			if err := from.Release(t.Context(), span(vp, vp+32)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			to.take(t, span(vp, vp+32)...)
		}
		from, to = to, from
	}
	ids := wait()
	for _, id := range ids {
		verify(t, g.m, id, 3)
	}
	g.published(ids)
	for _, n := range g.nodes {
		if len(n.lost) > 0 {
			t.Errorf("a partition that was given back was reported lost: %v", n.lost)
		}
	}
}

func TestATakeOverWithoutAHandOverLosesAndDoublesNothing(t *testing.T) {
	g := newGroup(t, journal.NewMemory(nil))
	a, b := g.join("a"), g.join("b")
	a.take(t, all()...)
	wait := g.load(8)
	from, to := a, b
	for range 4 {
		to.take(t, all()...)
		// whoever was taken over notices when he is asked for anything, and
		// drops what nobody has asked for before he takes it back
		target := to.Applied() + 100
		for to.Applied() < target && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		from.Reassure()
		if left := holdings(from); len(left) > 0 {
			t.Fatalf("it still believes that it holds %v", left)
		}
		from, to = to, from
	}
	ids := wait()
	for _, id := range ids {
		verify(t, g.m, id, 3)
	}
	g.published(ids)
	if len(a.lost) == 0 || len(b.lost) == 0 {
		t.Errorf("lost partitions were not reported: %d and %d", len(a.lost), len(b.lost))
	}
}

func holdings(n *node) (vps []int) {
	for vp := range events.Partitions {
		if n.Owns(vp) {
			vps = append(vps, vp)
		}
	}
	return vps
}

// Whatever three engines try at once, the record stays whole.
func TestEnginesThatFightForPartitionsDoNoHarm(t *testing.T) {
	g := newGroup(t, journal.NewMemory(nil))
	for _, name := range []string{"a", "b", "c"} {
		g.join(name)
	}
	g.nodes[0].take(t, all()...)
	wait := g.load(6)
	var wg sync.WaitGroup
	for i, n := range g.nodes {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 60 {
				vp := rnd.IntN(events.Partitions - 16)
				vps := span(vp, vp+1+rnd.IntN(16))
				if rnd.IntN(3) == 0 {
					n.Release(t.Context(), vps) // a checkpoint may be another's by now
				} else if err := n.Take(t.Context(), vps); err != nil && !strings.Contains(err.Error(), "already") {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // the same engine, at the same time
			rnd := rand.New(rand.NewPCG(2, uint64(i)))
			for range 60 {
				vp := (i*89 + rnd.IntN(40)) % events.Partitions
				if err := n.Take(t.Context(), []int{vp}); err != nil && !strings.Contains(err.Error(), "already") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	g.nodes[1].Release(t.Context(), all())
	g.nodes[1].take(t, all()...)
	ids := wait()
	for _, id := range ids {
		verify(t, g.m, id, 3)
	}
	g.published(ids)
}

func TestAPartitionThatIsNotOwnedIsSaidAndNothingIsDone(t *testing.T) {
	m := journal.NewMemory(nil)
	n := newGroup(t, m).join("a")
	vp := events.Partition(record.Run, "r1")
	n.take(t, (vp+1)%events.Partitions)
	in := record.Input{ID: "s", Kind: record.InStart, By: "admin", Admin: true, Start: &record.Start{Run: "r1", Workflow: "job"}}
	if a := n.Do(t.Context(), record.Run, "r1", in); a.Status != events.StatusBusy || a.Code != events.CodeNotOwner || a.RetryAfter == 0 {
		t.Errorf("a command: %+v", a)
	}
	if _, _, err := n.State(t.Context(), record.Run, "r1"); !errors.Is(err, owner.ErrNotOwner) {
		t.Errorf("a look: %v", err)
	}
	if a := n.Heartbeat(t.Context(), events.HeartbeatRequest{Run: "r1", Task: "x"}); a.Code != events.CodeNotOwner {
		t.Errorf("a heartbeat: %+v", a)
	}
	if _, err := m.Open().Last(t.Context(), events.LogSubject(record.Run, "r1")); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("something was stored: %v", err)
	}
}

func TestAnOwnerThatStoodStillFindsOutWhatItLost(t *testing.T) {
	g := newGroup(t, journal.NewMemory(nil))
	a, b := g.join("a"), g.join("b")
	a.take(t, 1, 2, 3)
	b.take(t, 2)
	a.Reassure()
	if a.Owns(2) || !a.Owns(1) || !a.Owns(3) || a.lost[2] != 1 || len(a.lost) != 1 {
		t.Errorf("it holds %v and reports %v", holdings(a), a.lost)
	}
	b.Reassure()
	if !b.Owns(2) || len(b.lost) != 0 {
		t.Errorf("the other one holds %v and reports %v", holdings(b), b.lost)
	}
}

func TestAPartitionIsTakenByOneCallAtATime(t *testing.T) {
	m := journal.NewMemory(nil)
	w := &meddled{Journal: m.Open()}
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	w.own = func([]int) {
		if once.CompareAndSwap(false, true) {
			close(begun)
			<-goOn
		}
	}
	f := &fixture{out: &carried{seen: make(chan struct{}, 1)}}
	f.Owner = owner.New(owner.Options{Journal: w, Catalogs: catalogs{compile(t, definitions)}, Relay: f.out, Instance: "e"})
	defer f.Close(context.Background())
	first := make(chan error)
	go func() { first <- f.Take(t.Context(), []int{1, 2}) }()
	<-begun
	if err := f.Take(t.Context(), []int{2, 3}); err == nil || !strings.Contains(err.Error(), "partition 2") {
		t.Errorf("a second take at once: %v", err)
	}
	if err := f.Take(t.Context(), []int{3}); err != nil {
		t.Errorf("another partition meanwhile: %v", err)
	}
	if f.Owns(1) {
		t.Error("it is owned before it was taken")
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := f.Take(t.Context(), []int{1, 2, 3}); err != nil {
		t.Errorf("what is held is taken again: %v", err)
	}
	if err := f.Release(t.Context(), []int{1, 200}); err != nil || f.Owns(1) || !f.Owns(2) {
		t.Errorf("given back: %v, %v, %v", err, f.Owns(1), f.Owns(2))
	}
}

func TestATakeThatFailsHoldsNothing(t *testing.T) {
	m := journal.NewMemory(nil)
	n := newGroup(t, m).join("a")
	m.Inject(func(string, []byte) journal.Fault { return journal.FaultUnavailable })
	if err := n.Take(t.Context(), []int{1, 2}); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if n.Owns(1) || n.Owns(2) {
		t.Error("it holds a partition all the same")
	}
	m.Inject(nil)
	n.take(t, 1, 2)
	if !n.Owns(1) || !n.Owns(2) {
		t.Error("it does not hold them")
	}
}
