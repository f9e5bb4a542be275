package run

import (
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// beginWait goes to sleep, or begins to listen for an event. A time that
// cannot be evaluated holds the run.
func (x *step) beginWait(w *workflows.Wait) {
	switch {
	case w.Event != "":
		if w.Timeout > 0 {
			x.s.WakeAt = x.now + w.Timeout.D().Milliseconds()
		}
	case w.Until != nil:
		until, err := x.until(w.Until)
		if err != nil {
			x.hold(heldBegin, err.Error(), "")
			return
		}
		if until > x.now {
			x.s.WakeAt = until
		}
	default:
		x.s.WakeAt = x.now + w.For.D().Milliseconds()
	}
}

// beginAgain tries once more to begin what could not be begun.
func (x *step) beginAgain() bool {
	if w := x.state().Wait; w != nil {
		before := x.s.Held
		x.beginWait(w)
		if x.s.Held != before {
			return false
		}
	}
	x.s.Held = nil
	return true
}

// until evaluates the end of a sleep, in milliseconds.
func (x *step) until(e *workflows.Expr) (int64, error) {
	v, err := x.value(e, fmt.Sprintf("spec.states.%s.wait.until", x.s.At), nil)
	if err != nil {
		return 0, err
	}
	t, ok := v.(time.Time)
	if !ok {
		return 0, fmt.Errorf("%s: %q gives %v, want a time", e.Pos, e.Source, v)
	}
	return t.UnixMilli(), nil
}

// waitOutcome tells whether the wait is over.
func (x *step) waitOutcome(st *workflows.State) (string, *events.TaskError, bool) {
	w := st.Wait
	if w.Event == "" {
		return events.Succeeded, nil, x.s.WakeAt == 0
	}
	if _, came := x.s.Values[st.Name]; came {
		return events.Succeeded, nil, true
	}
	if w.Timeout > 0 && x.s.WakeAt == 0 {
		return events.TimedOut, &events.TaskError{Code: events.CodeTimeout, Message: fmt.Sprintf("no event of type %s came within %v", w.Event, w.Timeout.D())}, true
	}
	return "", nil, false
}

// whySleep says what a run that sleeps or listens waits for; ok is false when
// it does neither.
func (x *step) whySleep() (r events.WaitReason, ok bool) {
	r = events.WaitReason{State: x.s.At, What: "timer", Until: timePtr(x.s.WakeAt)}
	st := x.state()
	_, came := x.s.Values[x.s.At]
	switch {
	case st == nil || x.lastOutcome() != "" || x.s.Leaving != nil || x.cancelling():
		return r, false
	case st.Wait != nil && st.Wait.Event != "" && !came && x.s.Leaving == nil:
		r.What, r.Summary = "event", "waits for an event of type "+st.Wait.Event
		if st.Wait.When != nil {
			r.Rule = st.Wait.When.Source
			r.Summary += " for which " + r.Rule
		}
		if x.s.WakeAt > 0 {
			r.Summary += ", until " + at(x.s.WakeAt).Format(time.RFC3339)
		}
		return r, true
	case x.s.WakeAt == 0:
		return r, false
	case x.s.Each != nil:
		r.Summary = fmt.Sprintf("wave %d is through; the next one begins at %s", x.s.Each.Wave+1, at(x.s.WakeAt).Format(time.RFC3339))
	default:
		r.Summary = "sleeps until " + at(x.s.WakeAt).Format(time.RFC3339)
	}
	return r, true
}
