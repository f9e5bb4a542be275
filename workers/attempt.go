package workers

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// attempt is one task in the hands of this process, from its message to the
// answer to its result.
type attempt struct {
	w       *Worker
	task    *events.Task
	log     *slog.Logger
	granted time.Time // when the start that was granted was asked for

	end      context.CancelCauseFunc // ends the handler's context
	givenUp  atomic.Bool             // the engine said that it is not ours any more
	silent   atomic.Bool             // the engine did not answer for too long
	progress atomic.Pointer[string]
}

// attempt does what a message asks for. It holds a slot from the start to the
// end of the work, and a place among the reports until the result is answered.
func (w *Worker) attempt(work, report context.Context, kind string, m Message) {
	freed := sync.OnceFunc(func() { <-w.slots; w.handlers.Done() })
	defer freed()
	task := m.Task()
	a := &attempt{w: w, task: task, log: w.Log.With("task", task.ID, "run", task.Run, "state", task.State, "attempt", task.Attempt)}
	if task.Kind != kind || task.Pool != w.Pool {
		a.log.Error("task is not for this worker, although it came on its subject; dropped", "kind", task.Kind, "pool", task.Pool)
		a.drop(m)
		return
	}
	if !w.hold(task.ID) { // given again while we are at it: the acknowledgement was lost
		a.drop(m)
		return
	}
	defer w.letGo(task.ID)
	if !a.start(work, m) {
		return
	}
	ctx, end := context.WithCancelCause(work)
	defer end(nil)
	a.end = end
	heartbeats, reported := context.WithCancel(report)
	var beating sync.WaitGroup
	beating.Go(func() { a.keepAlive(heartbeats) })
	result := a.do(ctx)
	freed()
	if a.known(result) {
		a.finish(report, settle(a.task, result, a.silent.Load()))
	}
	reported()
	beating.Wait()
}

// start asks for the attempt and settles the message: acknowledged when it is
// ours and when it is nobody's any more, given back when that is not known.
func (a *attempt) start(ctx context.Context, m Message) bool {
	ctx, cancel := context.WithTimeout(ctx, a.w.times.start)
	defer cancel()
	answer, sent, err := a.w.ask(ctx, a.w.times.try, events.VerbAttemptStart,
		events.StartRequest{Task: a.task.ID, Run: a.task.Run, Worker: a.w.Name})
	if err != nil {
		a.log.Warn("the engine did not answer whether the task may start; given back", "error", err)
		a.w.giveBack(m, 2*time.Second)
		return false
	}
	switch answer.Status {
	case events.StatusApplied, events.StatusAlready:
		a.granted = sent
		a.drop(m)
		a.log.Debug("task started")
		return true
	case events.StatusRefused, events.StatusStale:
		a.drop(m)
		a.log.Debug("task is not ours to start", "reason", answer.Reason)
	case events.StatusBusy:
		a.w.giveBack(m, max(retryAfter(answer), 100*time.Millisecond))
	default:
		a.log.Warn("the engine could not say whether the task may start; given back", "status", answer.Status, "code", answer.Code, "reason", answer.Reason)
		a.w.giveBack(m, 10*time.Second)
	}
	return false
}

func (a *attempt) drop(m Message) {
	if err := m.Ack(); err != nil {
		a.log.Warn("message was not acknowledged; it will be given to somebody again and refused", "error", err)
	}
}

// do does the work, with everything around it that a handler may rely on.
func (a *attempt) do(ctx context.Context) events.Result {
	if a.task.Timeout > 0 {
		// Counted from before the engine's own count began, so that the
		// worker, who knows more, is the one to say so.
		left := time.Duration(a.task.Timeout)*time.Millisecond - time.Since(a.granted)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, ErrTimeout)
		defer cancel()
	}
	var dir string
	if _, none := a.w.Kinds[a.task.Kind].(dirless); !none {
		var err error
		if dir, err = makeJobDir(a.w.dir); err != nil {
			return Fail("worker_disk", "the worker could not make a directory for the task: "+err.Error(), true)
		}
		defer a.removeDir(dir)
	}
	out := newOutput(a.w.Conn.Output(a.task), a.w.MaxOutput, a.log)
	result := a.handle(ctx, &Job{Task: *a.task, Dir: dir, Stdout: out.writer("stdout"), Stderr: out.writer("stderr"),
		Note: out.writer("worker"), Artifacts: a.w.Conn.Artifacts(), Progress: a.tell})
	out.close()
	a.log.Debug("task ended", "outcome", result.Outcome)
	return result
}

func (a *attempt) removeDir(dir string) {
	if err := removeAll(dir); err != nil {
		a.log.Warn("the task's directory could not be removed", "dir", dir, "error", err)
	}
}

func (a *attempt) handle(ctx context.Context, job *Job) (result events.Result) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(job.Note, "the worker panicked: %v\n\n%s\n", p, debug.Stack())
			a.log.Error("the handler panicked", "panic", p)
			result = Fail("worker_panic", "the worker of kind "+a.task.Kind+" panicked; the task's output has the details", false)
		}
	}()
	return a.w.Kinds[a.task.Kind].Do(ctx, job)
}

// finish reports the result until it is answered.
func (a *attempt) finish(ctx context.Context, result events.Result) {
	ctx, cancel := context.WithTimeout(ctx, a.w.times.finish)
	defer cancel()
	request := events.FinishRequest{Task: a.task.ID, Run: a.task.Run, Worker: a.w.Name, Result: result}
	for tries := 1; ; tries++ {
		answer, _, err := a.w.ask(ctx, a.w.times.try, events.VerbAttemptFinish, request)
		if err != nil {
			a.log.Error("the engine did not answer the task's result", "outcome", result.Outcome, "error", err)
			return
		}
		switch answer.Status {
		case events.StatusApplied, events.StatusAlready:
			return
		case events.StatusRefused, events.StatusStale:
			a.log.Warn("the task's result changes nothing", "outcome", result.Outcome, "status", answer.Status, "reason", answer.Reason)
			return
		case events.StatusError:
			if final(answer.Code) {
				a.log.Error("the engine does not take the task's result", "outcome", result.Outcome, "code", answer.Code, "reason", answer.Reason)
				return
			}
		}
		if !sleep(ctx, max(retryAfter(answer), backoff(tries))) {
			a.log.Error("the engine did not take the task's result in time", "outcome", result.Outcome, "reason", answer.Reason)
			return
		}
	}
}

// final reports whether repeating a request that got this code is useless.
func final(code string) bool {
	switch code {
	case events.CodeInvalid, events.CodeNotFound, events.CodeConflict, events.CodeDenied:
		return true
	}
	return false
}

// known reports whether the worker may and can say what came of the attempt.
// One that must not run twice and was ended in the middle for lack of answers
// is left to the engine, which asks what became of it, where the kind knows.
func (a *attempt) known(r events.Result) bool {
	if a.givenUp.Load() {
		return false
	}
	return !a.silent.Load() || r.Outcome != events.Cancelled || a.task.Runs == events.RunsRepeatable
}

// errSilence is why a context ends when heartbeats go unanswered.
var errSilence = fmt.Errorf("the engine has not answered for half of the heartbeat timeout: %w", ErrStale)
