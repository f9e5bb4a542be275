package run

import (
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// beginUndoing begins to undo the effects of states, the last one first.
func (x *step) beginUndoing([]string, bool) {}

// undoingOutcome goes on with the next effect and tells whether all are undone.
func (x *step) undoingOutcome() (string, *events.TaskError, bool) {
	return events.Failed, nil, true
}

// partActivity is the definition of a task that is a part of another one: an
// undo, or a sample of an analysis.
func (x *step) partActivity(*Task) workflows.Activity { return workflows.Activity{} }
