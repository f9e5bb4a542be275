package run

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Listens gives the types of the events that the run listens for now; a final
// * matches any rest.
func (s *State) Listens() []string { return s.Listen }

// listens lists what a run listens for in a state.
func listens(st *workflows.State) []string {
	types := armsOf(st)
	if st.Wait != nil && st.Wait.Event != "" {
		types = append(types, st.Wait.Event)
	}
	return types
}

// armsOf lists the events that take the run out of a state.
func armsOf(st *workflows.State) []string {
	var types []string
	for _, arm := range st.Events {
		types = append(types, arm.Event)
	}
	return types
}

// signal takes an event that came while the run listens for it. The arms of
// the state are looked at first, in their order, then what it waits for.
func (x *step) signal(sig *record.Signal) {
	if x.repeated(x.in.ID, "event") {
		return
	}
	var ev events.Event
	if err := json.Unmarshal(sig.Event, &ev); err != nil {
		x.unrecorded(events.StatusError, events.CodeInvalid, "not a CloudEvent: "+err.Error())
		return
	}
	if x.s.Phase != phaseRunning || x.cancelling() || x.s.Leaving != nil || x.waitsForKey() || !x.hears(ev.Type) {
		x.unrecorded(events.StatusStale, "", "the run does not listen for it any more")
		return
	}
	x.once(x.in.ID, "event")
	x.hear(&ev, sig.Cause)
}

func (x *step) hears(typ string) bool {
	for _, pattern := range x.s.Listen {
		if workflows.Match(pattern, typ) {
			return true
		}
	}
	return false
}

// hear judges an event.
func (x *step) hear(ev *events.Event, cause events.Cause) {
	st, scope := x.state(), EventScope(ev)
	extra := map[string]any{"event": scope}
	heard := events.Happening{State: x.s.At, Cause: &cause}
	for i, arm := range st.Events {
		if !workflows.Match(arm.Event, ev.Type) {
			continue
		}
		ok, err := x.counts(arm.When, fmt.Sprintf("spec.states.%s.events[%d].when", x.s.At, i), extra)
		if err != nil {
			return
		}
		if ok {
			heard.To = arm.To
			x.emit(events.RunHeard, heard)
			x.s.Leaving = &Leaving{To: arm.To, Cause: cause}
			if o, n := x.s.Over, len(x.s.Path); o != nil && n > 0 { // it had come to its end, and was not left
				x.s.Path[n-1].Outcome, x.s.Path[n-1].Error = o.Outcome, o.Error
			}
			x.stopWork()
			return
		}
	}
	// a wait that is over, where the run is held, is not ended once more
	if w := st.Wait; w != nil && w.Event != "" && x.lastOutcome() == "" && workflows.Match(w.Event, ev.Type) {
		ok, err := x.counts(w.When, fmt.Sprintf("spec.states.%s.wait.when", x.s.At), extra)
		if err != nil {
			return
		}
		if ok {
			x.emit(events.RunHeard, heard)
			x.s.Values[st.Name] = map[string]any{"event": kept(scope)}
			x.s.Held, x.s.WakeAt, x.s.Listen = nil, 0, armsOf(st)
			return
		}
	}
	if h := x.s.Held; h != nil && h.Of == heldEvent {
		x.s.Held = nil // this one could be judged
	}
	heard.Reason = "no condition holds for it"
	if x.lastOutcome() != "" {
		heard.Reason = "the state is over"
	}
	x.emit(events.RunHeard, heard)
}

// counts reports whether an event is one that is waited for. When that cannot
// be evaluated the run holds.
func (x *step) counts(when *workflows.Expr, path string, extra map[string]any) (bool, error) {
	if when == nil {
		return true, nil
	}
	ok, err := x.rule(when, path, extra)
	if h := x.s.Held; err != nil && (h == nil || h.Of == heldEvent) {
		x.hold(heldEvent, err.Error(), "")
	}
	return ok, err
}

// kept is what a run remembers of an event.
func kept(scope map[string]any) map[string]any {
	out := map[string]any{}
	for _, name := range []string{"id", "source", "type", "subject", "data"} {
		if v, ok := scope[name]; ok {
			out[name] = v
		}
	}
	return out
}

// EventScope is what expressions know as event: its attributes and extensions
// by name, its JSON data as data.
func EventScope(ev *events.Event) map[string]any {
	e := map[string]any{"id": ev.ID, "source": ev.Source, "type": ev.Type, "subject": ev.Subject}
	if !ev.Time.IsZero() {
		e["time"] = ev.Time
	}
	for k, v := range ev.Extensions {
		e[k] = v
	}
	if ev.IsJSON() && len(ev.Data) > 0 {
		var data any
		dec := json.NewDecoder(bytes.NewReader(ev.Data))
		dec.UseNumber()
		if dec.Decode(&data) == nil {
			e["data"] = workflows.Normal(data)
		}
	} else if len(ev.Data) > 0 {
		e["data"] = string(ev.Data)
	}
	return e
}
