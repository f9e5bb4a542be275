package reference

import (
	"slices"

	"github.com/penstock-cd/penstock/workflows"
)

// deploy begins the deployment of a state.
func (w *work) deploy() {
	a := w.st.Activity
	a.Task = "deploy"
	j := &job{path: w.st.Name, a: &a, attempt: 1, once: true, deploys: true, env: w.st.Deploy.Environment, steps: w.st.Deploy.Expanded()}
	w.jobs = append(w.jobs, j)
	if len(j.steps) == 0 {
		w.publish(j)
		return
	}
	w.step(j)
}

// step begins the present step of a deployment, or ends it behind the last one.
func (w *work) step(j *job) {
	switch {
	case j.at >= len(j.steps):
		w.complete(w.t.effectOf(w, j))
		w.end(j, "succeeded", "")
	case w.t.paused:
		j.status, j.due = between, 0
	case j.steps[j.at].Pause > 0:
		j.status, j.due = pausing, w.t.now+j.steps[j.at].Pause.D().Milliseconds()
	default:
		j.attempt, j.asked = 1, 0
		w.publish(j)
	}
}

// stepEnded takes the end of a weight. It reports whether the deployment goes
// on, or ends in another way.
func (w *work) stepEnded(j *job, in Input, told bool) bool {
	e := w.t.effectOf(w, j)
	switch {
	case in.Outcome == "succeeded" && told && j.at+1 < len(j.steps):
		w.end(j, "cancelled", "cancelled")
	case in.Outcome == "succeeded":
		j.at++
		w.step(j)
	case !told && e != nil && e.weight > 0 && (in.Outcome == "failed" || in.Outcome == "timedOut"):
		j.status, j.due, j.verdict, j.code = undoing, 0, in.Outcome, in.Code
		w.undo(e)
	default:
		return false
	}
	return true
}

// noteWeight notes how much of the traffic a deployment has now.
func (w *work) noteWeight(j *job, e *effect) {
	if len(j.steps) == 0 {
		w.complete(e)
		return
	}
	e.weight = j.steps[j.at].Weight
}

// complete notes that a deployment is complete. Nothing that the run did in
// that environment is unfinished then.
func (w *work) complete(e *effect) {
	for _, o := range w.t.effects {
		if e != nil && o.env == e.env && o.env != "" {
			o.done, o.stuck = true, false
		}
	}
}

// undoEnded takes the end of an undo.
func (w *work) undoEnded(u *job) {
	e := u.undoes
	owner := slices.IndexFunc(w.jobs, func(j *job) bool { return j.status == undoing && w.t.effectOf(w, j) == e })
	if u.outcome == "succeeded" {
		w.t.forget(e)
	} else {
		e.stuck = true
	}
	if owner < 0 {
		return
	}
	if j := w.jobs[owner]; u.outcome == "succeeded" {
		w.end(j, j.verdict, j.code)
	} else {
		w.end(j, "inconclusive", "undo_failed")
	}
}

// undoUnfinished undoes, after a cancel, the deployments that are unfinished.
func (w *work) undoUnfinished() {
	for _, e := range w.t.effects {
		e.stuck = false
	}
	for {
		var next *effect
		for _, e := range w.t.effects {
			if e.env != "" && !e.done && !e.stuck {
				next = e
			}
		}
		if next == nil {
			return
		}
		w.undo(next)
		for !w.quiet() {
			w.take(w.t.read())
		}
	}
}

// worksOn reports whether something works on an effect now.
func (w *work) worksOn(e *effect) bool {
	return slices.ContainsFunc(w.jobs, func(j *job) bool {
		return j.status != done && (j.undoes == e || j.undoes == nil && w.t.effectOf(w, j) == e)
	})
}

// undo begins to undo an effect.
func (w *work) undo(e *effect) {
	hourLong := workflows.Duration(hour * 1e6)
	a := &workflows.Activity{Task: "deploy", Timeout: e.limit, StartTimeout: e.start}
	if e.undo != nil {
		a.Task, a.Timeout = e.undo.Task, e.undo.Timeout
	}
	if a.Timeout == 0 {
		a.Timeout = hourLong
	}
	if a.StartTimeout == 0 {
		a.StartTimeout = hourLong
	}
	j := &job{path: "undo." + e.path, a: a, attempt: 1, once: w.t.c.Kinds[a.Task].Spec.Runs == "once", deploys: e.env != "", undoes: e}
	w.jobs = append(w.jobs, j)
	w.publish(j)
}
