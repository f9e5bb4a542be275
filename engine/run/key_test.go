package run_test

import (
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const alone = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  concurrency: {key: shop, policy: reject}
  initial: build
  states:
    build: {task: compile, next: done, onFail: done}
    done: {final: succeeded}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: again}
spec: {permissions: [{roles: [release-manager], allow: [run.retry]}]}
`

func TestADenialOfAKeyThatComesAgainDoesNotEndARunThatAskedOnceMore(t *testing.T) {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(alone)}), "w")
	w.start("marta", nil)
	denied := record.Input{ID: "d1", Kind: record.InKeyDenied, By: "key:shop",
		Key: &record.Claim{Key: "shop", Run: w.id, Asked: w.state.Key.Asked, Reason: "taken", Holder: "r9"}}
	w.do(denied)
	if !w.state.Done() || w.state.Outcome != events.Rejected {
		t.Fatalf("the run is %s, want it rejected", w.state.Outcome)
	}
	w.do(record.Input{ID: "c1", Kind: record.InRetry, By: "marta", Retry: &events.RetryRun{ID: "c1", Run: w.id}})
	if w.state.Done() || w.state.Key.Grant > 0 {
		t.Fatal("the run does not wait for its key again")
	}
	if tr := w.do(denied); tr.Record || w.state.Done() {
		t.Errorf("the old denial gave %+v", tr.Answer)
	}
	w.do(record.Input{ID: "g1", Kind: record.InKeyGranted, By: "key:shop", Key: &record.Claim{Key: "shop", Run: w.id, Grant: 4}})
	if len(w.published) != 1 {
		t.Error("the run does not go on with its key")
	}
}
