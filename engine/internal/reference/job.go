package reference

import (
	"fmt"

	"github.com/penstock-cd/penstock/workflows"
)

// Times that the rules name.
const (
	beatLimit = 20_000    // what a worker that ran past its timeout gets to say so
	patience  = 60_000    // what is told to stop and does not is given up
	hour      = 3_600_000 // an undo that nobody takes, or that takes longer
)

// Statuses of a job.
const (
	queued   = "queued"
	running  = "running"
	backoff  = "backoff"
	parked   = "parked"  // to be published when the run is resumed
	pausing  = "pausing" // a step of a deployment
	between  = "between" // a deployment that is to begin its next step when the run is resumed
	undoing  = "undoing" // a deployment that is being undone
	stopping = "stopping"
	done     = "done"
)

// job is a task over all its attempts.
type job struct {
	path    string
	a       *workflows.Activity
	once    bool
	attempt int
	index   int // of the present attempt among all that were published
	status  string
	worker  string
	due     int64
	outcome string
	code    string
	ended   int64
	undoes  *effect

	// Of a deployment, also of one that undoes another one.
	deploys bool
	env     string
	asked   int // how often somebody was asked what became of a lost attempt
	steps   []*workflows.Step
	at      int
	verdict string // the outcome with which it ends when it is undone
}

func finally(i int) string { return fmt.Sprintf("finally.%d", i+1) }

// begin begins a task.
func (w *work) begin(path string, a *workflows.Activity) *job {
	j := &job{path: path, a: a, attempt: 1, once: w.t.c.Kinds[a.Task].Spec.Runs == "once"}
	w.jobs = append(w.jobs, j)
	w.publish(j)
	return j
}

func (w *work) publish(j *job) {
	if w.t.paused && j.asked == 0 {
		j.status, j.due = parked, 0
		return
	}
	j.index = len(w.t.story.Tasks)
	w.t.story.Tasks = append(w.t.story.Tasks, j.path)
	j.status, j.worker, j.due = queued, "", 0
	if d := j.a.StartTimeout.D().Milliseconds(); d > 0 {
		j.due = w.t.now + d
	}
}

// unpark publishes what was to be tried again while the run was paused.
func (w *work) unpark() {
	for _, j := range w.jobs {
		if j.status == parked {
			w.publish(j)
		}
	}
	for _, j := range w.jobs {
		if j.status == between {
			w.step(j)
		}
	}
}

// report takes what a worker says of an attempt, or that nobody hears of it.
func (w *work) report(j *job, in Input) {
	switch {
	case in.Kind == "take" && j.status == queued:
		j.status, j.worker, j.due = running, in.By, 0
		if d := j.a.Timeout.D().Milliseconds(); d > 0 {
			j.due = w.t.now + d + beatLimit
		}
		w.noteBegun(j)
	case in.Kind == "finish" && j.status == queued && j.atOnce(), in.Kind == "finish" && (j.status == running || j.status == stopping) && j.worker == in.By:
		w.conclude(j, in)
	case in.Kind == "lost" && (j.status == running || j.status == stopping):
		w.lose(j)
	}
}

// atOnce reports whether a worker may have done the attempt without asking.
func (j *job) atOnce() bool {
	return !j.once && !j.deploys && j.asked == 0 && j.undoes == nil && j.a.Undo == nil && j.a.Environment == "" && j.a.StartTimeout == 0
}

// lose gives up an attempt of which nobody knows what became of it.
func (w *work) lose(j *job) {
	in := Input{Outcome: "failed", Code: "worker_lost"}
	switch {
	case j.deploys && j.status == running && j.asked < 5: // somebody else may know what became of it
		j.asked++
		w.publish(j)
		return
	case j.once:
		in.Outcome = "inconclusive"
	case j.status == stopping:
		in.Outcome = "cancelled"
	}
	w.conclude(j, in)
}

// conclude ends an attempt: it is tried again, or the task has ended.
func (w *work) conclude(j *job, in Input) {
	told := j.status == stopping
	if in.Outcome == "cancelled" && (j.asked > 0 || j.deploys && !told && !in.Undone) {
		in.Outcome = "inconclusive" // in the middle of a deployment
	}
	w.noteEnd(j, in)
	if !told {
		if in.Outcome == "cancelled" { // a worker that stops by itself has cancelled nothing of ours
			in.Outcome = "failed"
		}
		if (in.Outcome == "failed" || in.Outcome == "timedOut") && w.again(j, in) {
			j.attempt++
			j.asked = 0
			j.status, j.due = backoff, w.t.backoff(j.index)
			return
		}
	}
	if len(j.steps) > 0 && w.stepEnded(j, in, told) {
		return
	}
	w.end(j, in.Outcome, in.Code)
	if in.Outcome == "succeeded" && !j.deploys {
		w.keep(j, in.Outputs)
	}
}

// again reports whether a failed attempt is tried again.
func (w *work) again(j *job, in Input) bool {
	attempts, lost := 1, in.Code == "worker_lost"
	if j.a.Retry != nil {
		attempts = j.a.Retry.Attempts
	}
	if lost && !j.once {
		attempts = max(attempts, 3)
	}
	switch {
	case j.attempt >= attempts:
		return false
	case lost:
		return true
	case j.a.Retry.When == nil:
		return in.Retryable
	}
	ok, err := w.t.holds(j.a.Retry.When, map[string]any{"attempt": int64(j.attempt),
		"error": map[string]any{"code": in.Code, "message": "", "retryable": in.Retryable}})
	return err == nil && ok
}

func (w *work) end(j *job, outcome, code string) {
	j.status, j.due, j.outcome, j.code, j.ended = done, 0, outcome, code, w.t.now
	if outcome == "succeeded" {
		j.code = ""
	}
	if j.undoes != nil {
		w.undoEnded(j)
	}
}

// dueNow handles a deadline that has passed.
func (w *work) dueNow(j *job) {
	switch j.status {
	case queued:
		w.drop(j, "timedOut", "not_taken")
	case pausing:
		j.at++
		w.step(j)
	case backoff:
		if j.status, j.due = parked, 0; !w.t.paused {
			w.publish(j)
		}
	case running:
		if j.once {
			w.lose(j)
			return
		}
		w.conclude(j, Input{Outcome: "timedOut", Code: "timeout"})
	case stopping:
		w.lose(j)
	}
}

// stopJob tells a task to stop; one that nobody has is over. What is being
// undone is undone to its end.
func (w *work) stopJob(j *job) {
	switch j.status {
	case running:
		if j.undoes == nil {
			j.status, j.due = stopping, w.t.now+patience
		}
	case queued, backoff, parked, pausing, between:
		switch {
		case j.undoes == nil:
			w.drop(j, "cancelled", "cancelled")
		case j.status == parked:
			w.publish(j)
		}
	}
}

// drop ends a task whose present attempt nobody has.
func (w *work) drop(j *job, outcome, code string) {
	switch {
	case j.asked > 0: // and so nobody will know
		w.conclude(j, Input{Outcome: "inconclusive", Code: "worker_lost"})
	case len(j.steps) > 0 && outcome != "cancelled" && w.stepEnded(j, Input{Outcome: outcome, Code: code}, false):
	default:
		w.end(j, outcome, code)
	}
}

// noteBegun notes that something has begun which may have to be undone.
func (w *work) noteBegun(j *job) {
	if (j.a.Undo != nil || j.deploys) && j.undoes == nil && j.asked == 0 && w.t.effectOf(w, j) == nil {
		w.t.effects = append(w.t.effects, &effect{path: j.path, state: w.st.Name, visit: w.t.visits[w.st.Name], undo: j.a.Undo, env: j.env,
			start: j.a.StartTimeout, limit: j.a.Timeout})
	}
}

// noteEnd notes that an attempt is known to have changed nothing.
func (w *work) noteEnd(j *job, in Input) {
	e := w.t.effectOf(w, j)
	nothing := in.Undone || j.deploys && in.Outcome == "failed"
	switch {
	case j.undoes != nil && j.deploys && in.Outcome != "succeeded" && !nothing:
		j.undoes.done = false // nobody knows what is there now
	case e == nil || j.undoes != nil:
	case in.Outcome == "succeeded" && j.deploys:
		w.noteWeight(j, e)
	case in.Outcome != "succeeded" && nothing && e.weight == 0:
		w.t.forget(e)
	}
}

func (t *teller) effectOf(w *work, j *job) *effect {
	for _, e := range t.effects {
		if w.st != nil && e.path == j.path && e.visit == t.visits[w.st.Name] {
			return e
		}
	}
	return nil
}

func (t *teller) forget(e *effect) {
	var rest []*effect
	for _, o := range t.effects {
		if o != e {
			rest = append(rest, o)
		}
	}
	t.effects = rest
}
