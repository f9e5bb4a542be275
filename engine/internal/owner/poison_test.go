package owner_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// goes takes a run from its start to its end.
func (f *fixture) goes(t *testing.T, id string) {
	t.Helper()
	if a := f.begin(t, id, "job"); a.Status != events.StatusApplied {
		t.Fatalf("start of %s: %+v", id, a)
	}
	f.ends(t, id)
}

// ends takes a run that waits for a worker to its end.
func (f *fixture) ends(t *testing.T, id string) {
	t.Helper()
	task := f.task(t, id, 1)
	f.take(t, task, "w1")
	if a := f.finish(t, task, "w1"); a.Status != events.StatusApplied {
		t.Fatalf("finish of %s: %+v", id, a)
	}
	f.untilDone(t, id, events.Succeeded)
}

// poison are definitions that nothing can be decided by.
type poison struct {
	owner.Catalogs
	on atomic.Bool
}

func (p *poison) Current() *workflows.Catalog {
	if p.on.Load() {
		panic("poison")
	}
	return p.Catalogs.Current()
}

// A command that the core cannot take is answered, its run goes on, and so do
// the others.
func TestACommandThatTheCoreCannotTakeIsAnsweredAndStopsNobody(t *testing.T) {
	poisoned := &poison{Catalogs: catalogs{compile(t, definitions)}}
	f := startWith(t, owner.Options{Journal: journal.NewMemory(nil).Open(), Catalogs: poisoned, Instance: "e1"})
	f.begin(t, "r1", "job")
	poisoned.on.Store(true)
	a := f.begin(t, "r2", "job")
	poisoned.on.Store(false)
	if a.Status != events.StatusError || a.Code != events.CodeInternal || !strings.Contains(a.Reason, "poison") || !strings.Contains(a.Reason, "r2") {
		t.Errorf("it is answered %+v", a)
	}
	if f.run(t, "r2") != nil {
		t.Error("something of it is stored")
	}
	for _, kind := range []string{record.InAttemptStart, record.InAttemptFinish, record.InDecide, record.InCancel, record.InGranted, record.InFreed,
		record.InSendAnswer, record.InPause, record.InResume, record.InRetry, record.InBreakGlass, record.InSignal, record.InChildEnded, record.InEnvState,
		record.InProven, record.InKeyGranted, record.InKeyDenied, "no kind at all"} {
		a := f.Do(t.Context(), record.Run, "r1", record.Input{ID: "empty-" + kind, Kind: kind, By: "admin", Admin: true})
		if a.Status == events.StatusApplied || a.Status == events.StatusBusy {
			t.Errorf("%s without what belongs to it is answered %+v", kind, a)
		}
	}
	f.goes(t, "r3")
	f.ends(t, "r1")
	if len(f.Stopped()) > 0 {
		t.Errorf("stopped are %v", f.Stopped())
	}
}

// What is too large to be recorded is refused in words, and the run that it was
// meant for is as it was.
func TestACommandThatIsTooLargeIsRefusedAndItsRunGoesOn(t *testing.T) {
	f := start(t, journal.NewMemory(nil), "e1")
	large := strings.Repeat("x", journal.MaxRecord)
	a := f.Do(t.Context(), record.Run, "r1", record.Input{ID: "start", Kind: record.InStart, By: "admin", Admin: true,
		Start: &record.Start{Run: "r1", Workflow: "job", Cause: &events.Cause{ID: large}}})
	if a.Status != events.StatusError || a.Code != events.CodeInvalid || !strings.Contains(a.Reason, "too large to be recorded") {
		t.Errorf("a start is answered %s, %s: %.200s", a.Status, a.Code, a.Reason)
	}
	if f.run(t, "r1") != nil {
		t.Error("something of it is stored")
	}
	f.begin(t, "r1", "job")
	a = f.Do(t.Context(), record.Run, "r1", record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{ID: "c", Run: "r1", Reason: large}})
	if a.Status != events.StatusError || a.Code != events.CodeInvalid || !strings.Contains(a.Reason, "too large to be recorded") {
		t.Errorf("a cancel is answered %s, %s: %.200s", a.Status, a.Code, a.Reason)
	}
	f.ends(t, "r1")
}

// A run with a long record, to which more and more is added, does not keep
// others from going all the way.
func TestARunWithALongRecordKeepsNoOtherFromGoingOn(t *testing.T) {
	const long = 10_000
	// What people have asked for is remembered for as long as it may come again:
	// here that takes no time.
	begun, passed := time.Now(), new(atomic.Int64)
	f := startWith(t, owner.Options{Journal: journal.NewMemory(nil).Open(), Catalogs: catalogs{compile(t, definitions)}, Instance: "e1",
		Wall: func() time.Time { return begun.Add(time.Duration(passed.Load()) * 20 * time.Second) }})
	f.begin(t, "long", "job")
	toggle := func(i int) events.Answer {
		passed.Add(1)
		kind := record.InPause
		if i%2 == 1 {
			kind = record.InResume
		}
		id := fmt.Sprint("p", i)
		return f.Do(t.Context(), record.Run, "long", record.Input{ID: id, Kind: kind, By: "admin", Admin: true, Pause: &events.PauseRun{ID: id, Run: "long"}})
	}
	grown, leave, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for i := 0; ; i++ {
			if a := toggle(i); a.Status != events.StatusApplied {
				t.Errorf("%d: %+v", i, a)
				close(grown)
				return
			}
			if i == long {
				close(grown)
			}
			select {
			case <-leave:
				if i > long && i%2 == 1 {
					return
				}
			default:
			}
		}
	}()
	<-grown
	for i := range 50 {
		f.goes(t, fmt.Sprint("r", i))
	}
	close(leave)
	<-over
	f.ends(t, "long")
}
