package run

import "github.com/penstock-cd/penstock/events"

// retry lets a run that has ended, or is held, begin again at a state.
func (x *step) retry(*events.RetryRun) {
	x.refuse(events.CommandRefused, events.CodeConflict, "the run cannot be tried again")
}
