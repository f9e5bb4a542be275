package run_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const looping = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  initial: build
  states:
    build: {task: compile, pool: trusted, retry: {attempts: 2, backoff: 1s}, transitions: [{when: outcome == "succeeded", to: both}, {when: visits("build") < 9, to: build}, {to: stopped}]}
    both:
      parallel:
        a: {task: compile}
        b: {task: compile}
      transitions: [{when: outcome == "succeeded", to: released}, {when: visits("build") < 9, to: build}, {to: stopped}]
    released: {final: succeeded}
    stopped: {final: failed}
  finally:
    - {task: compile}
`

func loop(t *testing.T) *world {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(looping)}), "w")
	w.start("marta", nil)
	return w
}

func (w *world) takeAs(task string, a record.Attempt) taken {
	a.Task = task
	tr := w.do(record.Input{ID: "take:" + task + a.Worker, Kind: record.InAttemptStart, By: "worker:" + a.Worker, Attempt: &a})
	return taken{tr.Answer, tr.Record}
}

type taken struct {
	record.Answer
	recorded bool
}

func TestATaskIsForWorkersOfItsPoolAndKind(t *testing.T) {
	w := loop(t)
	task := w.tasks["build"][0].ID
	for _, c := range []struct {
		a    record.Attempt
		says string
	}{
		{record.Attempt{Worker: "low/w1", Pool: "default"}, "for workers of pool trusted, and this one is of pool default"},
		{record.Attempt{Worker: "t/w1", Pool: "trusted", Kinds: []string{"test", "scan"}}, "is of kind compile, and this worker may take test, scan only"},
	} {
		if got := w.takeAs(task, c.a); got.Status != events.StatusRefused || got.Code != events.CodeDenied || got.recorded || !strings.Contains(got.Reason, c.says) {
			t.Errorf("%+v: %+v", c.a, got)
		}
	}
	if got := w.takeAs(task, record.Attempt{Worker: "t/w1", Pool: "trusted", Kinds: []string{"compile"}}); got.Status != events.StatusApplied {
		t.Errorf("%+v", got)
	}
	w.verify()
}

func TestALateResultIsRecordedAndAnInventedOneIsNot(t *testing.T) {
	w := loop(t)
	lose := func(path string, n int) string {
		t.Helper()
		id := w.tasks[path][n].ID
		w.take(id, "w1")
		w.do(record.Input{Kind: record.InAttemptLost, Attempt: &record.Attempt{Task: id, Worker: "w1"}})
		return id
	}
	var late []string
	for n := range 3 { // as often as it is tried; then the state is entered again
		late = append(late, lose("build", n))
		w.clock += 10_000
		w.do(record.Input{Kind: record.InTimer})
	}
	w.take(w.tasks["build"][3].ID, "w1")
	w.finish(w.tasks["build"][3].ID, "w1", result(events.Succeeded))
	late = append(late, lose("both.a", 0), lose("both.b", 0))
	for _, id := range late {
		if tr := w.finish(id, "w1", result(events.Succeeded)); tr.Answer.Status != events.StatusStale || !tr.Record {
			t.Errorf("the late result of %s: %+v", id, tr.Answer)
		}
	}
	for _, id := range []string{"invented", "", late[0] + "x", record.Derive("task", w.id, "build", 9, 1, "", 0)} {
		if tr := w.finish(id, "w1", result(events.Succeeded)); tr.Answer.Status != events.StatusStale || tr.Record {
			t.Errorf("the result of the invented task %q: %+v, recorded %v", id, tr.Answer, tr.Record)
		}
	}
	recorded := 0
	for i := range 200 {
		if w.finish(late[0], fmt.Sprint("w", i+2), result(events.Succeeded)).Record {
			recorded++
		}
	}
	if recorded == 0 || recorded > 32 {
		t.Errorf("200 invented workers made %d records", recorded)
	}
	w.verify()
}
