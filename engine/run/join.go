package run

import (
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// joined tells whether a parallel state is over, and judges its gate.
func (x *step) joined(st *workflows.State) (string, *events.TaskError, bool) {
	outcome, err, over := x.join(st)
	if over && outcome == events.Succeeded {
		if err = x.gate(st); err != nil {
			outcome = events.Failed
		}
	}
	return outcome, err, over
}

// join tells how the branches ended together. Where one is enough, the others
// are stopped as soon as it is there, and the state is over when they have.
func (x *step) join(st *workflows.State) (string, *events.TaskError, bool) {
	if st.Join == "any" || st.Join == "race" {
		x.decideJoin(st)
	}
	if !x.quiet() {
		return "", nil, false
	}
	if x.s.Winner != "" {
		t := x.s.taskAt(st.Name + "." + x.s.Winner)
		return branchOutcome(t.Outcome), branchError(x.s.Winner, t), true
	}
	var failed []string
	for _, b := range st.Branches() {
		t := x.s.taskAt(st.Name + "." + b.Name)
		if t == nil || t.Outcome == events.Succeeded {
			continue
		}
		if st.Join != "any" {
			return branchOutcome(t.Outcome), branchError(b.Name, t), true
		}
		failed = append(failed, b.Name+" "+t.Outcome)
	}
	if len(failed) > 0 { // of any, none has succeeded
		return events.Failed, &events.TaskError{Code: "no_branch", Message: "no branch succeeded: " + strings.Join(failed, ", ")}, true
	}
	return events.Succeeded, nil, true
}

// decideJoin looks for the branch that is enough, and stops the others.
func (x *step) decideJoin(st *workflows.State) {
	if x.s.Winner != "" {
		return
	}
	var first *Task // while the run was paused several may have ended
	for _, b := range st.Branches() {
		t := x.s.taskAt(st.Name + "." + b.Name)
		if t == nil || t.Status != taskDone || st.Join == "any" && t.Outcome != events.Succeeded {
			continue
		}
		if first == nil || t.EndedAt < first.EndedAt {
			first, x.s.Winner = t, b.Name
		}
	}
	if first == nil {
		return
	}
	for _, t := range x.s.Tasks {
		if !t.Detached {
			x.cancelTask(t)
		}
	}
}

// branchOutcome is the outcome of a state one of whose parts ended so.
func branchOutcome(outcome string) string {
	switch outcome {
	case events.Succeeded, events.Failed, events.TimedOut, events.Cancelled:
		return outcome
	}
	return events.Failed
}

// branchError says which part of a state ended badly; nil when it did not.
func branchError(name string, t *Task) *events.TaskError {
	switch {
	case t.Outcome == events.Succeeded:
		return nil
	case t.Error != nil:
		return &events.TaskError{Code: t.Error.Code, Message: name + ": " + t.Error.Message, Retryable: t.Error.Retryable}
	}
	return &events.TaskError{Code: "branch_" + name, Message: name + ": " + t.Outcome}
}
