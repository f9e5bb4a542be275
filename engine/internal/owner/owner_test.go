package owner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

const definitions = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: job}
spec:
  initial: work
  states:
    work: {task: noop, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: sleeper}
spec:
  initial: sleep
  states:
    sleep: {wait: {for: 1s}, next: done}
    done: {final: succeeded}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: tenant}
spec:
  initial: work
  states:
    work: {task: noop, environment: prod, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: noop}
spec: {runs: repeatable, outputs: {n: int}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: prod}
spec: {target: {local: {}}}
`

type catalogs struct{ cat *workflows.Catalog }

func (c catalogs) Current() *workflows.Catalog { return c.cat }
func (c catalogs) ByDigest(digest string) (*workflows.Catalog, error) {
	if digest != c.cat.Digest {
		return nil, fmt.Errorf("no definitions %s", digest)
	}
	return c.cat, nil
}

// carried collects what a relay would publish.
type carried struct {
	mu    sync.Mutex
	tasks []*events.Task
	types []string
	seen  chan struct{}
}

func (c *carried) Take(context.Context, map[int]owner.Taken) (map[int]error, error) { return nil, nil }
func (c *carried) Release(context.Context, []int) error                             { return nil }
func (c *carried) Drop(int)                                                         {}
func (c *carried) Halt(int, string)                                                 {}
func (c *carried) Begin(int) owner.Ticket                                           { return &slip{c} }
func (c *carried) Newest(int) owner.Mark                                            { return owner.Mark{} }

type slip struct{ c *carried }

func (s *slip) Stored(_ owner.Mark, r *record.Record) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.tasks = append(s.c.tasks, r.Tasks...)
	for _, e := range r.Events {
		s.c.types = append(s.c.types, e.Type)
	}
	select {
	case s.c.seen <- struct{}{}:
	default:
	}
}
func (s *slip) Ahead(*record.Record) {}

func (s *slip) Drop()  {}
func (s *slip) Leave() {}

// holds looks at what was carried out. The owner must not be asked meanwhile:
// it may wait to add to it.
func (c *carried) holds(ok func() bool) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return ok()
	}
}

// until waits for a condition, looked at after each stored record.
func (c *carried) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if ok() {
			return
		}
		select {
		case <-c.seen:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// fixture is an owner on a journal in memory.
type fixture struct {
	*owner.Owner
	out   *carried
	index *projection.Index // of those who have events
}

func start(t *testing.T, m *journal.Memory, instance string) *fixture {
	t.Helper()
	return startWith(t, owner.Options{Journal: m.Open(), Catalogs: catalogs{compile(t, definitions)}, Instance: instance,
		Beat: 50 * time.Millisecond, BeatOut: 300 * time.Millisecond})
}

// startWith starts an owner whose records are carried out into a list.
func startWith(t *testing.T, o owner.Options) *fixture {
	t.Helper()
	f := &fixture{out: &carried{seen: make(chan struct{}, 1)}}
	o.Relay = f.out
	f.Owner = owner.New(o)
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		f.Close(ctx)
	})
	return f
}

func (f *fixture) begin(t *testing.T, id, workflow string) events.Answer {
	t.Helper()
	return f.Do(t.Context(), record.Run, id, record.Input{ID: "start-" + id, Kind: record.InStart, By: "admin", Admin: true,
		Start: &record.Start{Run: id, Workflow: workflow}})
}

func (f *fixture) task(t *testing.T, run string, attempt int) *events.Task {
	t.Helper()
	var found *events.Task
	f.out.until(t, fmt.Sprintf("task of %s, attempt %d", run, attempt), f.out.holds(func() bool {
		for _, task := range f.out.tasks {
			if task.Run == run && task.Attempt == attempt {
				found = task
			}
		}
		return found != nil
	}))
	return found
}

func (f *fixture) take(t *testing.T, task *events.Task, worker string) events.Answer {
	return f.Do(t.Context(), record.Run, task.Run, record.Input{ID: "s", Kind: record.InAttemptStart, By: "worker:" + worker,
		Attempt: &record.Attempt{Task: task.ID, Worker: worker}})
}

func (f *fixture) finish(t *testing.T, task *events.Task, worker string) events.Answer {
	return f.Do(t.Context(), record.Run, task.Run, record.Input{ID: "f", Kind: record.InAttemptFinish, By: "worker:" + worker,
		Attempt: &record.Attempt{Task: task.ID, Worker: worker, Result: &events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"n": 1.0}}}})
}

func (f *fixture) run(t *testing.T, id string) *run.State {
	t.Helper()
	state, _, err := f.State(t.Context(), record.Run, id)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := state.(*run.State)
	return s
}

func (f *fixture) untilDone(t *testing.T, id, outcome string) {
	t.Helper()
	f.out.until(t, "run "+id+" ends", func() bool {
		s := f.run(t, id)
		return s != nil && s.Done()
	})
	if s := f.run(t, id); s.Outcome != outcome {
		t.Errorf("run %s ended %s, want %s", id, s.Outcome, outcome)
	}
}

func TestARunGoesFromStartToEndAndARepeatedStartIsTheSame(t *testing.T) {
	f := start(t, journal.NewMemory(nil), "e1")
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied || a.Record != 1 {
		t.Fatalf("start: %+v", a)
	}
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusAlready || a.Record != 1 {
		t.Fatalf("repeated start: %+v", a)
	}
	task := f.task(t, "r1", 1)
	if a := f.take(t, task, "w1"); a.Status != events.StatusApplied {
		t.Fatalf("take: %+v", a)
	}
	if a := f.take(t, task, "w2"); a.Status != events.StatusRefused {
		t.Fatalf("second worker: %+v", a)
	}
	if a := f.finish(t, task, "w1"); a.Status != events.StatusApplied {
		t.Fatalf("finish: %+v", a)
	}
	if a := f.finish(t, task, "w1"); a.Status != events.StatusAlready {
		t.Fatalf("repeated finish: %+v", a)
	}
	f.untilDone(t, "r1", events.Succeeded)
}

func TestAnUnknownWorkflowIsNotFoundAndStoresNothing(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	a := f.begin(t, "r1", "nothing")
	if a.Status != events.StatusError || a.Code != events.CodeNotFound || !strings.Contains(a.Reason, `"nothing"`) {
		t.Fatalf("%+v", a)
	}
	if f.run(t, "r1") != nil {
		t.Error("there is a run")
	}
}

// The record is the ack: whatever becomes of the publish, the answer and the
// store agree, and nothing is stored twice.
func TestAnUnknownOutcomeIsFoundOutAndNothingIsDoneTwice(t *testing.T) {
	for name, fault := range map[string]journal.Fault{"stored": journal.FaultUnknownStored, "lost": journal.FaultUnknownLost, "late": journal.FaultUnknownLate} {
		t.Run(name, func(t *testing.T) {
			m := journal.NewMemory(nil)
			f := start(t, m, "e1")
			var n atomic.Int64
			m.Inject(func(subject string, _ []byte) journal.Fault {
				if strings.HasPrefix(subject, "penstock.log.") && n.Add(1)%2 == 1 {
					return fault
				}
				return journal.FaultNone
			})
			if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied {
				t.Fatalf("start: %+v", a)
			}
			m.DeliverLate()
			task := f.task(t, "r1", 1)
			f.take(t, task, "w1")
			m.DeliverLate()
			f.finish(t, task, "w1")
			f.untilDone(t, "r1", events.Succeeded)
			m.Inject(nil)
			verify(t, m, "r1", 3)
		})
	}
}

// verify checks that a run's records are 1..n, each naming the one before.
func verify(t *testing.T, m *journal.Memory, id string, want int) {
	t.Helper()
	list, err := m.Open().History(t.Context(), events.LogSubject(record.Run, id))
	if err != nil {
		t.Fatal(err)
	}
	head := ""
	for i, e := range list {
		r, err := record.Decode(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		if r.V != int64(i+1) || r.Prev != head {
			t.Errorf("record %d has version %d and follows %.8s, want %.8s", i+1, r.V, r.Prev, head)
		}
		head = record.Hash(e.Data)
	}
	if len(list) != want {
		t.Errorf("%d records, want %d", len(list), want)
	}
}

func TestAFullStoreIsSaidAndNothingIsLostWhenThereIsRoomAgain(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	m.Inject(func(subject string, _ []byte) journal.Fault {
		if strings.HasPrefix(subject, "penstock.log.") {
			return journal.FaultFull
		}
		return journal.FaultNone
	})
	a := f.begin(t, "r1", "job")
	if a.Status != events.StatusBusy || a.Code != events.CodeFull || a.RetryAfter == 0 {
		t.Fatalf("start on a full store: %+v", a)
	}
	m.Inject(nil)
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied {
		t.Fatalf("start after there is room: %+v", a)
	}
}

func TestAfterATakeoverTheOldOwnerWritesNothingAndTheNewOneGoesOn(t *testing.T) {
	m := journal.NewMemory(nil)
	lost := make(chan int, events.Partitions)
	old := startWith(t, owner.Options{Journal: m.Open(), Catalogs: catalogs{compile(t, definitions)}, Instance: "e1",
		Beat: time.Second, BeatOut: time.Minute, Lost: func(vp int, _ error) { lost <- vp }})
	old.begin(t, "r1", "job")
	task := old.task(t, "r1", 1)
	old.take(t, task, "w1")

	next := start(t, m, "e2")
	if a := old.finish(t, task, "w1"); a.Status != events.StatusBusy || a.Code != events.CodeNotOwner {
		t.Fatalf("the old owner answers %+v", a)
	}
	if vp := <-lost; vp != events.Partition(record.Run, "r1") || old.Owns(vp) {
		t.Errorf("the old owner reports partition %d as lost, and holds it: %v", vp, old.Owns(vp))
	}
	if a := next.finish(t, task, "w1"); a.Status != events.StatusApplied {
		t.Fatalf("the new owner: %+v", a)
	}
	next.untilDone(t, "r1", events.Succeeded)
	verify(t, m, "r1", 3)
}

func TestADeadlineFiresAlsoAfterARestart(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	f.begin(t, "s1", "sleeper")
	f.Close(t.Context())
	again := start(t, m, "e2")
	again.untilDone(t, "s1", events.Succeeded)
	verify(t, m, "s1", 2)
}

func TestAWorkerThatIsNotHeardOfLosesItsAttempt(t *testing.T) {
	f := start(t, journal.NewMemory(nil), "e1")
	f.begin(t, "r1", "job")
	first := f.task(t, "r1", 1)
	f.take(t, first, "w1")
	if a := f.Heartbeat(t.Context(), events.HeartbeatRequest{Task: first.ID, Run: "r1", Worker: "w1"}); a.Verdict != events.GoOn {
		t.Fatalf("heartbeat: %+v", a)
	}
	if a := f.Heartbeat(t.Context(), events.HeartbeatRequest{Task: first.ID, Run: "r1", Worker: "w2"}); a.Verdict != events.Stale {
		t.Fatalf("heartbeat of another worker: %+v", a)
	}
	second := f.task(t, "r1", 2)
	if a := f.finish(t, first, "w1"); a.Status != events.StatusStale {
		t.Fatalf("the lost worker's result: %+v", a)
	}
	f.take(t, second, "w2")
	f.finish(t, second, "w2")
	f.untilDone(t, "r1", events.Succeeded)
}

func TestOneRunAtATimeHasAnEnvironmentAlsoOverARestart(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	f.begin(t, "t1", "tenant")
	first := f.task(t, "t1", 1)
	f.begin(t, "t2", "tenant")
	f.Close(t.Context())

	f = start(t, m, "e2")
	f.take(t, first, "w1")
	f.finish(t, first, "w1")
	f.untilDone(t, "t1", events.Succeeded)
	second := f.task(t, "t2", 1)
	if !first.Fence.Before(second.Fence) {
		t.Errorf("fence %+v is not before %+v", first.Fence, second.Fence)
	}
	f.take(t, second, "w1")
	f.finish(t, second, "w1")
	f.untilDone(t, "t2", events.Succeeded)
}

func TestManyRunsAtOnceEachTakeTheirOwnSteps(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	var wg sync.WaitGroup
	const runs = 200
	for i := range runs {
		wg.Go(func() {
			id := fmt.Sprintf("run%d", i)
			if a := f.begin(t, id, "job"); a.Status != events.StatusApplied {
				t.Errorf("%s: %+v", id, a)
			}
		})
	}
	wg.Wait()
	f.out.until(t, "all tasks", f.out.holds(func() bool { return len(f.out.tasks) == runs }))
	for _, task := range f.out.tasks {
		wg.Go(func() {
			f.take(t, task, "w")
			f.finish(t, task, "w")
		})
	}
	wg.Wait()
	for i := range runs {
		f.untilDone(t, fmt.Sprintf("run%d", i), events.Succeeded)
	}
}

func TestARecordOfANewerFormStopsItsPartitionAndOthersGoOn(t *testing.T) {
	m := journal.NewMemory(nil)
	f := start(t, m, "e1")
	f.begin(t, "r1", "job")
	f.begin(t, "r2", "job")
	f.Close(t.Context())
	if events.Partition(record.Run, "r1") == events.Partition(record.Run, "r2") {
		t.Fatal("the runs must be in two partitions")
	}
	newer(t, m, "r1")
	again := start(t, m, "e2")
	a := again.Do(t.Context(), record.Run, "r1", record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{}})
	if a.Status == events.StatusApplied || !strings.Contains(a.Reason, "run the newer version") {
		t.Errorf("the stopped partition answers %+v", a)
	}
	b := again.Do(t.Context(), record.Run, "r2", record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{}})
	if b.Status != events.StatusApplied {
		t.Errorf("the other partition answers %+v", b)
	}
}

// newer stores a record of a form that does not exist yet.
func newer(t *testing.T, m *journal.Memory, id string) {
	t.Helper()
	j := m.Open()
	subject := events.LogSubject(record.Run, id)
	last, err := j.Last(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(last.Data, &fields); err != nil {
		t.Fatal(err)
	}
	fields["f"], fields["v"] = record.FormatVersion+1, 2
	p, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	vp := events.Partition(record.Run, id)
	if err := j.Own(t.Context(), []int{vp}, []byte("newer")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	j.Append(vp, subject, p, func(_ uint64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// BenchmarkStart is a command from its coming to its answer: decided, encoded,
// stored in memory, and carried out by nobody.
func BenchmarkStart(b *testing.B) {
	o := owner.New(owner.Options{Journal: journal.NewMemory(nil).Open(), Catalogs: catalogs{compile(b, definitions)}, Instance: "a", Relay: nobody{}})
	if err := o.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer o.Close(context.Background())
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		id := record.Derive("bench", n)
		a := o.Do(b.Context(), record.Run, id, record.Input{ID: id, Kind: record.InStart, By: "admin", Admin: true, Start: &record.Start{Run: id, Workflow: "job"}})
		if a.Status != events.StatusApplied {
			b.Fatal(a)
		}
	}
}

// nobody is a relay that carries nothing out.
type nobody struct{ owner.Relay }

func (nobody) Take(context.Context, map[int]owner.Taken) (map[int]error, error) { return nil, nil }
func (nobody) Begin(int) owner.Ticket                                           { return noTicket{} }

type noTicket struct{}

func (noTicket) Stored(owner.Mark, *record.Record) {}
func (noTicket) Ahead(*record.Record)              {}
func (noTicket) Drop()                             {}
func (noTicket) Leave()                            {}
