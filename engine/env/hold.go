package env

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// maxHolds is how many holds an environment has at a time.
const maxHolds = 100

// Hold keeps everything out of the environment, until a time or until a
// person takes it away.
type Hold struct {
	ID     string `json:"id"`
	By     string `json:"by"`
	Reason string `json:"why,omitempty"`
	At     int64  `json:"t"`
	Until  int64  `json:"until,omitempty"` // 0: for good
}

func (h Hold) text() string {
	return fmt.Sprintf("held by %s: %s", h.By, cmp.Or(h.Reason, "no reason is given"))
}

// hold keeps everything out from now on; what is in goes on.
func (e *Environment) hold(in record.Input, t *Transition, v int64) string {
	h := Hold{ID: in.Hold.ID, By: in.By, Reason: in.Hold.Reason, At: e.Now}
	if !in.Hold.Until.IsZero() {
		h.Until = in.Hold.Until.UnixMilli()
	}
	switch {
	case h.Until > 0 && h.Until <= e.Now:
		return "the hold would be over already at " + time.UnixMilli(h.Until).UTC().Format(time.RFC3339)
	case len(e.Holds) >= maxHolds:
		return fmt.Sprintf("the environment %s has %d holds already; take some away", e.Name, maxHolds)
	}
	e.Holds = append(e.Holds, h)
	e.happened(t, v, events.EnvironmentHeld, in.By, h.Reason, h.Until)
	return ""
}

// unhold takes one hold away, or all of them.
func (e *Environment) unhold(in record.Input, t *Transition, v int64) string {
	n := len(e.Holds)
	e.Holds = slices.DeleteFunc(e.Holds, func(h Hold) bool { return in.Hold.Hold == "" || in.Hold.Hold == h.ID })
	switch {
	case n == 0:
		return "nobody holds everything out of the environment " + e.Name
	case len(e.Holds) == n:
		return fmt.Sprintf("the environment %s has no hold %q", e.Name, in.Hold.Hold)
	}
	e.happened(t, v, events.EnvironmentUnheld, in.By, in.Hold.Reason, 0)
	return ""
}

// endHolds drops the holds whose time is over.
func (e *Environment) endHolds(t *Transition, v int64) {
	e.Holds = slices.DeleteFunc(e.Holds, func(h Hold) bool {
		over := h.Until > 0 && h.Until <= e.Now
		if over {
			e.happened(t, v, events.EnvironmentUnheld, "", "its time is over: "+h.text(), 0)
		}
		return over
	})
}

func (e *Environment) happened(t *Transition, v int64, typ, by, reason string, until int64) {
	h := events.Happening{Environment: e.Name, By: by, Reason: reason, Record: v}
	if until > 0 {
		h.Deadline = new(time.UnixMilli(until).UTC())
	}
	t.Events = append(t.Events, record.Emitted{Type: typ, Data: h})
}
