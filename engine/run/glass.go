package run

import "github.com/penstock-cd/penstock/events"

// breakGlass passes the rules, windows and holds of an environment for this run.
func (x *step) breakGlass(*events.BreakGlass) {
	x.refuse(events.CommandRefused, events.CodeConflict, "the environment has no glass to break")
}
