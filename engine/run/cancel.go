package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// cancel stops the run: what runs is told to stop, what waits is dropped. Then
// it goes on from the state onCancel, if there is one; cancelled once more
// there, it ends. When the outcome stands already, closing tasks are stopped.
func (x *step) cancel(c *events.CancelRun) {
	running := x.s.Phase == phaseRunning
	switch {
	case x.s.Done():
		x.refuse(events.CommandRefused, events.CodeConflict, fmt.Sprintf("the run has ended: %s", x.s.Outcome))
		return
	case running && x.cancelling() || !running && x.s.Cancel != nil && x.stopping():
		x.refuse(events.CommandRefused, events.CodeConflict, "the run is being cancelled already, by "+x.s.Cancel.By)
		return
	case !x.fromParent() && !x.may(workflows.ActRunCancel):
		x.refuse(events.CommandRefused, events.CodeDenied, x.denied("cancel runs of "+x.s.Workflow))
		return
	}
	switch c0 := x.s.Cancel; {
	case c0 == nil:
		x.s.Cancel = &Cancelled{By: x.in.By, Reason: c.Reason, At: x.now}
	case running:
		x.s.Cancel = new(*c0)
		x.s.Cancel.Through, x.s.Cancel.Last = false, true
	}
	x.s.Paused, x.s.Leaving = nil, nil
	if x.waitsForKey() {
		x.endUnbegun(events.Cancelled, nil)
		return
	}
	x.stopWork()
}

// cancelling reports whether the run stops because of a cancel.
func (x *step) cancelling() bool { return x.s.Cancel != nil && !x.s.Cancel.Through }

// stopping reports whether all that still goes on was told to stop.
func (x *step) stopping() bool {
	return !slices.ContainsFunc(x.s.Tasks, func(t *Task) bool {
		return !t.Detached && t.Status != taskDone && t.Status != taskCancelling && t.Status != taskStopping
	})
}

// stopped goes on when the work of a cancelled run has stopped: to onCancel, or
// to the end, where deployments that were not finished are undone by now.
func (x *step) stopped(err *events.TaskError) {
	to := x.d.Workflow.Spec.OnCancel
	if x.s.Cancel.Last {
		to = ""
	}
	if to != "" {
		if why := x.forbidden(to, ""); why != nil {
			to, err = "", &events.TaskError{Code: events.CodeInvariant, Message: why.Error()}
		}
	}
	x.left(events.Cancelled, err, to)
	if to == "" {
		x.finish(events.Cancelled, err)
		return
	}
	x.s.Cancel = new(*x.s.Cancel)
	x.s.Cancel.Through = true
	x.enter(to)
}

// undoFault is why something that a cancelled run left could not be undone.
func (x *step) undoFault() *events.TaskError {
	if u := x.s.Undoing; u != nil && u.Cancel {
		return u.Error
	}
	return nil
}
