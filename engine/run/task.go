package run

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// begin begins a piece of work at a path; member is the one that it is for,
// below forEach. One that uses an environment waits for its rules and its lock
// first.
func (x *step) begin(path string, b *workflows.Body, member string) *Task {
	switch {
	case b.Kind() == "workflow":
		return x.beginChild(path, b.Workflow, member)
	case b.Deploy != nil && b.Deploy.Resume != "":
		return x.beginResume(path, b, member)
	}
	a := x.activityOf(b, x.memberName(), member)
	t := &Task{Path: path, Kind: a.Task, Pool: cmp.Or(a.Pool, events.DefaultPool), Runs: x.runsOf(a.Task), Env: a.Environment,
		Attempt: 1, Deploys: a.Task == "deploy", Closing: x.s.Phase == phaseFinally, Member: member}
	x.s.Tasks = append(x.s.Tasks, t)
	x.beginRoll(t)
	if t.Env != "" {
		x.enterEnvironment(t)
		return t
	}
	x.queue(t)
	return t
}

// runsOf tells whether a task of a kind may run twice; of one that there is
// not, the answer is the careful one.
func (x *step) runsOf(kind string) string {
	if k := x.d.Kinds[kind]; k != nil {
		return k.Spec.Runs
	}
	return events.RunsOnce
}

// queue publishes the present attempt of t, or goes on with its steps.
func (x *step) queue(t *Task) {
	if t.Roll != nil && !t.Roll.Going {
		x.roll(t)
		return
	}
	if x.parks(t) {
		return
	}
	a := x.activity(t)
	with, err := x.with(t, a)
	if err != nil {
		x.drop(t, events.Failed, &events.TaskError{Code: events.CodeRuleError, Message: err.Error()})
		return
	}
	x.tellRunning(t, with)
	t.ID = x.taskID(t)
	t.Status, t.Worker, t.V = taskQueued, "", 0
	t.QueuedAt, t.BeganAt, t.EndedAt, t.RetryAt, t.RunBy = x.now, 0, 0, 0, 0
	t.StartBy = 0
	if a.StartTimeout > 0 {
		t.StartBy = x.now + a.StartTimeout.D().Milliseconds()
	}
	env := x.environmentOf(t)
	task := &events.Task{ID: t.ID, Run: x.s.ID, Workflow: x.s.Workflow, State: t.Path, Attempt: t.Attempt, Pool: t.Pool,
		Kind: t.Kind, Runs: t.Runs, With: with, Fence: events.Fence{Grant: x.s.Grants[env], Version: x.v},
		Timeout: a.Timeout.D().Milliseconds(), Heartbeat: x.s.Beat,
		HeartbeatTimeout: x.s.BeatLimit, Issued: at(x.now), AtOnce: x.atOnce(t, &a)}
	if t.Lost != "" {
		task.Mode, task.Runs = events.ModeStatus, events.RunsRepeatable
		task.With["attempt"] = t.Lost
	}
	if env != "" {
		task.Environment = x.taskEnvironment(env, a.Secrets)
	}
	x.out.Tasks = append(x.out.Tasks, task)
	x.emitQueued(t)
}

// emitQueued tells that the present attempt is published. A state that is one
// task and is entered with it says so itself.
func (x *step) emitQueued(t *Task) {
	if n := len(x.out.Events); n > 0 {
		if last := &x.out.Events[n-1]; last.Type == events.StateEntered && last.Data.State == t.Path {
			last.Data.Kind = t.Kind
			return
		}
	}
	x.emit(events.TaskQueued, events.Happening{State: t.Path, Kind: t.Kind, Attempt: t.Attempt})
}

// atOnce reports whether a worker may begin with the present attempt without
// asking first. It may where doing it twice, or in vain, changes nothing for
// anybody: the kind may run twice, the task has no environment that others
// would have to be kept out of, nothing that is noted before it begins, and no
// time by which somebody must have taken it.
func (x *step) atOnce(t *Task, a *workflows.Activity) bool {
	if t.Runs != events.RunsRepeatable || t.Env != "" || t.Of != "" || t.Lost != "" || a.StartTimeout > 0 {
		return false
	}
	b := x.bodyAt(t.definedAt())
	return t.Closing || b != nil && b.Undo == nil
}

// taskID is the identity of the present attempt: a repeat has the same.
func (x *step) taskID(t *Task) string {
	visit := x.s.Visit
	switch {
	case t.Detached || t.Part > 0:
		visit = 0
	case t.Closing: // a run that begins again comes to its end more than once
		visit = x.s.Ends
	}
	return attemptID(x.s.ID, t.Path, visit, t.Attempt, t.Lost, t.Asked, t.part())
}

func (x *step) taskEnvironment(name string, secrets []string) *events.TaskEnvironment {
	te := &events.TaskEnvironment{Name: name}
	env := x.d.Now.Environments[name]
	if env == nil {
		return te
	}
	te.Target, te.Config = env.Spec.Target, env.Spec.Config
	for _, s := range secrets {
		if te.Secrets == nil {
			te.Secrets = map[string]string{}
		}
		te.Secrets[s] = env.Spec.Secrets[s]
	}
	return te
}

// with evaluates the inputs of a task.
func (x *step) with(t *Task, a workflows.Activity) (map[string]any, error) {
	with := map[string]any{}
	if t.With != nil {
		for k, v := range t.With {
			with[k] = v
		}
		return with, nil
	}
	extra := x.memberScope(t)
	x.effectScope(t, extra)
	if t.Env != "" {
		extra["env"] = x.envScope(t.Env)
	}
	for _, name := range sortedKeys(a.With) {
		v, err := x.data(name, a.With[name], extra)
		if err != nil {
			return nil, fmt.Errorf("%s, input %q: %w", t.Path, name, err)
		}
		if !record.Plain(v) {
			return nil, fmt.Errorf("%s, input %q: %s is no number that can be passed on", t.Path, name, record.Text(v))
		}
		if v != nil { // an optional value that is absent is no input
			with[name] = v
		}
	}
	x.deployWith(t, with)
	x.undoWith(t, with)
	return with, nil
}

// attemptStart grants an attempt to the first worker that asks.
func (x *step) attemptStart(a *record.Attempt) {
	t := x.s.task(a.Task)
	switch {
	case t == nil || t.Status != taskQueued && t.Status != taskRunning && t.Status != taskCancelling:
		x.unrecorded(events.StatusStale, "", "this attempt is not current any more")
	case !x.forWorker(t, a):
	case t.Status == taskQueued:
		x.grant(t, a, x.now)
		if timeout := x.activity(t).Timeout; timeout > 0 {
			// the worker ends itself at the timeout; the engine gives it a little longer to say so
			t.RunBy = x.now + timeout.D().Milliseconds() + x.s.BeatLimit
		}
		x.noteBegun(t)
		x.emit(events.TaskStarted, events.Happening{State: t.Path, Kind: t.Kind, Attempt: t.Attempt, Worker: a.Worker})
	case t.Worker == a.Worker:
		x.out.At = t.V
		x.unrecorded(events.StatusAlready, "", "")
	default:
		x.unrecorded(events.StatusRefused, events.CodeConflict, "the attempt was granted to "+t.Worker)
	}
}

// forWorker reports whether a worker may have a task, and else refuses it.
func (x *step) forWorker(t *Task, a *record.Attempt) bool {
	switch {
	case a.Pool != "" && a.Pool != t.Pool:
		x.unrecorded(events.StatusRefused, events.CodeDenied, fmt.Sprintf("the task is for workers of pool %s, and this one is of pool %s", t.Pool, a.Pool))
	case len(a.Kinds) > 0 && !slices.Contains(a.Kinds, t.Kind):
		x.unrecorded(events.StatusRefused, events.CodeDenied, fmt.Sprintf("the task is of kind %s, and this worker may take %s only", t.Kind, strings.Join(a.Kinds, ", ")))
	default:
		return true
	}
	return false
}

// grant notes that a worker has the present attempt of t, since began.
func (x *step) grant(t *Task, a *record.Attempt, began int64) {
	t.Status, t.Worker, t.V, t.BeganAt, t.StartBy = taskRunning, a.Worker, x.v, began, 0
}

// begunAtOnce takes a result of an attempt that nobody has asked to start: it
// was begun at once, and is granted to who has done it. It reports whether
// there is more to be said about the result.
func (x *step) begunAtOnce(t *Task, a *record.Attempt) bool {
	if t == nil || t.Status != taskQueued {
		return true
	}
	if activity := x.activity(t); !x.atOnce(t, &activity) {
		return true
	}
	if !x.forWorker(t, a) {
		return false
	}
	x.grant(t, a, x.now-min(max(a.Took, 0), x.now-t.QueuedAt))
	return true
}

// attemptFinish takes the result of an attempt.
func (x *step) attemptFinish(a *record.Attempt) {
	if x.repeated(a.Task, a.Worker) {
		return
	}
	t := x.s.task(a.Task)
	if !x.begunAtOnce(t, a) {
		return
	}
	if t == nil || t.Status != taskRunning && t.Status != taskCancelling || t.Worker != a.Worker {
		x.stale(a)
		return
	}
	x.once(a.Task, a.Worker)
	r := *a.Result
	if !validOutcome(r.Outcome) {
		r = events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: events.CodeBadOutputs,
			Message: fmt.Sprintf("the worker reported the outcome %q, which there is not", r.Outcome)}}
	}
	if r.Outcome != events.Succeeded && r.Error == nil {
		r.Error = &events.TaskError{Code: r.Outcome, Message: "the worker gave no reason"}
	}
	var outputs record.Values
	if r.Outcome == events.Succeeded {
		var err error
		if outputs, err = x.outputs(t, r.Outputs); err != nil {
			r.Outcome, r.Error = events.Failed, &events.TaskError{Code: events.CodeBadOutputs, Message: err.Error()}
		}
	}
	x.learn(r.Facts)
	x.learnSource(t, r.Facts)
	x.conclude(t, r, outputs)
}

// repeated answers what was taken before, and reports that.
func (x *step) repeated(task, by string) bool {
	for _, e := range x.s.Ended {
		if e.Task == task && e.Worker == by {
			x.out.At = e.V
			x.unrecorded(events.StatusAlready, "", "")
			return true
		}
	}
	return false
}

// once keeps what was taken, so that a repeat is known.
func (x *step) once(task, by string) {
	x.s.Ended = append(x.s.Ended, Ended{Task: task, Worker: by, V: x.v})
	if len(x.s.Ended) > maxEnded {
		x.s.Ended = x.s.Ended[1:]
	}
}

func validOutcome(o string) bool {
	switch o {
	case events.Succeeded, events.Failed, events.TimedOut, events.Cancelled, events.Inconclusive:
		return true
	}
	return false
}

// conclude ends an attempt: the task is done, or is tried again.
func (x *step) conclude(t *Task, r events.Result, outputs record.Values) {
	told := t.Status == taskCancelling
	if r.Outcome == events.Cancelled && (t.Lost != "" || t.Deploys && !told && !undone(r)) {
		r.Outcome = events.Inconclusive // it stopped before it knew, or in the middle of a deployment
	}
	x.noteEnvironment(t, r, outputs)
	x.noteEffect(t, r, outputs)
	switch {
	case told:
	case r.Outcome == events.Cancelled:
		// a worker that stops on its own account has cancelled nothing of ours
		r.Outcome = events.Failed
		fallthrough
	case r.Outcome == events.Failed || r.Outcome == events.TimedOut:
		if x.retries(t, r.Error) {
			return
		}
	}
	if t.Roll != nil && x.stepEnded(t, r, told) {
		return
	}
	x.end(t, r.Outcome, outputs, r.Error)
}

// retries puts a failed attempt back, when there is one left and its rule allows it.
func (x *step) retries(t *Task, err *events.TaskError) bool {
	a := x.activity(t)
	attempts := 1
	if a.Retry != nil {
		attempts = a.Retry.Attempts
	}
	lost := err.Code == events.CodeWorkerLost
	if lost && t.Runs == events.RunsRepeatable {
		attempts = max(attempts, lostAttempts)
	}
	if t.Attempt >= attempts {
		return false
	}
	again := err.Retryable || lost || t.Detached
	if a.Retry != nil && a.Retry.When != nil && !lost {
		extra := map[string]any{"error": errorScope(err), "attempt": int64(t.Attempt)}
		ok, evalErr := x.rule(a.Retry.When, "spec.states."+t.Path+".retry.when", extra)
		again = ok && evalErr == nil // a rule that errs retries nothing
	}
	if !again {
		return false
	}
	t.Attempt++
	t.Lost, t.Asked = "", 0 // what became of the lost attempt is known by now
	t.Status, t.RetryAt = taskBackoff, x.now+x.backoff(t, a.Retry).Milliseconds()
	t.Error, t.StartBy, t.RunBy = err, 0, 0
	x.emit(events.TaskRetrying, events.Happening{State: t.Path, Kind: t.Kind, Attempt: t.Attempt, Error: err, At: timePtr(t.RetryAt)})
	return true
}

// backoff doubles from attempt to attempt up to the longest, with up to a
// fifth more or less, derived from the run so that a replay gives the same.
func (x *step) backoff(t *Task, r *workflows.Retry) time.Duration {
	base, longest := defaultBackoff, defaultMaxBackoff
	if r != nil {
		base, longest = cmp.Or(r.Backoff.D(), base), cmp.Or(r.Max.D(), longest)
	}
	d := min(base, longest)
	for i := 2; i < t.Attempt && d < longest; i++ {
		d = min(d*2, longest)
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", x.s.ID, t.Path, t.Attempt))
	jitter := time.Duration(binary.BigEndian.Uint32(h[:4])%401) - 200 // per mille, ±20 %
	return min(d+d/1000*jitter, longest)
}

// end closes a task for good.
func (x *step) end(t *Task, outcome string, outputs record.Values, err *events.TaskError) {
	t.Status, t.Outcome, t.Error, t.EndedAt = taskDone, outcome, err, x.now
	t.StartBy, t.RunBy, t.RetryAt, t.GiveUpAt = 0, 0, 0, 0
	if outcome == events.Succeeded {
		t.Error = nil
		x.keep(t, outputs)
	}
	h := events.Happening{State: t.Path, Kind: t.Kind, Attempt: t.Attempt, Worker: t.Worker, Outcome: outcome, Outputs: outputs, Error: t.Error}
	if t.BeganAt > 0 {
		h.DurationMs = x.now - t.BeganAt
	}
	x.emit(events.TaskFinished, h)
	switch {
	case t.Detached:
		x.notified(t)
	case t.Of != "":
		x.partEnded(t, outputs)
	}
}

// keep stores the outputs where expressions find them.
func (x *step) keep(t *Task, outputs record.Values) {
	head, branch, isBranch := strings.Cut(t.Path, ".")
	if t.Detached || t.Closing || t.Of != "" {
		return
	}
	if !isBranch {
		x.s.Values[head] = map[string]any(outputs)
		return
	}
	all := map[string]any{}
	if old, ok := x.s.Values[head].(map[string]any); ok {
		for k, v := range old {
			all[k] = v
		}
	}
	all[branch] = map[string]any(outputs)
	x.s.Values[head] = all
}

// outputs checks a result against the declared outputs of its kind, and the
// narrower ones of its state. What is not declared is dropped.
func (x *step) outputs(t *Task, given map[string]any) (record.Values, error) {
	out := record.Values{}
	kind := x.d.Kinds[t.Kind]
	if kind == nil {
		return out, nil
	}
	declared := kind.Spec.Outputs
	must := x.activity(t).Outputs
	var problems []string
	for _, name := range sortedKeys(declared) {
		typ, optional := strings.CutSuffix(declared[name], "?")
		v, there := given[name]
		if !there || v == nil {
			if must[name] != "" || !optional && len(must) == 0 {
				problems = append(problems, fmt.Sprintf("output %q (%s) is missing", name, typ))
			}
			continue
		}
		c, err := workflows.Type(typ).Conform(v)
		if err == nil && !record.Plain(c) {
			err = fmt.Errorf("%v is no number that can be passed on", c)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("output %q: %v", name, err))
			continue
		}
		out[name] = c
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("the result does not match what kind %s declares: %s", t.Kind, joinLines(problems))
	}
	return out, nil
}

// learn takes facts that only a worker can find out: who wrote the change. Of
// a run that builds several things the authors of all count.
func (x *step) learn(facts map[string]any) {
	x.attest(facts)
	if s, ok := facts["subject"].(string); ok && x.s.Subject == "" {
		x.s.Subject = s
	}
	list, ok := facts["authors"].([]any)
	if !ok {
		return
	}
	authors := slices.Clone(x.s.Authors)
	for _, e := range list {
		email, _ := e.(string)
		who := cmp.Or(x.d.Now.UserByIdentity("git:"+email), "git:"+email)
		if !slices.Contains(authors, who) {
			authors = append(authors, who)
		}
	}
	if x.s.AuthorsSet && len(authors) == len(x.s.Authors) {
		return
	}
	x.s.Authors, x.s.AuthorsSet = authors, true
	x.emit(events.RunAuthors, events.Happening{Authors: authors})
}

// attemptLost gives up an attempt whose worker is not heard of any more.
func (x *step) attemptLost(a *record.Attempt) {
	t := x.s.task(a.Task)
	if t == nil || t.Status != taskRunning && t.Status != taskCancelling || a.Worker != "" && a.Worker != t.Worker {
		x.unrecorded(events.StatusStale, "", "the attempt has ended")
		return
	}
	x.lose(t, fmt.Sprintf("worker %s was not heard of for %v", t.Worker, time.Duration(x.s.BeatLimit)*time.Millisecond))
}

// lose ends an attempt of which nobody knows what became of it. A repeatable
// one is tried again. Of one that must not run twice, the kind's status check
// may know; else it is inconclusive. One that was told to stop is given up.
func (x *step) lose(t *Task, reason string) {
	err := &events.TaskError{Code: events.CodeWorkerLost, Message: reason}
	kind := x.d.Kinds[t.Kind]
	switch {
	case t.Status == taskCancelling:
		x.conclude(t, events.Result{Outcome: x.givenUp(t), Error: err}, nil)
	case t.Runs == events.RunsRepeatable:
		x.conclude(t, events.Result{Outcome: events.Failed, Error: err}, nil)
	case kind != nil && kind.Spec.Status && t.Asked < statusAttempts:
		if t.Lost == "" {
			t.Lost = t.ID
		}
		t.Asked++
		x.emit(events.TaskRetrying, events.Happening{State: t.Path, Kind: t.Kind, Attempt: t.Attempt, Error: err,
			Reason: "its worker is lost; the next one is asked what became of it"})
		x.queue(t)
	default:
		x.conclude(t, events.Result{Outcome: events.Inconclusive, Error: err}, nil)
	}
}

// drop ends a task whose present attempt nobody has. Where the attempt was to
// find out what became of a lost one, nobody knows now.
func (x *step) drop(t *Task, outcome string, err *events.TaskError) {
	if t.Lost == "" {
		if t.Roll == nil || outcome == events.Cancelled || !x.stepEnded(t, events.Result{Outcome: outcome, Error: err}, false) {
			x.end(t, outcome, nil, err)
		}
		return
	}
	x.conclude(t, events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: events.CodeWorkerLost,
		Message: "its worker was lost, and nobody could find out what became of it: " + err.Message}}, nil)
}

// taskDue handles the deadline of a task.
func (x *step) taskDue(t *Task) {
	switch t.Status {
	case taskBackoff:
		if t.Env != "" && x.s.Grants[t.Env] == 0 { // a person took it back meanwhile
			t.RetryAt = 0
			if t.Of != "" {
				x.requestUndo(t)
				return
			}
			x.enterEnvironment(t)
			x.askPeople()
			return
		}
		x.queue(t)
	case taskQueued:
		x.drop(t, events.TimedOut, &events.TaskError{Code: events.CodeNotTaken, Message: x.notTaken(t)})
	case taskRunning:
		x.emit(events.TaskRefused, events.Happening{State: t.Path, Worker: t.Worker, Reason: "the task ran past its timeout and its worker did not end it"})
		if t.Runs == events.RunsRepeatable {
			x.conclude(t, events.Result{Outcome: events.TimedOut, Error: &events.TaskError{Code: events.CodeTimeout,
				Message: "it ran longer than its timeout"}}, nil)
			return
		}
		x.lose(t, "the task ran past its timeout and its worker did not end it")
	case taskCancelling:
		x.lose(t, "it did not end after the cancel")
	case taskPausing:
		x.stepDone(t)
	case taskAnalyzing:
		x.analysisDue(t)
	}
}

// notTaken says why nobody has taken a task, as far as whoever gave the input
// knew of workers.
func (x *step) notTaken(t *Task) string {
	alive, known := x.in.Workers[t.Pool+"/"+t.Kind]
	switch {
	case known && alive == 0:
		return fmt.Sprintf("no worker of kind %s is alive in pool %s, so nobody took the task in time", t.Kind, t.Pool)
	case alive == 1:
		return fmt.Sprintf("the one live worker of kind %s in pool %s did not take the task in time: it was busy", t.Kind, t.Pool)
	case known:
		return fmt.Sprintf("none of the %d live workers of kind %s in pool %s took the task in time: all were busy", alive, t.Kind, t.Pool)
	}
	return fmt.Sprintf("no worker of kind %s in pool %s took the task in time", t.Kind, t.Pool)
}

// givenUp is the outcome of a cancelled task whose worker does not answer.
func (x *step) givenUp(t *Task) string {
	if t.Runs == events.RunsOnce {
		return events.Inconclusive
	}
	return events.Cancelled
}

// cancelTask stops a task: one that nobody has is over, one that runs is told.
func (x *step) cancelTask(t *Task) {
	if x.undoes(t) { // it is undone to its end
		if t.Status == taskParked {
			x.queue(t)
		}
		return
	}
	switch t.Status {
	case taskDone, taskCancelling, taskUndoing, taskStopping:
	case taskRunning:
		t.Status, t.GiveUpAt, t.RunBy = taskCancelling, x.now+cancelPatience.Milliseconds(), 0
	case taskChild:
		x.cancelChild(t)
	default:
		x.drop(t, events.Cancelled, &events.TaskError{Code: "cancelled", Message: x.whyStopped()})
	}
}
