package run

import (
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// beginWait goes to sleep, or begins to listen for an event.
func (x *step) beginWait(w *workflows.Wait) {
	x.s.WakeAt = x.now + w.For.D().Milliseconds()
}

// waitOutcome tells whether the wait is over.
func (x *step) waitOutcome(*workflows.Wait) (string, *events.TaskError, bool) {
	return events.Succeeded, nil, x.s.WakeAt == 0
}
