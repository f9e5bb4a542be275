package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// What a task waits for before it asks for its environment's lock, in the
// order in which it is looked at. When the lock is granted all of it is looked
// at once more.
const (
	beforeRules  = "rules"  // those that people cannot make hold
	beforeProof  = "proof"  // that the artifact has succeeded in the environment that it is promoted from
	beforeDoor   = "door"   // windows and holds
	beforePeople = "people" // the rules that ask for approvals
)

// enterEnvironment takes a task towards its environment.
func (x *step) enterEnvironment(t *Task) {
	t.Status = taskLocked
	t.Artifact = "" // what it puts there is judged anew
	x.approach(t)
}

// approach takes a task as far towards its environment's lock as it can go.
func (x *step) approach(t *Task) {
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
		return
	}
	x.noteStale(t.Env)
	t.Before = x.before(t)
	switch t.Before {
	case "":
		x.requestLock(t)
	case beforePeople:
		x.want = append(x.want, t.Env)
	}
}

// before tells what a task must wait for, "" when it may ask for the lock.
func (x *step) before(t *Task) string {
	switch {
	case x.s.Glass[t.Env] != nil, x.undoes(t): // what is undone there needs nobody's leave
		return ""
	case len(x.unmet(t.Env, false)) > 0:
		x.listen(t)
		return beforeRules
	case !x.promoted(t.Env):
		x.listen(t)
		return beforeProof
	}
	anew, people := x.s.Anew[t.Env], len(x.unmet(t.Env, true)) > 0
	if anew || x.s.Grants[t.Env] == 0 && (people || x.skips(t)) {
		if d := x.look(t.Env, t.Path); d.Asked || !d.Open {
			return beforeDoor
		}
	}
	if people {
		return beforePeople
	}
	return ""
}

// listen lets the environment of a task that its rules keep out tell the run
// when definitions were put in force: they may let it in.
func (x *step) listen(t *Task) {
	if x.s.Grants[t.Env] == 0 && x.s.Doors[t.Env] == nil {
		x.askDoor(t.Env, t.Path, &Door{Rules: true})
	}
}

// cleared reports whether everything but the door still lets the run in; the
// environment itself grants nothing while it is closed.
func (x *step) cleared(env string) bool {
	return x.s.Glass[env] != nil || len(x.unmet(env, false)) == 0 && x.promoted(env) && len(x.unmet(env, true)) == 0
}

// approachAll tries again for every task that has not come to the lock.
func (x *step) approachAll() {
	if x.s.Paused != nil {
		return
	}
	for _, t := range x.s.Tasks {
		asked := t.Before == beforePeople && x.s.Open != nil && x.s.Open.Implicit && slices.Contains(x.s.Open.Envs, t.Env)
		if t.Status == taskLocked && t.Before != "" && !asked {
			x.approach(t)
		}
	}
	if len(x.want) > 0 {
		x.askPeople()
	}
}

// look gives what an environment says of itself; the first time it is asked,
// and Asked until it has answered. It tells again whenever that changes, as
// long as the run is in this state.
func (x *step) look(env, path string) *Door {
	if d := x.s.Doors[env]; d != nil && !d.Rules {
		return d
	}
	return x.askDoor(env, path, &Door{Asked: true})
}

func (x *step) askDoor(env, path string, d *Door) *Door {
	if x.s.Doors == nil {
		x.s.Doors = map[string]*Door{}
	}
	x.s.Doors[env] = d
	if !x.mute {
		x.send(record.Environment, env, record.Input{Kind: record.InEnvLook, Request: &record.EnvRequest{Run: x.s.ID, State: path, Rules: d.Rules}})
	}
	return d
}

// doorsAsked reports whether an environment that a task waits for has not
// answered yet.
func (x *step) doorsAsked() bool {
	return slices.ContainsFunc(x.s.Tasks, func(t *Task) bool {
		d := x.s.Doors[t.Env]
		return t.Status == taskLocked && t.Before == beforeDoor && d != nil && d.Asked
	})
}

// forgetDoors forgets what environments said that the run is not in.
func (x *step) forgetDoors() {
	for _, env := range sortedKeys(x.s.Doors) {
		if x.s.Grants[env] == 0 {
			delete(x.s.Doors, env)
		}
	}
}

// environmentState takes what an environment says of itself: whether it lets
// anything in, or that its window has ended.
func (x *step) environmentState(e *record.EnvState) {
	was := x.s.Doors[e.Environment]
	if e.N <= x.s.Heard[e.Environment] {
		x.unrecorded(events.StatusAlready, "", "")
		return
	}
	i := slices.IndexFunc(x.s.Tasks, func(t *Task) bool { return t.Status == taskLocked && t.Env == e.Environment })
	if x.s.Done() || was == nil && i < 0 && x.s.Grants[e.Environment] == 0 {
		x.unrecorded(events.StatusStale, "", "the run does not want to enter it any more")
		return
	}
	h := events.Happening{State: x.s.At, Environment: e.Environment, Reason: e.Reason, Deadline: timePtr(e.Until)}
	if i >= 0 {
		h.State = x.s.Tasks[i].Path
	}
	if x.s.Doors == nil || x.s.Heard == nil {
		x.s.Doors, x.s.Heard = cloneMap(x.s.Doors), cloneMap(x.s.Heard)
	}
	x.s.Heard[e.Environment] = e.N
	if was != nil && was.Rules {
		return // the rules are tried again; of the door it is asked when they hold
	}
	x.s.Doors[e.Environment] = &Door{Open: e.Open, Reason: e.Reason, Until: e.Until, AtEnd: e.AtEnd}
	switch {
	case !e.Open && was != nil && !was.Asked && !was.Open && was.Reason == e.Reason && was.Until == e.Until: // it was told before
	case !e.Open:
		x.emit(events.EnvironmentClosed, h)
	case was != nil && !was.Asked && !was.Open:
		x.emit(events.EnvironmentOpened, h)
	}
}

// promoted reports whether all that would be deployed to an environment has
// succeeded in the one that it is promoted from.
func (x *step) promoted(env string) bool {
	e := x.d.Now.Environments[env]
	if e == nil || e.Spec.PromotesFrom == "" {
		return true
	}
	artifacts := x.artifactsFor(env)
	all := len(artifacts) > 0
	for _, artifact := range artifacts {
		all = x.succeededIn(e.Spec.PromotesFrom, artifact) && all // all are asked for at once
	}
	return all
}

// succeededIn reports whether an artifact has succeeded in an environment,
// which is asked where this run's own record does not say so.
func (x *step) succeededIn(env, artifact string) bool {
	key := proofKey(env, artifact)
	switch p := x.s.Proofs[key]; {
	case artifact == "":
		return false
	case p != nil:
		return p.Proven
	case x.mute:
		return false
	}
	if x.s.Proofs == nil {
		x.s.Proofs = map[string]*record.Proof{}
	}
	p := record.Proof{Run: x.s.ID, Environment: env, Artifact: artifact}
	x.s.Proofs[key] = &p
	x.send(record.Environment, env, record.Input{Kind: record.InEnvProve, Proof: &p})
	return false
}

// notPromoted says why promoted is false.
func (x *step) notPromoted(env string) string {
	from := x.d.Now.Environments[env].Spec.PromotesFrom
	for _, artifact := range x.artifactsFor(env) {
		if artifact != "" && !x.succeededIn(from, artifact) {
			return fmt.Sprintf("only what succeeded in %s is promoted to it, and %s has not", from, shortText(artifact))
		}
	}
	return fmt.Sprintf("only what succeeded in %s is promoted to it, and it is not known what would be deployed", from)
}

func proofKey(env, artifact string) string { return env + "/" + artifact }

// proveOwn notes what this run itself has brought to an environment.
func (x *step) proveOwn(env, artifact string) {
	if x.s.Proofs == nil {
		x.s.Proofs = map[string]*record.Proof{}
	}
	x.s.Proofs[proofKey(env, artifact)] = &record.Proof{Run: x.s.ID, Environment: env, Artifact: artifact, Proven: true, By: x.s.ID}
}

// proven takes the answer to the question whether an artifact succeeded in the
// environment that another one promotes from.
func (x *step) proven(p *record.Proof) {
	key := proofKey(p.Environment, p.Artifact)
	if was := x.s.Proofs[key]; x.s.Done() || was == nil || was.Proven {
		x.unrecorded(events.StatusStale, "", "the run does not ask for it")
		return
	}
	if !p.Proven { // as it is taken to be until the environment says otherwise
		x.unrecorded(events.StatusAlready, "", "")
		return
	}
	x.s.Proofs[key] = p
}
