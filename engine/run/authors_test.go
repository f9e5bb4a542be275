package run_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const releasing = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  initial: build
  states:
    build: {task: build, with: {repository: 'https://git.acme.example/shop', commit: main}, next: staging, onFail: stopped}
    staging: {deploy: {environment: staging, strategy: recreate, artifact: '${{ build.digest }}'}, next: production, onFail: stopped}
    production: {deploy: {environment: production, strategy: recreate, artifact: '${{ build.digest }}'}, next: released, onFail: stopped}
    released: {final: succeeded}
    stopped: {final: failed}
`

func TestABuildIsToldWhatRunsOfItsRepository(t *testing.T) {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(releasing)}), "w")
	if got := run.Enters(w.d.Workflow, w.d.Now); !cmp.Equal(got, []string{"production", "staging"}) {
		t.Errorf("it deploys to %q", got)
	}
	shop := "https://git.acme.example/shop"
	w.do(record.Input{ID: "start", Kind: record.InStart, By: "marta", Start: &record.Start{Run: w.id, Workflow: "w", Running: map[string]record.Source{
		"staging": {Repository: shop, Commit: "c2"}, "production": {Repository: shop, Commit: "c1"}, "guarded": {Repository: "https://else.example", Commit: "c9"}}}})
	task := w.published[0]
	if d := cmp.Diff([]any{"c1", "c2"}, task.With["running"]); d != "" {
		t.Errorf("the build is told (-want +got):\n%s", d)
	}
	w.take(task.ID, "w1")
	w.finish(task.ID, "w1", events.Result{Outcome: events.Succeeded, Facts: map[string]any{"commit": "c3"}, Outputs: map[string]any{"digest": "sha256:aa", "size": 1,
		"durationMs": 1, "name": "shop", "commit": "c3", "sbom": "sha256:bb", "sbomComponents": 1}})
	w.grant("staging", 1)
	deploy := w.published[1]
	w.take(deploy.ID, "w1")
	w.finish(deploy.ID, "w1", events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"url": "u", "artifact": "sha256:aa", "previous": "", "instances": 1, "durationMs": 1}})
	for _, m := range w.state.Outbox {
		if m.Input.Release != nil && m.Input.Release.Deployed.Source != (record.Source{Repository: shop, Commit: "c3"}) {
			t.Errorf("deployed is %+v", m.Input.Release.Deployed)
		}
	}
	if len(w.state.Outbox) == 0 {
		t.Error("nothing was released")
	}
}
