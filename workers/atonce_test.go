package workers_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// atOnce is a task that may begin without being asked for.
func atOnce(id string) events.Task {
	t := task(id)
	t.Runs, t.AtOnce = events.RunsRepeatable, true
	return t
}

func lasting(d time.Duration) map[string]workers.Handler {
	return one(func(ctx context.Context, _ *workers.Job) events.Result {
		select {
		case <-time.After(d): // of the bubble's clock
			return events.Result{Outcome: events.Succeeded}
		case <-ctx.Done():
			return workers.Interrupted(ctx)
		}
	})
}

func acks(b *fakeBus, m *fakeMessage) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return m.acks
}

func TestShortTaskThatBeginsAtOnceIsReportedOnlyOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		var m *fakeMessage
		early := false
		b.answer[events.VerbAttemptFinish] = func(n int, _ string) (events.Answer, error) {
			early = early || acks(b, m) > 0
			if n == 1 {
				return events.Answer{Status: events.StatusBusy}, nil
			}
			return applied("")
		}
		stop := start(t, workers.Options{Conn: b, Kinds: lasting(1500 * time.Millisecond)})
		m = b.deliver(atOnce("t1"))
		b.until(t, "the acknowledgement", func() bool { return m.acks > 0 })
		mustStop(t, stop)
		if n := len(b.requests(events.VerbAttemptStart, "t1")) + len(b.requests(events.VerbAttemptHeartbeat, "t1")); n != 0 {
			t.Errorf("%d starts and heartbeats were sent", n)
		}
		if early || m.acks != 1 || len(m.delays) != 0 {
			t.Errorf("acknowledged %d times, before the result was taken: %v; given back: %v", m.acks, early, m.delays)
		}
		if took := b.requests(events.VerbAttemptFinish, "t1")[0].body["tookMs"]; took != 1500.0 {
			t.Errorf("it says that it took %v ms", took)
		}
	})
}

func TestLongTaskThatBeganAtOnceReportsItsStartAfterTwoSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: lasting(13 * time.Second)})
		began := time.Now()
		m := b.deliver(atOnce("t1"))
		b.until(t, "the acknowledgement", func() bool { return m.acks > 0 })
		if d := time.Since(began); d != events.BeginWithin {
			t.Errorf("acknowledged after %v", d)
		}
		b.result(t, "t1")
		mustStop(t, stop)
		starts, beats := b.requests(events.VerbAttemptStart, "t1"), b.requests(events.VerbAttemptHeartbeat, "t1")
		if len(starts) != 1 || starts[0].at.Sub(began) != events.BeginWithin || len(beats) != 2 || beats[0].at.Sub(starts[0].at) != 5*time.Second {
			t.Errorf("%d starts, %d heartbeats:\n%s", len(starts), len(beats), b.history())
		}
		if took := b.requests(events.VerbAttemptFinish, "t1")[0].body["tookMs"]; took != nil {
			t.Errorf("it says that it took %v ms, and the engine knows", took)
		}
	})
}

func TestTaskThatBeganAtOnceEndsWhenSomebodyElseHasIt(t *testing.T) {
	for _, status := range []string{events.StatusRefused, events.StatusStale} {
		t.Run(status, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *fakeBus) {
				b.answer[events.VerbAttemptStart] = func(int, string) (events.Answer, error) { return events.Answer{Status: status}, nil }
				causes := make(chan error, 1)
				stop := start(t, workers.Options{Conn: b, Kinds: one(func(ctx context.Context, _ *workers.Job) events.Result {
					<-ctx.Done()
					causes <- context.Cause(ctx)
					return workers.Interrupted(ctx)
				})})
				m := b.deliver(atOnce("t1"))
				if cause := <-causes; !errors.Is(cause, workers.ErrStale) {
					t.Errorf("ended with %v", cause)
				}
				mustStop(t, stop)
				if n := len(b.requests(events.VerbAttemptFinish, "t1")); n != 0 || m.acks != 1 || len(m.delays) != 0 {
					t.Errorf("%d results, %d acknowledgements, given back %v", n, m.acks, m.delays)
				}
			})
		})
	}
}

func TestTaskThatBeganAtOnceEndsWhenNobodyAnswersItsStart(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptStart] = func(int, string) (events.Answer, error) { return events.Answer{}, errNoAnswer }
		stop := start(t, workers.Options{Conn: b, Kinds: one(untilEnded)})
		began := time.Now()
		m := b.deliver(atOnce("t1"))
		got := b.result(t, "t1")
		if d := time.Since(began); d != 15*time.Second {
			t.Errorf("it was ended after %v", d)
		}
		if got.Outcome != events.Failed || got.Error.Code != events.CodeWorkerLost || !got.Error.Retryable {
			t.Errorf("reported %+v %+v", got, got.Error)
		}
		mustStop(t, stop)
		if m.acks != 1 {
			t.Errorf("%d acknowledgements", m.acks)
		}
	})
}

func TestTaskInHandThatComesAgainIsKeptForOthersUntilTheEngineKnows(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Concurrency: 2, Kinds: lasting(10 * time.Second)})
		first := b.deliver(atOnce("t1"))
		time.Sleep(time.Second) // of the bubble's clock: the engine does not know of it
		second := b.deliver(atOnce("t1"))
		b.until(t, "the second message", func() bool { return second.acks+len(second.delays) > 0 })
		if second.acks > 0 || second.delays[0] != 20*time.Second {
			t.Errorf("acknowledged %d times, given back with %v", second.acks, second.delays)
		}
		b.until(t, "the start", func() bool { return first.acks > 0 })
		third := b.deliver(atOnce("t1"))
		b.until(t, "the third message", func() bool { return third.acks+len(third.delays) > 0 })
		if third.acks != 1 {
			t.Errorf("given back with %v although the engine knows who has it", third.delays)
		}
		b.result(t, "t1")
		mustStop(t, stop)
		if n := len(b.requests(events.VerbAttemptStart, "t1")); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
}

func TestTaskWhoseResultNobodyTookIsGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		b.answer[events.VerbAttemptFinish] = func(int, string) (events.Answer, error) { return events.Answer{}, errNoAnswer }
		b.answer[events.VerbAttemptStart] = b.answer[events.VerbAttemptFinish]
		stop := start(t, workers.Options{Conn: b, Kinds: one(succeed)})
		m := b.deliver(atOnce("t1"))
		b.until(t, "the result", func() bool { return len(b.of(events.VerbAttemptFinish, "t1")) > 0 })
		if err := stop(); err == nil {
			t.Error("the worker says that everything was reported")
		}
		if m.acks != 0 || len(m.delays) != 1 {
			t.Errorf("acknowledged %d times, given back %v", m.acks, m.delays)
		}
	})
}
