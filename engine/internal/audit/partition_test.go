package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const definitions = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: asked}
spec:
  triggers:
    - {event: org.example.go, inputs: {commit: '${{ event.data.commit }}'}}
    - {schedule: {cron: "0 2 * * *"}, inputs: {commit: '${{ "nightly" }}'}}
  inputs: {commit: {type: string}}
  initial: ask
  states:
    ask: {approval: {quorum: [{role: managers, count: 1}], expires: 1h}, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: production}
spec: {}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: roles}
spec:
  roles: {managers: {users: [marta]}}
  permissions: [{roles: [managers], allow: [run.approve, run.cancel, run.start, environment.hold]}]
`

// forge makes records as an owner does.
type forge struct {
	*logged
	cat    *workflows.Catalog
	states map[string]any
	now    int64
}

func newForge(t *testing.T, l *logged) *forge {
	set, problems := parse.Files([]parse.File{{Name: "d.yaml", Content: []byte(definitions)}})
	for _, p := range problems {
		t.Fatal(p)
	}
	return &forge{logged: l, cat: set.Catalog(), states: map[string]any{}, now: time.Now().UnixMilli()}
}

func (f *forge) ByDigest(digest string) (*workflows.Catalog, error) {
	if digest != f.cat.Digest {
		return nil, fmt.Errorf("no definitions %s", digest)
	}
	return f.cat, nil
}

// do gives an aggregate an input and stores the record.
func (f *forge) do(agg, id string, in record.Input) {
	f.Helper()
	f.now += 1000
	r := &record.Record{Aggregate: agg, ID: id, V: 1, T: f.now, Core: run.CoreVersion, In: in, Catalog: f.cat.Digest}
	if before := f.heads[id]; before != nil {
		r.V, r.Prev = before.V+1, f.hash[id]
	}
	var next any
	recorded := false
	prev := f.states[id]
	take := func(t env.Transition) {
		r.Answer, r.Decisions, r.Events, next, recorded = t.Answer, t.Decisions, t.Events, t.State, t.Record
	}
	switch agg {
	case record.Run:
		before, _ := prev.(*run.State)
		t := run.Step(run.Definitions{Workflow: f.cat.Workflows["asked"], Kinds: f.cat.Kinds, Now: f.cat}, before, r.V, in, r.T)
		r.Tasks = t.Tasks
		take(env.Transition{Answer: t.Answer, Decisions: t.Decisions, Events: t.Events, State: t.State, Record: t.Record})
	case record.Environment:
		before, _ := prev.(*env.Environment)
		take(env.StepEnvironment(f.cat, id, before, r.V, in, r.T))
	case record.Event:
		before, _ := prev.(*env.Event)
		take(env.StepEvent(f.cat, before, r.V, in, r.T))
	case record.Key:
		before, _ := prev.(*env.Key)
		r.Catalog = ""
		take(env.StepKey(id, before, in, r.T))
	case record.Schedule:
		before, _ := prev.(*env.Schedule)
		take(env.StepSchedule(f.cat, id, before, r.V, in, r.T))
	}
	if !recorded {
		f.Fatalf("%s %s: %s changes nothing: %+v", agg, id, in.Kind, r.Answer)
	}
	state, err := json.Marshal(next)
	if err != nil {
		f.Fatal(err)
	}
	r.State = state
	f.put(r)
	f.states[id] = next
}

// near gives an identity of the partition of the run "x".
func near(agg, name string) string {
	for i := 0; ; i++ {
		if id := fmt.Sprintf("%s%d", name, i); events.Partition(agg, id) == events.Partition(record.Run, "x") {
			return id
		}
	}
}

func (f *forge) start(id string) {
	f.do(record.Run, id, record.Input{ID: "s" + id, Kind: record.InStart, By: "marta", Start: &record.Start{Run: id, Workflow: "asked",
		Inputs: record.Values{"commit": "abc"}}})
}

func (f *forge) cancel(id string) {
	f.do(record.Run, id, record.Input{ID: "c" + id, Kind: record.InCancel, By: "marta", Groups: nil, Admin: true, Cancel: &events.CancelRun{ID: "c" + id, Run: id, Reason: "no"}})
}

// story is a partition with aggregates of every kind.
func (f *forge) story() (vp int) {
	f.start("x")
	other := near(record.Run, "y")
	f.start(other)
	f.cancel("x")
	event := near(record.Event, "e")
	f.do(record.Event, event, record.Input{ID: event, Kind: record.InEvent, By: "event:github", Event: json.RawMessage(
		`{"specversion":"1.0","id":"1","source":"github","type":"org.example.other","data":{"commit":"abc"}}`)})
	key := near(record.Key, "k")
	f.do(record.Key, key, record.Input{ID: "1", Kind: record.InKeyRequest, By: "run:x", Key: &record.Claim{Key: key, Run: "x"}})
	environment := near(record.Environment, "production")
	f.do(record.Environment, environment, record.Input{ID: "h", Kind: record.InEnvHold, By: "marta", Admin: true, Hold: &events.HoldEnvironment{ID: "h", Environment: environment, Reason: "fire"}})
	f.do(record.Environment, environment, record.Input{ID: "u", Kind: record.InEnvUnhold, By: "marta", Admin: true, Hold: &events.HoldEnvironment{ID: "u", Environment: environment, Reason: "out"}})
	return events.Partition(record.Run, "x")
}

func (f *forge) verify(log verifierLog, vp int) *Report {
	f.Helper()
	v := &Verifier{Log: log, Store: f.audit, Definitions: f}
	r, err := v.Partition(f.Context(), vp, time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func TestAPartitionVerifies(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	vp := f.story()
	check := func(when string, records int) {
		t.Helper()
		r := f.verify(l.log, vp)
		if len(r.Problems)+len(r.Known) > 0 || r.Records != records || r.Broken() != nil {
			t.Errorf("%s: %d records, %v %v", when, r.Records, r.Problems, r.Known)
		}
	}
	check("before anything is in the audit log", 7)
	l.run(l.writer("a"))
	check("when all is in the audit log", 7)
	f.start(near(record.Run, "z"))
	f.do(record.Schedule, "asked/1", record.Input{ID: "set", Kind: record.InScheduleSet, By: "engine"})
	check("when something is newer", 8)
	if r := f.verify(l.log, events.Partition(record.Schedule, "asked/1")); len(r.Problems) > 0 || r.Records != 1 {
		t.Errorf("the schedule: %d records, %v", r.Records, r.Problems)
	}
	r := f.verify(selected{l.log, func(e journal.Entry) bool { return !strings.HasSuffix(e.Subject, ".run.x") || e.Seq == f.end1("x") }}, vp)
	if len(r.Problems) > 0 {
		t.Errorf("after compaction: %v", r.Problems)
	}
	since, err := (&Verifier{Log: l.log, Store: l.audit, Definitions: f}).Partition(t.Context(), vp, time.Now().Add(time.Hour))
	if err != nil || len(since.Problems) > 0 || since.Records != 8 {
		t.Errorf("without the audit log: %d records, %v %v", since.Records, since.Problems, err)
	}
}

// end1 is the sequence of the last record of a run.
func (f *forge) end1(id string) uint64 {
	e, err := f.log.Last(f.Context(), events.LogSubject(record.Run, id))
	if err != nil {
		f.Fatal(err)
	}
	return e.Seq
}

// selected is a LOG that has lost records, or has others.
type selected struct {
	journal.Journal
	keep func(journal.Entry) bool
}

func (s selected) Select(ctx context.Context, filter string, seq uint64, fn func(journal.Entry) error) error {
	return s.Journal.Select(ctx, filter, seq, func(e journal.Entry) error {
		if !s.keep(e) {
			return nil
		}
		return fn(e)
	})
}

// Whatever is done to the store, the verification of its partition says so,
// and says of which aggregate.
func TestWhatIsDoneToTheStoreIsFound(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	vp := f.story()
	l.run(l.writer("a"))
	var all []journal.Entry
	if err := l.log.Select(t.Context(), fmt.Sprintf("penstock.log.%d.>", vp), 0, func(e journal.Entry) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	for i, e := range all {
		who := name(strings.TrimPrefix(e.Subject, fmt.Sprintf("penstock.log.%d.", vp)))
		first := !slices.ContainsFunc(all[:i], func(o journal.Entry) bool { return o.Subject == e.Subject })
		last := !slices.ContainsFunc(all[i+1:], func(o journal.Entry) bool { return o.Subject == e.Subject })
		if !first || last { // a first record that is followed by others may have been purged
			r := f.verify(selected{l.log, func(o journal.Entry) bool { return o.Seq != e.Seq }}, vp)
			if r.Broken() == nil || !strings.Contains(r.Broken().Error(), who) {
				t.Errorf("record %d of %s was taken out: %v", i, who, r.Problems)
			}
		}
		r := f.verify(flipped{l.log, e.Seq}, vp)
		if r.Broken() == nil {
			t.Errorf("a bit of record %d of %s was changed: %v", i, who, r.Problems)
		}
	}
}

// flipped is a LOG in which a bit of one record is another.
type flipped struct {
	journal.Journal
	seq uint64
}

func (f flipped) Select(ctx context.Context, filter string, seq uint64, fn func(journal.Entry) error) error {
	return f.Journal.Select(ctx, filter, seq, func(e journal.Entry) error {
		if e.Seq == f.seq {
			e.Data[len(e.Data)/2] ^= 2
		}
		return fn(e)
	})
}

// A record that was decided otherwise than its rules say is found, although
// the chain of hashes fits.
func TestARecordThatWasMadeUpIsFound(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	f.start("x")
	f.now += 1000
	r := *f.heads["x"]
	r.V, r.Prev, r.T = 2, f.hash["x"], f.now
	r.In = record.Input{ID: "c", Kind: record.InCancel, By: "mallory", Cancel: &events.CancelRun{ID: "c", Run: "x"}}
	r.Answer = record.Answer{Status: events.StatusApplied}
	f.put(&r)
	l.run(l.writer("a"))
	got := f.verify(l.log, events.Partition(record.Run, "x"))
	if got.Broken() == nil || !strings.Contains(got.Broken().Error(), "decided again") {
		t.Errorf("got %v", got.Problems)
	}
}

// After an epoch, what was lost is known, and what comes after it counts.
func TestAnEpochLetsAPartitionGoOn(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	vp := f.story()
	f.start("kept")
	l.run(l.writer("a"))
	before := f.verify(l.log, vp)
	if len(before.Problems) > 0 {
		t.Fatal(before.Problems)
	}
	gone := f.end1("x")
	log := selected{l.log, func(e journal.Entry) bool { return e.Seq != gone }}
	broken := f.verify(log, vp)
	if want := (Affected{Aggregate: record.Run, ID: "x", Had: 2, Has: 1}); len(broken.Lost) != 1 || broken.Lost[0] != want {
		t.Fatalf("lost: %+v", broken.Lost)
	}
	epoch := Epoch{Partition: vp, Stopped: "a record is missing", By: "marta", Reason: "the disk was replaced", Time: f.now, Last: gone - 1, Lost: broken.Lost}
	if err := PutEpoch(t.Context(), l.audit, "a", epoch, time.Now()); err != nil {
		t.Fatal(err)
	}
	// It goes on from version 1, which is what the store has.
	r1, err := l.log.History(t.Context(), events.LogSubject(record.Run, "x"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := record.Decode(r1[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	f.heads["x"], f.hash["x"] = first, record.Hash(r1[0].Data)
	if f.states["x"], err = run.Load(first.State); err != nil {
		t.Fatal(err)
	}
	f.cancel("x")
	l.run(l.writer("b"))
	if len(l.stopped) > 0 {
		t.Errorf("the writer has stopped %v", l.stopped)
	}
	r := f.verify(log, vp)
	if len(r.Problems) > 0 || r.Broken() != nil || len(r.Known) == 0 {
		t.Errorf("after the epoch: problems %v, known %v", r.Problems, r.Known)
	}
}

// A loss that is written down stops its partition wherever that is owned, until
// an epoch is begun: who wrote it down may have owned another one.
func TestALossThatIsWrittenDownBreaksItsPartitionUntilAnEpoch(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	vp := f.story()
	f.do(record.Schedule, "asked/1", record.Input{ID: "set", Kind: record.InScheduleSet, By: "engine"})
	f.start("lost")
	other, hurt := vp, events.Partition(record.Run, "lost")
	l.run(l.writer("a"))
	end := l.end()
	l.mem.LoseTail(1)
	w := l.writer("b")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	over := make(chan struct{})
	go func() { defer close(over); w.Run(ctx) }()
	l.await(func() bool {
		at, err := find(t.Context(), l.audit)
		return err == nil && at.pos < end
	})
	stop()
	<-over
	if r := f.verify(l.log, hurt); r.Broken() == nil {
		t.Errorf("the partition that has lost its newest record: %v %v", r.Problems, r.Known)
	}
	if r := f.verify(l.log, other); r.Broken() != nil {
		t.Errorf("another partition: %v", r.Problems)
	}
	if err := PutEpoch(t.Context(), l.audit, "a", Epoch{Partition: hurt, Stopped: "a record is missing", By: "marta", Reason: "the power failed", Time: f.now}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r := f.verify(l.log, hurt); r.Broken() != nil || len(r.Known) == 0 {
		t.Errorf("after the epoch: problems %v, known %v", r.Problems, r.Known)
	}
}
