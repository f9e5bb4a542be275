package run_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// FuzzStep reads bytes as inputs of a run: two bytes each, what happens and
// to whom. Step must not panic, and every state must load.
func FuzzStep(f *testing.F) {
	cats := simCatalogs(f)
	f.Add([]byte{0})
	f.Add([]byte{1, 0, 0, 1, 1, 1, 2, 0, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12})
	f.Add([]byte{2, 5, 0, 5, 1, 5, 2, 5, 3, 5, 4, 9, 0, 0, 0, 1, 0, 7, 0, 6, 1})
	f.Add([]byte{3, 22, 4, 16, 0, 18, 0, 7, 1, 18, 1, 19, 2, 20, 1, 8, 1, 19, 0, 22, 12})
	f.Add([]byte{4, 22, 4, 16, 3, 16, 0, 20, 1, 23, 2, 19, 9})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || len(p) > 120 {
			return
		}
		w := newWorld(t, cats[0], []string{"road", "cross", "council", "fleet", "ears", "slow"}[int(p[0])%6])
		w.cats[cats[1].Digest] = cats[1]
		w.start("marta", nil)
		for p = p[1:]; len(p) >= 2; p = p[2:] {
			switch what := p[0] % 24; {
			case what == 15:
				w.apply(cats[int(p[1])%2])
			case what < 15:
				w.do(input(w, what, p[1]))
			default:
				w.do(flowInput(w, what, p[1]))
			}
		}
		if _, err := run.Load(mustJSON(t, w.state)); err != nil {
			t.Fatal(err)
		}
	})
}

// flowInput is the input that two bytes stand for, where it is about events,
// children, keys and the way of the run.
func flowInput(w *world, what, which byte) record.Input {
	id := fmt.Sprint("c", len(w.stored), which)
	who := people[int(which)%len(people)]
	states := sortedKeys(w.d.Workflow.Spec.States)
	claim := &record.Claim{Key: "train", Run: w.id, Grant: int64(which / 4), Asked: int64(which % 3), Reason: record.Superseded, Holder: "r9"}
	w.clock += int64(which) * int64(which)
	switch what {
	case 16, 17:
		typ := []string{"sim.ready.now", "sim.alert", "sim.other"}[int(which)%3]
		return signalInput(fmt.Sprint("e", which), typ, []string{`{"severity": 3}`, `{"severity": 5}`, `{}`, `[`}[int(which/3)%4])
	case 18:
		kind := []string{record.InPause, record.InResume}[int(which)%2]
		return record.Input{Kind: kind, ID: id, By: who, Pause: &events.PauseRun{ID: id}}
	case 19:
		from := ""
		if n := int(which) % (len(states) + 1); n < len(states) {
			from = states[n]
		}
		return record.Input{Kind: record.InRetry, ID: id, By: "marta", Retry: &events.RetryRun{ID: id, From: from}}
	case 20, 21:
		end := &record.ChildEnded{Outcome: []string{events.Succeeded, events.Failed, events.Rejected, "nonsense"}[int(which)%4]}
		for _, t := range w.state.Tasks {
			if t.Child != "" && int(which)%3 > 0 {
				end.Run, end.Task = t.Child, t.ID
			}
		}
		return record.Input{Kind: record.InChildEnded, By: "run:" + end.Run, Child: end}
	case 22:
		return record.Input{Kind: record.InKeyGranted, By: "key:train", Key: claim}
	}
	return record.Input{Kind: record.InKeyDenied, By: "key:train", Key: claim}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// input is the input that two bytes stand for.
func input(w *world, what, which byte) record.Input {
	task, worker := "none", fmt.Sprint("w", which%3)
	if n := len(w.published); n > 0 {
		task = w.published[n-1-int(which/3)%n].ID
	}
	id := fmt.Sprint("c", len(w.stored), which)
	who := people[int(which)%len(people)]
	names := []string{"staging", "production", "guarded", "nowhere"}
	granted := &record.Granted{Environment: names[int(which)%4], Grant: int64(which / 4)}
	w.clock += int64(which) * int64(which)
	switch what {
	case 0, 1:
		return attempt(record.InAttemptStart, task, worker, nil)
	case 2, 3:
		r := result([]string{events.Succeeded, events.Succeeded, events.Failed, events.Cancelled, events.Inconclusive, events.TimedOut, ""}[int(which)%7])
		return attempt(record.InAttemptFinish, task, worker, &r)
	case 4:
		return attempt(record.InAttemptLost, task, "", nil)
	case 5:
		return record.Input{Kind: record.InDecide, ID: id, By: who, Decide: &events.Decide{ID: id, Content: w.content(), Decision: events.Approve}}
	case 6:
		return record.Input{Kind: record.InDecide, ID: id, By: who, Decide: &events.Decide{ID: id, Content: w.content(), Decision: events.Reject}}
	case 7:
		w.clock = max(w.clock, w.state.NextDeadline())
		return record.Input{Kind: record.InTimer}
	case 8:
		return record.Input{Kind: record.InCancel, ID: id, By: who, Cancel: &events.CancelRun{ID: id}}
	case 9, 10:
		return record.Input{Kind: record.InGranted, Granted: granted}
	case 11:
		return record.Input{Kind: record.InFreed, Freed: granted}
	case 12:
		if n := len(w.state.Outbox); n > 0 {
			return record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: w.state.Outbox[int(which)%n].Input.ID, Status: events.StatusRefused}}
		}
	case 13: // not complete
		kinds := []string{record.InStart, record.InAttemptStart, record.InAttemptFinish, record.InAttemptLost, record.InDecide, record.InCancel,
			record.InGranted, record.InFreed, record.InSendAnswer, "", "nonsense"}
		return record.Input{Kind: kinds[int(which)%len(kinds)], Attempt: &record.Attempt{}}
	}
	return record.Input{Kind: record.InStart, Start: &record.Start{Run: w.id, Workflow: w.d.Workflow.Metadata.Name}}
}

func benchmarkWorld(b *testing.B) (w *world, queued *run.State, task string) {
	w = newWorld(b, simCatalogs(b)[0], "five")
	w.start("marta", nil)
	for i := range 3 { // in the middle of the five
		path := fmt.Sprint("s", i+1)
		w.take(w.tasks[path][0].ID, "w1")
		w.finish(w.tasks[path][0].ID, "w1", result(events.Succeeded))
	}
	return w, w.state, w.tasks["s4"][0].ID
}

func BenchmarkStepAttemptStart(b *testing.B) {
	w, s, task := benchmarkWorld(b)
	in := attempt(record.InAttemptStart, task, "w1", nil)
	b.ReportAllocs()
	for b.Loop() {
		if !run.Step(w.d, s, 9, in, w.clock).Record {
			b.Fatal("nothing was recorded")
		}
	}
}

func BenchmarkStepAttemptFinish(b *testing.B) {
	w, _, task := benchmarkWorld(b)
	w.take(task, "w1")
	r := through(b, result(events.Succeeded))
	in := attempt(record.InAttemptFinish, task, "w1", &r)
	b.ReportAllocs()
	for b.Loop() {
		if !run.Step(w.d, w.state, 10, in, w.clock).Record {
			b.Fatal("nothing was recorded")
		}
	}
}

// BenchmarkTransition is a step with its record, as the engine makes it.
func BenchmarkTransition(b *testing.B) {
	w, _, task := benchmarkWorld(b)
	w.take(task, "w1")
	r := through(b, result(events.Succeeded))
	in := attempt(record.InAttemptFinish, task, "w1", &r)
	b.ReportAllocs()
	for b.Loop() {
		w.record(in, 10, run.Step(w.d, w.state, 10, in, w.clock))
	}
}
