package run

import (
	"fmt"
	"maps"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

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
	case t.Of != "": // an undo: undoEnded knows what it left
	case r.Outcome == events.Succeeded && t.Roll != nil: // rolled knows when all of it is there
		delete(x.s.Kept, t.Env)
	case r.Outcome == events.Succeeded:
		x.deployed(t, outputs)
	case undone(r):
	case r.Outcome == events.Failed && r.Error.Code != events.CodeBadOutputs: // by contract a plain failure left nothing behind
	default:
		x.s.Kept[t.Env] = unknown
	}
}

// deployed notes that a deployment is complete.
func (x *step) deployed(t *Task, outputs record.Values) {
	artifact, _ := outputs["artifact"].(string)
	url, _ := outputs["url"].(string)
	delete(x.s.Kept, t.Env) // whatever was unknown before, this is there now
	x.s.Put[t.Env] = &record.Deployment{Run: x.s.ID, Artifact: artifact, URL: url, Grant: x.s.Grants[t.Env], At: x.now, Source: x.s.Source}
	x.proveOwn(t.Env, artifact)
	x.emit(events.EnvironmentDeployed, events.Happening{State: t.Path, Environment: t.Env, Grant: x.s.Grants[t.Env], Artifact: artifact, URL: url})
}

// claim says why an environment is not given back although nothing is done
// there now: a deployment of ours is unfinished. Until it is finished or
// undone nobody else gets the environment.
func (x *step) claim(env string) string {
	for _, e := range x.s.Effects {
		if x.unfinished(e) && e.Env == env {
			return fmt.Sprintf("the deployment of %s is unfinished: %s", e.Path, x.effectText(e))
		}
	}
	return ""
}

// keepClaims keeps, at the end of the run, the environments with a deployment
// that is neither finished nor undone: a person has to look.
func (x *step) keepClaims() {
	for _, env := range sortedKeys(x.s.Grants) {
		if why := x.claim(env); why != "" && x.s.Kept[env] == "" {
			x.s.Kept[env] = why
		}
	}
}

// releaseAfter gives back the environments that the next state does not use.
func (x *step) releaseAfter(next string) {
	used := x.environmentsOf(x.d.Workflow.Spec.States[next])
	x.forgetDoors()
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
	if _, kept := x.s.Kept[env]; kept || x.claim(env) != "" {
		return
	}
	grant := x.s.Grants[env]
	delete(x.s.Grants, env)
	x.send(record.Environment, env, record.Input{Kind: record.InEnvRelease,
		Release: &record.EnvRelease{Run: x.s.ID, Grant: grant, Deployed: x.s.Put[env], Undone: x.s.Undone[env]}})
	delete(x.s.Anew, env)
	delete(x.s.Undone, env)
	delete(x.s.Put, env)
	delete(x.s.There, env)
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
	for _, e := range x.s.Effects {
		if slices.Contains(st.Compensate, e.State) {
			used[e.Env] = true
		}
	}
	delete(used, "")
	return slices.Sorted(maps.Keys(used))
}
