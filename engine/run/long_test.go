package run_test

import (
	"encoding/json"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// A run that goes round for long, and then comes to its end.
const roundAndRound = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  initial: first
  states:
    first: {task: round, next: there, onFail: failed}
    there: {task: round, next: back, onFail: failed}
    back: {task: round, transitions: [{when: 'visits("there") < 200', to: there}], next: done, onFail: failed}
    done: {final: succeeded}
    failed: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: round}
spec: {runs: once}
`

// TestALongHistoryMakesNoLargeState goes round until the state does not grow
// any more. What came first of all is remembered: a retry may begin there.
func TestALongHistoryMakesNoLargeState(t *testing.T) {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(roundAndRound)}), "w")
	w.start("marta", nil)
	size := func() int {
		p, err := json.Marshal(w.state)
		if err != nil {
			t.Fatal(err)
		}
		return len(p)
	}
	after100 := 0
	for n := 0; !w.state.Done(); n++ {
		if n == 100 {
			after100 = size()
		}
		task := w.state.Tasks[0].ID
		w.take(task, "w1")
		w.finish(task, "w1", events.Result{Outcome: events.Succeeded})
	}
	if records, now := len(w.stored), size(); records < 700 || now > after100+100 || now > 8<<10 {
		t.Errorf("after %d records the state has %d bytes, after 200 it had %d", records, now, after100)
	}
	if first := w.state.Path[0]; first.State != "first" || len(w.state.Path) != 32 {
		t.Errorf("%d visits are kept, the first is %+v", len(w.state.Path), first)
	}
	w.verify()
}
