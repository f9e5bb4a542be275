package run

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// An effect is what an attempt that was granted may have changed: every
// deployment, and every task that says how to undo it. It is noted when it
// begins, before anything can have happened, and is forgotten when it is
// proven to have changed nothing or was undone.

// Statuses of an effect.
const (
	effectBegun   = "begun"
	effectDone    = "done"
	effectUnknown = "unknown"
)

// noteBegun notes that a worker begins something that may have to be undone.
func (x *step) noteBegun(t *Task) {
	if t.Of != "" || t.Detached || t.Closing || t.Lost != "" {
		return
	}
	if b := x.bodyAt(t.definedAt()); !t.Deploys && (b == nil || b.Undo == nil) {
		return
	}
	e := x.effectOf(t)
	if e == nil {
		head, _, _ := strings.Cut(t.Path, ".")
		e = &Effect{Path: t.Path, State: head, Visit: x.s.Visit, Member: t.Member, Env: t.Env, Deploys: t.Deploys}
		x.s.Effects = append(x.s.Effects, e)
	}
	e.Status, e.Grant = effectBegun, x.s.Grants[t.Env]
	if t.Deploys && e.Weight == 0 {
		e.Artifact, e.Before = t.Artifact, x.there(t.Env)
		if e.Before != nil {
			e.Previous = e.Before.Artifact
		}
	}
	if t.Roll != nil {
		e.Step = t.Roll.Step
	}
}

// there is what is deployed in an environment of ours, as far as known.
func (x *step) there(env string) *record.Deployment {
	if d := x.s.Put[env]; d != nil {
		return d
	}
	return x.s.There[env]
}

// noteEffect notes what the end of an attempt says of its effect.
func (x *step) noteEffect(t *Task, r events.Result, outputs record.Values) {
	if t.Of != "" {
		x.noteUndo(t, r)
		return
	}
	e := x.effectOf(t)
	if e == nil {
		return
	}
	nothing := undone(r) || t.Deploys && r.Outcome == events.Failed && r.Error.Code != events.CodeBadOutputs
	switch {
	case r.Outcome == events.Succeeded:
		x.noteDone(t, e, outputs)
	case !nothing:
		e.Status = effectUnknown
	case e.Weight == 0:
		x.forgetEffect(e)
	}
}

// noteDone notes a success; of a deployment with steps, that of one weight.
func (x *step) noteDone(t *Task, e *Effect, outputs record.Values) {
	e.Outputs = outputs
	if t.Deploys && e.Weight == 0 {
		if artifact, _ := outputs["artifact"].(string); artifact != "" {
			e.Artifact = artifact
		}
		if previous, ok := outputs["previous"].(string); ok {
			e.Previous = previous
		}
	}
	if t.Roll != nil {
		e.Status, e.Weight = effectBegun, x.steps(t)[t.Roll.Step].Weight
		return
	}
	e.Status, e.Weight = effectDone, 100
	if t.Deploys {
		x.overtake(t.Env)
	}
}

// overtake notes that a complete deployment has taken the place of those
// before it in the environment: nothing there is unfinished any more.
func (x *step) overtake(env string) {
	for _, e := range x.s.Effects {
		if e.Deploys && e.Env == env {
			e.Status, e.Stuck = effectDone, false
		}
	}
}

func (x *step) forgetEffect(e *Effect) {
	x.s.Effects = slices.DeleteFunc(x.s.Effects, func(o *Effect) bool { return o == e })
}

// effectOf finds the effect of a task in its present visit, or the one that it
// goes on with.
func (x *step) effectOf(t *Task) *Effect {
	for _, e := range slices.Backward(x.s.Effects) {
		if t.Resumes != "" && e.Path == t.Resumes || t.Resumes == "" && e.Path == t.Path && e.Visit == x.s.Visit {
			return e
		}
	}
	return nil
}

// unfinished reports whether a deployment was begun, is neither complete nor
// undone, and still has its environment.
func (x *step) unfinished(e *Effect) bool {
	return e.Deploys && e.Status != effectDone && e.Grant > 0 && x.s.Grants[e.Env] == e.Grant
}

// unfinishedOf is the latest unfinished deployment of a state.
func (x *step) unfinishedOf(state string) *Effect {
	for _, e := range slices.Backward(x.s.Effects) {
		if e.State == state && x.unfinished(e) {
			return e
		}
	}
	return nil
}

// effectText says how far an effect has come.
func (x *step) effectText(e *Effect) string {
	switch {
	case e.Status == effectUnknown:
		return "nobody knows what it left there"
	case e.Weight > 0:
		return fmt.Sprintf("it has %d %% of the traffic", e.Weight)
	}
	return "it was begun"
}

// effectScope adds to what the inputs of an undo see the outputs of the task
// that it undoes, where other states find them.
func (x *step) effectScope(t *Task, extra map[string]any) {
	e := x.effectUndoneBy(t)
	if e == nil {
		return
	}
	var outputs any = mapOr(e.Outputs)
	if _, branch, inner := strings.Cut(e.Path, "."); inner {
		all := map[string]any{}
		if old, ok := x.s.Values[e.State].(map[string]any); ok {
			for k, v := range old {
				all[k] = v
			}
		}
		if e.Member != "" {
			branch = e.Member
		}
		all[branch] = outputs
		outputs = all
	}
	extra[e.State] = outputs
}
