package workers_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

func TestHeartbeatsAreSentInTimeWithTheProgress(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
			job.Progress("step\n1 of 2")
			time.Sleep(21 * time.Second) // of the bubble's clock
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		b.result(t, "t1")
		mustStop(t, stop)
		beats := b.requests(events.VerbAttemptHeartbeat, "t1")
		if len(beats) != 4 {
			t.Fatalf("%d heartbeats in 21 s, want 4", len(beats))
		}
		for i, a := range beats {
			if got := a.at.Sub(b.requests(events.VerbAttemptStart, "t1")[0].at); got != time.Duration(i+1)*5*time.Second {
				t.Errorf("heartbeat %d came after %v", i+1, got)
			}
			if a.body["progress"] != "step 1 of 2" {
				t.Errorf("heartbeat %d carries %v", i+1, a.body)
			}
		}
	})
}

func TestCancelVerdictEndsTheTaskAndHeartbeatsGoOnUntilItIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptHeartbeat] = func(int, string) (events.Answer, error) { return applied(events.Cancel) }
		var cause error
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
			<-ctx.Done()
			cause = context.Cause(ctx)
			time.Sleep(12 * time.Second) // of the bubble's clock: it cleans up
			return workers.Interrupted(ctx)
		})})
		b.deliver(task("t1"))
		got := b.result(t, "t1")
		mustStop(t, stop)
		if !errors.Is(cause, workers.ErrCancelled) || got.Outcome != events.Cancelled {
			t.Errorf("ended with %v and reported %+v", cause, got)
		}
		if n := len(b.requests(events.VerbAttemptHeartbeat, "t1")); n != 3 {
			t.Errorf("%d heartbeats, want 3: one that was answered with cancel and two while it cleaned up", n)
		}
	})
}

func TestAfterAStaleVerdictNothingIsSent(t *testing.T) {
	for name, answer := range map[string]events.Answer{
		"verdict": {Status: events.StatusApplied, Verdict: events.Stale},
		"status":  {Status: events.StatusStale},
		"refused": {Status: events.StatusRefused},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *fakeBus) {
				b.answer[events.VerbAttemptHeartbeat] = func(int, string) (events.Answer, error) { return answer, nil }
				causes := make(chan error, 1)
				stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
					<-ctx.Done()
					causes <- context.Cause(ctx)
					return workers.Interrupted(ctx)
				})})
				b.deliver(task("t1"))
				if cause := <-causes; !errors.Is(cause, workers.ErrStale) {
					t.Errorf("ended with %v", cause)
				}
				mustStop(t, stop)
				if n := len(b.requests(events.VerbAttemptHeartbeat, "t1")); n != 1 {
					t.Errorf("%d heartbeats, want 1", n)
				}
				if got := b.requests(events.VerbAttemptFinish, "t1"); len(got) > 0 {
					t.Errorf("reported %v", got)
				}
			})
		})
	}
}

// cutOff does one task while the engine is away, until it has ended; then the
// engine is back.
func cutOff(t *testing.T, b *fakeBus, next events.Task, do func(ctx context.Context) events.Result) {
	silent := true
	away := func(int, string) (events.Answer, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if silent {
			return events.Answer{}, errNoAnswer
		}
		return applied(events.GoOn)
	}
	b.answer[events.VerbAttemptHeartbeat], b.answer[events.VerbAttemptFinish] = away, away
	lasted := make(chan time.Duration, 1)
	stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
		began := time.Now()
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), workers.ErrStale) {
			t.Errorf("ended with %v", context.Cause(ctx))
		}
		lasted <- time.Since(began)
		return do(ctx)
	})})
	b.deliver(next)
	if d := <-lasted; d != 15*time.Second {
		t.Errorf("it had effects for %v without an answer, want 15 s", d)
	}
	time.Sleep(20 * time.Second) // of the bubble's clock
	b.mu.Lock()
	silent = false
	b.mu.Unlock()
	mustStop(t, stop)
}

func TestRepeatableTaskFailsWhenNoHeartbeatIsAnsweredForHalfTheTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		next := task("t1")
		next.Runs = events.RunsRepeatable
		cutOff(t, b, next, workers.Interrupted)
		if got := b.result(t, "t1"); got.Outcome != events.Failed || got.Error.Code != events.CodeWorkerLost || !got.Error.Retryable {
			t.Errorf("reported %+v, %+v", got, got.Error)
		}
	})
}

func TestTaskThatMustNotRunTwiceIsLeftToTheEngineWhenItWasEndedInTheMiddle(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		cutOff(t, b, task("t1"), workers.Interrupted)
		if got := b.requests(events.VerbAttemptFinish, "t1"); len(got) > 0 {
			t.Errorf("reported %v", got)
		}
		if n := len(b.requests(events.VerbAttemptHeartbeat, "t1")); n > 4 {
			t.Errorf("%d heartbeats; they must end, so that the engine takes the attempt for lost", n)
		}
	})
}

func TestResultThatIsKnownIsReportedAlthoughNoHeartbeatWasAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		cutOff(t, b, task("t1"), func(context.Context) events.Result { return events.Result{Outcome: events.Succeeded} })
		if got := b.result(t, "t1"); got.Outcome != events.Succeeded {
			t.Errorf("reported %+v", got)
		}
	})
}

func TestBusyEngineIsNoAnswerToAHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptHeartbeat] = func(n int, _ string) (events.Answer, error) {
			if n < 3 {
				return events.Answer{Status: events.StatusBusy, RetryAfter: 1000}, nil
			}
			return applied(events.GoOn)
		}
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
			time.Sleep(time.Minute) // of the bubble's clock
			if ctx.Err() != nil {
				return workers.Interrupted(ctx)
			}
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		if got := b.result(t, "t1"); got.Outcome != events.Succeeded {
			t.Errorf("reported %+v", got)
		}
		mustStop(t, stop)
	})
}

func TestTaskEndsAtItsTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: one(untilEnded)})
		next := task("t1")
		next.Timeout = 7000
		b.deliver(next)
		began := time.Now()
		got := b.result(t, "t1")
		if got.Outcome != events.TimedOut || got.Error.Code != events.CodeTimeout || time.Since(began) != 7*time.Second {
			t.Errorf("reported %+v after %v", got, time.Since(began))
		}
		mustStop(t, stop)
	})
}

func TestResultIsRepeatedUntilItIsAnsweredAlsoWhileDraining(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptFinish] = func(n int, _ string) (events.Answer, error) {
			switch n {
			case 1:
				return events.Answer{}, errNoAnswer
			case 2:
				return events.Answer{}, errors.New("nobody is there")
			case 3:
				return events.Answer{Status: events.StatusBusy, RetryAfter: 2000}, nil
			case 4:
				return events.Answer{Status: events.StatusError, Code: events.CodeFull}, nil
			case 5:
				return events.Answer{Status: events.StatusError, Code: events.CodeInternal}, nil
			}
			return events.Answer{Status: events.StatusAlready}, nil
		}
		stop := start(t, workers.Options{Conn: b, Kinds: one(succeed)})
		b.deliver(task("t1"))
		b.until(t, "the first report", func() bool { return len(b.of(events.VerbAttemptFinish, "t1")) == 1 })
		mustStop(t, stop)
		reports := b.requests(events.VerbAttemptFinish, "t1")
		if len(reports) != 6 {
			t.Errorf("reported %d times, want 6", len(reports))
		}
		if wait := reports[3].at.Sub(reports[2].at); wait < 2*time.Second {
			t.Errorf("repeated %v after the engine asked for 2 s", wait)
		}
	})
}

func TestResultThatTheEngineRefusesIsNotRepeated(t *testing.T) {
	for name, answer := range map[string]events.Answer{
		"refused": {Status: events.StatusRefused},
		"stale":   {Status: events.StatusStale},
		"invalid": {Status: events.StatusError, Code: events.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *fakeBus) {
				b.answer[events.VerbAttemptFinish] = func(int, string) (events.Answer, error) { return answer, nil }
				stop := start(t, workers.Options{Conn: b, Kinds: one(succeed)})
				b.deliver(task("t1"))
				b.result(t, "t1")
				mustStop(t, stop)
				if n := len(b.requests(events.VerbAttemptFinish, "t1")); n != 1 {
					t.Errorf("reported %d times", n)
				}
			})
		})
	}
}

func TestUnreportedResultIsNamedWhenTheWorkerStops(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptFinish] = func(int, string) (events.Answer, error) { return events.Answer{}, errNoAnswer }
		stop := start(t, workers.Options{Conn: b, Kinds: one(succeed)})
		b.deliver(task("t1"))
		b.result(t, "t1")
		if err := stop(); err == nil || !strings.Contains(err.Error(), "t1") {
			t.Errorf("the worker ended with: %v", err)
		}
	})
}

func TestDrainFetchesNothingAndLetsRunningTasksFinish(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		begun := make(chan struct{})
		stop := start(t, workers.Options{Conn: b, Concurrency: 2, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
			close(begun)
			time.Sleep(2 * time.Minute) // of the bubble's clock
			if ctx.Err() != nil {
				return workers.Interrupted(ctx)
			}
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		<-begun
		stopped := make(chan error)
		go func() { stopped <- stop() }()
		time.Sleep(5 * time.Second) // of the bubble's clock: the last fetch is over
		b.deliver(task("t2"))
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if got := b.result(t, "t1"); got.Outcome != events.Succeeded {
			t.Errorf("reported %+v", got)
		}
		if n := len(b.requests(events.VerbAttemptStart, "t2")); n != 0 {
			t.Error("a task was begun while draining")
		}
	})
}

func TestTaskThatIsFetchedWhileTheWorkerStopsIsGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: one(succeed)})
		synctest.Wait() // it waits for tasks
		stopped := make(chan error)
		go func() { stopped <- stop() }()
		time.Sleep(10 * time.Millisecond) // of the bubble's clock: a fetch is on its way
		m := b.deliver(task("t1"))
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if m.acks != 0 || len(m.delays) != 1 {
			t.Errorf("%d acks, given back %d times", m.acks, len(m.delays))
		}
	})
}

func TestDrainTimeoutEndsRunningTasksAndReportsThem(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		var cause error
		stop := start(t, workers.Options{Conn: b, DrainTimeout: 3 * time.Second, Kinds: one(func(ctx context.Context, job *workers.Job) events.Result {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return workers.Interrupted(ctx)
		})})
		m := b.deliver(task("t1"))
		b.until(t, "the start", func() bool { return m.acks == 1 })
		mustStop(t, stop)
		got := b.result(t, "t1")
		if !errors.Is(cause, workers.ErrStopping) || got.Outcome != events.Failed || got.Error.Code != "worker_stopped" || !got.Error.Retryable {
			t.Errorf("ended with %v and reported %+v", cause, got)
		}
	})
}

func TestHandlerThatDoesNotEndIsNamed(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		release := make(chan struct{})
		stop := start(t, workers.Options{Conn: b, DrainTimeout: -1, Kinds: one(func(context.Context, *workers.Job) events.Result {
			<-release
			return events.Result{Outcome: events.Succeeded}
		})})
		m := b.deliver(task("t1"))
		b.until(t, "the start", func() bool { return m.acks == 1 })
		if err := stop(); err == nil || !strings.Contains(err.Error(), "t1") {
			t.Errorf("the worker ended with: %v", err)
		}
		close(release)
	})
}

func TestResultThatIsNoneBecomesAFailure(t *testing.T) {
	for name, c := range map[string]struct {
		result events.Result
		code   string
	}{
		"no outcome":      {events.Result{}, "bad_result"},
		"unknown outcome": {events.Result{Outcome: "fine"}, "bad_result"},
		"not JSON":        {events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"x": math.NaN()}}, "bad_result"},
		"error no code":   {events.Result{Outcome: events.Failed, Error: &events.TaskError{Message: "m"}}, "bad_result"},
		"outputs too large": {events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"x": strings.Repeat("a", 48<<10)}},
			"result_too_large"},
		"facts too large": {events.Result{Outcome: events.Succeeded, Facts: map[string]any{"x": strings.Repeat("a", 16<<10)}},
			"result_too_large"},
		"failed without reason": {events.Result{Outcome: events.Failed}, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *fakeBus) {
				stop := start(t, workers.Options{Conn: b, Kinds: one(func(context.Context, *workers.Job) events.Result { return c.result })})
				b.deliver(task("t1"))
				got := b.result(t, "t1")
				if got.Outcome != events.Failed || got.Error == nil || got.Error.Code != c.code || len(got.Outputs) > 0 {
					t.Errorf("reported %s, %+v", got.Outcome, got.Error)
				}
				mustStop(t, stop)
			})
		})
	}
}

func TestLongErrorMessageIsShortened(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(context.Context, *workers.Job) events.Result {
			return workers.Fail("x", strings.Repeat("ä", 5000), false)
		})})
		b.deliver(task("t1"))
		if got := b.result(t, "t1"); len(got.Error.Message) > 4<<10+10 || strings.Contains(got.Error.Message, "\uFFFD") {
			t.Errorf("message of %d bytes", len(got.Error.Message))
		}
		mustStop(t, stop)
	})
}
