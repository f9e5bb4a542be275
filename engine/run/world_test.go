package run_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// epoch is when every test begins.
const epoch = int64(1_800_000_000_000)

// catalog reads definitions: common.yaml and, one laid over the other, files.
func catalog(t failer, files ...parse.File) *workflows.Catalog {
	t.Helper()
	common, err := os.ReadFile("testdata/common.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set := &parse.Set{}
	for _, f := range append([]parse.File{{Name: "common.yaml", Content: common}}, files...) {
		var problems []workflows.Problem
		if set, problems = parse.Over(set.Documents, []parse.File{f}); parse.Failed(problems) {
			t.Fatalf("definitions:\n%s", parse.Text(problems))
		}
	}
	c := set.Catalog()
	if w, proof := c.Workflows["w"], c.Workflows["w-proof"]; w != nil && proof != nil {
		w.Spec.Invariants = proof.Spec.Invariants // which w breaks: a check would refuse it
	}
	return c
}

// world is one run and its records. Every record is made twice, on the state
// in memory and on the state as it was stored, and must be the same.
type world struct {
	t      failer
	cats   map[string]*workflows.Catalog
	now    *workflows.Catalog
	d      run.Definitions
	id     string
	state  *run.State
	reread *run.State // as it is stored
	stored [][]byte
	clock  int64
	last   run.Transition
	tasks  map[string][]*events.Task // what was published, by path

	published []*events.Task // all of it in order
	observe   func(record.Input, run.Transition)
}

// failer is what a test and a property have in common.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newWorld(t failer, cat *workflows.Catalog, workflow string) *world {
	t.Helper()
	w := &world{t: t, cats: map[string]*workflows.Catalog{}, id: "r1", clock: epoch, tasks: map[string][]*events.Task{}}
	w.apply(cat)
	wf := cat.Workflows[workflow]
	if wf == nil {
		t.Fatalf("there is no workflow %q", workflow)
	}
	w.d = run.Definitions{Workflow: wf, Kinds: cat.Kinds, Now: cat}
	return w
}

// apply puts definitions in force.
func (w *world) apply(cat *workflows.Catalog) {
	w.cats[cat.Digest], w.now, w.d.Now = cat, cat, cat
}

func (w *world) lookup(started, inForce, workflow string) (run.Definitions, error) {
	a, b := w.cats[started], w.cats[inForce]
	if a == nil || b == nil || a.Workflows[workflow] == nil {
		return run.Definitions{}, fmt.Errorf("there are no definitions %s, %s with a workflow %s", started, inForce, workflow)
	}
	return run.Definitions{Workflow: a.Workflows[workflow], Kinds: a.Kinds, Now: b}, nil
}

// do gives the run an input and stores the record of it.
func (w *world) do(in record.Input) run.Transition {
	w.t.Helper()
	in = through[record.Input](w.t, in)
	v := int64(len(w.stored) + 1)
	tr := run.Step(w.d, w.state, v, in, w.clock)
	w.last = tr
	again := run.Step(w.d, w.reread, v, in, w.clock)
	a, b := w.record(in, v, tr), w.record(in, v, again)
	if string(a) != string(b) {
		w.t.Fatalf("input %s: the state in memory and the stored one decide differently:\n%s\n%s", in.Kind, a, b)
	}
	if w.observe != nil {
		defer w.observe(in, tr)
	}
	if !tr.Record {
		return tr
	}
	w.stored = append(w.stored, a)
	w.state, w.reread = tr.State, w.stateStored()
	if next := w.state.NextDeadline(); in.Kind == record.InTimer && next > 0 && next <= w.state.Now {
		w.t.Errorf("a timer input at %s leaves a deadline at %s: the engine would give one after the other", clockText(w.state.Now), clockText(next))
	}
	for _, task := range tr.Tasks {
		w.tasks[task.State] = append(w.tasks[task.State], task)
		w.published = append(w.published, task)
	}
	return tr
}

// stateStored is the state as it is read back from the last record.
func (w *world) stateStored() *run.State {
	r, err := record.Decode(w.stored[len(w.stored)-1])
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := run.Load(r.State)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) record(in record.Input, v int64, tr run.Transition) []byte {
	head := ""
	if n := len(w.stored); n > 0 {
		head = record.Hash(w.stored[n-1])
	}
	state, err := json.Marshal(tr.State)
	if err != nil {
		w.t.Fatalf("the state cannot be stored: %v", err)
	}
	at := w.clock
	if w.state != nil {
		at = max(at, w.state.Now)
	}
	r := record.Record{Aggregate: record.Run, ID: w.id, V: v, Prev: head, Catalog: w.now.Digest, T: at, Engine: "test",
		In: in, Answer: tr.Answer, Decisions: tr.Decisions, Events: tr.Events, Tasks: tr.Tasks, State: state}
	p, err := r.Encode()
	if err != nil {
		w.t.Fatalf("the record cannot be stored: %v", err)
	}
	return p
}

// through is v as it is after it was sent or stored.
func through[T any](t failer, v T) T {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(p, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) start(by string, inputs record.Values) run.Transition {
	return w.do(record.Input{ID: "start", Kind: record.InStart, By: by, Start: &record.Start{Run: w.id, Workflow: w.d.Workflow.Metadata.Name, Inputs: inputs}})
}

func (w *world) take(task, worker string) run.Transition {
	return w.do(record.Input{ID: "take:" + task + worker, Kind: record.InAttemptStart, By: "worker:" + worker, Attempt: &record.Attempt{Task: task, Worker: worker}})
}

func (w *world) finish(task, worker string, r events.Result) run.Transition {
	return w.do(record.Input{ID: "finish:" + task + worker, Kind: record.InAttemptFinish, By: "worker:" + worker, Attempt: &record.Attempt{Task: task, Worker: worker, Result: &r}})
}

func (w *world) decide(id, by, decision string, d events.Decide) run.Transition {
	d.ID, d.Run, d.Decision = id, w.id, decision
	return w.do(record.Input{ID: by + ":" + id, Kind: record.InDecide, By: by, Decide: &d})
}

func (w *world) grant(env string, n int64) run.Transition {
	return w.do(record.Input{ID: fmt.Sprint("grant", n), Kind: record.InGranted, By: "environment:" + env, Granted: &record.Granted{Environment: env, Grant: n}})
}

// answerAll answers everything that was sent to others.
func (w *world) answerAll() {
	for len(w.state.Outbox) > 0 {
		m := w.state.Outbox[0]
		w.do(record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: &record.Sent{ID: m.Input.ID, Status: events.StatusApplied}})
	}
}

// content is the digest of what waits for an approval now.
func (w *world) content() string {
	if w.state == nil || w.state.Open == nil {
		return "sha256:none"
	}
	return w.state.Open.Content
}

// quiet reports whether no work of the run goes on.
func (w *world) quiet() bool {
	return !slices.ContainsFunc(w.state.Tasks, func(t *run.Task) bool { return !t.Detached && t.Status != "done" })
}

// why tells what the run waits for.
func (w *world) why() []events.WaitReason { return run.Why(w.d, w.state, w.clock) }

// verify checks the records as an auditor would.
func (w *world) verify() {
	w.t.Helper()
	if v := run.Verify(w.id, w.stored, w.lookup); !v.OK {
		w.t.Errorf("the records do not verify:\n%s", v.Problems)
	}
}

func clockText(ms int64) string {
	return "+" + (time.Duration(ms-epoch) * time.Millisecond).String()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
