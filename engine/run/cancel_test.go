package run_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// A cancelled run ends within this time of the last cancel that it took, by the
// periods of the definitions that are simulated.
const cancelled = int64(24 * time.Hour / time.Millisecond)

// TestACancelEndsWhateverItFinds brings runs into whatever state, as
// TestWhateverHappens does, cancels all of them, and lets nothing happen from
// then on but what happens without people: messages arrive, time passes, and
// workers are silent, lost, late or in the way.
func TestACancelEndsWhateverItFinds(t *testing.T) {
	cats := simCatalogs(t)
	checks(t, 60)
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t, cats)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			s.act()
		}
		worker := rapid.SampledFrom([]string{"silent", "lost", "late", "refusing"}).Draw(t, "worker")
		began := s.clock
		for n := 1; ; n++ {
			s.cancelAll()
			s.alone(worker)
			if !slices.ContainsFunc(s.worlds, func(w *world) bool { return !w.state.Done() }) {
				break
			}
			// Where the workflow goes on from onCancel, and in what tidies up,
			// the run may wait for people or workers again, and is cancelled again.
			if n == 3 {
				for _, w := range s.worlds {
					t.Logf("%s (%s): %s at %s, %+v, cancelled %+v; tasks %s; outbox %+v", w.id, w.state.Workflow, w.state.Phase, w.state.At, w.why(), w.state.Cancel, tasksText(w.state), w.state.Outbox)
				}
				t.Fatalf("with workers that are %s not everything has ended %d times after a cancel, the last time %s later", worker, n, time.Duration(s.clock-began)*time.Millisecond)
			}
		}
		for _, w := range s.worlds {
			w.verify()
		}
	})
}

func tasksText(s *run.State) (text string) {
	for _, t := range s.Tasks {
		text += fmt.Sprintf("%s is %s; ", t.Path, t.Status)
	}
	return text
}

// cancelAll has a person cancel every run.
func (s *sim) cancelAll() {
	for _, w := range s.worlds {
		s.seq++
		id := fmt.Sprint("c", s.seq)
		done := w.state.Done()
		a := s.do(w, record.Input{ID: id, Kind: record.InCancel, By: "marta", Cancel: &events.CancelRun{ID: id, Run: w.id}})
		if !done && a.Status != events.StatusApplied && w.state.Cancel == nil {
			s.t.Fatalf("a cancel of %s is answered %+v", w.id, a)
		}
	}
}

// alone lets messages arrive and time pass until everything has ended, or
// nothing more happens by itself.
func (s *sim) alone(worker string) {
	for until := s.clock + cancelled; s.clock < until; {
		s.deliverAll()
		if worker == "refusing" {
			s.finishAll()
		}
		next := int64(0)
		soonest := func(due int64) {
			if due > 0 && (next == 0 || due < next) {
				next = due
			}
		}
		for _, w := range s.worlds {
			if worker == "lost" {
				for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
					s.do(w, attempt(record.InAttemptLost, task, w.state.Running()[task], nil))
				}
			}
			if !w.state.Done() {
				soonest(w.state.NextDeadline())
			}
		}
		if next == 0 {
			if from, _ := s.outboxes(); len(from) > 0 {
				continue
			}
			break
		}
		s.clock = max(s.clock, next)
		for _, w := range s.worlds {
			if due := w.state.NextDeadline(); due > 0 && due <= s.clock {
				s.do(w, record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
			}
		}
		s.wake()
		s.look()
	}
	if worker == "late" {
		s.finishAll()
		s.deliverAll()
	}
}

// deliverAll delivers what runs and environments have to tell each other.
func (s *sim) deliverAll() {
	for range 50 {
		from, what := s.outboxes()
		if len(from) == 0 {
			return
		}
		for i := range from {
			s.deliver(from[i], what[i], true)
		}
	}
}

// finishAll has the workers of all that runs say that it failed.
func (s *sim) finishAll() {
	for _, w := range s.worlds {
		for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
			r := result(events.Failed)
			s.do(w, attempt(record.InAttemptFinish, task, w.state.Running()[task], &r))
		}
	}
}
