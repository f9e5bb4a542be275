package run_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/internal/generate"
	"github.com/penstock-cd/penstock/engine/internal/reference"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// proof is one history of a generated workflow, told by the core and by the
// reference, which must always agree.
type proof struct {
	t       *rapid.T
	w       *world
	cat     *workflows.Catalog
	text    string
	inputs  []reference.Input // as the reference takes them
	given   []record.Input    // as the core does
	taken   []bool            // which of them made a record
	retries map[int]int64     // by attempt that failed: when the core tries again
	seq     int

	grants   int64
	deployed map[string]*record.Deployment
}

// TestTheReferenceAgrees plays random histories of random definitions. After
// each input the core and the reference must say the same; a duplicated input
// must change nothing; a run that has not ended must say what it waits for;
// and in the end the records must give the same when they are decided again.
// PENSTOCK_PROOF sets the number of definitions.
func TestTheReferenceAgrees(t *testing.T) {
	n := 150
	if s := os.Getenv("PENSTOCK_PROOF"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	checks(t, n)
	rapid.Check(t, func(t *rapid.T) {
		p := newProof(t)
		for range rapid.IntRange(0, 60).Draw(t, "inputs") {
			p.act()
		}
		p.w.verify()
	})
}

func newProof(t *rapid.T) *proof {
	p := &proof{t: t, text: generate.Workflow(t), retries: map[int]int64{}, deployed: map[string]*record.Deployment{}}
	set, problems := parse.Files([]parse.File{{Name: "w.yaml", Content: []byte(p.text)}})
	if parse.Failed(problems) {
		t.Fatalf("a check refuses it:\n%s\n%s", parse.Text(problems), p.text)
	}
	p.cat = set.Catalog()
	p.w = newWorld(t, p.cat, "w")
	p.w.observe = func(_ record.Input, tr run.Transition) { p.learn(tr) }
	if a := p.w.start("marta", nil).Answer; a.Status != events.StatusApplied {
		t.Fatalf("start: %+v", a)
	}
	p.letIn()
	p.agree()
	return p
}

// learn notes when attempts are tried again.
func (p *proof) learn(tr run.Transition) {
	if tr.State == nil {
		return
	}
	for _, task := range tr.State.Tasks {
		if task.RetryAt == 0 {
			continue
		}
		for i, published := range slices.Backward(p.w.published) {
			if published.State == task.Path {
				p.retries[i] = task.RetryAt
				break
			}
		}
	}
}

// give gives both an input.
func (p *proof) give(in record.Input, ref reference.Input) {
	ref.At = p.w.clock
	p.given = append(p.given, in)
	p.inputs = append(p.inputs, ref)
	p.taken = append(p.taken, p.w.do(in).Record)
	p.letIn()
	p.agree()
}

// letIn answers what the run has sent, and gives it every environment that it
// asks for at once.
func (p *proof) letIn() {
	for len(p.w.state.Outbox) > 0 {
		m := p.w.state.Outbox[0]
		p.w.do(record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: &record.Sent{ID: m.Input.ID, Status: events.StatusApplied}})
		switch {
		case m.Input.Release != nil && m.Input.Release.Deployed != nil:
			p.deployed[m.ID] = m.Input.Release.Deployed
		case m.Input.Kind == record.InEnvRequest:
			p.grants++
			p.w.do(record.Input{ID: fmt.Sprint("grant", p.grants), Kind: record.InGranted, By: "environment:" + m.ID,
				Granted: &record.Granted{Environment: m.ID, Grant: p.grants, Deployed: p.deployed[m.ID]}})
		}
	}
}

// kept is what a state keeps of a path: of a long one the last steps and the
// latest one of each state.
func kept(path []reference.Step) (short []reference.Step) {
	latest := map[string]int{}
	for _, step := range path {
		latest[step.State] = step.Visit
		if short = append(short, step); len(short) <= 32 {
			continue
		}
		if i := slices.IndexFunc(short, func(s reference.Step) bool { return s.Visit != latest[s.State] }); i >= 0 {
			short = slices.Delete(short, i, i+1)
		}
	}
	return short
}

// agree compares what the core and the reference say.
func (p *proof) agree() {
	s := p.w.state
	told := reference.Tell(p.w.d.Workflow, p.cat, "marta", epoch, p.inputs, func(attempt int) int64 { return p.retries[attempt] })
	told.Path = kept(told.Path)
	core := &reference.Story{Done: s.Done(), Outcome: s.Outcome}
	for _, v := range s.Path {
		core.Path = append(core.Path, reference.Step{State: v.State, Visit: v.Visit, Outcome: v.Outcome})
	}
	for _, task := range p.w.published {
		core.Tasks = append(core.Tasks, task.State)
	}
	if !s.Done() {
		core.Next = s.NextDeadline()
		for _, r := range p.w.why() {
			core.Waits = append(core.Waits, r.What+" "+r.State)
		}
		slices.Sort(core.Waits)
		if len(core.Waits) == 0 {
			p.fail("the run is in %s and waits for nothing", s.At)
		}
	}
	if n := len(p.inputs); n > 0 && p.inputs[n-1].Kind == "timer" && core.Next > 0 && core.Next <= p.w.clock {
		p.fail("a timer has just come, and the run wants another one at once")
	}
	if d := cmp.Diff(told, core); d != "" {
		p.fail("they differ (-reference +core):\n%s", d)
	}
}

func (p *proof) fail(format string, args ...any) {
	var log string
	for _, in := range p.inputs {
		log += fmt.Sprintf("%+v\n", in)
	}
	p.t.Fatalf("%s\n%s\n%s", fmt.Sprintf(format, args...), p.text[len(generate.Preamble):], log)
}

// act does one thing of all that can happen.
func (p *proof) act() {
	p.seq++
	id := fmt.Sprint("c", p.seq)
	switch rapid.SampledFrom([]string{"take", "take", "take", "take", "finish", "finish", "finish", "finish", "lost", "time", "time", "decide", "decide", "event",
		"cancel", "pause", "again"}).Draw(p.t, "what") {
	case "take":
		p.take()
	case "finish":
		p.finish()
	case "lost":
		if i, worker := p.running(); worker != "" && rapid.IntRange(0, 2).Draw(p.t, "really") == 0 {
			p.give(attempt(record.InAttemptLost, p.w.published[i].ID, worker, nil), reference.Input{Kind: "lost", Task: i})
		}
	case "time":
		p.time()
	case "decide":
		p.decide(id)
	case "event":
		p.event(id)
	case "cancel":
		if rapid.IntRange(0, 7).Draw(p.t, "really") == 0 {
			who := rapid.SampledFrom(generate.People).Draw(p.t, "who")
			p.give(record.Input{ID: id, Kind: record.InCancel, By: who, Cancel: &events.CancelRun{ID: id, Run: p.w.id}}, reference.Input{Kind: "cancel", By: who})
		}
	case "pause":
		p.pause(id)
	case "again":
		p.again()
	}
}

// pause pauses the run, or more often lets it go on.
func (p *proof) pause(id string) {
	who := rapid.SampledFrom(generate.People).Draw(p.t, "who")
	in, ref := record.Input{ID: id, Kind: record.InPause, By: who, Pause: &events.PauseRun{ID: id, Run: p.w.id}}, reference.Input{Kind: "pause", By: who}
	if p.w.state.Paused != nil {
		in.Kind, ref.Kind = record.InResume, "resume"
	} else if rapid.IntRange(0, 2).Draw(p.t, "really") > 0 {
		return
	}
	p.give(in, ref)
}

func (p *proof) worker() string {
	return rapid.SampledFrom([]string{"w1", "w1", "w1", "w2"}).Draw(p.t, "worker")
}

// take has a worker take one of the latest attempts.
func (p *proof) take() {
	n := len(p.w.published)
	if n == 0 {
		return
	}
	i := max(0, n-1-rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3}).Draw(p.t, "which"))
	worker := p.worker()
	p.give(attempt(record.InAttemptStart, p.w.published[i].ID, worker, nil), reference.Input{Kind: "take", Task: i, By: worker})
}

// running picks an attempt that a worker holds.
func (p *proof) running() (i int, worker string) {
	held := p.w.state.Running()
	var list []int
	for i, task := range p.w.published {
		if held[task.ID] != "" {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return 0, ""
	}
	i = rapid.SampledFrom(list).Draw(p.t, "running")
	return i, held[p.w.published[i].ID]
}

func (p *proof) finish() {
	i, worker := p.running()
	if worker == "" || rapid.IntRange(0, 9).Draw(p.t, "somebody else") == 0 {
		if len(p.w.published) == 0 {
			return
		}
		i, worker = len(p.w.published)-1, p.worker()
	}
	in := reference.Input{Kind: "finish", Task: i, By: worker, Outcome: rapid.SampledFrom([]string{events.Succeeded, events.Succeeded, events.Succeeded,
		events.Failed, events.Failed, events.TimedOut, events.Cancelled, events.Inconclusive}).Draw(p.t, "outcome")}
	r := events.Result{Outcome: in.Outcome, Facts: map[string]any{}}
	if in.Outcome == events.Succeeded {
		in.Outputs = map[string]any{"n": int64(rapid.IntRange(0, 3).Draw(p.t, "n"))}
		r.Outputs = in.Outputs
		if task := p.w.published[i]; task.Kind == "deploy" {
			r.Outputs = map[string]any{"url": "http://x", "artifact": task.With["artifact"], "previous": "", "instances": 1, "durationMs": 1}
			if before := p.deployed[task.Environment.Name]; before != nil {
				r.Outputs["previous"] = before.Artifact
			}
		}
	} else {
		in.Code, in.Retryable = rapid.SampledFrom([]string{"broken", "again"}).Draw(p.t, "code"), rapid.Bool().Draw(p.t, "retryable")
		r.Error = &events.TaskError{Code: in.Code, Message: "it broke", Retryable: in.Retryable}
		if in.Undone = rapid.IntRange(0, 3).Draw(p.t, "undone") == 0; in.Undone {
			r.Facts["undone"] = true
		}
	}
	p.give(attempt(record.InAttemptFinish, p.w.published[i].ID, worker, &r), in)
}

// time lets time pass, at most to what happens next by itself.
func (p *proof) time() {
	next := p.w.state.NextDeadline()
	d := rapid.SampledFrom([]int64{1, 1_000, 60_000, 300_000}).Draw(p.t, "time")
	if next > 0 && (rapid.Bool().Draw(p.t, "to the deadline") || p.w.clock+d > next) {
		d = next - p.w.clock
	}
	p.w.clock += d
	p.give(record.Input{ID: "timer", Kind: record.InTimer, By: "engine"}, reference.Input{Kind: "timer"})
}

func (p *proof) decide(id string) {
	who := rapid.SampledFrom(generate.People).Draw(p.t, "who")
	decision := rapid.SampledFrom([]string{events.Approve, events.Approve, events.Approve, events.Reject}).Draw(p.t, "decision")
	ref := reference.Input{Kind: "approve", By: who}
	if decision == events.Reject {
		ref.Kind = "reject"
	}
	p.give(record.Input{ID: id, Kind: record.InDecide, By: who, Decide: &events.Decide{ID: id, Run: p.w.id, Content: p.w.content(), Decision: decision}}, ref)
}

func (p *proof) event(id string) {
	typ := rapid.SampledFrom([]string{generate.EventGo, generate.EventGo, generate.EventStop}).Draw(p.t, "type")
	data := map[string]any{"k": rapid.IntRange(0, 3).Draw(p.t, "k")}
	if rapid.IntRange(0, 5).Draw(p.t, "without k") == 0 {
		data = map[string]any{}
	}
	ev, _ := json.Marshal(map[string]any{"specversion": "1.0", "id": id, "source": "/x", "type": typ, "data": data})
	p.give(record.Input{ID: id, Kind: record.InSignal, By: "event:x", Signal: &record.Signal{Cause: events.Cause{ID: id, Source: "/x", Type: typ}, Event: ev}},
		reference.Input{Kind: "event", Type: typ, Data: data})
}

// again repeats an input of the past, which changes nothing.
func (p *proof) again() {
	if len(p.given) == 0 {
		return
	}
	i := len(p.given) - 1 - rapid.IntRange(0, min(len(p.given)-1, 8)).Draw(p.t, "which")
	in := p.given[i]
	switch {
	case in.Kind == record.InTimer: // it is what time it is
	case p.w.clock-p.inputs[i].At > 600_000: // it may be forgotten by now
	case in.Kind == record.InAttemptFinish, !p.taken[i]: // what was too early before may be wanted by now
		p.give(in, p.inputs[i])
	default:
		p.w.do(in)
		p.letIn()
		p.agree()
	}
}
