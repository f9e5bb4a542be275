package run

import (
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// pause keeps the run from beginning anything new: no state is left or
// entered, no task is published. What runs finishes, people may decide.
func (x *step) pause(p *events.PauseRun) {
	switch {
	case !x.may(workflows.ActRunPause):
		x.refuse(events.CommandRefused, events.CodeDenied, x.denied("pause runs of "+x.s.Workflow))
	case x.s.Phase != phaseRunning:
		x.refuse(events.CommandRefused, events.CodeConflict, "the run has ended: "+x.s.Outcome)
	case x.cancelling():
		x.refuse(events.CommandRefused, events.CodeConflict, "the run is being cancelled, by "+x.s.Cancel.By)
	case x.s.Paused != nil:
		x.refuse(events.CommandRefused, events.CodeConflict, "the run is paused already, by "+x.s.Paused.By)
	default:
		x.s.Paused = &Cancelled{By: x.in.By, Reason: p.Reason, At: x.now}
		x.emit(events.RunPaused, events.Happening{State: x.s.At, By: x.in.By, Reason: p.Reason})
	}
}

// resume lets a paused run go on.
func (x *step) resume(p *events.PauseRun) {
	switch {
	case !x.may(workflows.ActRunPause):
		x.refuse(events.CommandRefused, events.CodeDenied, x.denied("resume runs of "+x.s.Workflow))
		return
	case x.s.Paused == nil:
		x.refuse(events.CommandRefused, events.CodeConflict, "the run is not paused")
		return
	}
	x.s.Paused = nil
	x.emit(events.RunResumed, events.Happening{State: x.s.At, By: x.in.By, Reason: p.Reason})
	if x.waitsForKey() {
		x.askKey()
	}
	for _, t := range x.s.Tasks {
		switch {
		case t.Status == taskParked:
			x.publish(t)
		case t.Status != taskLocked || t.Of != "":
		case t.Resumes != "" && !x.s.Anew[t.Env]:
			x.requestLock(t)
		default: // a grant that came meanwhile was not taken
			x.enterEnvironment(t)
		}
	}
	x.askPeople()
}

func (x *step) paused() bool { return x.s.Paused != nil }

// parks keeps a task from being published while the run is paused.
func (x *step) parks(t *Task) bool {
	if !x.paused() || t.Detached || t.Closing || t.Lost != "" {
		return false
	}
	t.Status, t.RetryAt = taskParked, 0
	return true
}

// publish begins what was parked.
func (x *step) publish(t *Task) {
	if b := x.bodyAt(t.Path); b != nil && b.Workflow != nil && t.Of == "" {
		x.startChild(t, b.Workflow)
		return
	}
	x.queue(t)
}

// rest is all that goes on by itself in a run that is paused, or held by an
// event: people's decisions come to their end, and so does an approval's time.
func (x *step) rest() {
	x.implicitApproval()
	if x.s.Open == nil || x.s.Open.Implicit {
		return
	}
	if outcome, err, over := x.approvalOutcome(); over {
		x.s.Over = &Over{Outcome: outcome, Error: err}
	}
}

func (x *step) whyPaused() events.WaitReason {
	p := x.s.Paused
	r := events.WaitReason{State: x.s.At, What: "paused", Since: timePtr(p.At), Next: []string{"penstock resume " + x.s.ID}}
	r.Summary = fmt.Sprintf("is paused by %s since %s", p.By, at(p.At).Format(time.TimeOnly))
	if p.Reason != "" {
		r.Summary += ": " + p.Reason
	}
	return r
}
