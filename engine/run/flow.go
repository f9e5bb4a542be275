package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

func (x *step) state() *workflows.State { return x.d.Workflow.Spec.States[x.s.At] }

// shorten drops the oldest visit from a long path: what a run has behind it
// must not make what it does next more expensive. The latest visit of a state
// stays, whatever came after it: whether a gate has let the run pass, and
// where a retry begins, is read from these.
func (x *step) shorten() {
	if len(x.s.Path) <= maxPath {
		return
	}
	i := slices.IndexFunc(x.s.Path, func(p Visited) bool { return p.Visit != x.s.Visits[p.State] })
	if i >= 0 {
		x.s.Path = slices.Delete(x.s.Path, i, i+1)
	}
}

// enter goes into a state and begins what it does.
func (x *step) enter(name string) {
	x.moves++
	x.s.At = name
	x.s.Held, x.s.Over, x.s.Leaving, x.s.Each, x.s.Winner, x.s.WakeAt = nil, nil, nil, nil, "", 0
	x.s.Visits[name]++
	x.s.Visit = x.s.Visits[name]
	x.s.Tasks = keepDetached(x.s.Tasks)
	delete(x.s.Values, name) // outputs of an earlier visit are no longer true
	x.s.Path = append(x.s.Path, Visited{State: name, Visit: x.s.Visit, In: x.now})
	x.shorten()
	x.emit(events.StateEntered, events.Happening{State: name, Visit: x.s.Visit})
	st := x.state()
	x.s.Listen = listens(st)
	switch st.Kind() {
	case "final":
		x.page(st)
		x.finish(st.Final, nil)
		return
	case "wait":
		x.beginWait(st.Wait)
	case "approval":
		x.ask(st.Approval.Environments, st.Approval.Expires.D(), false)
	case "parallel":
		for _, b := range st.Branches() {
			x.begin(st.Name+"."+b.Name, &b.Body, "")
		}
	case "forEach":
		x.beginEach(st)
	case "compensate":
		x.beginUndoing(st.Compensate, false)
	default:
		x.begin(st.Name, &st.Body, "")
	}
	x.askPeople()
	x.notify()
}

func keepDetached(tasks []*Task) []*Task {
	var kept []*Task
	for _, t := range tasks {
		if t.Detached && t.Status != taskDone {
			kept = append(kept, t)
		}
	}
	return kept
}

// proceed looks whether the present state is over, and goes on until the run
// waits for something.
func (x *step) proceed() {
	for x.s.Phase == phaseRunning && !x.waitsForKey() {
		if x.paused() {
			x.rest()
			return
		}
		outcome, err, over := x.outcome()
		if !over {
			x.releaseIdle()
			return
		}
		x.leave(outcome, err)
		if x.s.Held != nil {
			return
		}
	}
}

// outcome tells whether the present state is over and how it ended.
func (x *step) outcome() (outcome string, err *events.TaskError, over bool) {
	switch h := x.s.Held; {
	case x.cancelling():
		over = x.quiet() && x.undoneAfterCancel()
		return events.Cancelled, x.undoFault(), over
	case x.s.Leaving != nil && x.lastOutcome() != "": // it was over already
		return x.lastOutcome(), x.lastError(), x.quiet()
	case x.s.Leaving != nil:
		return events.Cancelled, &events.TaskError{Code: "cancelled", Message: x.whyStopped()}, x.quiet()
	case h != nil && h.Of == heldEvent:
		x.rest()
		return "", nil, false
	case x.s.Over != nil:
		return x.s.Over.Outcome, x.s.Over.Error, true
	case h == nil:
	case h.Of == heldBegin && !x.beginAgain():
		return "", nil, false
	case h.Of == "" || h.Of == heldInvariant:
		return h.Outcome, x.lastError(), true // the arms are tried again at every input
	}
	return x.stateOutcome(x.state())
}

// stateOutcome tells whether a state's own work is over.
func (x *step) stateOutcome(st *workflows.State) (outcome string, err *events.TaskError, over bool) {
	x.implicitApproval()
	switch st.Kind() {
	case "wait":
		return x.waitOutcome(st)
	case "forEach":
		return x.eachOutcome(st)
	case "compensate":
		return x.undoingOutcome()
	case "approval":
		return x.approvalOutcome()
	case "parallel":
		return x.joined(st)
	}
	t := x.s.taskAt(st.Name)
	if t == nil || t.Status != taskDone {
		return "", nil, false
	}
	return t.Outcome, t.Error, true
}

// quiet reports whether nothing that the state began is still going on.
func (x *step) quiet() bool {
	for _, t := range x.s.Tasks {
		if !t.Detached && t.Status != taskDone {
			return false
		}
	}
	return true
}

// lastOutcome is the outcome of the present visit, once the state was over.
func (x *step) lastOutcome() string {
	if n := len(x.s.Path); n > 0 {
		return x.s.Path[n-1].Outcome
	}
	return ""
}

// lastError is the error of the present visit.
func (x *step) lastError() *events.TaskError {
	if n := len(x.s.Path); n > 0 {
		return x.s.Path[n-1].Error
	}
	return nil
}

// leave takes the first arm that fits. An arm whose condition cannot be
// evaluated holds the run here, as does an invariant that it would break; a
// state without a fitting arm ends the run with its outcome.
func (x *step) leave(outcome string, err *events.TaskError) {
	here := &x.s.Path[len(x.s.Path)-1]
	here.Outcome, here.Error = outcome, err
	if x.cancelling() {
		x.stopped(err)
		return
	}
	to, held := x.way(outcome, err)
	of := ""
	if held == nil {
		held, of = x.forbidden(to, runOutcome(outcome)), heldInvariant
	}
	if held != nil {
		x.hold(of, held.Error(), outcome)
		return
	}
	x.s.Held = nil
	x.left(outcome, err, to)
	if to == "" {
		x.finish(runOutcome(outcome), err)
		return
	}
	if x.moves >= maxSteps {
		x.finish(events.Failed, &events.TaskError{Code: "endless_loop", Message: fmt.Sprintf("%d states were entered without waiting for anything, last %s", maxSteps, x.s.At)})
		return
	}
	x.enterWithKey(to)
}

// way is where to go from here; "" is nowhere.
func (x *step) way(outcome string, err *events.TaskError) (string, error) {
	if l := x.s.Leaving; l != nil {
		return l.To, nil
	}
	return x.arm(outcome, err)
}

// hold keeps the run where it is, and tells so once.
func (x *step) hold(of, reason, outcome string) {
	if x.s.Held == nil || x.s.Held.Reason != reason {
		x.emit(events.RunHeld, events.Happening{State: x.s.At, Outcome: outcome, Reason: reason})
	}
	x.s.Held = &Held{Of: of, Reason: reason, Outcome: outcome}
}

// stopWork stops all that the present state does.
func (x *step) stopWork() {
	x.s.Held, x.s.Over, x.s.WakeAt = nil, nil, 0
	x.s.Listen = nil
	x.closeApproval(events.Cancelled, "")
	for _, t := range x.s.Tasks {
		if !t.Detached {
			x.cancelTask(t)
		}
	}
}

// whyStopped says for people why the work of a state was stopped.
func (x *step) whyStopped() string {
	switch l := x.s.Leaving; {
	case x.s.Cancel != nil && !x.s.Cancel.Through:
		return "the run was cancelled"
	case l != nil && l.By != "":
		return fmt.Sprintf("%s lets the run begin again at %s", l.By, l.To)
	case l != nil:
		return "an event of type " + l.Cause.Type + " came"
	}
	return "it is not needed any more"
}

func (x *step) left(outcome string, err *events.TaskError, to string) {
	x.closeApproval(events.Cancelled, "nothing waits for it any more")
	x.s.Path[len(x.s.Path)-1].Out = x.now
	h := events.Happening{State: x.s.At, Visit: x.s.Visit, Outcome: outcome, To: to, Error: err}
	if v, ok := x.s.Values[x.s.At].(map[string]any); ok {
		h.Outputs = v
	}
	x.emit(events.StateLeft, h)
	x.releaseAfter(to)
}

// runOutcome is the outcome of a run that ends with a state's.
func runOutcome(outcome string) string {
	switch outcome {
	case events.TimedOut, events.Inconclusive:
		return events.Failed
	}
	return outcome
}

// arm finds the arm to take; "" when none fits.
func (x *step) arm(outcome string, err *events.TaskError) (string, error) {
	extra := map[string]any{"outcome": outcome, "error": errorScope(err)}
	for i, t := range x.state().Arms() {
		if !t.Takes(outcome) {
			continue
		}
		if t.When == nil {
			return t.To, nil
		}
		ok, err := x.rule(t.When, fmt.Sprintf("spec.states.%s.transitions[%d].when", x.s.At, i), extra)
		if err != nil {
			return "", err
		}
		if ok {
			return t.To, nil
		}
	}
	return "", nil
}

func errorScope(err *events.TaskError) map[string]any {
	if err == nil {
		return map[string]any{"code": "", "message": "", "retryable": false}
	}
	return map[string]any{"code": err.Code, "message": err.Message, "retryable": err.Retryable}
}

// finish ends the work of the run: closing tasks run now, whatever the end.
func (x *step) finish(outcome string, err *events.TaskError) {
	if x.s.Cancel != nil {
		outcome = events.Cancelled // whatever it has come to since
	}
	if outcome == events.Succeeded {
		if err = x.makeOutputs(); err != nil {
			outcome = events.Failed
		}
	}
	x.s.Outcome, x.s.Error, x.s.Phase = outcome, err, phaseFinally
	x.s.Ends++
	x.s.WakeAt, x.s.Held, x.s.Open = 0, nil, nil
	x.s.Over, x.s.Leaving, x.s.Each, x.s.Listen = nil, nil, nil, nil
	x.s.Tasks = keepDetached(x.s.Tasks)
	if n := len(x.s.Path); n > 0 && x.s.Path[n-1].Out == 0 {
		x.s.Path[n-1].Out = x.now
	}
	x.releaseAll()
	for i, f := range x.d.Workflow.Spec.Finally {
		x.begin(fmt.Sprintf("finally.%d", i+1), &workflows.Body{Activity: f.Activity}, "")
	}
	x.askPeople()
	x.closeIfFinished()
}

// closeIfFinished ends the run when its closing tasks have ended. Their
// failure does not change the outcome; it stands in their events.
func (x *step) closeIfFinished() {
	if x.s.Phase != phaseFinally || !x.quiet() {
		return
	}
	x.s.Phase, x.s.EndedAt = phaseDone, x.now
	x.keepClaims()
	x.releaseAll()
	x.releaseKey()
	x.tellParent()
	x.emit(events.RunFinished, events.Happening{State: x.s.At, Outcome: x.s.Outcome, Error: x.s.Error, DurationMs: x.now - x.s.StartedAt})
	x.notify()
}

// timer handles every deadline that has passed.
func (x *step) timer() {
	fired := false
	if x.s.WakeAt > 0 && x.s.WakeAt <= x.now {
		x.s.WakeAt, fired = 0, true
	}
	if x.s.Open != nil && x.approvalDue(x.s.Open) {
		fired = true
	}
	for _, t := range x.s.Tasks {
		if d := t.deadline(); d > 0 && d <= x.now {
			x.taskDue(t)
			fired = true
		}
	}
	if !fired {
		x.unrecorded(events.StatusStale, "", "no deadline has passed")
	}
}
