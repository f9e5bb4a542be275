package run_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// A cancelled run ends within this time of the last cancel that it took, by the
// periods of the definitions that are simulated.
const cancelled = int64(12 * time.Hour / time.Millisecond)

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
			for _, w := range s.worlds {
				again := n == 1 && (w.d.Workflow.Spec.OnCancel != "" || w.state.Phase != "running") || n == 2 && w.state.Phase != "running"
				if !w.state.Done() && !again {
					t.Fatalf("%s of %s has not ended %s after cancel %d, with workers that are %s: it is %s at %s, waits for %+v, cancelled %+v; tasks: %s outbox: %+v",
						w.id, w.state.Workflow, time.Duration(s.clock-began)*time.Millisecond, n, worker, w.state.Phase, w.state.At, w.why(), w.state.Cancel, tasksText(w.state), w.state.Outbox)
				}
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
		if next > until {
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

// TestACancelEndsWhateverATranscriptShows cancels the run of each transcript
// after each line of its script, and lets time pass.
func TestACancelEndsWhateverATranscriptShows(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	tried := map[string]bool{} // statuses of tasks that were cancelled
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{world: newWorld(t, catalog(t, parse.File{Name: "workflow.yaml", Content: []byte(file(ar, "workflow.yaml"))}), "w"), ar: ar}
			for i, line := range strings.Split(strings.TrimSpace(file(ar, "script")), "\n") {
				p.command(words(line))
				if p.state == nil || p.state.Done() {
					continue
				}
				for _, task := range p.state.Tasks {
					tried[task.Status] = true
				}
				for _, worker := range []string{"silent", "lost", "late", "refusing"} {
					w := p.fork()
					for n := 1; !w.state.Done(); n++ {
						w.cancel(n)
						w.alone(worker)
						again := n == 1 && (w.d.Workflow.Spec.OnCancel != "" || w.state.Phase != "running") || n == 2 && w.state.Phase != "running"
						if !w.state.Done() && !again {
							t.Fatalf("line %d (%s), then cancel %d with workers that are %s: at %s it is %s at %s, waits for %+v; tasks: %s", i+1, line, n, worker, clockText(w.clock),
								w.state.Phase, w.state.At, w.why(), tasksText(w.state))
						}
					}
				}
			}
		})
	}
	for _, status := range []string{"locked", "queued", "running", "backoff", "cancelling", "pausing", "analyzing", "undoing", "paused", "child", "stopping"} {
		if !tried[status] {
			t.Errorf("no run was cancelled with a task that is %s", status)
		}
	}
}

// fork is a copy of the world, which goes another way.
func (w *world) fork() *world {
	f := *w
	f.stored, f.published, f.tasks = slices.Clip(w.stored), slices.Clip(w.published), maps.Clone(w.tasks)
	for path := range f.tasks {
		f.tasks[path] = slices.Clip(f.tasks[path])
	}
	return &f
}

func (w *world) cancel(n int) {
	w.t.Helper()
	id := fmt.Sprint("last", n)
	a := w.do(record.Input{ID: id, Kind: record.InCancel, By: "root", Admin: true, Cancel: &events.CancelRun{ID: id, Run: w.id}}).Answer
	if a.Status != events.StatusApplied && w.state.Cancel == nil {
		w.t.Fatalf("a cancel is answered %+v", a)
	}
}

// alone lets time pass until the run has ended, or nothing more happens by
// itself. What the run tells others is answered, and its children end when
// they are told to.
func (w *world) alone(worker string) {
	until := w.clock + cancelled
	for turn := 0; ; turn++ {
		if turn > 200 {
			w.t.Fatalf("at %s it goes round and round at %s, with workers that are %s: %+v; tasks: %s", clockText(w.clock), w.state.At, worker, w.why(), tasksText(w.state))
		}
		w.tell()
		for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
			switch r := result(events.Failed); worker {
			case "lost":
				w.do(attempt(record.InAttemptLost, task, w.state.Running()[task], nil))
			case "refusing":
				w.do(attempt(record.InAttemptFinish, task, w.state.Running()[task], &r))
			}
		}
		next := w.state.NextDeadline()
		if w.state.Done() || len(w.state.Outbox) == 0 && (next == 0 || next > until) {
			break
		}
		if next > 0 && next <= until {
			w.clock = max(w.clock, next)
			w.do(record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
		}
	}
	for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
		if r := result(events.Failed); worker == "late" {
			w.do(attempt(record.InAttemptFinish, task, w.state.Running()[task], &r))
		}
	}
	w.tell()
}

// tell has what the run sends arrive: it gets the environments that it waits
// for, and children that were told to stop do.
func (w *world) tell() {
	for len(w.state.Outbox) > 0 {
		m := w.state.Outbox[0]
		w.do(record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: &record.Sent{ID: m.Input.ID, Status: events.StatusApplied}})
	}
	for _, task := range w.state.Tasks {
		switch {
		case task.Status == "locked" && task.Before == "" && w.state.Grants[task.Env] == 0:
			w.grant(task.Env, w.state.Taken[task.Env]+1)
		case task.Status == "stopping":
			w.do(record.Input{ID: "ended:" + task.ID, Kind: record.InChildEnded, By: "run:" + task.Child,
				Child: &record.ChildEnded{Run: task.Child, Task: task.ID, Outcome: events.Cancelled}})
		}
	}
}
