package run

import "github.com/penstock-cd/penstock/events"

// pause keeps the run from beginning anything new.
func (x *step) pause(*events.PauseRun) {
	x.refuse(events.CommandRefused, events.CodeConflict, "the run cannot be paused")
}

// resume lets a paused run go on.
func (x *step) resume(*events.PauseRun) {
	x.refuse(events.CommandRefused, events.CodeConflict, "the run is not paused")
}
