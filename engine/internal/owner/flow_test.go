package owner_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

const flows = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: ears}
spec:
  initial: ready
  states:
    ready:
      wait: {event: com.acme.ready.*, when: event.data.version > 3}
      events: [{event: com.acme.stop, to: stopped}]
      next: done
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: parent}
spec:
  initial: piece
  states:
    piece:
      workflow: {name: piece}
      transitions: [{when: outcome == "succeeded" && piece.n == 1, to: done}, {to: stopped}]
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: piece}
spec:
  outputs: {n: {type: int, value: '${{ work.n }}'}}
  initial: work
  states:
    work: {task: noop, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: alone}
spec:
  concurrency: {key: train}
  initial: work
  states:
    work: {task: noop, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: minutely}
spec:
  triggers: [{schedule: {cron: '* * * * *'}}]
  initial: nap
  states:
    nap: {wait: {for: 1ms}, next: done}
    done: {final: succeeded}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: noop}
spec: {runs: repeatable, outputs: {n: int}}
`

func startFlows(t *testing.T, m *journal.Memory, instance string, wall func() time.Time) *fixture {
	t.Helper()
	index := projection.New()
	f := startWith(t, owner.Options{Journal: m.Open(), Catalogs: catalogs{compile(t, flows)}, Instance: instance,
		Beat: 50 * time.Millisecond, BeatOut: time.Minute, Wall: wall, Observe: index.Observe})
	f.index = index
	return f
}

// comes has an event recorded, and gives what the record says of it.
func (f *fixture) comes(t *testing.T, id, typ, data string) *env.Event {
	t.Helper()
	raw, err := json.Marshal(events.Event{ID: id, Source: "git", Type: typ, Data: []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	if a := f.Do(t.Context(), record.Event, id, record.Input{ID: id, Kind: record.InEvent, By: "event:git", Event: raw,
		Listening: f.index.Listening(raw)}); a.Status != events.StatusApplied {
		t.Fatalf("event %s: %+v", id, a)
	}
	state, _, err := f.State(t.Context(), record.Event, id)
	if err != nil {
		t.Fatal(err)
	}
	return state.(*env.Event)
}

func TestAnEventReachesTheRunsThatListenForIt(t *testing.T) {
	f := startFlows(t, journal.NewMemory(nil), "e", nil)
	f.begin(t, "r1", "ears")
	f.begin(t, "r2", "ears")
	if e := f.comes(t, "e0", "com.acme.other", `{}`); len(e.Reasons) != 1 || strings.Contains(e.Reasons[0], "told") {
		t.Errorf("nobody listens for it: %v", e.Reasons)
	}
	e := f.comes(t, "e1", "com.acme.ready.v1", `{"version": 4}`)
	if !strings.Contains(strings.Join(e.Reasons, "\n"), "2 runs listen for it and are told: r1, r2") {
		t.Errorf("its record says %v", e.Reasons)
	}
	f.untilDone(t, "r1", events.Succeeded)
	f.untilDone(t, "r2", events.Succeeded)
	if e := f.comes(t, "e2", "com.acme.stop", `{}`); strings.Contains(strings.Join(e.Reasons, "\n"), "told") {
		t.Errorf("runs that have ended are told: %v", e.Reasons)
	}
}

func TestARunListensAfterAStart(t *testing.T) {
	m := journal.NewMemory(nil)
	f := startFlows(t, m, "e", nil)
	f.begin(t, "r1", "ears")
	f.Close(t.Context())
	g := startFlows(t, m, "f", nil)
	g.comes(t, "e1", "com.acme.stop", `{}`)
	g.untilDone(t, "r1", events.Failed)
}

func TestAChildRunGoesFromItsStartToItsParent(t *testing.T) {
	f := startFlows(t, journal.NewMemory(nil), "e", nil)
	f.begin(t, "r1", "parent")
	child := f.run(t, "r1").Tasks[0].Child
	task := f.task(t, child, 1)
	if s := f.run(t, child); s.RequestedBy != "admin" || s.Parent.Run != "r1" {
		t.Errorf("asked for by %s, for %+v", s.RequestedBy, s.Parent)
	}
	f.take(t, task, "w")
	f.finish(t, task, "w")
	f.untilDone(t, "r1", events.Succeeded)
}

func TestACancelOfTheParentEndsTheChild(t *testing.T) {
	f := startFlows(t, journal.NewMemory(nil), "e", nil)
	f.begin(t, "r1", "parent")
	child := f.run(t, "r1").Tasks[0].Child
	f.task(t, child, 1)
	f.Do(t.Context(), record.Run, "r1", record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{ID: "c", Run: "r1"}})
	f.untilDone(t, child, events.Cancelled)
	f.untilDone(t, "r1", events.Cancelled)
}

func TestAChildRunHasTheDefinitionsOfItsParent(t *testing.T) {
	c := &unreliable{}
	c.old.Store(compile(t, flows))
	c.now.Store(compile(t, strings.ReplaceAll(flows, "work.n }}", "work.n + 7 }}")))
	f := startOn(t, journal.NewMemory(nil).Open(), c, nil)
	start := &record.Start{Run: "c1", Workflow: "piece", Catalog: c.old.Load().Digest, Parent: &record.Parent{Run: "r1", Path: "piece", Task: "t", RequestedBy: "ana"}}
	if a := f.Do(t.Context(), record.Run, "c1", record.Input{ID: "s", Kind: record.InStart, By: "run:r1", Start: start}); a.Status != events.StatusApplied {
		t.Fatalf("%+v", a)
	}
	task := f.task(t, "c1", 1)
	f.take(t, task, "w")
	f.finish(t, task, "w")
	f.untilDone(t, "c1", events.Succeeded)
	if s := f.run(t, "c1"); s.Catalog != c.old.Load().Digest || s.Outputs["n"] != int64(1) {
		t.Errorf("with definitions %s it gives %v", s.Catalog, s.Outputs)
	}
}

func TestRunsWithOneKeyGoOneAfterTheOther(t *testing.T) {
	f := startFlows(t, journal.NewMemory(nil), "e", nil)
	f.begin(t, "r1", "alone")
	first := f.task(t, "r1", 1)
	f.begin(t, "r2", "alone")
	f.out.until(t, "r2 is in the queue", func() bool {
		state, _, err := f.State(t.Context(), record.Key, "train")
		k, _ := state.(*env.Key)
		return err == nil && k != nil && k.Place("r2") == 1
	})
	if s := f.run(t, "r2"); len(s.Path) != 0 || s.Key.Grant != 0 {
		t.Errorf("the second one has begun: %+v", s.Path)
	}
	f.take(t, first, "w")
	f.finish(t, first, "w")
	second := f.task(t, "r2", 1)
	if s := f.run(t, "r1"); !s.Done() {
		t.Error("the second one goes on before the first one has ended")
	}
	f.take(t, second, "w")
	f.finish(t, second, "w")
	f.untilDone(t, "r2", events.Succeeded)
}

func TestAScheduleFiresWhenItsTimeHasCome(t *testing.T) {
	begin := time.Now()
	minute := begin.Truncate(time.Minute).Add(time.Minute)
	ahead := minute.Add(-time.Second).Sub(begin) // one second is left of the minute
	wall := func() time.Time { return time.Now().Add(ahead) }
	f := startFlows(t, journal.NewMemory(nil), "e", wall)
	if a := f.Do(t.Context(), record.Schedule, "minutely/0", record.Input{ID: "set", Kind: record.InScheduleSet, By: "engine"}); a.Status != events.StatusApplied {
		t.Fatalf("%+v", a)
	}
	f.out.until(t, "a run that was started by the clock ends", f.out.holds(func() bool { return slices.Contains(f.out.types, events.RunFinished) }))
	state, _, err := f.State(t.Context(), record.Schedule, "minutely/0")
	if err != nil {
		t.Fatal(err)
	}
	s := state.(*env.Schedule)
	if s.Last != minute.UnixMilli() || s.Next != minute.Add(time.Minute).UnixMilli() || len(s.Runs) != 1 {
		t.Fatalf("%+v", s)
	}
	if r := f.run(t, s.Runs[0]); r.RequestedBy != "event:schedule:minutely/0" || r.Cause.Type != events.ScheduleFired {
		t.Errorf("asked for by %s, cause %+v", r.RequestedBy, r.Cause)
	}
}
