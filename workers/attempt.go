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
	message Message
	log     *slog.Logger
	granted time.Time // when the start that was granted was asked for, or the work began at once

	settled  atomic.Bool             // nobody else is to be given the message any more
	recorded atomic.Bool             // the engine knows who has the attempt
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
	a := &attempt{w: w, task: task, message: m, log: w.Log.With("task", task.ID, "run", task.Run, "state", task.State, "attempt", task.Attempt)}
	if task.Kind != kind || task.Pool != w.Pool {
		a.log.Error("task is not for this worker, although it came on its subject; dropped", "kind", task.Kind, "pool", task.Pool)
		a.drop()
		return
	}
	if other := w.hold(a); other != nil {
		a.again(other)
		return
	}
	defer w.letGo(a)
	if task.AtOnce {
		a.granted = time.Now()
	} else if !a.start(work) {
		return
	}
	ctx, end := context.WithCancelCause(work)
	defer end(nil)
	a.end = end
	quiet := a.beatBeside(report)
	result := a.do(ctx)
	freed()
	if a.known(result) {
		a.finish(report, settle(a.task, result, a.silent.Load()))
	}
	quiet()
	if !a.settled.Load() {
		a.w.giveBack(m, 2*time.Second) // nobody knows of our result
	}
}

// again settles a message that came again while this process has its task in
// hand: the acknowledgement was lost, or is still to come.
func (a *attempt) again(other *attempt) {
	if other.settled.Load() {
		a.drop()
		return
	}
	a.w.giveBack(a.message, 20*time.Second)
}

// beatBeside sends heartbeats beside the work until the function that it gives
// has returned. Work that began at once may end before the first one, and the
// start of it is reported before that.
func (a *attempt) beatBeside(report context.Context) (quiet func()) {
	ctx, cancel := context.WithCancel(report)
	done := make(chan struct{})
	if !a.task.AtOnce {
		go func() { defer close(done); a.keepAlive(ctx, a.granted) }()
		return func() { cancel(); <-done }
	}
	late := time.AfterFunc(events.BeginWithin, func() {
		defer close(done)
		if since, ok := a.announce(ctx); ok {
			a.keepAlive(ctx, since)
		}
	})
	return func() {
		cancel()
		if !late.Stop() {
			<-done
		}
	}
}

// start asks for the attempt and settles the message: acknowledged when it is
// ours and when it is nobody's any more, given back when that is not known.
func (a *attempt) start(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, a.w.times.start)
	defer cancel()
	answer, sent, err := a.askStart(ctx)
	if err != nil {
		a.log.Warn("the engine did not answer whether the task may start; given back", "error", err)
		a.w.giveBack(a.message, 2*time.Second)
		return false
	}
	switch answer.Status {
	case events.StatusApplied, events.StatusAlready:
		a.granted = sent
		a.recorded.Store(true)
		a.drop()
		a.log.Debug("task started")
		return true
	case events.StatusRefused, events.StatusStale:
		a.drop()
		a.log.Debug("task is not ours to start", "reason", answer.Reason)
	case events.StatusBusy:
		a.w.giveBack(a.message, max(retryAfter(answer), 100*time.Millisecond))
	default:
		a.log.Warn("the engine could not say whether the task may start; given back", "status", answer.Status, "code", answer.Code, "reason", answer.Reason)
		a.w.giveBack(a.message, 10*time.Second)
	}
	return false
}

func (a *attempt) askStart(ctx context.Context) (events.Answer, time.Time, error) {
	return a.w.ask(ctx, a.w.times.try, events.VerbAttemptStart, events.StartRequest{Task: a.task.ID, Run: a.task.Run, Worker: a.w.Name})
}

// announce reports that work which began at once goes on, until that is
// answered; since is from when on heartbeats are due. It ends the work where
// somebody else has the attempt, or nobody answers.
func (a *attempt) announce(ctx context.Context) (since time.Time, ok bool) {
	_, limit := a.intervals()
	limited, cancel := context.WithDeadline(ctx, a.granted.Add(limit))
	defer cancel()
	for tries := 1; ; tries++ {
		answer, sent, err := a.askStart(limited)
		switch {
		case ctx.Err() != nil:
			return sent, false
		case err != nil:
			a.fallSilent(limit)
			return sent, false // to heartbeats of what it does not know the engine has no answer
		}
		switch answer.Status {
		case events.StatusApplied, events.StatusAlready:
			a.recorded.Store(true)
			a.drop()
			return sent, true
		case events.StatusRefused, events.StatusStale:
			a.log.Debug("somebody else has the attempt; it is ended", "reason", answer.Reason)
			a.drop()
			a.givenUp.Store(true)
			a.end(ErrStale)
			return sent, false
		}
		sleep(limited, max(retryAfter(answer), backoff(tries)))
	}
}

// fallSilent ends the work, once, because the engine does not answer.
func (a *attempt) fallSilent(limit time.Duration) {
	if !a.silent.Swap(true) {
		a.log.Warn("no heartbeat was answered; the task is ended", "for", limit)
		a.end(errSilence)
	}
}

// drop acknowledges the message: it is settled.
func (a *attempt) drop() {
	if a.settled.Swap(true) {
		return
	}
	if err := a.message.Ack(); err != nil {
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
	if !a.recorded.Load() {
		request.Took = time.Since(a.granted).Milliseconds()
	}
	for tries := 1; ; tries++ {
		answer, _, err := a.w.ask(ctx, a.w.times.try, events.VerbAttemptFinish, request)
		if err != nil {
			a.log.Error("the engine did not answer the task's result", "outcome", result.Outcome, "error", err)
			return
		}
		switch answer.Status {
		case events.StatusApplied, events.StatusAlready:
			a.drop()
			return
		case events.StatusRefused, events.StatusStale:
			a.drop()
			a.log.Warn("the task's result changes nothing", "outcome", result.Outcome, "status", answer.Status, "reason", answer.Reason)
			return
		case events.StatusError:
			if final(answer.Code) {
				a.drop()
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
