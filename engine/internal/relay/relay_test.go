package relay_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/relay"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

var public, private, _ = ed25519.GenerateKey(nil)

// rig is a relay on a journal in memory.
type rig struct {
	*relay.Relay
	t *testing.T
	m *journal.Memory
	j journal.Journal
}

func newRig(t *testing.T, m *journal.Memory) *rig {
	t.Helper()
	r := &rig{t: t, m: m, j: m.Open()}
	all := make([]int, events.Partitions)
	for i := range all {
		all[i] = i
	}
	if err := r.j.Own(t.Context(), all, []byte("e")); err != nil {
		t.Fatal(err)
	}
	r.Relay = relay.New(relay.Options{Journal: r.j, Tasks: m.Publisher(events.StreamTasks), Out: m.Publisher(events.StreamOut), Key: private})
	return r
}

// start takes all partitions, as the owner does; it gives those that have to
// be stopped.
func (r *rig) start() map[int]error {
	r.t.Helper()
	taken := map[int]owner.Taken{}
	for vp := range events.Partitions {
		taken[vp] = owner.Taken{}
	}
	stored, err := r.j.LoadCheckpoints(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	err = r.j.From(r.t.Context(), 0, func(e journal.Entry) error {
		var vp int
		if _, err := fmt.Sscanf(e.Subject, "penstock.log.%d.", &vp); err == nil {
			taken[vp] = owner.Taken{Newest: owner.Mark{Seq: e.Seq, Hash: record.Hash(e.Data)}}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for vp, p := range stored {
		x := taken[vp]
		if err := json.Unmarshal(p, &x.Checkpoint); err != nil {
			r.t.Fatal(err)
		}
		taken[vp] = x
	}
	bad, err := r.Take(r.t.Context(), taken)
	if err != nil {
		r.t.Fatal(err)
	}
	return bad
}

func aRecord(id string, v int64) *record.Record {
	return &record.Record{Format: 1, Aggregate: record.Run, ID: id, V: v, T: 1000, State: json.RawMessage(`{}`),
		Events: []record.Emitted{{Type: events.TaskQueued, Data: events.Happening{Run: id, Workflow: "w", Environment: "prod"}}},
		Tasks:  []*events.Task{{ID: fmt.Sprintf("%s-%d", id, v), Run: id, Kind: "build", Pool: "default"}}}
}

// store appends a record and hands it to the relay unless crash is set.
func (r *rig) store(rec *record.Record, crash bool) uint64 {
	r.t.Helper()
	ticket := r.Begin(events.Partition(rec.Aggregate, rec.ID))
	p, err := rec.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	seq := make(chan uint64, 1)
	r.j.Append(events.Partition(rec.Aggregate, rec.ID), events.LogSubject(rec.Aggregate, rec.ID), p, func(s uint64, err error) {
		if err != nil {
			r.t.Error(err)
		}
		seq <- s
	})
	s := <-seq
	if !crash {
		ticket.Stored(owner.Mark{Seq: s, Hash: record.Hash(p)}, rec)
	}
	return s
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	r.Close(ctx)
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func TestTasksAreSignedAndEventsHaveIDsThatARepeatKeeps(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	r.start()
	for i := range 5 {
		r.store(aRecord(fmt.Sprintf("r%d", i), 1), false)
	}
	eventually(t, "all is published", func() bool {
		tasks, _ := m.Published(events.StreamTasks)
		out, _ := m.Published(events.StreamOut)
		return len(tasks) == 5 && len(out) == 5
	})
	tasks, headers := m.Published(events.StreamTasks)
	for i, task := range tasks {
		if err := events.VerifySigned([]ed25519.PublicKey{public}, task.Data, headers[i][events.HeaderSignature][0]); err != nil {
			t.Error(err)
		}
	}
	out, _ := m.Published(events.StreamOut)
	var e events.Event
	if err := json.Unmarshal(out[0].Data, &e); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Error(err)
	}
	if want := events.OutSubject("default", "prod", "w", "task.queued"); out[0].Subject != want {
		t.Errorf("subject %s, want %s", out[0].Subject, want)
	}
	r.close()
}

// What a record leads to is made while the record is on its way, and goes
// nowhere unless it is stored.
func TestWhatIsMadeAheadIsPublishedWhenItsRecordIsStoredAndElseNever(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	r.start()
	r.store(aRecord("first", 1), false) // whose pool and kind are known then
	eventually(t, "the first is published", func() bool { tasks, _ := m.Published(events.StreamTasks); return len(tasks) == 1 })
	for i, stored := range []bool{false, true, false, true} {
		rec := aRecord(fmt.Sprint("r", i), 1)
		ticket := r.Begin(events.Partition(rec.Aggregate, rec.ID))
		ticket.Ahead(rec)
		if stored {
			ticket.Stored(owner.Mark{Seq: uint64(1000 + i)}, rec)
		} else {
			ticket.Drop()
		}
	}
	eventually(t, "what was stored is published", func() bool {
		tasks, _ := m.Published(events.StreamTasks)
		out, _ := m.Published(events.StreamOut)
		return len(tasks) == 3 && len(out) == 3
	})
	tasks, headers := m.Published(events.StreamTasks)
	for i, want := range []string{"first-1", "r1-1", "r3-1"} {
		var task events.Task
		if err := json.Unmarshal(tasks[i].Data, &task); err != nil || task.ID != want {
			t.Errorf("task %d is %s, %v; want %s", i, task.ID, err, want)
		}
		if err := events.VerifySigned([]ed25519.PublicKey{public}, tasks[i].Data, headers[i][events.HeaderSignature][0]); err != nil {
			t.Error(err)
		}
	}
	r.close()
}

func TestWhatWasStoredButNotCarriedOutIsCarriedOutAfterARestart(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	r.start()
	r.store(aRecord("a", 1), false)
	r.store(aRecord("b", 1), true) // the engine dies between the record and the relay
	r.store(aRecord("c", 1), false)
	eventually(t, "a and c are published", func() bool { out, _ := m.Published(events.StreamOut); return len(out) == 2 })
	r.close() // stores a checkpoint, which must stay below b

	again := newRig(t, m)
	again.start()
	eventually(t, "b is published", func() bool {
		tasks, _ := m.Published(events.StreamTasks)
		for _, task := range tasks {
			if strings.Contains(string(task.Data), `"id":"b-1"`) {
				return true
			}
		}
		return false
	})
	ids := map[string]map[string]bool{}
	eventually(t, "repeats have the ids of the first", func() bool {
		out, _ := m.Published(events.StreamOut)
		clear(ids)
		for _, o := range out {
			var e events.Event
			if json.Unmarshal(o.Data, &e) != nil {
				return false
			}
			if ids[e.Subject] == nil {
				ids[e.Subject] = map[string]bool{}
			}
			ids[e.Subject][e.ID] = true
		}
		return len(ids) == 3 && len(ids["a"]) == 1 && len(ids["b"]) == 1 && len(ids["c"]) == 1
	})
	again.close()
}

func TestNothingIsCarriedOutAgainAfterACleanStop(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	r.start()
	r.store(aRecord("a", 1), false)
	eventually(t, "a is published", func() bool { out, _ := m.Published(events.StreamOut); return len(out) == 1 })
	r.close()
	again := newRig(t, m)
	again.start()
	again.store(aRecord("z", 1), false)
	eventually(t, "z is published", func() bool { out, _ := m.Published(events.StreamOut); return len(out) >= 2 })
	if out, _ := m.Published(events.StreamOut); len(out) != 2 {
		t.Errorf("%d events, want 2", len(out))
	}
	again.close()
}

func TestAMessageThatIsNotTakenIsPublishedAgain(t *testing.T) {
	m := journal.NewMemory(nil)
	var n atomic.Int64
	m.Inject(func(subject string, _ []byte) journal.Fault {
		if strings.HasPrefix(subject, "penstock.task.") && n.Add(1) <= 2 {
			return journal.FaultFull
		}
		return journal.FaultNone
	})
	r := newRig(t, m)
	r.start()
	r.store(aRecord("a", 1), false)
	eventually(t, "the task is published", func() bool { tasks, _ := m.Published(events.StreamTasks); return len(tasks) == 1 })
	if _, headers := m.Published(events.StreamTasks); len(headers[0][events.HeaderSignature]) != 1 {
		t.Error("the repeated task is not signed")
	}
	r.close()
}

// The events of a record that come again after an outage come in their order.
func TestEventsThatArePublishedAgainKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := journal.NewMemory(nil)
		var down atomic.Bool
		m.Inject(func(subject string, _ []byte) journal.Fault {
			if strings.HasPrefix(subject, "penstock.out.") && down.Load() {
				return journal.FaultFull
			}
			return journal.FaultNone
		})
		r := newRig(t, m)
		r.start()
		rec := aRecord("a", 1)
		for i := range 8 {
			rec.Events = append(rec.Events, record.Emitted{Type: fmt.Sprint(events.TaskQueued, i), Data: events.Happening{Run: "a", Workflow: "w"}})
		}
		down.Store(true)
		r.store(rec, false)
		time.Sleep(50 * time.Millisecond) // of the time in here, in which nothing is left to do then
		down.Store(false)
		time.Sleep(time.Minute)
		out, _ := m.Published(events.StreamOut)
		if len(out) != 9 {
			t.Fatalf("%d events were published, want 9", len(out))
		}
		for i, e := range out[1:] {
			if !strings.HasSuffix(e.Subject, fmt.Sprint(i)) {
				t.Errorf("event %d comes as number %d", i, slices.IndexFunc(out, func(x journal.Entry) bool { return strings.HasSuffix(x.Subject, fmt.Sprint(i)) }))
			}
		}
		r.close()
		if err := r.j.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTheCheckpointStaysBelowWhatNobodyKnows(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	r.start()
	first := r.store(aRecord("a", 1), false)
	vp := events.Partition(record.Run, "a")
	r.Begin(vp).Leave()
	second := r.store(aRecord("a", 2), false)
	if err := r.Release(t.Context(), []int{vp}); err != nil {
		t.Fatal(err)
	}
	stored, err := r.j.LoadCheckpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var c owner.Checkpoint
	if err := json.Unmarshal(stored[vp], &c); err != nil {
		t.Fatal(err)
	}
	if c.Seq != first || c.Last != second || c.Hash == "" {
		t.Errorf("checkpoint %+v, want it at %d and the newest record at %d", c, first, second)
	}
	r.close()
}

func TestARelayThatNeverStartedIsClosedWithoutHarm(t *testing.T) {
	m := journal.NewMemory(nil)
	newRig(t, m).close()
}

func TestAConsumerThatCouldNotBeMadeIsMadeLater(t *testing.T) {
	m := journal.NewMemory(nil)
	r := newRig(t, m)
	var tries atomic.Int64
	made := make(chan string, 10)
	r.Relay = relay.New(relay.Options{Journal: r.j, Tasks: m.Publisher(events.StreamTasks), Out: m.Publisher(events.StreamOut), Key: private,
		Pool: func(_ context.Context, pool, kind string) error {
			if tries.Add(1) < 3 {
				return fmt.Errorf("not now")
			}
			made <- pool + "/" + kind
			return nil
		}})
	r.start()
	r.Prepare("default", "build")
	select {
	case got := <-made:
		if got != "default/build" {
			t.Error(got)
		}
	case <-time.After(10 * time.Second):
		t.Error("never made")
	}
	r.close()
}
