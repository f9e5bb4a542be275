package run

import (
	"cmp"
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// A deployment with steps is one task that goes through them: a weight is an
// attempt of the deploy worker, a pause sleeps, an analysis takes samples.
// Each weight is retried by itself. When it fails for good behind an earlier
// weight, or an analysis fails, the deployment as a whole is undone.

// beginRoll prepares a deployment with steps.
func (x *step) beginRoll(t *Task) {
	if len(x.steps(t)) > 0 {
		t.Roll = &Roll{}
	}
}

// beginResume goes on with the unfinished deployment of another state: behind
// the pause or the analysis that it stopped at; a weight of which nobody knows
// whether it was reached is given again.
func (x *step) beginResume(path string, b *workflows.Body, member string) *Task {
	t := &Task{Path: path, Kind: "deploy", Pool: cmp.Or(b.Pool, events.DefaultPool), Runs: x.runsOf("deploy"), Attempt: 1, Deploys: true, Member: member}
	x.s.Tasks = append(x.s.Tasks, t)
	e := x.unfinishedOf(b.Deploy.Resume)
	if e == nil {
		x.end(t, events.Failed, nil, &events.TaskError{Code: "nothing_to_resume",
			Message: fmt.Sprintf("no deployment of %s is unfinished", b.Deploy.Resume)})
		return t
	}
	t.Resumes, t.Env, t.Artifact = e.Path, e.Env, e.Artifact
	t.Member = cmp.Or(e.Member, member)
	if steps := x.steps(t); len(steps) > 0 {
		t.Roll = &Roll{Step: e.Step}
		if steps[min(e.Step, len(steps)-1)].Weight == 0 {
			t.Roll.Step++
		}
	}
	if x.s.Anew[t.Env] {
		x.enterEnvironment(t)
		x.askPeople()
		return t
	}
	x.requestLock(t) // it was let in when it began, and has kept its claim
	return t
}

// resumedActivity is the definition of a deployment that another state goes on
// with: that of its own, with the times that the other state sets.
func (x *step) resumedActivity(t *Task, own *workflows.Body) workflows.Activity {
	began := new(*t)
	began.Path, began.Resumes = t.Resumes, ""
	a := x.activity(began)
	a.Environment = t.Env
	a.StartTimeout, a.Timeout = cmp.Or(own.StartTimeout, a.StartTimeout), cmp.Or(own.Timeout, a.Timeout)
	if own.Retry != nil {
		a.Retry = own.Retry
	}
	a.Outputs = own.Outputs
	return a
}

// definedAt is the path at which the work of a task is written down.
func (t *Task) definedAt() string { return cmp.Or(t.Resumes, t.Path) }

// part tells the task's attempts apart from others at its path.
func (t *Task) part() int {
	if t.Roll != nil {
		return t.Roll.Step + 1
	}
	return t.Part
}

// deployOf is the deployment that a task carries out, nil for another task.
func (x *step) deployOf(t *Task) *workflows.Deploy {
	if t.Detached || t.Closing || t.Of != "" {
		return nil
	}
	if b := x.bodyAt(t.definedAt()); b != nil {
		return b.Deploy
	}
	return nil
}

// steps are the steps of a deployment, none for one that is done in one go.
func (x *step) steps(t *Task) []*workflows.Step {
	if d := x.deployOf(t); d != nil {
		return d.Expanded()
	}
	return nil
}

// deployWith adds to the inputs of a deployment what its step is. What it puts
// there does not change from step to step, nor from attempt to attempt: it is
// what the environment's rules were judged on.
func (x *step) deployWith(t *Task, with map[string]any) {
	if !t.Deploys || t.Of != "" {
		return
	}
	if e := x.effectOf(t); e != nil && e.Artifact != "" && (e.Weight > 0 || t.Resumes != "") {
		with["artifact"] = e.Artifact
	} else if t.Artifact != "" {
		with["artifact"] = t.Artifact
	}
	t.Artifact, _ = with["artifact"].(string)
	if steps := x.steps(t); t.Roll != nil && t.Roll.Step < len(steps) {
		with["weight"], with["step"] = int64(steps[t.Roll.Step].Weight), int64(t.Roll.Step+1)
	}
}

// rollOn lets deployments go on that a pause of the run or their environment
// has kept between two steps.
func (x *step) rollOn() {
	if x.s.Phase != phaseRunning || x.cancelling() {
		return
	}
	for _, t := range x.s.Tasks {
		switch {
		case t.Roll == nil:
		case (t.Status == taskBetween || t.Status == taskPausing || t.Status == taskAnalyzing) && x.windowUndoes(t):
			x.undoRoll(t, events.Failed, x.windowEnded(t))
		case t.Status == taskBetween:
			x.roll(t)
		case t.Status == taskAnalyzing && x.s.Paused != nil && t.Roll.Stopped == 0:
			t.Roll.Stopped = x.now
		case t.Status == taskAnalyzing && x.s.Paused == nil && t.Roll.Stopped > 0:
			t.Roll.goOn(x.now)
		}
	}
}

// standsStill says why a deployment does not begin its next step.
func (x *step) standsStill(t *Task) string {
	if x.s.Paused != nil {
		return "the run is paused by " + x.s.Paused.By
	}
	if d := x.s.Doors[t.Env]; d != nil && !d.Open && d.AtEnd == "hold" {
		return fmt.Sprintf("environment %s lets nothing go on: %s", t.Env, d.Reason)
	}
	return ""
}

// windowUndoes reports whether the window of the environment has ended, and
// what is in progress there is to be undone.
func (x *step) windowUndoes(t *Task) bool {
	d := x.s.Doors[t.Env]
	return d != nil && !d.Open && d.AtEnd == "undo" && x.s.Grants[t.Env] > 0
}

func (x *step) windowEnded(t *Task) *events.TaskError {
	return &events.TaskError{Code: "window_ended", Message: fmt.Sprintf("environment %s undoes what is in progress: %s", t.Env, x.s.Doors[t.Env].Reason)}
}

// roll begins the present step of a deployment, or ends it behind the last one.
func (x *step) roll(t *Task) {
	steps := x.steps(t)
	if t.Roll.Step >= len(steps) {
		x.rolled(t)
		return
	}
	if x.standsStill(t) != "" {
		t.Status = taskBetween
		return
	}
	if x.windowUndoes(t) {
		x.undoRoll(t, events.Failed, x.windowEnded(t))
		return
	}
	e := x.effectOf(t)
	s := steps[t.Roll.Step]
	if x.s.Grants[t.Env] == 0 {
		if e != nil {
			x.lockTaken(t)
			return
		}
		x.enterEnvironment(t)
		x.askPeople()
		return
	}
	if e != nil {
		e.Step = t.Roll.Step
	}
	t.Roll.Going = true
	x.emit(events.DeploymentStep, events.Happening{State: t.Path, Environment: t.Env, Reason: stepText(steps, t.Roll.Step)})
	switch {
	case s.Pause > 0:
		t.Status, t.Roll.Until = taskPausing, x.now+s.Pause.D().Milliseconds()
	case s.Analyze > 0:
		x.beginAnalysis(t, s.Analyze.D())
	default:
		t.Attempt, t.Lost, t.Asked = 1, "", 0
		x.queue(t)
	}
}

// stopFreed ends the deployments in steps that were in an environment which a
// person has freed.
func (x *step) stopFreed(env string) {
	for _, t := range x.s.Tasks {
		if t.Env == env && (t.Status == taskBetween || t.Status == taskPausing || t.Status == taskAnalyzing) {
			x.lockTaken(t)
		}
	}
}

// lockTaken ends a deployment in the middle: nobody knows what is done there
// from now on.
func (x *step) lockTaken(t *Task) {
	x.stopSamples(t)
	x.end(t, events.Inconclusive, nil, &events.TaskError{Code: "lock_taken",
		Message: fmt.Sprintf("a person freed environment %s in the middle of the deployment", t.Env)})
}

// stepDone goes on behind the present step.
func (x *step) stepDone(t *Task) {
	t.Roll = &Roll{Step: t.Roll.Step + 1}
	t.ID, t.Worker, t.Error = "", "", nil
	x.roll(t)
}

// rolled ends a deployment whose steps are done.
func (x *step) rolled(t *Task) {
	var outputs record.Values
	if e := x.effectOf(t); e != nil {
		e.Status, outputs = effectDone, e.Outputs
	}
	if x.s.Grants[t.Env] > 0 {
		x.deployed(t, outputs)
		x.overtake(t.Env)
	}
	x.end(t, events.Succeeded, outputs, nil)
}

// stepEnded takes the end of a weight, after its retries. It reports whether
// the deployment goes on, or ends in another way than the attempt.
func (x *step) stepEnded(t *Task, r events.Result, told bool) bool {
	last := t.Roll.Step+1 >= len(x.steps(t))
	e := x.effectOf(t)
	switch {
	case r.Outcome == events.Succeeded && told && !last:
		x.end(t, events.Cancelled, nil, &events.TaskError{Code: "cancelled", Message: "the run was cancelled"})
	case r.Outcome == events.Succeeded:
		x.stepDone(t)
	case !told && e != nil && e.Weight > 0 && (r.Outcome == events.Failed || r.Outcome == events.TimedOut):
		x.undoRoll(t, r.Outcome, r.Error)
	default:
		return false
	}
	return true
}

// undoRoll undoes a deployment whose steps have got it somewhere. It ends with
// outcome when that is done.
func (x *step) undoRoll(t *Task, outcome string, err *events.TaskError) {
	x.stopSamples(t)
	e := x.effectOf(t)
	if e == nil { // it has had no effect yet
		x.end(t, outcome, nil, err)
		return
	}
	t.Status, t.Error = taskUndoing, err
	t.Roll.Outcome, t.Roll.Verdict = outcome, err.Message
	x.beginUndo(e)
}

// rollUndone ends a deployment that was undone; fault is why it could not be.
func (x *step) rollUndone(t *Task, fault *events.TaskError) {
	if fault == nil {
		x.end(t, t.Roll.Outcome, nil, t.Error)
		return
	}
	x.end(t, events.Inconclusive, nil, &events.TaskError{Code: fault.Code, Message: t.Roll.Verdict + "; " + fault.Message})
}

// deadline is when the present step ends or wants its next sample.
func (r *Roll) deadline() int64 {
	if r.Stopped > 0 || r.Late { // the last sample has its own
		return 0
	}
	next := r.Until
	for _, m := range r.Metrics {
		if m.NextAt > 0 {
			next = min(next, m.NextAt)
		}
	}
	return next
}

// stepText says which step of how many it is, and what it does.
func stepText(steps []*workflows.Step, i int) string {
	s := steps[i]
	var what string
	switch {
	case s.Pause > 0:
		what = "pause for " + workflows.ShortDuration(s.Pause.D())
	case s.Analyze > 0:
		what = "analyze for " + workflows.ShortDuration(s.Analyze.D())
	default:
		what = fmt.Sprintf("weight %d", s.Weight)
	}
	return fmt.Sprintf("step %d of %d: %s", i+1, len(steps), what)
}
