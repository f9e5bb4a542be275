package run

import (
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Each stale report makes a record, so there are bounds: it is about a task
// that the run had in one of its latest visits, and there are not too many in
// the time for which repeats are recognised.
const (
	maxStale    = 32
	staleVisits = 32
)

// stale records, once, that somebody reported on an attempt that is not theirs.
func (x *step) stale(a *record.Attempt) {
	n := 0
	for _, s := range x.s.Seen {
		if s.is(a.Task, x.in.Kind, a.Worker) {
			x.out.At = s.V
			x.unrecorded(events.StatusStale, "", s.Answer.Reason)
			return
		}
		if s.Kind == record.InAttemptFinish {
			n++
		}
	}
	reason := "the attempt is not current, or not this worker's; its result changes nothing"
	if n >= maxStale || !x.had(a.Task) {
		x.unrecorded(events.StatusStale, "", reason)
		return
	}
	x.out.Answer = record.Answer{Status: events.StatusStale, Reason: reason}
	x.remember(a.Task, a.Worker)
	x.emit(events.TaskRefused, events.Happening{State: x.s.At, Worker: a.Worker, Reason: reason})
}

// had reports whether the run had a task of this id. Ids are derived, so they
// need not be kept to be known again.
func (x *step) had(id string) bool {
	for _, st := range x.d.Workflow.Ordered() {
		visits := x.s.Visits[st.Name]
		for visit := max(1, visits-staleVisits+1); visit <= visits; visit++ {
			switch st.Kind() {
			case "parallel":
				for _, b := range st.Branches() {
					if x.tried(id, st.Name+"."+b.Name, visit, &b.Activity) {
						return true
					}
				}
			case "task", "deploy":
				if x.tried(id, st.Name, visit, &st.Activity) {
					return true
				}
			}
		}
	}
	for i, f := range x.d.Workflow.Spec.Finally {
		if x.s.Phase != phaseRunning && x.tried(id, fmt.Sprintf("finally.%d", i+1), x.s.Visit, &f.Activity) {
			return true
		}
	}
	for n := max(1, x.s.Notes-staleVisits+1); n <= x.s.Notes; n++ {
		if x.tried(id, fmt.Sprintf("notify.%d", n), 0, &workflows.Activity{Retry: &workflows.Retry{Attempts: noticeAttempts}}) {
			return true
		}
	}
	return false
}

// tried reports whether id is that of an attempt at a path, or of a question
// about what became of one.
func (x *step) tried(id, path string, visit int, a *workflows.Activity) bool {
	attempts := lostAttempts
	if a.Retry != nil {
		attempts = max(attempts, a.Retry.Attempts)
	}
	for attempt := 1; attempt <= attempts; attempt++ {
		first := attemptID(x.s.ID, path, visit, attempt, "", 0)
		if id == first {
			return true
		}
		for asked := 1; asked <= statusAttempts; asked++ {
			if id == attemptID(x.s.ID, path, visit, attempt, first, asked) {
				return true
			}
		}
	}
	return false
}

// attemptID is the identity of an attempt. lost is the attempt whose fate it
// asks for, asked how often that was asked.
func attemptID(run, path string, visit, attempt int, lost string, asked int) string {
	return record.Derive("task", run, path, visit, attempt, lost, asked)
}
