package env

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Looker is a run that wants to know whether the environment is open.
type Looker struct {
	Run   string `json:"run"`
	State string `json:"state,omitempty"`
	Told  string `json:"told,omitempty"`  // what it was told last
	Rules bool   `json:"rules,omitempty"` // rules keep it out: it is told of new definitions only
	Defs  string `json:"defs,omitempty"`  // digest of the definitions that were in force when it was told last
}

// look notes a run that wants to know; false when it is known already.
func (e *Environment) look(r *record.EnvRequest) bool {
	i := slices.IndexFunc(e.Lookers, func(l Looker) bool { return l.Run == r.Run })
	if i >= 0 && (e.Lookers[i].Rules == r.Rules || r.Rules) {
		return false
	}
	if i >= 0 {
		e.Lookers[i].Rules = false
		return true
	}
	e.Lookers = append(e.Lookers, Looker{Run: r.Run, State: r.State, Rules: r.Rules})
	return true
}

// forget drops a run from those that want to know, and gives what it was told.
func (e *Environment) forget(run string) (told string) {
	e.Lookers = slices.DeleteFunc(e.Lookers, func(l Looker) bool {
		if l.Run == run {
			told = l.Told
		}
		return l.Run == run
	})
	return told
}

// lost drops a run that does not want to enter any more: it does not take what
// it is told.
func (e *Environment) lost(sent *record.Sent) {
	i := slices.IndexFunc(e.Outbox, func(m record.Send) bool { return m.Input.ID == sent.ID })
	taken := sent.Status == events.StatusApplied || sent.Status == events.StatusAlready
	if i >= 0 && !taken && e.Outbox[i].Input.EnvState != nil {
		e.forget(e.Outbox[i].ID)
	}
}

// Door tells whether the environment lets anything in now: no person holds it
// and its windows are open. spec is its definition; nil where there is none.
func (e *Environment) Door(spec *workflows.Environment) Door {
	var windows *workflows.Windows
	if spec != nil {
		windows = spec.Spec.Windows
	}
	now := time.UnixMilli(e.Now).UTC()
	d := LookAt(windows, now)
	if len(e.Holds) == 0 {
		return d
	}
	over, ends := now, true
	for _, h := range e.Holds {
		ends = ends && h.Until > 0
		if at := time.UnixMilli(h.Until).UTC(); at.After(over) {
			over = at
		}
	}
	closed := Door{Reason: e.Holds[0].text(), Again: d.Again}
	if !ends {
		return closed // windows or not, until a person takes the hold away
	}
	if then := LookAt(windows, over); then.Open {
		closed.Until = over
	} else {
		closed.Until = then.Until
	}
	return closed
}

// state is the door as a run is told of it, and a text that is the same as
// long as there is nothing new to tell.
func (e *Environment) state(d Door) (*record.EnvState, string) {
	s := &record.EnvState{Environment: e.Name, Open: d.Open, Reason: d.Reason}
	if d.Open {
		return s, "open"
	}
	if !d.Until.IsZero() {
		s.Until = d.Until.UnixMilli()
	}
	return s, fmt.Sprintf("%s, until %d", s.Reason, s.Until)
}

// announce tells everybody who waits whether the environment is open, where
// that is news, and sets when to look again. Who looks is told of new
// definitions too.
func (e *Environment) announce(spec *workflows.Environment, d Door, defs string) {
	state, text := e.state(d)
	for i := range e.Lookers {
		l := &e.Lookers[i]
		news := !l.Rules && l.Told != text || l.Defs != "" && l.Defs != defs
		l.Defs = defs
		if news {
			e.tellState(l.Run, *state)
		}
		if !l.Rules {
			l.Told = text
		}
	}
	for i := range e.Queue {
		if q := &e.Queue[i]; !q.Glass && q.Told != text && (!d.Open || q.Told != "") {
			q.Told = text
			e.tellState(q.Run, *state)
		}
	}
	ends := e.announceEnd(spec)
	e.NextAt = 0
	if len(e.Queue) > 0 || slices.ContainsFunc(e.Lookers, func(l Looker) bool { return !l.Rules }) {
		e.wake(d.Until)
		e.wake(d.Again)
	}
	e.wake(ends)
	for _, h := range e.Holds {
		if h.Until > 0 {
			e.wake(time.UnixMilli(h.Until))
		}
	}
}

// announceEnd tells the holder that the window in which it works has ended,
// where that means something to it, and that another one has begun. It gives
// the time of the next change.
func (e *Environment) announceEnd(spec *workflows.Environment) time.Time {
	if e.Holder == nil || e.Holder.Glass || spec == nil || spec.Spec.Windows == nil {
		return time.Time{}
	}
	atEnd := spec.Spec.Windows.AtEnd
	if atEnd != "hold" && atEnd != "undo" {
		return time.Time{}
	}
	d := LookAt(spec.Spec.Windows, time.UnixMilli(e.Now)) // a hold keeps out; it does not stop what goes on
	state, text := e.state(d)
	if !d.Open {
		state.AtEnd = atEnd
	}
	if e.Holder.Told != text && (!d.Open || e.Holder.Told != "") {
		e.Holder.Told = text
		e.tellState(e.Holder.Run, *state)
	}
	if d.Until.IsZero() {
		return d.Again
	}
	return d.Until
}

func (e *Environment) tellState(run string, s record.EnvState) {
	s.N = e.Sent + 1
	e.tell(run, record.Input{Kind: record.InEnvState, EnvState: &s})
}

// changed reports whether a timer has made a difference: a deadline has passed,
// or definitions that were put in force open or close the environment.
func (e *Environment) changed(prev *Environment) bool {
	return prev != nil && (prev.NextAt > 0 && prev.NextAt <= e.Now || prev.NextAt != e.NextAt || prev.Sent != e.Sent)
}

// Waited reports whether anybody wants to enter.
func (e *Environment) Waited() bool { return len(e.Lookers) > 0 || len(e.Queue) > 0 }

// wake asks for a timer at a time, unless one stands before it.
func (e *Environment) wake(at time.Time) {
	if ms := at.UnixMilli(); !at.IsZero() && ms > e.Now && (e.NextAt == 0 || ms < e.NextAt) {
		e.NextAt = ms
	}
}

// NextDeadline is the time at which the environment wants a timer input, in
// milliseconds, or 0 when it waits for none.
func (e *Environment) NextDeadline() int64 { return e.NextAt }
