package run

import (
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// beginEach begins the first wave of a forEach state.
func (x *step) beginEach(*workflows.State) {}

// eachOutcome goes on with the next members and tells whether all are through.
func (x *step) eachOutcome(*workflows.State) (string, *events.TaskError, bool) {
	return events.Failed, nil, true
}
