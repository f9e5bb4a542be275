package workers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// bubble runs f with a clock of its own, which moves when everything waits.
func bubble(t *testing.T, f func(t *testing.T, b *fakeBus)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newFakeBus()) })
}

func mustStop(t *testing.T, stop func() error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Errorf("the worker ended with: %v", err)
	}
}

func TestGrantedTaskIsAcknowledgedBeforeItsWorkBegins(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		var m *fakeMessage
		acked := false
		stop := start(t, workers.Options{Conn: b, Name: "w1", Kinds: one(func(context.Context, *workers.Job) events.Result {
			b.mu.Lock()
			defer b.mu.Unlock()
			acked = m.acks == 1
			return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"answer": 42}}
		})})
		b.mu.Lock()
		m = &fakeMessage{b: b, task: task("t1")}
		b.waiting["work"] = append(b.waiting["work"], m)
		b.changed()
		b.mu.Unlock()
		got := b.result(t, "t1")
		mustStop(t, stop)
		if !acked {
			t.Error("the message was not acknowledged when the work began")
		}
		want := events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"answer": 42.0}}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for _, verb := range []string{events.VerbAttemptStart, events.VerbAttemptFinish} {
			for _, a := range b.requests(verb, "t1") {
				if a.body["run"] != "run-1" || a.body["worker"] != "w1" {
					t.Errorf("%s carries %v", verb, a.body)
				}
			}
		}
	})
}

func TestStartThatIsNotGrantedRunsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer events.Answer
		err    error
		acks   int
		delays int
	}{
		{"refused", events.Answer{Status: events.StatusRefused, Reason: "started by w2"}, nil, 1, 0},
		{"stale", events.Answer{Status: events.StatusStale}, nil, 1, 0},
		{"busy", events.Answer{Status: events.StatusBusy, RetryAfter: 1500}, nil, 0, 1},
		{"error", events.Answer{Status: events.StatusError, Code: events.CodeInternal}, nil, 0, 1},
		{"no answer", events.Answer{}, errNoAnswer, 0, 1},
		{"no engine", events.Answer{}, errors.New("nobody is there"), 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *fakeBus) {
				b.answer[events.VerbAttemptStart] = func(int, string) (events.Answer, error) { return c.answer, c.err }
				m := b.deliver(task("t1"))
				began := time.Now()
				stop := start(t, workers.Options{Conn: b, Kinds: one(func(context.Context, *workers.Job) events.Result {
					t.Error("the handler ran")
					return workers.Fail("x", "x", false)
				})})
				b.until(t, "the message to be settled", func() bool { return m.acks+len(m.delays) > 0 })
				if waited := time.Since(began); waited >= 30*time.Second {
					t.Errorf("settled after %v, when somebody else had the message already", waited)
				}
				mustStop(t, stop)
				if m.acks != c.acks || len(m.delays) != c.delays {
					t.Errorf("%d acks and %d given back, want %d and %d", m.acks, len(m.delays), c.acks, c.delays)
				}
				if c.answer.RetryAfter > 0 && m.delays[0] != 1500*time.Millisecond {
					t.Errorf("given back for %v, the engine asked for 1.5 s", m.delays[0])
				}
				if n := len(b.requests(events.VerbAttemptFinish, "t1")); n > 0 {
					t.Errorf("%d results were reported", n)
				}
			})
		})
	}
}

func TestTaskThatComesAgainWhileItRunsIsNotDoneTwice(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		goOn, runs := make(chan struct{}), 0
		b.answer[events.VerbAttemptStart] = func(n int, _ string) (events.Answer, error) {
			if n > 1 {
				return events.Answer{Status: events.StatusAlready}, nil
			}
			return applied("")
		}
		stop := start(t, workers.Options{Conn: b, Concurrency: 4, Kinds: one(func(context.Context, *workers.Job) events.Result {
			runs++
			<-goOn
			return events.Result{Outcome: events.Succeeded}
		})})
		first := b.deliver(task("t1"))
		b.until(t, "the start", func() bool { return first.acks == 1 })
		again := b.deliver(task("t1"))
		b.until(t, "the repeat to be dropped", func() bool { return again.acks == 1 })
		close(goOn)
		b.result(t, "t1")
		mustStop(t, stop)
		if runs != 1 {
			t.Errorf("done %d times", runs)
		}
	})
}

func TestTaskOfAnotherPoolOrKindIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(context.Context, *workers.Job) events.Result {
			t.Error("the handler ran")
			return workers.Fail("x", "x", false)
		})})
		foreign := task("t1")
		foreign.Pool = "elsewhere"
		m := b.deliver(foreign)
		b.until(t, "the message to be dropped", func() bool { return m.acks == 1 })
		mustStop(t, stop)
	})
}

func TestNoMoreTasksAtATimeThanSlotsOverAllKinds(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		var mu sync.Mutex
		running, most := 0, 0
		work := workers.HandlerFunc(func(context.Context, *workers.Job) events.Result {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond) // of the bubble's clock: work that takes time
			mu.Lock()
			running--
			mu.Unlock()
			return events.Result{Outcome: events.Succeeded}
		})
		kinds := map[string]workers.Handler{"a": work, "b": work, "c": work, "d": work}
		for _, kind := range sortedKeys(kinds) {
			for i := range 5 {
				next := task(fmt.Sprintf("%s%d", kind, i))
				next.Kind = kind
				b.deliver(next)
			}
		}
		stop := start(t, workers.Options{Conn: b, Concurrency: 3, Kinds: kinds})
		b.until(t, "all results", func() bool { return len(b.of(events.VerbAttemptFinish, "")) == 20 })
		mustStop(t, stop)
		if most != 3 {
			t.Errorf("at most %d tasks at a time, want 3", most)
		}
		if b.largest > 3 {
			t.Errorf("asked for %d tasks at once with 3 slots", b.largest)
		}
	})
}

func TestWorkerWithOneKindFetchesNoMoreThanItHasSlots(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		goOn := make(chan struct{})
		for i := range 9 {
			b.deliver(task(fmt.Sprintf("t%d", i)))
		}
		stop := start(t, workers.Options{Conn: b, Concurrency: 4, Kinds: one(func(context.Context, *workers.Job) events.Result {
			<-goOn
			return events.Result{Outcome: events.Succeeded}
		})})
		b.until(t, "four starts", func() bool { return len(b.of(events.VerbAttemptStart, "")) == 4 })
		synctest.Wait()
		b.mu.Lock()
		left := len(b.waiting["work"])
		b.mu.Unlock()
		if left != 5 {
			t.Errorf("%d tasks are left for other workers, want 5", left)
		}
		close(goOn)
		b.until(t, "all results", func() bool { return len(b.of(events.VerbAttemptFinish, "")) == 9 })
		mustStop(t, stop)
	})
}

func TestPanicIsAFailedTaskWithTheStackInItsOutputOnly(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		dir := ""
		stop := start(t, workers.Options{Conn: b, Kinds: one(func(_ context.Context, job *workers.Job) events.Result {
			dir = job.Dir
			panic("the secret is 1234")
		})})
		b.deliver(task("t1"))
		got := b.result(t, "t1")
		if got.Outcome != events.Failed || got.Error.Code != "worker_panic" || got.Error.Retryable {
			t.Errorf("got %+v, %+v", got, got.Error)
		}
		if strings.Contains(got.Error.Message, "1234") || strings.Contains(got.Error.Message, "goroutine") {
			t.Errorf("the message tells too much: %s", got.Error.Message)
		}
		if notes := b.text("t1", "worker"); !strings.Contains(notes, "1234") || !strings.Contains(notes, "run_test.go") {
			t.Errorf("the output does not hold the stack: %s", notes)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory is still there: %v", err)
		}
		b.deliver(task("t2")) // the worker lives on
		b.result(t, "t2")
		mustStop(t, stop)
	})
}

func TestTaskHasAnEmptyDirectoryThatIsRemovedAlsoWhenMadeReadOnly(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		parent := t.TempDir()
		stop := start(t, workers.Options{Conn: b, Dir: parent, Kinds: one(func(_ context.Context, job *workers.Job) events.Result {
			if left, err := os.ReadDir(job.Dir); err != nil || len(left) > 0 {
				t.Errorf("the directory holds %v, %v", left, err)
			}
			cache := filepath.Join(job.Dir, "cache")
			if err := os.Mkdir(cache, 0o700); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(filepath.Join(cache, "file"), nil, 0o400); err != nil {
				t.Error(err)
			}
			if err := os.Chmod(cache, 0o500); err != nil {
				t.Error(err)
			}
			return events.Result{Outcome: events.Succeeded}
		})})
		b.deliver(task("t1"))
		b.result(t, "t1")
		if left, _ := filepath.Glob(filepath.Join(parent, "*", "task-*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		mustStop(t, stop)
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestHandlerWithoutDirectoryGetsNone(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		kinds := one(func(_ context.Context, job *workers.Job) events.Result {
			if job.Dir != "" {
				t.Errorf("it got %s", job.Dir)
			}
			return events.Result{Outcome: events.Succeeded}
		})
		for kind, h := range kinds {
			kinds[kind] = workers.WithoutDir(h)
		}
		stop := start(t, workers.Options{Conn: b, Dir: t.TempDir(), Kinds: kinds})
		b.deliver(task("t1"))
		if r := b.result(t, "t1"); r.Outcome != events.Succeeded {
			t.Errorf("the result is %+v", r)
		}
		mustStop(t, stop)
	})
}

func TestDirectoryOfAKilledWorkerIsRemovedAndThatOfALivingOneIsNot(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		parent := t.TempDir()
		killed := filepath.Join(parent, "penstock-worker-1")
		if err := os.MkdirAll(filepath.Join(killed, "task-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(killed, ".lock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		first := start(t, workers.Options{Conn: b, Dir: parent, Kinds: one(succeed)})
		second := start(t, workers.Options{Conn: b, Dir: parent, Kinds: one(succeed)})
		b.until(t, "both to be there", func() bool { return len(b.of(events.VerbWorkerHello, "")) == 2 })
		left, err := os.ReadDir(parent)
		if err != nil || len(left) != 2 {
			t.Errorf("the directory holds %v, %v; want those of the two living workers", left, err)
		}
		mustStop(t, first)
		mustStop(t, second)
	})
}

func TestHelloSaysWhatTheWorkerOffersAndByeThatItIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, b *fakeBus) {
		stop := start(t, workers.Options{Conn: b, Name: "w1", Version: "v9", Concurrency: 3,
			Kinds: map[string]workers.Handler{"b": workers.HandlerFunc(succeed), "a": workers.HandlerFunc(succeed)}})
		began := time.Now()
		b.until(t, "three hellos", func() bool { return len(b.of(events.VerbWorkerHello, "")) == 3 })
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("three hellos took %v, want 20 s", d)
		}
		mustStop(t, stop)
		said := b.requests(events.VerbWorkerHello, "")
		first, last := said[0].body, said[len(said)-1].body
		if d := cmp.Diff([]any{"a", "b"}, first["kinds"]); d != "" || first["worker"] != "w1" || first["slots"] != 3.0 || first["version"] != "v9" || first["bye"] != nil {
			t.Errorf("the first hello is %v", first)
		}
		if last["bye"] != true {
			t.Errorf("the last hello is %v", last)
		}
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	b := newFakeBus()
	for name, o := range map[string]workers.Options{
		"no bus":               {Kinds: one(succeed)},
		"no kinds":             {Conn: b},
		"kind without handler": {Conn: b, Kinds: map[string]workers.Handler{"x": nil}},
		"negative concurrency": {Conn: b, Kinds: one(succeed), Concurrency: -1},
	} {
		if _, err := workers.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
