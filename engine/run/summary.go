package run

import (
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
)

// Summary is what stands of the state in the head of its record.
func (s *State) Summary() record.Summary {
	sum := record.Summary{Due: s.NextDeadline(), Busy: s.busy(), Workflow: s.Workflow, Status: s.Status(), Started: s.StartedAt, Listen: s.Listens()}
	if s.Done() {
		sum.Outcome = s.Outcome
	}
	if s.Parent != nil {
		sum.Parent = s.Parent.Run
	}
	return sum
}

// busy reports whether whoever takes the run over must know its state:
// messages wait for an answer, or tasks are with workers or on their way.
func (s *State) busy() bool {
	return len(s.Outbox) > 0 || slices.ContainsFunc(s.Tasks, func(t *Task) bool {
		return t.Status == taskQueued || t.Status == taskRunning || t.Status == taskCancelling
	})
}
