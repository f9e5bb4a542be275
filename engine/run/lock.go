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
		x.end(t, events.Failed, nil, &events.TaskError{Code: "no_environment", Message: fmt.Sprintf("there is no environment %q any more", t.Env)})
		return
	}
	if missing := x.environmentMissing(t.Env); len(missing) > 0 {
		x.askFor(t.Env)
		return
	}
	x.requestLock(t)
}

// askFor asks people for what an environment's rules want, beside what other
// environments of the same state are waiting for.
func (x *step) askFor(env string) {
	envs := []string{env}
	if x.s.Open != nil && x.s.Open.Implicit {
		envs = append(slices.Clone(x.s.Open.Envs), env)
	}
	slices.Sort(envs)
	x.ask(slices.Compact(envs), 0, true)
}

// implicitApproval looks whether what environments asked people for is
// complete; if so their locks are asked for.
func (x *step) implicitApproval() {
	a := x.s.Open
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

// requestLock asks for the environment, unless it is ours already.
func (x *step) requestLock(t *Task) {
	if t == nil || t.Status != taskLocked {
		return
	}
	if x.s.Grants[t.Env] > 0 {
		x.queue(t)
		return
	}
	asked := slices.ContainsFunc(x.s.Outbox, func(m record.Send) bool {
		return m.Input.Kind == record.InEnvRequest && m.ID == t.Env
	})
	if !asked {
		x.send(record.Environment, t.Env, record.Input{Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: x.s.ID, State: t.Path}})
		x.emit(events.EnvironmentQueued, events.Happening{State: t.Path, Environment: t.Env})
	}
}

// granted takes an environment that was given to this run. If nothing waits
// for it any more it is given back at once.
func (x *step) granted(g *record.Granted) {
	if x.s.Grants[g.Environment] == g.Grant {
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
	x.s.Grants[g.Environment] = g.Grant
	x.emit(events.EnvironmentGranted, events.Happening{State: waiting[0].Path, Environment: g.Environment, Grant: g.Grant})
	if missing := x.environmentMissing(g.Environment); len(missing) > 0 {
		x.release(g.Environment) // what held when we queued does not hold any more: people are asked, without the lock
		x.askFor(g.Environment)
		return
	}
	for _, t := range waiting {
		x.queue(t)
	}
}

// deployed notes what a deploy task left in its environment.
func (x *step) deployed(t *Task, r events.Result, outputs record.Values) {
	switch {
	case r.Outcome == events.Succeeded:
		artifact, _ := outputs["artifact"].(string)
		url, _ := outputs["url"].(string)
		if x.s.Put == nil {
			x.s.Put = map[string]*record.Deployment{}
		}
		x.s.Put[t.Env] = &record.Deployment{Run: x.s.ID, Artifact: artifact, URL: url, Grant: x.s.Grants[t.Env], At: x.now}
		x.emit(events.EnvironmentDeployed, events.Happening{State: t.Path, Environment: t.Env, Grant: x.s.Grants[t.Env], Artifact: artifact, URL: url})
	case r.Outcome == events.Failed: // by contract a plain failure left nothing behind
	default:
		if undone, _ := r.Facts["undone"].(bool); !undone {
			x.keepLock(t.Env, fmt.Sprintf("%s ended %s and nobody knows what it left there", t.Path, r.Outcome))
		}
	}
}

// keepLock keeps an environment after the run, because what is there is not known.
func (x *step) keepLock(env, reason string) {
	if x.s.Kept == nil {
		x.s.Kept = map[string]string{}
	}
	x.s.Kept[env] = reason
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

// releaseAll gives back every environment, and withdraws what was asked for.
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
