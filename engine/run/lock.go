package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// askPeople asks people once for all that environments' rules want, beside
// what other environments of the same state are waiting for already. Who has
// decided on less must decide again.
func (x *step) askPeople() {
	envs := x.want
	x.want = nil
	if x.doorsAsked() {
		return // whoever waits for people comes back when all have answered
	}
	if a := x.s.Open; a != nil && a.Implicit {
		if !slices.ContainsFunc(envs, func(e string) bool { return !slices.Contains(a.Envs, e) }) {
			return
		}
		envs = slices.Concat(envs, a.Envs)
		x.closeApproval(events.Superseded, "")
	}
	if len(envs) == 0 {
		return
	}
	slices.Sort(envs)
	x.ask(slices.Compact(envs), 0, true)
}

// implicitApproval looks whether what environments asked people for is
// complete; if so their locks are asked for.
func (x *step) implicitApproval() {
	a := x.s.Open
	if a == nil || !a.Implicit {
		x.approachAll()
		return
	}
	if !x.stillWanted(a) {
		x.approachAll()
		return
	}
	outcome, err, over := x.approvalOutcome()
	if !over {
		x.approachAll()
		return
	}
	for _, t := range x.s.Tasks {
		if t.Status != taskLocked || t.Before != beforePeople || !slices.Contains(a.Envs, t.Env) {
			continue
		}
		if outcome == events.Succeeded {
			x.requestLock(t)
		} else {
			x.end(t, events.Failed, nil, err)
		}
	}
	x.approachAll()
}

// stillWanted drops from what people are asked the environments that nothing
// wants to enter any more; false when none is left.
func (x *step) stillWanted(a *Approval) bool {
	a.Envs = slices.DeleteFunc(slices.Clone(a.Envs), func(env string) bool {
		return !slices.ContainsFunc(x.s.Tasks, func(t *Task) bool { return t.Env == env && t.Status == taskLocked })
	})
	if len(a.Envs) == 0 {
		x.closeApproval(events.Cancelled, "nothing waits for it any more")
	}
	return x.s.Open != nil
}

func (x *step) noEnvironment(t *Task) {
	x.end(t, events.Failed, nil, &events.TaskError{Code: "no_environment", Message: fmt.Sprintf("there is no environment %q any more", t.Env)})
}

// requestLock asks for the environment, unless it is ours already.
func (x *step) requestLock(t *Task) {
	t.Before = ""
	if d := x.s.Doors[t.Env]; d != nil && d.Rules { // as one that waits it is told of everything
		delete(x.s.Doors, t.Env)
	}
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
		return
	}
	if x.s.Grants[t.Env] > 0 {
		delete(x.s.Anew, t.Env)
		x.queue(t)
		return
	}
	asked := false
	for _, m := range x.s.Outbox { // the last word counts: a request that was granted may not be answered yet
		if m.To == record.Environment && m.ID == t.Env && (m.Input.Request != nil || m.Input.Release != nil) {
			asked = m.Input.Kind == record.InEnvRequest
		}
	}
	if !asked {
		x.send(record.Environment, t.Env, record.Input{Kind: record.InEnvRequest,
			Request: &record.EnvRequest{Run: x.s.ID, State: t.Path, Glass: x.s.Glass[t.Env] != nil}})
		x.emit(events.EnvironmentQueued, events.Happening{State: t.Path, Environment: t.Env})
	}
}

// granted takes an environment that was given to this run. If nothing waits
// for it any more it is given back at once.
func (x *step) granted(g *record.Granted) {
	if g.Grant <= x.s.Taken[g.Environment] { // taken before, and perhaps given back since
		x.unrecorded(events.StatusAlready, "", "")
		return
	}
	var waiting []*Task
	for _, t := range x.s.Tasks {
		if t.Env == g.Environment && t.Status == taskLocked {
			waiting = append(waiting, t)
		}
	}
	if x.paused() && !slices.ContainsFunc(waiting, x.undoes) {
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the run is paused")
		return
	}
	if len(waiting) == 0 || x.s.Done() {
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the run does not wait for this environment any more")
		return
	}
	x.s.Grants[g.Environment], x.s.Taken[g.Environment] = g.Grant, g.Grant
	x.s.There[g.Environment] = g.Deployed
	x.emit(events.EnvironmentGranted, events.Happening{State: waiting[0].Path, Environment: g.Environment, Grant: g.Grant})
	delete(x.s.Doors, g.Environment)
	cleared := x.cleared(g.Environment)
	if !cleared && !slices.ContainsFunc(waiting, x.undoes) {
		x.release(g.Environment) // what held when we queued does not hold any more: that is waited for without the lock
	}
	for _, t := range waiting {
		if cleared || x.undoes(t) { // what is undone there needs nobody's leave
			x.enterGranted(t)
		} else {
			x.approach(t)
		}
	}
	x.askPeople()
}

// enterGranted begins a task whose environment is ours.
func (x *step) enterGranted(t *Task) {
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
		return
	}
	if x.undoes(t) {
		x.undoGranted(t)
		return
	}
	x.queue(t)
}

// freed takes note that a person took a grant back.
func (x *step) freed(g *record.Granted) {
	if x.s.Grants[g.Environment] != g.Grant {
		x.unrecorded(events.StatusStale, "", "the run does not hold this grant any more")
		return
	}
	delete(x.s.Grants, g.Environment)
	delete(x.s.Anew, g.Environment)
	delete(x.s.Undone, g.Environment)
	delete(x.s.Kept, g.Environment)
	delete(x.s.Put, g.Environment)
	delete(x.s.There, g.Environment)
	x.stopFreed(g.Environment)
}
