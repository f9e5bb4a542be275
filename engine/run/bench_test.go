package run_test

import (
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// benchWorkflow is the one of penstock bench.
const benchWorkflow = `apiVersion: penstock/v1
kind: TaskKind
metadata: {name: bench, description: does nothing}
spec: {runs: repeatable}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: bench}
spec:
  initial: one
  states:
    one: {task: bench, next: two, onFail: failed}
    two: {task: bench, next: three, onFail: failed}
    three: {task: bench, next: four, onFail: failed}
    four: {task: bench, next: five, onFail: failed}
    five: {task: bench, next: done, onFail: failed}
    done: {final: succeeded}
    failed: {final: failed}
`

// inTheMiddle is a run that has done two of its five tasks, and the finish of
// the third one.
func inTheMiddle(t testing.TB) (d run.Definitions, s *run.State, in record.Input) {
	cat := catalog(t, parse.File{Name: "bench.yaml", Content: []byte(benchWorkflow)})
	d = run.Definitions{Workflow: cat.Workflows["bench"], Kinds: cat.Kinds, Now: cat}
	tr := run.Step(d, nil, 1, record.Input{ID: "s", Kind: record.InStart, By: "bench", Admin: true, Start: &record.Start{Run: "3j4qym5tgsvnv6bk", Workflow: "bench"}}, epoch)
	for v := int64(2); ; v++ {
		task := tr.Tasks[0].ID
		in = record.Input{ID: "attempt.finish:" + task, Kind: record.InAttemptFinish, By: "worker:bench2/host-4711-9f3a1c", Via: "bus",
			Attempt: &record.Attempt{Task: task, Worker: "bench2/host-4711-9f3a1c", Pool: "default", Result: &events.Result{Outcome: events.Succeeded}}}
		if v == 4 {
			return d, tr.State, in
		}
		tr = run.Step(d, tr.State, v, in, epoch+v)
	}
}

// BenchmarkFinish is what the core does for one task of B1.
func BenchmarkFinish(b *testing.B) {
	d, s, in := inTheMiddle(b)
	b.ReportAllocs()
	for b.Loop() {
		if tr := run.Step(d, s, 4, in, epoch+9); !tr.Record || len(tr.Tasks) != 1 {
			b.Fatalf("%+v", tr)
		}
	}
}

// BenchmarkEncodeFinish is what is encoded for it: the state, the record.
func BenchmarkEncodeFinish(b *testing.B) {
	d, s, in := inTheMiddle(b)
	tr := run.Step(d, s, 4, in, epoch+9)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		state, err := tr.State.AppendJSON(make([]byte, 0, 2048))
		if err != nil {
			b.Fatal(err)
		}
		sum := tr.State.Summary()
		r := record.Record{Aggregate: record.Run, ID: tr.State.ID, V: 4, Prev: record.Hash(nil), Summary: &sum, Catalog: d.Now.Digest, T: epoch + 9, Engine: "host-1", Core: run.CoreVersion,
			In: in, Answer: tr.Answer, Decisions: tr.Decisions, Events: tr.Events, Tasks: tr.Tasks, State: state}
		p, err := r.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if n == 0 {
			b.Logf("%s", p)
		}
		n = len(p)
	}
	b.ReportMetric(float64(n), "B/record")
}
