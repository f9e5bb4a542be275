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
	parked   = "parked" // to be tried again when the run is resumed
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
	case in.Kind == "finish" && (j.status == running || j.status == stopping) && j.worker == in.By:
		w.conclude(j, in)
	case in.Kind == "lost" && (j.status == running || j.status == stopping):
		w.lose(j)
	}
}

// lose gives up an attempt of which nobody knows what became of it.
func (w *work) lose(j *job) {
	in := Input{Outcome: "failed", Code: "worker_lost"}
	switch {
	case j.once:
		in.Outcome = "inconclusive"
	case j.status == stopping:
		in.Outcome = "cancelled"
	}
	w.conclude(j, in)
}

// conclude ends an attempt: it is tried again, or the task has ended.
func (w *work) conclude(j *job, in Input) {
	w.noteEnd(j, in)
	if j.status != stopping {
		if in.Outcome == "cancelled" { // a worker that stops by itself has cancelled nothing of ours
			in.Outcome = "failed"
		}
		if (in.Outcome == "failed" || in.Outcome == "timedOut") && w.again(j, in) {
			j.attempt++
			j.status, j.due = backoff, w.t.backoff(j.index)
			return
		}
	}
	w.end(j, in.Outcome, in.Code)
	if in.Outcome == "succeeded" {
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
	if j.undoes != nil && outcome == "succeeded" {
		w.t.forget(j.undoes)
	}
}

// dueNow handles a deadline that has passed.
func (w *work) dueNow(j *job) {
	switch j.status {
	case queued:
		w.end(j, "timedOut", "not_taken")
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
	case queued, backoff, parked:
		if j.undoes == nil {
			w.end(j, "cancelled", "cancelled")
		}
	}
}

// noteBegun notes that something has begun which may have to be undone.
func (w *work) noteBegun(j *job) {
	if j.a.Undo != nil && j.undoes == nil && w.t.effectOf(w, j) == nil {
		w.t.effects = append(w.t.effects, &effect{path: j.path, state: w.st.Name, visit: w.t.visits[w.st.Name], undo: j.a.Undo, start: j.a.StartTimeout})
	}
}

// noteEnd notes that an attempt is known to have changed nothing.
func (w *work) noteEnd(j *job, in Input) {
	if e := w.t.effectOf(w, j); e != nil && in.Undone && in.Outcome != "succeeded" && j.undoes == nil {
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
