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
					if x.tried(id, st.Name+"."+b.Name, visit, &b.Body) {
						return true
					}
				}
			case "task", "deploy":
				if x.tried(id, st.Name, visit, &st.Body) {
					return true
				}
			}
		}
	}
	for i, f := range x.d.Workflow.Spec.Finally {
		if x.s.Phase != phaseRunning && x.triedPart(id, fmt.Sprintf("finally.%d", i+1), x.s.Ends, 0, f.Retry) {
			return true
		}
	}
	for n := max(1, x.s.Notes-staleVisits+1); n <= x.s.Notes; n++ {
		if x.triedPart(id, fmt.Sprintf("notify.%d", n), 0, 0, &workflows.Retry{Attempts: noticeAttempts}) {
			return true
		}
	}
	return x.hadPart(id)
}

// hadPart reports whether id is that of one of the latest undos and samples.
func (x *step) hadPart(id string) bool {
	for part := max(1, x.s.Parts-staleVisits+1); part <= x.s.Parts; part++ {
		for _, path := range x.partPaths() {
			if x.triedPart(id, path, 0, part, nil) {
				return true
			}
		}
	}
	return false
}

// partPaths are the paths at which undos and samples can have been.
func (x *step) partPaths() []string {
	var paths []string
	add := func(path string, b *workflows.Body) {
		paths = append(paths, undoPath+path)
		if b.Deploy != nil {
			for _, m := range b.Deploy.Analysis {
				paths = append(paths, path+"."+m.Name)
			}
		}
	}
	for _, st := range x.d.Workflow.Ordered() {
		for _, b := range st.Branches() {
			add(st.Name+"."+b.Name, &b.Body)
		}
		add(st.Name, &st.Body)
	}
	for _, t := range x.s.Tasks { // members
		if b := x.bodyAt(t.definedAt()); b != nil && t.Of == "" {
			add(t.Path, b)
		}
	}
	return paths
}

// tried reports whether id is that of an attempt at a path, or of a question
// about what became of one.
func (x *step) tried(id, path string, visit int, b *workflows.Body) bool {
	steps := 0
	if b.Deploy != nil {
		steps = len(b.Deploy.Expanded())
		if b.Deploy.Resume != "" {
			steps = len(x.steps(&Task{Path: b.Deploy.Resume}))
		}
	}
	for part := range steps + 1 {
		if x.triedPart(id, path, visit, part, b.Retry) {
			return true
		}
	}
	return false
}

func (x *step) triedPart(id, path string, visit, part int, r *workflows.Retry) bool {
	attempts := lostAttempts
	if r != nil {
		attempts = max(attempts, r.Attempts)
	}
	for attempt := 1; attempt <= attempts; attempt++ {
		first := attemptID(x.s.ID, path, visit, attempt, "", 0, part)
		if id == first {
			return true
		}
		for asked := 1; asked <= statusAttempts; asked++ {
			if id == attemptID(x.s.ID, path, visit, attempt, first, asked, part) {
				return true
			}
		}
	}
	return false
}

// attemptID is the identity of an attempt. lost is the attempt whose fate it
// asks for, asked how often that was asked; part tells apart what is done one
// after the other at one path in one visit.
func attemptID(run, path string, visit, attempt int, lost string, asked, part int) string {
	if part == 0 {
		return record.Derive("task", run, path, visit, attempt, lost, asked)
	}
	return record.Derive("task", run, path, visit, attempt, lost, asked, part)
}
