package env

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Event is the state of an incoming event.
type Event struct {
	Cause   events.Cause  `json:"cause"`
	Now     int64         `json:"t"`
	Runs    []string      `json:"runs,omitempty"`
	Tell    []string      `json:"tell,omitempty"`    // runs that listen for it and are still to be told, one after the other
	Reasons []string      `json:"reasons,omitempty"` // what matched, or why not
	Outbox  []record.Send `json:"outbox,omitempty"`

	By  string          `json:"by,omitempty"`  // who published it, while runs are to be told
	Raw json.RawMessage `json:"raw,omitempty"` // the event, as long
}

// maxListening is how many runs are told of an event.
const maxListening = 5000

// Messages are those that wait for an answer: first runs that it starts, then
// one after the other those that listen for it.
func (e *Event) Messages() []record.Send {
	if len(e.Outbox) > 0 || len(e.Tell) == 0 {
		return e.Outbox
	}
	run := e.Tell[0]
	return []record.Send{{To: record.Run, ID: run, Input: record.Input{ID: e.signalID(run), Kind: record.InSignal, By: e.By,
		Signal: &record.Signal{Cause: e.Cause, Event: e.Raw}}}}
}

func (e *Event) signalID(run string) string {
	return record.Derive("signal", e.By, e.Cause.Source, e.Cause.ID, run)
}

// LoadEvent reads a state from a record.
func LoadEvent(p []byte) (*Event, error) {
	var e Event
	return &e, json.Unmarshal(p, &e)
}

// StepEvent decides what an incoming event starts.
func StepEvent(cat *workflows.Catalog, prev *Event, v int64, in record.Input, now int64) Transition {
	if !in.Complete() {
		return Transition{Answer: record.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: fmt.Sprintf("the input %q is not complete", in.Kind)}, State: prev}
	}
	if in.Kind == record.InSendAnswer && prev != nil {
		return answeredEvent(prev, v, in.Sent, now)
	}
	if in.Kind != record.InEvent {
		return Transition{Answer: record.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: fmt.Sprintf("an event does not take %q", in.Kind)}, State: prev}
	}
	if prev != nil {
		return Transition{Answer: record.Answer{Status: events.StatusAlready}, State: prev}
	}
	m := &matcher{cat: cat, e: &Event{Now: now}, v: v, by: in.By}
	m.t = Transition{Record: true, Answer: record.Answer{Status: events.StatusApplied}, State: m.e}
	m.match(in, now)
	return m.t
}

// matcher looks for the triggers that fit one event.
type matcher struct {
	cat     *workflows.Catalog
	e       *Event
	v       int64
	by      string // who published the event: a user, or "event:<publisher>"
	t       Transition
	refused bool
}

func (m *matcher) match(in record.Input, now int64) {
	var ev events.Event
	if in.Bad != "" {
		m.e.Reasons = []string{in.Bad}
		m.emit(events.EventRefused)
		return
	}
	if err := json.Unmarshal(in.Event, &ev); err != nil {
		m.e.Reasons = []string{"not a CloudEvent: " + err.Error()}
		m.emit(events.EventRefused)
		return
	}
	m.e.Cause = events.Cause{ID: ev.ID, Source: ev.Source, Type: ev.Type}
	scope := Scope(&ev, now)
	for _, name := range slices.Sorted(maps.Keys(m.cat.Workflows)) {
		wf := m.cat.Workflows[name]
		for i, trig := range wf.Spec.Triggers {
			m.try(wf, i, trig, &ev, scope)
		}
	}
	m.tell(in.Listening, in.Event)
	if len(m.e.Reasons) == 0 {
		m.e.Reasons = []string{fmt.Sprintf("no workflow has a trigger for events of type %s", ev.Type)}
	}
	m.conclude()
}

// tell tells runs that listen for the event. Whether it counts is theirs to say.
func (m *matcher) tell(runs []string, raw json.RawMessage) {
	if len(runs) == 0 {
		return
	}
	if over := len(runs) - maxListening; over > 0 {
		runs = runs[:maxListening]
		m.e.Reasons = append(m.e.Reasons, fmt.Sprintf("%d more runs listen for it, and are too many to be told", over))
	}
	m.e.Tell, m.e.By, m.e.Raw = runs, m.by, raw
	names := strings.Join(runs[:min(len(runs), 5)], ", ")
	if len(runs) > 5 {
		names += " and others"
	}
	m.e.Reasons = append(m.e.Reasons, fmt.Sprintf("%d runs listen for it and are told: %s", len(runs), names))
}

// conclude tells what came of the event.
func (m *matcher) conclude() {
	switch {
	case len(m.e.Runs) > 0 || len(m.e.Tell) > 0:
		m.emit(events.EventMatched)
	case m.refused:
		m.emit(events.EventRefused)
	default:
		m.emit(events.EventIgnored)
	}
}

// try starts a run when the trigger fits. A rule or an input that cannot be
// evaluated starts nothing and is told.
func (m *matcher) try(wf *workflows.Workflow, i int, trig *workflows.Trigger, ev *events.Event, scope map[string]any) {
	if trig.Schedule == nil && workflows.Match(trig.Event, ev.Type) {
		m.fire(wf, i, ev, scope)
	}
}

// fire starts a run of a trigger for an event of its type.
func (m *matcher) fire(wf *workflows.Workflow, i int, ev *events.Event, scope map[string]any) {
	name, trig := wf.Metadata.Name, wf.Spec.Triggers[i]
	what := trig.Event
	if trig.Schedule != nil {
		what = trig.Schedule.Cron
	}
	where := fmt.Sprintf("%s, trigger %d (%s)", name, i+1, what)
	if trig.When != nil {
		in := record.Cut(lookup(scope), trig.When.Program.Refs())
		ok, err := trig.When.Bool(context.Background(), in)
		d := record.Decision{Rule: fmt.Sprintf("spec.triggers[%d].when", i), Source: trig.When.Source, Of: "Workflow/" + name, Inputs: in.Clone(), Value: ok}
		if err != nil {
			d.Value, d.Error = nil, err.Error()
			m.reject(where + ": its condition cannot be evaluated: " + err.Error())
		} else if !ok {
			m.e.Reasons = append(m.e.Reasons, where+": its condition does not hold: "+trig.When.Source)
		}
		m.t.Decisions = append(m.t.Decisions, d)
		if !ok {
			return
		}
	}
	inputs, err := triggerInputs(trig, scope)
	if err == nil {
		_, err = run.ReadInputs(wf, inputs, false)
	}
	if err != nil {
		m.reject(where + ": " + err.Error())
		return
	}
	// By its publisher too: a person may claim any source, and must not take
	// the place of the event that the source itself publishes.
	id := record.Derive("run", m.by, ev.Source, ev.ID, name, i)
	m.e.Runs = append(m.e.Runs, id)
	m.e.Reasons = append(m.e.Reasons, where+" starts run "+id)
	m.e.Outbox = append(m.e.Outbox, record.Send{To: record.Run, ID: id, Input: record.Input{
		ID: record.Derive("send", "event", m.by, ev.Source, ev.ID, name, i), Kind: record.InStart, By: m.by,
		Start: &record.Start{Run: id, Workflow: name, Inputs: inputs, Cause: &m.e.Cause}}})
}

// triggerInputs evaluates a trigger's inputs. One that reads what the event
// does not have is left out, so that its default counts; any other error is
// one.
func triggerInputs(trig *workflows.Trigger, scope map[string]any) (record.Values, error) {
	inputs := record.Values{}
	for _, name := range slices.Sorted(maps.Keys(trig.Inputs)) {
		d := trig.Inputs[name]
		v, err := d.Eval(context.Background(), record.Cut(lookup(scope), d.Refs()))
		switch {
		case err == nil:
			inputs[name] = workflows.Normal(v)
		case !absent(scope, d.Refs()):
			return nil, fmt.Errorf("input %q cannot be evaluated: %w", name, err)
		}
	}
	return inputs, nil
}

// absent reports whether something that is read is not in the scope.
func absent(scope map[string]any, refs [][]string) bool {
	return slices.ContainsFunc(refs, func(ref []string) bool {
		var v any = scope
		for _, name := range ref {
			m, ok := v.(map[string]any)
			if !ok {
				return false // something is there, of another shape
			}
			if v, ok = m[name]; !ok {
				return true
			}
		}
		return false
	})
}

func (m *matcher) reject(reason string) {
	m.refused = true
	m.e.Reasons = append(m.e.Reasons, reason)
}

func (m *matcher) emit(typ string) {
	m.t.Events = append(m.t.Events, record.Emitted{Type: typ, Data: events.Happening{
		Cause: &m.e.Cause, Runs: m.e.Runs, Reasons: m.e.Reasons, Record: m.v}})
}

func lookup(scope map[string]any) func(string) (any, bool) {
	return func(name string) (any, bool) { v, ok := scope[name]; return v, ok }
}

// Scope is what a trigger's expressions see.
func Scope(ev *events.Event, now int64) map[string]any {
	return map[string]any{"event": run.EventScope(ev), "now": time.UnixMilli(now).UTC()}
}

// answeredEvent takes the answer of a run that the event started, or that was
// told of it. One that does not listen any more is no fault.
func answeredEvent(prev *Event, v int64, sent *record.Sent, now int64) Transition {
	e := new(*prev)
	e.Now = max(now, e.Now)
	t := Transition{Record: true, Answer: record.Answer{Status: events.StatusApplied}, State: e}
	if len(e.Tell) > 0 && sent.ID == e.signalID(e.Tell[0]) {
		if e.Tell = e.Tell[1:]; len(e.Tell) == 0 {
			e.Tell, e.By, e.Raw = nil, "", nil
		}
		return t
	}
	i := slices.IndexFunc(prev.Outbox, func(s record.Send) bool { return s.Input.ID == sent.ID })
	if i < 0 {
		return Transition{Answer: record.Answer{Status: events.StatusAlready}, State: prev}
	}
	to := prev.Outbox[i].ID
	e.Outbox = slices.Delete(slices.Clone(prev.Outbox), i, i+1)
	if sent.Status != events.StatusApplied && sent.Status != events.StatusAlready {
		e.Reasons = append(slices.Clone(e.Reasons), fmt.Sprintf("run %s was not started: %s", to, sent.Reason))
		e.Runs = slices.DeleteFunc(slices.Clone(e.Runs), func(r string) bool { return r == to })
		t.Events = append(t.Events, record.Emitted{Type: events.EventRefused, Data: events.Happening{
			Cause: &e.Cause, Runs: e.Runs, Reasons: e.Reasons, Record: v}})
	}
	return t
}
