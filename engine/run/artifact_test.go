package run_test

import (
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const configured = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  initial: put
  states:
    put:
      deploy: {environment: shelf, strategy: recreate, artifact: '${{ env.config.image }}'}
      retry: {attempts: 3, backoff: 1s}
      next: done
      onFail: broken
    done: {final: succeeded}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: shelf}
spec: {target: {local: {}}, config: {image: 'sha256:aa'}}
`

func TestEveryAttemptOfADeploymentPutsWhatWasJudged(t *testing.T) {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(configured)}), "w")
	w.start("marta", nil)
	w.grant("shelf", 1)
	fails := events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: "busy", Message: "later", Retryable: true}}
	w.take(w.published[0].ID, "w1")
	w.apply(catalog(t, parse.File{Name: "w.yaml", Content: []byte(strings.Replace(configured, "sha256:aa", "sha256:bb", 1))}))
	w.finish(w.published[0].ID, "w1", fails)
	w.clock = w.state.NextDeadline()
	w.do(record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
	if len(w.published) != 2 {
		t.Fatalf("%d attempts were published", len(w.published))
	}
	if got := w.published[1].With["artifact"]; got != "sha256:aa" {
		t.Errorf("the second attempt puts %v there, and nobody was asked about that", got)
	}
}
