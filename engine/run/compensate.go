package run

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// undoPath begins the path of a task that undoes another one.
const undoPath = "undo."

// Bounds of an undo where the definition sets none, so that a cancel always
// comes to its end.
const (
	undoStart   = time.Hour
	undoTimeout = time.Hour
)

// beginUndoing begins to undo the effects of states, the last one first;
// after a cancel those of all unfinished deployments.
func (x *step) beginUndoing(states []string, cancel bool) {
	x.s.Undoing = &Undoing{States: states, Cancel: cancel}
	for _, e := range x.s.Effects {
		e.Stuck = false
	}
}

// undoingOutcome goes on with the next effect and tells whether all are undone.
// The first undo that fails ends it: a person has to look.
func (x *step) undoingOutcome() (string, *events.TaskError, bool) {
	u := x.s.Undoing
	if u == nil || !x.undoNext() {
		return events.Succeeded, nil, u == nil
	}
	x.s.Undoing = nil
	if u.Error != nil {
		return events.Failed, u.Error, true
	}
	return events.Succeeded, nil, true
}

// undoneAfterCancel undoes, when a cancelled run is quiet, what it left
// unfinished in environments, unless the workflow says itself what happens
// after a cancel. It tells whether that is over.
func (x *step) undoneAfterCancel() bool {
	if x.d.Workflow.Spec.OnCancel != "" && !x.s.Cancel.Last {
		return true
	}
	if x.s.Undoing == nil || !x.s.Undoing.Cancel {
		x.beginUndoing(nil, true)
	}
	return x.undoNext()
}

// undoNext begins the next undo and reports whether none is left.
func (x *step) undoNext() bool {
	u := x.s.Undoing
	for {
		switch {
		case slices.ContainsFunc(x.s.Tasks, func(t *Task) bool { return x.undoes(t) && t.Status != taskDone }):
			return false
		case u.Error != nil && !u.Cancel:
			return true
		}
		e := x.nextToUndo()
		if e == nil {
			return true
		}
		if x.s.Paused != nil && !u.Cancel {
			return false
		}
		x.beginUndo(e)
	}
}

// nextToUndo is the latest effect that the compensation is to undo.
func (x *step) nextToUndo() *Effect {
	u := x.s.Undoing
	for _, e := range slices.Backward(x.s.Effects) {
		if !e.Stuck && (u.Cancel && x.unfinished(e) || slices.Contains(u.States, e.State)) {
			return e
		}
	}
	return nil
}

// undoes reports whether a task undoes an effect.
func (x *step) undoes(t *Task) bool { return t.Of != "" && strings.HasPrefix(t.Path, undoPath) }

// effectUndoneBy finds the effect that a task undoes.
func (x *step) effectUndoneBy(t *Task) *Effect {
	if !x.undoes(t) {
		return nil
	}
	i := slices.IndexFunc(x.s.Effects, func(e *Effect) bool { return e.Undo == t.Part })
	if i < 0 {
		return nil
	}
	return x.s.Effects[i]
}

// beginUndo begins to undo an effect.
func (x *step) beginUndo(e *Effect) {
	x.s.Parts++
	e.Undo = x.s.Parts
	t := &Task{Path: undoPath + e.Path, Of: e.Path, Part: e.Undo, Kind: "deploy", Env: e.Env, Attempt: 1, Deploys: e.Deploys, Member: e.Member}
	a := x.undoActivity(e.Path, e.Member)
	t.Kind, t.Pool, t.Runs = a.Task, cmp.Or(a.Pool, events.DefaultPool), x.runsOf(a.Task)
	x.s.Tasks = append(x.s.Tasks, t)
	if t.Env == "" {
		x.queue(t)
		return
	}
	x.requestUndo(t)
}

// requestUndo asks for the environment of an undo. Rules, windows and holds
// are for what enters, not for what is taken back.
func (x *step) requestUndo(t *Task) {
	switch {
	case x.d.Now.Environments[t.Env] == nil:
		x.noEnvironment(t)
	case x.s.Grants[t.Env] > 0:
		x.undoGranted(t)
	default:
		t.Status = taskLocked
		x.releaseAll() // what it does not need now must not be what another run waits for
		x.send(record.Environment, t.Env, record.Input{Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: x.s.ID, State: t.Path, Glass: true}})
		x.emit(events.EnvironmentQueued, events.Happening{State: t.Path, Environment: t.Env})
	}
}

// undoGranted begins an undo whose environment is ours, if what is deployed
// there is ours too.
func (x *step) undoGranted(t *Task) {
	e := x.effectUndoneBy(t)
	if e != nil && x.ours(e) {
		x.queue(t)
		return
	}
	there := "nobody knows what is deployed there"
	if d := x.there(t.Env); d != nil {
		there = fmt.Sprintf("%s is deployed there, by run %s", d.Artifact, d.Run)
	}
	x.end(t, events.Failed, nil, &events.TaskError{Code: "not_ours",
		Message: fmt.Sprintf("environment %s has not what this run put there: %s; a person has to decide", t.Env, there)})
}

// ours reports whether what is in the environment of an effect is what the run
// put there. What is not a deployment is taken to be.
func (x *step) ours(e *Effect) bool {
	if !e.Deploys || e.Grant == x.s.Grants[e.Env] {
		return true
	}
	d := x.there(e.Env)
	return d != nil && d.Run == x.s.ID && d.Artifact == e.Artifact
}

// noteUndo notes what the end of an undo's attempt says of the effect. A plain
// failure has changed nothing.
func (x *step) noteUndo(t *Task, r events.Result) {
	e := x.effectUndoneBy(t)
	if e == nil || r.Outcome == events.Succeeded || undone(r) || t.Deploys && r.Outcome == events.Failed && r.Error.Code != events.CodeBadOutputs {
		return
	}
	e.Status, e.Grant = effectUnknown, x.s.Grants[e.Env]
}

// partEnded takes the end of a task that is a part of something else.
func (x *step) partEnded(t *Task, outputs record.Values) {
	if x.undoes(t) {
		x.undoEnded(t)
		return
	}
	x.sampleEnded(t, outputs)
}

// undoEnded takes the end of an undo: the effect is gone, or a person has to
// look at it.
func (x *step) undoEnded(t *Task) {
	var fault *events.TaskError
	e := x.effectUndoneBy(t)
	owner := x.rolloutOf(e)
	if t.Outcome == events.Succeeded {
		x.takenBack(e)
	} else {
		fault = x.stuck(t, e)
	}
	if owner != nil {
		x.rollUndone(owner, fault)
	} else if x.s.Undoing != nil && fault != nil {
		x.s.Undoing.Error = fault
	}
}

// rolloutOf finds the deployment in steps that has an effect undone.
func (x *step) rolloutOf(e *Effect) *Task {
	for _, t := range x.s.Tasks {
		if t.Status == taskUndoing && x.effectOf(t) == e {
			return t
		}
	}
	return nil
}

// stuck notes an undo that failed. The environment stays locked, if it is ours
// and what is there may be ours.
func (x *step) stuck(t *Task, e *Effect) *events.TaskError {
	fault := &events.TaskError{Code: "undo_failed", Message: fmt.Sprintf("the undo of %s ended %s", t.Of, t.Outcome)}
	if t.Error != nil {
		fault.Message += ": " + t.Error.Message
		if t.Error.Code == "not_ours" {
			fault.Code = t.Error.Code
		}
	}
	if e == nil {
		return fault
	}
	e.Stuck = true
	if t.Env != "" && x.s.Grants[t.Env] > 0 && (!e.Deploys || x.ours(e)) {
		x.s.Kept[t.Env] = fault.Message
	}
	return fault
}

// takenBack notes that an effect was undone.
func (x *step) takenBack(e *Effect) {
	if e == nil {
		return
	}
	x.forgetEffect(e)
	if e.Deploys {
		delete(x.s.Proofs, proofKey(e.Env, e.Artifact))
		x.s.Undone[e.Env] = append(slices.Clone(x.s.Undone[e.Env]), e.Artifact)
		x.putBack(e)
	} else if strings.HasPrefix(x.s.Kept[e.Env], e.Path+" ") {
		delete(x.s.Kept, e.Env)
	}
	x.emit(events.EffectUndone, events.Happening{State: e.Path, Environment: e.Env, Artifact: e.Previous})
}

// putBack notes what is deployed now that a deployment was undone, for when
// the lock is given back.
func (x *step) putBack(e *Effect) {
	delete(x.s.Kept, e.Env)
	known := e.Before != nil && e.Before.Artifact == e.Previous || e.Before == nil && e.Previous == ""
	switch there := x.s.There[e.Env]; {
	case known && (there == nil && e.Before == nil || there != nil && e.Before != nil && there.Run == e.Before.Run && there.Grant == e.Before.Grant):
		delete(x.s.Put, e.Env) // as it was when the lock was granted
	case known && e.Before != nil:
		x.s.Put[e.Env] = e.Before
	default:
		x.s.Put[e.Env] = &record.Deployment{Run: x.s.ID, Artifact: e.Previous, Grant: x.s.Grants[e.Env], At: x.now}
	}
}

// undoActivity is the definition of the task that undoes what was done at a
// path: the one that the file gives, or for a deployment another deployment.
func (x *step) undoActivity(path, member string) workflows.Activity {
	of := x.activity(&Task{Path: path, Member: member})
	u := of.Undo
	if u == nil {
		with := maps.Clone(of.With)
		delete(with, "artifact")
		return workflows.Activity{Task: "deploy", With: with, Environment: of.Environment, Secrets: of.Secrets, Pool: of.Pool,
			StartTimeout: cmp.Or(of.StartTimeout, workflows.Duration(undoStart)), Timeout: cmp.Or(of.Timeout, workflows.Duration(undoTimeout))}
	}
	return workflows.Activity{Task: u.Task, With: u.With, Environment: of.Environment, Secrets: of.Secrets, Pool: of.Pool,
		StartTimeout: cmp.Or(of.StartTimeout, workflows.Duration(undoStart)), Timeout: cmp.Or(u.Timeout, workflows.Duration(undoTimeout))}
}

// undoWith adds to the inputs of an undo of a deployment what it takes away
// and what it brings back; "" removes what there is.
func (x *step) undoWith(t *Task, with map[string]any) {
	if e := x.effectUndoneBy(t); e != nil && t.Kind == "deploy" && e.Deploys {
		with["artifact"], with["undo"] = e.Previous, e.Artifact
	}
}

// partActivity is the definition of a task that is a part of another one: an
// undo, or a sample of an analysis.
func (x *step) partActivity(t *Task) workflows.Activity {
	if x.undoes(t) {
		return x.undoActivity(t.Of, t.Member)
	}
	return workflows.Activity{Task: t.Kind, StartTimeout: workflows.Duration(sampleStart), Timeout: workflows.Duration(sampleTimeout)}
}

// environmentOf is the environment that a task works on or is about.
func (x *step) environmentOf(t *Task) string {
	if t.Env != "" || t.Of == "" {
		return t.Env
	}
	if owner := x.s.taskAt(t.Of); owner != nil {
		return owner.Env
	}
	return ""
}
