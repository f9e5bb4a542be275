package run

import (
	"fmt"
	"maps"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// enterEnvironment takes a task into its environment: the environment's own
// rules, then its lock, then the rules once more. While the rules do not hold,
// people are asked; the lock is not held meanwhile.
func (x *step) enterEnvironment(t *Task) {
	t.Status = taskLocked
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
		return
	}
	if missing := x.environmentMissing(t.Env); len(missing) > 0 {
		x.want = append(x.want, t.Env)
		return
	}
	x.requestLock(t)
}

// askPeople asks people once for all that environments' rules want, beside
// what other environments of the same state are waiting for already. Who has
// decided on less must decide again.
func (x *step) askPeople() {
	envs := x.want
	x.want = nil
	if a := x.s.Open; a != nil && a.Implicit {
		if !slices.ContainsFunc(envs, func(e string) bool { return !slices.Contains(a.Envs, e) }) {
			return
		}
		envs = slices.Concat(envs, a.Envs)
		x.closeApproval(events.Superseded)
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
		return
	}
	outcome, err, over := x.approvalOutcome()
	if !over {
		return
	}
	for _, t := range x.s.Tasks {
		if t.Status != taskLocked || !slices.Contains(a.Envs, t.Env) {
			continue
		}
		if outcome == events.Succeeded {
			x.requestLock(t)
		} else {
			x.end(t, events.Failed, nil, err)
		}
	}
}

// environmentMissing tells what an environment's rules still want of this run.
func (x *step) environmentMissing(env string) []string {
	var missing []string
	for _, r := range x.environmentRules([]string{env}) {
		if ok, why := x.environmentRule(r, x.approvalsFor(env)); !ok {
			missing = append(missing, why)
		}
	}
	return missing
}

func (x *step) noEnvironment(t *Task) {
	x.end(t, events.Failed, nil, &events.TaskError{Code: "no_environment", Message: fmt.Sprintf("there is no environment %q any more", t.Env)})
}

// requestLock asks for the environment, unless it is ours already.
func (x *step) requestLock(t *Task) {
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
		return
	}
	if x.s.Grants[t.Env] > 0 {
		x.queue(t)
		return
	}
	asked := false
	for _, m := range x.s.Outbox { // the last word counts: a request that was granted may not be answered yet
		if m.To == record.Environment && m.ID == t.Env {
			asked = m.Input.Kind == record.InEnvRequest
		}
	}
	if !asked {
		x.send(record.Environment, t.Env, record.Input{Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: x.s.ID, State: t.Path}})
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
	if len(waiting) == 0 || x.s.Done() {
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the run does not wait for this environment any more")
		return
	}
	x.s.Grants[g.Environment], x.s.Taken[g.Environment] = g.Grant, g.Grant
	x.emit(events.EnvironmentGranted, events.Happening{State: waiting[0].Path, Environment: g.Environment, Grant: g.Grant})
	if missing := x.environmentMissing(g.Environment); len(missing) > 0 {
		x.release(g.Environment) // what held when we queued does not hold any more: people are asked, without the lock
		x.want = append(x.want, g.Environment)
		x.askPeople()
		return
	}
	for _, t := range waiting {
		x.enterGranted(t)
	}
}

// enterGranted begins a task whose environment is ours.
func (x *step) enterGranted(t *Task) {
	if x.d.Now.Environments[t.Env] == nil {
		x.noEnvironment(t)
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
	delete(x.s.Kept, g.Environment)
	delete(x.s.Put, g.Environment)
}

// undone reports whether a worker says that it took back what it had done.
func undone(r events.Result) bool {
	b, _ := r.Facts["undone"].(bool)
	return b
}

// noteEnvironment notes what an attempt left in its environment: a deployment,
// or nobody knows what.
func (x *step) noteEnvironment(t *Task, r events.Result, outputs record.Values) {
	if x.s.Grants[t.Env] == 0 {
		return
	}
	unknown := fmt.Sprintf("%s ended %s and nobody knows what it left there", t.Path, r.Outcome)
	switch {
	case !t.Deploys:
		if t.Runs == events.RunsOnce && r.Outcome == events.Inconclusive {
			x.s.Kept[t.Env] = unknown
		}
	case r.Outcome == events.Succeeded:
		artifact, _ := outputs["artifact"].(string)
		url, _ := outputs["url"].(string)
		delete(x.s.Kept, t.Env) // whatever was unknown before, this is there now
		x.s.Put[t.Env] = &record.Deployment{Run: x.s.ID, Artifact: artifact, URL: url, Grant: x.s.Grants[t.Env], At: x.now, Source: x.s.Source}
		x.emit(events.EnvironmentDeployed, events.Happening{State: t.Path, Environment: t.Env, Grant: x.s.Grants[t.Env], Artifact: artifact, URL: url})
	case undone(r):
	case r.Outcome == events.Failed && r.Error.Code != events.CodeBadOutputs: // by contract a plain failure left nothing behind
	default:
		x.s.Kept[t.Env] = unknown
	}
}

// releaseAfter gives back the environments that the next state does not use.
func (x *step) releaseAfter(next string) {
	used := x.environmentsOf(x.d.Workflow.Spec.States[next])
	for _, env := range sortedKeys(x.s.Grants) {
		if !slices.Contains(used, env) {
			x.release(env)
		}
	}
}

// releaseIdle gives back, in a parallel state, the environments that no branch
// needs any more while another branch still waits for its own: two runs that
// each wait for what the other one has finished with would wait for ever.
func (x *step) releaseIdle() {
	if len(x.s.Grants) == 0 || x.state().Kind() != "parallel" ||
		!slices.ContainsFunc(x.s.Tasks, func(t *Task) bool { return t.Status == taskLocked }) {
		return
	}
	x.releaseAll()
}

// releaseAll gives back every environment on which nothing goes on. What was
// asked for and is granted later is refused then.
func (x *step) releaseAll() {
	inUse := map[string]bool{}
	for _, t := range x.s.Tasks {
		inUse[t.Env] = inUse[t.Env] || t.Status != taskDone
	}
	for _, env := range sortedKeys(x.s.Grants) {
		if !inUse[env] {
			x.release(env)
		}
	}
}

// release gives an environment back, saying what is deployed there now.
func (x *step) release(env string) {
	if _, kept := x.s.Kept[env]; kept {
		return
	}
	grant := x.s.Grants[env]
	delete(x.s.Grants, env)
	x.send(record.Environment, env, record.Input{Kind: record.InEnvRelease,
		Release: &record.EnvRelease{Run: x.s.ID, Grant: grant, Deployed: x.s.Put[env]}})
	delete(x.s.Put, env)
	x.emit(events.EnvironmentReleased, events.Happening{Environment: env, Grant: grant})
}

// environmentsOf lists the environments that a state works on.
func (x *step) environmentsOf(st *workflows.State) []string {
	if st == nil {
		return nil
	}
	used := map[string]bool{}
	if st.Deploy != nil {
		used[st.Deploy.Environment] = true
	}
	used[st.Environment] = true
	for _, b := range st.Parallel {
		used[b.Environment] = true
	}
	delete(used, "")
	return slices.Sorted(maps.Keys(used))
}
