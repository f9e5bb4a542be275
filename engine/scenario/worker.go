package scenario

import (
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// worker is who takes all tasks.
const worker = "worker"

// attempt is a task that a worker has.
type attempt struct {
	run    *actor
	task   *events.Task
	answer *workflows.TaskAnswer
	silent bool // its worker is not heard of any more
}

// publish gives a task to a worker.
func (w *world) publish(a *actor, task *events.Task) {
	w.plan(w.now, byWorker, func() { w.take(a, task) })
}

// take begins an attempt and plans its end.
func (w *world) take(a *actor, task *events.Task) {
	answer := w.nextAnswer(a, task)
	path := a.path + task.State
	if answer.NeverStarts {
		w.note(a.path, "no worker takes %s", path)
		return
	}
	t := &attempt{run: a, task: task, answer: answer, silent: answer.WorkerLost}
	detached := notice(a, task)
	if w.give(a, attemptInput(record.InAttemptStart, task.ID, nil)).Status != events.StatusApplied {
		return
	}
	w.attempts[task.ID] = t
	if !detached {
		w.effects = append(w.effects, Effect{Task: path, Kind: task.Kind, At: w.elapsed(), With: task.With})
	}
	w.work(t)
	w.supervise(a)
}

// work plans how an attempt ends.
func (w *world) work(t *attempt) {
	task, answer, path := t.task, t.answer, t.path()
	timeout := time.Duration(task.Timeout) * time.Millisecond
	after := answer.After.D()
	switch {
	case answer.WorkerLost:
		w.note(t.run.path, "the worker of %s is not heard of any more", path)
		w.plan(w.now+task.HeartbeatTimeout, byWorker, func() { w.lost(t) })
	case timeout > 0 && (answer.TimesOut || after >= timeout):
		w.plan(w.now+timeout.Milliseconds(), byWorker, func() {
			w.report(t, stopped(task, events.TimedOut, events.CodeTimeout, "it ran longer than its timeout"))
		})
	case answer.TimesOut:
		w.fail("spec.tasks", "%s has no timeout, so it cannot time out", path)
	case answer.Fails != nil:
		f := answer.Fails
		message := f.Message
		if message == "" {
			message = f.Code
		}
		w.plan(w.now+after.Milliseconds(), byWorker, func() {
			w.report(t, events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: f.Code, Message: message, Retryable: f.Retryable}})
		})
	default:
		w.plan(w.now+after.Milliseconds(), byWorker, func() {
			w.report(t, events.Result{Outcome: events.Succeeded, Outputs: w.outputs(t)})
		})
	}
}

// notice reports whether a task is a notification, which nothing waits for.
func notice(a *actor, task *events.Task) bool {
	for _, t := range a.run().Tasks {
		if t.ID == task.ID {
			return t.Detached
		}
	}
	return false
}

func attemptInput(kind, task string, r *events.Result) record.Input {
	return record.Input{ID: kind + "/" + task, Kind: kind, By: "worker:" + worker, Attempt: &record.Attempt{Task: task, Worker: worker, Result: r}}
}

// stopped is the result of a worker that stopped before it was through. One
// that deploys has taken back what it did.
func stopped(task *events.Task, outcome, code, message string) events.Result {
	r := events.Result{Outcome: outcome, Error: &events.TaskError{Code: code, Message: message}, Facts: map[string]any{}}
	if task.Kind == "deploy" {
		r.Facts["undone"] = true
	}
	return r
}

// report reports the end of an attempt; the first one of a run tells what the
// scenario says of the change.
func (w *world) report(t *attempt, r events.Result) {
	if w.attempts[t.task.ID] != t {
		return
	}
	delete(w.attempts, t.task.ID)
	if !w.told[t.run] && !notice(t.run, t.task) {
		w.told[t.run] = true
		r.Facts = w.facts(r.Facts)
	}
	w.give(t.run, attemptInput(record.InAttemptFinish, t.task.ID, &r))
}

// facts adds what the scenario says of the change to what a worker has found.
func (w *world) facts(found map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range found {
		out[k] = v
	}
	if authors := w.spec.Facts.Authors; authors != nil {
		out["authors"] = workflows.Normal(append([]string{}, authors...))
	}
	if list := w.spec.Facts.Attestations; list != nil {
		attested := []any{}
		for _, a := range list {
			attested = append(attested, workflows.Normal(a))
		}
		out["attestations"] = attested
	}
	return out
}

// lost tells that the worker of an attempt has not been heard of for too long.
func (w *world) lost(t *attempt) {
	if w.attempts[t.task.ID] != t {
		return
	}
	delete(w.attempts, t.task.ID)
	w.give(t.run, record.Input{ID: "lost/" + t.task.ID, Kind: record.InAttemptLost, By: "engine", Attempt: &record.Attempt{Task: t.task.ID, Worker: worker}})
}

// supervise lets workers stop whose attempts are not wanted any more.
func (w *world) supervise(a *actor) {
	for _, id := range sortedKeys(w.attempts) {
		t := w.attempts[id]
		if t.run != a {
			continue
		}
		switch verdict := a.run().Verdict(id, worker); {
		case verdict == events.Cancel && !t.silent:
			t.silent = true // it is told once
			w.plan(w.now, byWorker, func() { w.report(t, stopped(t.task, events.Cancelled, "cancelled", "it was told to stop")) })
		case verdict == events.Stale:
			delete(w.attempts, id)
		}
	}
}

// nextAnswer takes the next answer of a task's path.
func (w *world) nextAnswer(a *actor, task *events.Task) *workflows.TaskAnswer {
	path := a.path + task.State
	answers := w.spec.Tasks[path]
	if len(answers) == 0 || notice(a, task) {
		return &workflows.TaskAnswer{}
	}
	n := w.answers[path]
	w.answers[path]++
	for _, answer := range answers {
		if n -= max(answer.Times, 1); n < 0 {
			return answer
		}
	}
	return answers[len(answers)-1]
}

// outputs are those of the answer, and plausible ones for what it leaves out.
func (w *world) outputs(t *attempt) map[string]any {
	out := map[string]any{}
	kind := t.run.defs.Kinds[t.task.Kind]
	if kind != nil {
		for name, declared := range kind.Spec.Outputs {
			if typ, optional := workflows.Optional(declared); !optional {
				out[name] = plausible(t.path(), name, typ, t.task.With)
			}
		}
	}
	if e := t.task.Environment; e != nil && t.task.Kind == "deploy" {
		out["url"], out["previous"] = "https://"+e.Name+".example", w.deployed(e.Name)
	}
	for name, v := range t.answer.Outputs {
		out[name] = workflows.Normal(v)
	}
	if _, given := out["baseline"]; !given && t.task.Kind == "sample" {
		out["baseline"] = out["value"]
	}
	return out
}

// deployed is the artifact that an environment has, as far as it knows.
func (w *world) deployed(name string) string {
	if a := w.byName[[2]string{record.Environment, name}]; a != nil {
		if e, ok := a.state.(*env.Environment); ok && e.Deployed != nil {
			return e.Deployed.Artifact
		}
	}
	return ""
}

// path is where the work stands, from the scenario's run on.
func (t *attempt) path() string { return t.run.path + t.task.State }

// plausible is a value for an output that the scenario does not give.
func plausible(path, name string, t workflows.Type, with map[string]any) any {
	if v, ok := with[name]; ok {
		if same, err := t.Conform(v); err == nil {
			return same
		}
	}
	kind, _ := t.Split()
	switch kind {
	case "int":
		return int64(0)
	case "double":
		return 0.0
	case "bool":
		return false
	case "duration":
		return "0s"
	case "timestamp":
		return firstMonday.Format(time.RFC3339)
	case "list":
		return []any{}
	case "map":
		return map[string]any{}
	}
	return path + "." + name
}
