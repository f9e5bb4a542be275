package owner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// meddled is a journal whose calls a test may get in the way of.
type meddled struct {
	journal.Journal
	own  func(vps []int) // also before the partition is owned again
	last func(subject string) error
}

func (w *meddled) Own(ctx context.Context, vps []int, who []byte) error {
	if w.own != nil {
		w.own(vps)
	}
	return w.Journal.Own(ctx, vps, who)
}

func (w *meddled) Renew(ctx context.Context, vp int, expect uint64, who []byte) error {
	if w.own != nil {
		w.own([]int{vp})
	}
	return w.Journal.Renew(ctx, vp, expect, who)
}

func (w *meddled) Last(ctx context.Context, subject string) (journal.Entry, error) {
	if w.last != nil {
		if err := w.last(subject); err != nil {
			return journal.Entry{}, err
		}
	}
	return w.Journal.Last(ctx, subject)
}

// unreliable is a store of definitions that sometimes does not answer for old ones.
type unreliable struct {
	old, now atomic.Pointer[workflows.Catalog]
	fails    atomic.Bool
}

func (c *unreliable) Current() *workflows.Catalog { return c.now.Load() }
func (c *unreliable) ByDigest(string) (*workflows.Catalog, error) {
	if c.fails.Load() {
		return nil, errors.New("the store does not answer")
	}
	return c.old.Load(), nil
}

const another = `
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: other}
spec: {target: {local: {}}}
`

func compile(t testing.TB, text string) *workflows.Catalog {
	t.Helper()
	set, problems := parse.Files([]parse.File{{Name: "defs.yaml", Content: []byte(text)}})
	if parse.Failed(problems) {
		t.Fatal(parse.Text(problems))
	}
	return set.Catalog()
}

func newUnreliable(t *testing.T) *unreliable {
	c := &unreliable{}
	c.old.Store(compile(t, definitions))
	c.now.Store(c.old.Load())
	return c
}

func startOn(t *testing.T, j journal.Journal, c owner.Catalogs, wall func() time.Time) *fixture {
	t.Helper()
	return startWith(t, owner.Options{Journal: j, Catalogs: c, Instance: "e", Beat: time.Second, BeatOut: time.Minute, Wall: wall})
}

// sharing gives a run id in the partition of another one.
func sharing(id string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprintf("x%d", i); events.Partition(record.Run, other) == events.Partition(record.Run, id) {
			return other
		}
	}
}

// unknownOnce makes the outcome of the next record of a run unknown.
func unknownOnce(m *journal.Memory, id string, fault journal.Fault) {
	var once atomic.Bool
	m.Inject(func(subject string, _ []byte) journal.Fault {
		if subject == events.LogSubject(record.Run, id) && once.CompareAndSwap(false, true) {
			return fault
		}
		return journal.FaultNone
	})
}

func TestALostAnswerDisturbsNoOtherRunOfThePartition(t *testing.T) {
	m := journal.NewMemory(nil)
	w := &meddled{Journal: m.Open()}
	f := startOn(t, w, catalogs{compile(t, definitions)}, nil)
	other := make(chan events.Answer, 1)
	appended := make(chan struct{})
	var once atomic.Bool
	w.own = func(vps []int) {
		if !once.CompareAndSwap(false, true) {
			return
		}
		w.Disown(vps) // what Own does first: the other run's record is refused by the fence
		go func() { other <- f.begin(t, sharing("r1"), "job") }()
		close(appended)
	}
	unknownOnce(m, "r1", journal.FaultUnknownStored)
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied {
		t.Errorf("the run whose answer was lost: %+v", a)
	}
	<-appended
	if a := <-other; a.Status != events.StatusApplied {
		t.Errorf("the other run: %+v", a)
	}
}

func TestNothingIsDecidedBeforeALostAnswerIsSettled(t *testing.T) {
	m := journal.NewMemory(nil)
	w := &meddled{Journal: m.Open()}
	f := startOn(t, w, catalogs{compile(t, definitions)}, nil)
	f.begin(t, "r1", "job")
	task := f.task(t, "r1", 1)
	var fails atomic.Int64
	w.last = func(string) error {
		if fails.Add(1) <= 3 {
			return errors.New("no answer")
		}
		return nil
	}
	unknownOnce(m, "r1", journal.FaultUnknownStored)
	if a := f.take(t, task, "A"); a.Status != events.StatusApplied {
		t.Errorf("first worker: %+v", a)
	}
	if b := f.take(t, task, "B"); b.Status != events.StatusRefused {
		t.Errorf("second worker: %+v", b)
	}
	verify(t, m, "r1", 2)
}

// A record that is refused under a fence that stands may be stored: who refuses
// it is not who leads. It is looked for, not decided again.
func TestARecordThatIsRefusedUnderAFenceThatStandsIsLookedFor(t *testing.T) {
	m := journal.NewMemory(nil)
	f := startOn(t, m.Open(), catalogs{compile(t, definitions)}, nil)
	unknownOnce(m, "r1", journal.FaultFencedStored)
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied {
		t.Errorf("the start: %+v", a)
	}
	verify(t, m, "r1", 1)
	unknownOnce(m, "r1", journal.FaultFencedStored)
	if a := f.take(t, f.task(t, "r1", 1), "A"); a.Status != events.StatusApplied {
		t.Errorf("the worker: %+v", a)
	}
	verify(t, m, "r1", 2)
}

func TestADeadlineIsNotLostWhileDefinitionsCannotBeRead(t *testing.T) {
	c := newUnreliable(t)
	f := startOn(t, journal.NewMemory(nil).Open(), c, nil)
	f.begin(t, "s1", "sleeper")
	c.now.Store(compile(t, definitions+another))
	c.fails.Store(true)
	time.AfterFunc(1500*time.Millisecond, func() { c.fails.Store(false) })
	f.untilDone(t, "s1", events.Succeeded)
}

func TestAResultIsNotRefusedWhileDefinitionsCannotBeRead(t *testing.T) {
	c := newUnreliable(t)
	f := startOn(t, journal.NewMemory(nil).Open(), c, nil)
	f.begin(t, "t1", "tenant")
	task := f.task(t, "t1", 1)
	f.take(t, task, "A")
	f.begin(t, "t2", "tenant")
	c.now.Store(compile(t, definitions+another))
	c.fails.Store(true)
	if a := f.finish(t, task, "A"); a.Final() {
		t.Errorf("the worker would drop its result: %+v", a)
	}
	c.fails.Store(false)
	if a := f.finish(t, task, "A"); a.Status != events.StatusApplied {
		t.Errorf("repeated: %+v", a)
	}
	f.task(t, "t2", 1) // the environment went on
}

func TestAStartTimeoutSaysWhetherAWorkerIsAlive(t *testing.T) {
	const quick = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: quick}
spec:
  initial: work
  states:
    work: {task: noop, startTimeout: 1s, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: noop}
spec: {runs: once}
`
	for want, serving := range map[string]func(string, string) (int, bool){
		"no worker of kind noop is alive in pool default":   func(string, string) (int, bool) { return 0, true },
		"none of the 3 live workers of kind noop":           func(string, string) (int, bool) { return 3, true },
		"no worker of kind noop in pool default took":       func(string, string) (int, bool) { return 0, false },
		"no worker of kind noop in pool default took the t": nil,
	} {
		f := startWith(t, owner.Options{Journal: journal.NewMemory(nil).Open(), Catalogs: catalogs{compile(t, quick)}, Instance: "e", Serving: serving})
		f.begin(t, "r1", "quick")
		var st *run.State
		f.out.until(t, "the run ends", func() bool {
			state, _, err := f.State(t.Context(), record.Run, "r1")
			st, _ = state.(*run.State)
			return err == nil && st.Done()
		})
		if e := st.Path[0].Error; e == nil || e.Code != events.CodeNotTaken || !strings.Contains(e.Message, want) {
			t.Errorf("it says %+v, want %s", e, want)
		}
	}
}

func TestADeadlineThatCouldNotBeStoredHidesNoLaterOne(t *testing.T) {
	const slow = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: slow}
spec:
  initial: work
  states:
    work: {task: noop, startTimeout: 1s, timeout: 1s, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: noop}
spec: {runs: once, outputs: {n: int}}
`
	m := journal.NewMemory(nil)
	f := startWith(t, owner.Options{Journal: m.Open(), Catalogs: catalogs{compile(t, slow)}, Instance: "e",
		Beat: 500 * time.Millisecond, BeatOut: time.Second})
	f.begin(t, "r1", "slow")
	task := f.task(t, "r1", 1)
	var full atomic.Bool
	full.Store(true)
	hit := make(chan struct{}, 100)
	m.Inject(func(string, []byte) journal.Fault {
		if full.Load() {
			select {
			case hit <- struct{}{}:
			default:
			}
			return journal.FaultFull
		}
		return journal.FaultNone
	})
	<-hit // the start timeout has come and was not stored
	full.Store(false)
	f.take(t, task, "A")
	stop := make(chan struct{})
	defer close(stop)
	go func() { // heartbeats go on, so that only the timeout of the run can end it
		for {
			select {
			case <-time.After(100 * time.Millisecond):
				f.Heartbeat(context.Background(), events.HeartbeatRequest{Task: task.ID, Run: "r1", Worker: "A"})
			case <-stop:
				return
			}
		}
	}()
	f.out.until(t, "the run ends", func() bool {
		return f.run(t, "r1").Done()
	})
}

func TestTimersOfAPartitionWhoseRecordsAreAheadWaitUntilTheClockIsAccepted(t *testing.T) {
	m := journal.NewMemory(nil)
	cat := catalogs{compile(t, definitions)}
	ahead := startOn(t, m.Open(), cat, func() time.Time { return time.Now().Add(2 * time.Hour) })
	ahead.begin(t, "r0", "job")
	again := startOn(t, m.Open(), cat, nil)
	// The records of one partition are ahead of the clock; the others' timers fire.
	near, far := "s1", ""
	for i := 0; far == "" || events.Partition(record.Run, near) == events.Partition(record.Run, "r0"); i++ {
		if id := fmt.Sprintf("s%d", i); events.Partition(record.Run, id) == events.Partition(record.Run, "r0") {
			far = id
		} else {
			near = id
		}
	}
	again.begin(t, near, "sleeper")
	again.begin(t, far, "sleeper")
	again.untilDone(t, near, events.Succeeded)
	if why := again.ClockHeld(); !strings.Contains(why, "of 1 partitions") || !strings.Contains(why, "penstock admin clock accept") {
		t.Errorf("of the partition whose timers are held it says %q", why)
	}
	if again.run(t, far).Done() {
		t.Error("a timer has fired while nobody knew whether its time had come")
	}
	again.AcceptClock()
	again.untilDone(t, far, events.Succeeded)
	if why := again.ClockHeld(); why != "" {
		t.Errorf("after the clock was accepted: %q", why)
	}
}

func TestAPartitionThatIsStoppedStopsNoOtherAndIsSaid(t *testing.T) {
	m := journal.NewMemory(nil)
	f := startOn(t, m.Open(), catalogs{compile(t, definitions)}, nil)
	f.begin(t, "r1", "job")
	f.begin(t, "r2", "job")
	f.Stop(events.Partition(record.Run, "r1"), errors.New("its records are lost"))
	if a := f.begin(t, "r1", "job"); a.Final() || !strings.Contains(a.Reason, "its records are lost") {
		t.Errorf("the stopped one: %+v", a)
	}
	task := f.task(t, "r2", 1)
	if a := f.take(t, task, "w"); a.Status != events.StatusApplied {
		t.Errorf("the other one: %+v", a)
	}
}

func TestAnOwnerThatNeverStartedIsClosedWithoutHarm(t *testing.T) {
	owner.New(owner.Options{Journal: journal.NewMemory(nil).Open()}).Close(t.Context())
}
