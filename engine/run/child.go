package run

import (
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// beginChild starts a run of another workflow and waits for it.
func (x *step) beginChild(path string, _ *workflows.Child, member string) *Task {
	t := &Task{Path: path, Member: member}
	x.s.Tasks = append(x.s.Tasks, t)
	return t
}

// childEnded takes the end of a run that this one has started.
func (x *step) childEnded(*record.ChildEnded) {
	x.unrecorded("stale", "", "the run does not wait for it")
}
