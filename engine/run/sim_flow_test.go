package run_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// lever is a concurrency key in a simulation.
type lever struct {
	name  string
	state *env.Key
}

func (s *sim) lever(name string) *lever {
	if s.levers[name] == nil {
		s.levers[name] = &lever{name: name}
	}
	return s.levers[name]
}

// pull gives a key an input, on its state in memory and as stored.
func (s *sim) pull(k *lever, in record.Input) record.Answer {
	in = through(s.t, in)
	var stored *env.Key
	if k.state != nil {
		stored = through(s.t, k.state)
	}
	tr := env.StepKey(k.name, k.state, in, s.clock)
	again := env.StepKey(k.name, stored, in, s.clock)
	a, _ := json.Marshal(tr)
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		s.t.Fatalf("key %s, input %s: the state in memory and the stored one decide differently:\n%s\n%s", k.name, in.Kind, a, b)
	}
	if tr.Record {
		k.state = tr.State.(*env.Key)
	}
	return tr.Answer
}

// toRun gives a run a message. A start makes the run, with the definitions
// that its parent has.
func (s *sim) toRun(id string, in record.Input) record.Answer {
	if i := slices.IndexFunc(s.worlds, func(w *world) bool { return w.id == id }); i >= 0 {
		return s.do(s.worlds[i], in)
	}
	if in.Kind != record.InStart {
		return record.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "there is no such run"}
	}
	pinned := s.cat
	for _, c := range s.cats {
		if c.Digest == in.Start.Catalog {
			pinned = c
		}
	}
	w := s.newWorld(in.Start.Workflow)
	w.id, w.d = id, run.Definitions{Workflow: pinned.Workflows[in.Start.Workflow], Kinds: pinned.Kinds, Now: s.cat}
	w.apply(s.cat)
	s.worlds = append(s.worlds, w)
	a := s.do(w, in)
	if w.state == nil {
		s.t.Fatalf("the child %s is refused: %+v", in.Start.Workflow, a)
	}
	return a
}

func (s *sim) newWorld(workflow string) *world {
	w := newWorld(s.t, s.cats[0], workflow)
	for _, c := range s.cats {
		w.cats[c.Digest] = c
	}
	w.observe = func(in record.Input, tr run.Transition) { s.check(w, in, tr) }
	return w
}

// signal is an event that may come, as the record of the event tells it.
func (s *sim) signal(w *world) record.Input {
	s.seq++
	typ := rapid.SampledFrom([]string{"sim.ready.now", "sim.ready.now", "sim.alert", "sim.other"}).Draw(s.t, "type")
	data := rapid.SampledFrom([]string{`{"severity": 1}`, `{"severity": 2}`, `{"severity": 3}`, `{"severity": 5}`, `{"severity": "high"}`, `{}`}).Draw(s.t, "data")
	return signalInput(fmt.Sprint("e", s.seq), typ, data)
}

func signalInput(id, typ, data string) record.Input {
	raw, _ := json.Marshal(events.Event{ID: id, Source: "sim", Type: typ, Data: []byte(data)}) // texts always encode
	return record.Input{ID: "signal:" + id, Kind: record.InSignal, By: "event:sim",
		Signal: &record.Signal{Cause: events.Cause{ID: id, Source: "sim", Type: typ}, Event: raw}}
}

// order is a person's command that pauses a run, lets it go on or begin again.
func (s *sim) order(w *world, what, who string) record.Input {
	s.seq++
	id := fmt.Sprint("c", s.seq)
	in := record.Input{ID: id, By: who}
	switch what {
	case "pause":
		in.Kind, in.Pause = record.InPause, &events.PauseRun{ID: id, Run: w.id}
	case "resume":
		in.Kind, in.Pause = record.InResume, &events.PauseRun{ID: id, Run: w.id}
	default:
		from := ""
		if rapid.Bool().Draw(s.t, "from a state") {
			from = rapid.SampledFrom(slices.Sorted(maps.Keys(w.d.Workflow.Spec.States))).Draw(s.t, "state")
		}
		in.Kind, in.Retry = record.InRetry, &events.RetryRun{ID: id, Run: w.id, From: from}
	}
	return in
}

// lookAtFlow checks what must be true of keys, of pauses and of children.
func (s *sim) lookAtFlow() {
	holders := map[string]string{}
	for _, w := range s.worlds {
		st := w.state
		if k := st.Key; k != nil && k.Grant > 0 {
			if other := holders[k.Key]; other != "" {
				s.t.Fatalf("the key %s belongs to %s and %s", k.Key, other, w.id)
			}
			holders[k.Key] = w.id
		}
		if st.Done() && st.Key != nil && st.Key.Grant > 0 {
			s.t.Fatalf("%s has ended and has the key %s", w.id, st.Key.Key)
		}
		if st.Parent == nil {
			continue
		}
		parent := s.world(st.Parent.Run)
		waited := slices.ContainsFunc(parent.state.Tasks, func(t *run.Task) bool { return t.Child == w.id && t.Status != "done" })
		if !st.Done() && !waited {
			s.t.Fatalf("%s goes on, and its parent %s does not wait for it", w.id, parent.id)
		}
		if st.RequestedBy != "marta" {
			s.t.Fatalf("%s was asked for by %q", w.id, st.RequestedBy)
		}
	}
}

// checkPause checks that a paused run begins nothing.
func (s *sim) checkPause(w *world, before *run.State, in record.Input, tr run.Transition) {
	if before == nil || before.Paused == nil || !tr.Record || tr.State.Paused == nil {
		return
	}
	for _, e := range tr.Events {
		if e.Type == events.StateEntered || e.Type == events.StateLeft {
			s.t.Fatalf("%s is paused, and %s %s", w.id, e.Data.State, e.Type)
		}
	}
	for _, task := range tr.Tasks {
		if task.Mode == "" && task.Kind != "notify" && !isUndo(task) {
			s.t.Fatalf("%s is paused, and %s was published by %s", w.id, task.State, in.Kind)
		}
	}
}

func isUndo(task *events.Task) bool { return len(task.State) > 5 && task.State[:5] == "undo." }
