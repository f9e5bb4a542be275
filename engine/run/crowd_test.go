package run_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// TestARunThatPeopleFloodStaysSmallAndComesToItsEnd has people pause and
// resume a run without end. What they may repeat is remembered in every record
// of it, which must have room for what a worker reports, for time and for a
// cancel.
func TestARunThatPeopleFloodStaysSmallAndComesToItsEnd(t *testing.T) {
	for _, end := range []string{"finish", "cancel"} {
		t.Run(end, func(t *testing.T) {
			w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(roundAndRound)}), "w")
			w.start("marta", nil)
			task := w.state.Tasks[0].ID
			w.take(task, "w1")
			n := 0
			order := func(by string) record.Answer {
				id := fmt.Sprint(by, n)
				n++
				in := record.Input{ID: id, Kind: record.InPause, By: by, Admin: true, Pause: &events.PauseRun{ID: id, Run: w.id}}
				if w.state.Paused != nil {
					in.Kind = record.InResume
				}
				return w.do(in).Answer
			}
			for range 1000 {
				order("bot")
			}
			answer := order("bot")
			if answer.Status != events.StatusBusy || !strings.Contains(answer.Reason, "bot has given 100 commands for this run within 15 minutes; no more are taken before 08:15:00") {
				t.Errorf("somebody who floods a run is answered %+v", answer)
			}
			if answer := order("marta"); answer.Status != events.StatusApplied {
				t.Errorf("somebody else is answered %+v", answer)
			}
			for i := range 1000 {
				order(fmt.Sprint("bot", i%10))
			}
			if answer := order("li"); answer.Status != events.StatusBusy || !strings.Contains(answer.Reason, "people have given 400 commands") {
				t.Errorf("when many flood a run, one of them is answered %+v", answer)
			}
			if p, err := json.Marshal(w.state); err != nil || len(p) > 64<<10 {
				t.Errorf("the state has %d bytes: %v", len(p), err)
			}
			if again := w.do(record.Input{ID: "bot1", Kind: record.InResume, By: "bot", Admin: true, Pause: &events.PauseRun{ID: "bot1", Run: w.id}}).Answer; again.Status != events.StatusAlready {
				t.Errorf("a command of before is answered %+v", again)
			}
			switch end {
			case "finish":
				if a := w.finish(task, "w1", events.Result{Outcome: events.Succeeded}).Answer; a.Status != events.StatusApplied {
					t.Errorf("the worker's result is answered %+v", a)
				}
				w.clock += 15*time.Minute.Milliseconds() + 1
				if answer := order("bot"); answer.Status != events.StatusApplied {
					t.Errorf("15 minutes later it is answered %+v", answer)
				}
			case "cancel":
				w.cancel(1)
				stored := len(w.stored)
				again := w.do(record.Input{ID: "again", Kind: record.InCancel, By: "bot", Admin: true, Cancel: &events.CancelRun{ID: "again", Run: w.id}}).Answer
				if again.Status != events.StatusRefused || len(w.stored) != stored {
					t.Errorf("a cancel that changes nothing is answered %+v, with %d records", again, len(w.stored)-stored)
				}
				if w.alone("silent"); !w.state.Done() {
					t.Errorf("after a cancel it waits for %+v", w.why())
				}
			}
			w.verify()
		})
	}
}

// TestAnApprovalThatIsGivenAndTakenBackForLongStaysSmall has a person change
// their mind for days, while another one waits for them.
func TestAnApprovalThatIsGivenAndTakenBackForLongStaysSmall(t *testing.T) {
	w := newWorld(t, catalog(t, parse.File{Name: "w.yaml", Content: []byte(`
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w}
spec:
  initial: ask
  states:
    ask: {approval: {quorum: [{role: administrator, count: 3}], expires: 720h}, next: done, onFail: failed}
    done: {final: succeeded}
    failed: {final: failed}
`)}), "w")
	w.start("marta", nil)
	n := 0
	say := func(by, decision string) {
		n++
		id := fmt.Sprint("d", n)
		in := record.Input{ID: id, Kind: record.InDecide, By: by, Admin: true, Decide: &events.Decide{ID: id, Run: w.id, Content: w.content(), Decision: decision}}
		if a := w.do(in).Answer; a.Status != events.StatusApplied {
			t.Fatalf("%s by %s is answered %+v", decision, by, a)
		}
	}
	say("first", events.Approve)
	for range 400 {
		w.clock += time.Minute.Milliseconds()
		say("bot", events.Approve)
		say("bot", events.Withdraw)
	}
	if p, err := json.Marshal(w.state); err != nil || len(p) > 64<<10 || len(w.state.Open.Said) > 100 {
		t.Errorf("the state has %d bytes and %d words: %v", len(p), len(w.state.Open.Said), err)
	}
	say("bot", events.Approve)
	say("last", events.Approve)
	if !w.state.Done() || w.state.Outcome != events.Succeeded {
		t.Errorf("with three approvals of three it is at %s: %+v", w.state.At, w.why())
	}
	w.verify()
}
