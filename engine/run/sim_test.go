package run_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// place is an environment in a simulation.
type place struct {
	name   string
	state  *env.Environment
	v      int64
	grants int64
	freed  map[int64]bool // grants that a person took back
}

// sim is an installation without time and disk of its own: some runs and the
// environments they share. Messages between them come late, twice, and with
// their answers lost.
type sim struct {
	t      *rapid.T
	cats   []*workflows.Catalog
	cat    *workflows.Catalog
	clock  int64
	worlds []*world
	places map[string]*place
	levers map[string]*lever
	given  []givenInput // inputs of the past
	held   map[string]string
	people map[string]*question // the open approval of each run, as an outsider keeps count
	ended  map[string]bool      // a cancel was acknowledged
	begun  map[string][]int     // by run and path: in which visits a worker has begun what was not undone
	seq    int
}

type givenInput struct {
	w        *world
	in       record.Input
	at       int64
	recorded bool
}

// question is what an outsider knows of an approval.
type question struct {
	state string
	words map[string]word // the last one of each person
}

// word is what somebody said, with the roles that they held then.
type word struct {
	decision string
	roles    []string
	to       string
	from     int64    // of deferred
	instead  []string // in whose place too
}

// yes gives the people whose approval counts at a time, with their roles.
func (q *question) yes(now int64) map[string][]string {
	out := map[string][]string{}
	for who, w := range q.words {
		counts := w.decision == events.Approve || w.decision == events.Defer && w.from <= now
		for _, other := range w.instead {
			counts = counts && q.words[other].decision == events.Delegate && q.words[other].to == who
		}
		if counts {
			out[who] = w.roles
		}
	}
	return out
}

func newSim(t *rapid.T, cats []*workflows.Catalog) *sim {
	s := &sim{t: t, cats: cats, cat: cats[0], clock: epoch, places: map[string]*place{}, levers: map[string]*lever{}, held: map[string]string{},
		people: map[string]*question{}, ended: map[string]bool{}, begun: map[string][]int{}}
	for i, wf := range rapid.SliceOfN(rapid.SampledFrom([]string{"road", "cross", "council", "slow", "slow", "fleet", "fleet", "ears", "ears", "reckless"}), 1, 3).Draw(t, "workflows") {
		w := s.newWorld(wf)
		w.id = fmt.Sprint("r", i)
		s.worlds = append(s.worlds, w)
		if a := w.start("marta", nil).Answer; a.Status != events.StatusApplied {
			t.Fatalf("start: %+v", a)
		}
	}
	return s
}

func (s *sim) place(name string) *place {
	if s.places[name] == nil {
		s.places[name] = &place{name: name, freed: map[int64]bool{}}
	}
	return s.places[name]
}

// do gives a run an input, and keeps it to be repeated.
func (s *sim) do(w *world, in record.Input) record.Answer {
	w.clock = s.clock
	before := w.state
	tr := w.do(in)
	s.given = append(s.given, givenInput{w, in, s.clock, tr.Record})
	s.checkPause(w, before, in, tr)
	return tr.Answer
}

// step gives an environment an input, on its state in memory and as stored.
func (s *sim) step(p *place, in record.Input) record.Answer {
	in = through(s.t, in)
	var stored *env.Environment
	if p.state != nil {
		stored = through(s.t, p.state)
	}
	tr := env.StepEnvironment(s.cat, p.name, p.state, p.v+1, in, s.clock)
	again := env.StepEnvironment(s.cat, p.name, stored, p.v+1, in, s.clock)
	a, _ := json.Marshal(tr)
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		s.t.Fatalf("environment %s, input %s: the state in memory and the stored one decide differently:\n%s\n%s", p.name, in.Kind, a, b)
	}
	if tr.Record {
		next := tr.State.(*env.Environment)
		if next.Last < p.grants {
			s.t.Fatalf("environment %s: the grant's number went back from %d to %d", p.name, p.grants, next.Last)
		}
		p.state, p.v, p.grants = next, p.v+1, next.Last
	}
	return tr.Answer
}

// deliver delivers the first message of an outbox; unless answered is set the
// answer is lost on its way.
func (s *sim) deliver(from any, m record.Send, answered bool) {
	var a record.Answer
	switch m.To {
	case record.Environment:
		a = s.step(s.place(m.ID), m.Input)
	case record.Key:
		a = s.pull(s.lever(m.ID), m.Input)
	case record.Run:
		a = s.toRun(m.ID, m.Input)
	}
	if !answered {
		return
	}
	in := record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: &record.Sent{ID: m.Input.ID, Status: a.Status, Reason: a.Reason}}
	switch from := from.(type) {
	case *world:
		s.do(from, in)
	case *place:
		s.step(from, in)
	case *lever:
		s.pull(from, in)
	}
}

// outboxes are the senders that have something to deliver, with the message.
func (s *sim) outboxes() (from []any, what []record.Send) {
	for _, w := range s.worlds {
		if len(w.state.Outbox) > 0 {
			from, what = append(from, w), append(what, w.state.Outbox[0])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.places)) {
		if p := s.places[name]; p.state != nil && len(p.state.Outbox) > 0 {
			from, what = append(from, p), append(what, p.state.Outbox[0])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.levers)) {
		if k := s.levers[name]; k.state != nil && len(k.state.Outbox) > 0 {
			from, what = append(from, k), append(what, k.state.Outbox[0])
		}
	}
	return from, what
}

var people = []string{"ana", "marta", "li", "jonas", "zoe"}

// act does one thing of all that can happen.
func (s *sim) act() {
	s.seq++
	w := s.worlds[rapid.IntRange(0, len(s.worlds)-1).Draw(s.t, "run")]
	id := fmt.Sprint("c", s.seq)
	what := rapid.SampledFrom([]string{"deliver", "deliver", "deliver", "take", "take", "take", "finish", "finish", "finish", "lost", "time", "time", "decide", "decide",
		"decide", "cancel", "again", "free", "apply", "hold", "hold", "glass", "event", "event", "pause", "pause", "resume", "retry", "retry"}).Draw(s.t, "what")
	switch what {
	case "deliver":
		if from, what := s.outboxes(); len(from) > 0 {
			i := rapid.IntRange(0, len(from)-1).Draw(s.t, "message")
			s.deliver(from[i], what[i], rapid.Bool().Draw(s.t, "answered"))
		}
	case "take":
		if task := s.anyTask(w); task != "" {
			s.do(w, attempt(record.InAttemptStart, task, s.worker(), nil))
		}
	case "finish":
		s.finish(w)
	case "lost":
		for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
			s.do(w, attempt(record.InAttemptLost, task, w.state.Running()[task], nil))
			break
		}
	case "time":
		s.clock += rapid.SampledFrom([]int64{1, 1_000, 60_000, 3_600_000}).Draw(s.t, "time")
		if d := w.state.NextDeadline(); d > s.clock && rapid.Bool().Draw(s.t, "to the deadline") {
			s.clock = d
		}
		s.do(w, record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
		s.wake()
	case "decide":
		content := w.content()
		if rapid.IntRange(0, 9).Draw(s.t, "wrong content") == 0 {
			content = "sha256:0"
		}
		who := rapid.SampledFrom(people).Draw(s.t, "who")
		d := &events.Decide{ID: id, Run: w.id, Content: content}
		d.Decision = rapid.SampledFrom([]string{events.Approve, events.Approve, events.Approve, events.Approve, events.Approve, events.Approve, events.Reject,
			events.RequestChanges, events.Delegate, events.Defer, events.Withdraw, events.Escalate}).Draw(s.t, "decision")
		switch d.Decision {
		case events.Delegate:
			d.To = rapid.SampledFrom(people).Draw(s.t, "to")
		case events.Defer:
			d.NotBefore = time.UnixMilli(s.clock + 600_000)
		}
		s.do(w, record.Input{ID: id, Kind: record.InDecide, By: who, Decide: d})
	case "cancel":
		if rapid.IntRange(0, 3).Draw(s.t, "really") == 0 {
			who := rapid.SampledFrom(people).Draw(s.t, "who")
			s.do(w, record.Input{ID: id, Kind: record.InCancel, By: who, Cancel: &events.CancelRun{ID: id, Run: w.id}})
		}
	case "event":
		s.do(w, s.signal(w))
	case "pause", "resume", "retry":
		s.do(w, s.order(w, what, rapid.SampledFrom([]string{"marta", "marta", "marta", "li", "zoe"}).Draw(s.t, "who")))
	case "again":
		s.again()
	case "free":
		if rapid.IntRange(0, 3).Draw(s.t, "really") == 0 && len(s.places) > 0 {
			s.free(s.places[rapid.SampledFrom(slices.Sorted(maps.Keys(s.places))).Draw(s.t, "place")], id)
		}
	case "hold":
		s.hold(id)
	case "glass":
		if rapid.IntRange(0, 3).Draw(s.t, "really") == 0 {
			env := rapid.SampledFrom([]string{"guarded", "staging"}).Draw(s.t, "environment")
			s.do(w, record.Input{ID: id, Kind: record.InBreakGlass, By: "jonas", Glass: &events.BreakGlass{ID: id, Run: w.id, Environment: env, Reason: "it burns"}})
		}
	case "apply":
		s.cat = s.cats[rapid.IntRange(0, len(s.cats)-1).Draw(s.t, "definitions")]
		for _, w := range s.worlds {
			w.apply(s.cat)
		}
	}
	s.look()
}

func attempt(kind, task, worker string, r *events.Result) record.Input {
	return record.Input{ID: kind + task, Kind: kind, By: "worker:" + worker, Attempt: &record.Attempt{Task: task, Worker: worker, Result: r}}
}

func (s *sim) worker() string { return rapid.SampledFrom([]string{"w1", "w2"}).Draw(s.t, "worker") }

// anyTask is one that was ever published, most often one of the latest.
func (s *sim) anyTask(w *world) string {
	if len(w.published) == 0 {
		return ""
	}
	back := rapid.SampledFrom([]int{1, 1, 1, 2, 2, 3, 4, 5, 9}).Draw(s.t, "task")
	return w.published[max(0, len(w.published)-back)].ID
}

func (s *sim) finish(w *world) {
	task, worker := s.anyTask(w), s.worker()
	if held := w.state.Running(); len(held) > 0 && rapid.IntRange(0, 4).Draw(s.t, "one that runs") > 0 {
		task = rapid.SampledFrom(slices.Sorted(maps.Keys(held))).Draw(s.t, "running")
		worker = held[task]
	}
	outcome := rapid.SampledFrom([]string{events.Succeeded, events.Succeeded, events.Succeeded, events.Succeeded, events.Failed, events.TimedOut,
		events.Cancelled, events.Inconclusive, "nonsense"}).Draw(s.t, "outcome")
	r := result(outcome)
	if rapid.Bool().Draw(s.t, "undone") {
		r.Facts["undone"] = true
	}
	if rapid.IntRange(0, 2).Draw(s.t, "authors") == 0 {
		r.Facts["authors"] = []any{"ana@acme.example"}
	}
	r.Outputs["value"] = rapid.SampledFrom([]float64{0.5, 0.5, 0.5, 1.5, 2.5}).Draw(s.t, "value")
	if rapid.Bool().Draw(s.t, "baseline") {
		r.Outputs["baseline"] = 1
	}
	if r.Error != nil {
		r.Error.Code = rapid.SampledFrom([]string{"broken", "again"}).Draw(s.t, "code")
		r.Error.Retryable = rapid.Bool().Draw(s.t, "retryable")
	}
	if rapid.IntRange(0, 5).Draw(s.t, "bad outputs") == 0 {
		r.Outputs["size"], r.Outputs["url"] = "large", 7
	}
	s.do(w, attempt(record.InAttemptFinish, task, worker, &r))
}

// result has all outputs of all kinds.
func result(outcome string) events.Result {
	r := events.Result{Outcome: outcome, Facts: map[string]any{}, Outputs: map[string]any{"digest": "sha256:aa", "size": 50, "ratio": 0.25, "names": []any{"x"},
		"more": map[string]any{"go": "home", "big": 1 << 60, "$time": "2026-01-01T00:00:00Z"}, "version": 3, "where": "here",
		"value": 0.5, "baseline": 1, "url": "http://x", "artifact": "c1", "previous": "", "instances": 2, "durationMs": 1}}
	if outcome != events.Succeeded {
		r.Error = &events.TaskError{Code: "broken", Message: "it broke"}
	}
	return r
}

// again repeats an input of the past, which changes nothing.
func (s *sim) again() {
	if len(s.given) == 0 {
		return
	}
	g := s.given[len(s.given)-1-rapid.IntRange(0, min(len(s.given)-1, 12)).Draw(s.t, "which")]
	if s.clock-g.at > 600_000 || g.in.Kind == record.InTimer || g.in.Kind == record.InGranted || g.in.Kind == record.InKeyGranted {
		return // forgotten by then; a timer is what time it is; a grant that was refused may be wanted by now
	}
	g.w.clock = s.clock
	tr := g.w.do(g.in)
	switch {
	case !tr.Record:
	case g.in.Kind == record.InAttemptStart && tr.Answer.Status == events.StatusApplied: // it was too early before
	case g.in.Kind == record.InAttemptFinish: // it was not that worker's before, or is too old to be known
	case g.in.Kind == record.InSignal && !g.recorded: // the run did not listen for it before
	default:
		s.t.Fatalf("a repeated %s made a record: %+v", g.in.Kind, tr.Answer)
	}
}

// hold keeps everything out of an environment, for a while or for good, or
// takes all holds of it away.
func (s *sim) hold(id string) {
	if len(s.places) == 0 {
		return
	}
	p := s.places[rapid.SampledFrom(slices.Sorted(maps.Keys(s.places))).Draw(s.t, "place")]
	in := record.Input{ID: id, Kind: record.InEnvUnhold, By: "jonas", Hold: &events.HoldEnvironment{ID: id, Environment: p.name, Reason: "a look"}}
	if rapid.Bool().Draw(s.t, "hold") {
		in.Kind = record.InEnvHold
		if rapid.Bool().Draw(s.t, "for a while") {
			in.Hold.Until = time.UnixMilli(s.clock + 1_800_000)
		}
	}
	s.step(p, in)
}

// wake fires the timers of environments that are due.
func (s *sim) wake() {
	for _, name := range slices.Sorted(maps.Keys(s.places)) {
		if p := s.places[name]; p.state != nil && p.state.NextDeadline() > 0 && p.state.NextDeadline() <= s.clock {
			s.step(p, record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
		}
	}
}

func (s *sim) free(p *place, id string) {
	if p.state == nil || p.state.Holder == nil {
		return
	}
	grant := p.state.Holder.Grant
	a := s.step(p, record.Input{ID: id, Kind: record.InEnvFree, By: "jonas"})
	if a.Status != events.StatusApplied {
		s.t.Fatalf("free: %+v", a)
	}
	p.freed[grant] = true
}

// check looks at every transition of a run.
func (s *sim) check(w *world, in record.Input, tr run.Transition) {
	if in.Kind == record.InAttemptStart && tr.Answer.Status == events.StatusApplied {
		if other, granted := s.held[in.Attempt.Task]; granted && other != in.Attempt.Worker {
			s.t.Fatalf("attempt %s was granted to %s and to %s", in.Attempt.Task, other, in.Attempt.Worker)
		}
		s.held[in.Attempt.Task] = in.Attempt.Worker
	}
	if slices.ContainsFunc(tr.Events, func(e record.Emitted) bool { return e.Type == events.RunRetried }) {
		delete(s.ended, w.id)
	}
	if s.ended[w.id] && w.d.Workflow.Spec.OnCancel == "" {
		for _, task := range tr.Tasks {
			if !strings.HasPrefix(task.State, "finally.") && !strings.HasPrefix(task.State, "notify.") && !strings.HasPrefix(task.State, "undo.") {
				s.t.Fatalf("%s was published after the cancel", task.State)
			}
		}
	}
	if in.Kind == record.InCancel && tr.Answer.Status == events.StatusApplied {
		s.ended[w.id] = true
	}
	s.watchEffects(w, in, tr)
	for _, e := range tr.Events {
		s.listen(w, e)
	}
	for _, task := range tr.Tasks {
		if task.Environment != nil && task.Mode == "" && task.Fence.Grant == 0 {
			s.t.Fatalf("%s was published without a grant of %s", task.State, task.Environment.Name)
		}
	}
}

// watchEffects keeps count of what was begun and undone as an outsider would:
// nothing is undone that was not begun, and nothing twice.
func (s *sim) watchEffects(w *world, in record.Input, tr run.Transition) {
	if in.Kind == record.InAttemptStart && tr.Answer.Status == events.StatusApplied {
		i := slices.IndexFunc(w.published, func(task *events.Task) bool { return task.ID == in.Attempt.Task })
		if task := w.published[i]; task.Mode == "" && !strings.HasPrefix(task.State, "undo.") {
			head, _, _ := strings.Cut(task.State, ".")
			key, visit := w.id+" "+task.State, w.state.Visits[head]
			if !slices.Contains(s.begun[key], visit) {
				s.begun[key] = append(s.begun[key], visit)
			}
		}
	}
	for _, e := range tr.Events {
		key := w.id + " " + e.Data.State
		switch e.Type {
		case events.EnvironmentReleased:
			if s.unfinished(w, e.Data.Environment) {
				s.t.Fatalf("%s gave %s back with a deployment part of the way", w.id, e.Data.Environment)
			}
		case events.EffectUndone:
			if len(s.begun[key]) == 0 {
				s.t.Fatalf("%s was undone, and had not been begun or was undone before", key)
			}
			s.begun[key] = s.begun[key][:len(s.begun[key])-1]
		}
	}
	for _, task := range tr.Tasks {
		if of, undoes := strings.CutPrefix(task.State, "undo."); undoes && len(s.begun[w.id+" "+of]) == 0 {
			s.t.Fatalf("%s is to be undone, and had not been begun or was undone before", of)
		}
	}
}

// unfinished reports whether a run has a deployment part of the way in an environment.
func (s *sim) unfinished(w *world, env string) bool {
	return slices.ContainsFunc(w.last.State.Effects, func(e *run.Effect) bool {
		return e.Deploys && e.Env == env && e.Status == "begun" && e.Weight > 0 && e.Weight < 100 && e.Grant > 0 && !s.place(env).freed[e.Grant]
	})
}

// listen keeps count of approvals as an outsider would, from who said what,
// and judges by the rules of the workflow written down a second time.
func (s *sim) listen(w *world, e record.Emitted) {
	h := e.Data
	switch e.Type {
	case events.ApprovalRequested:
		s.people[w.id] = &question{state: h.State, words: map[string]word{}}
	case events.ApprovalDecided:
		if h.Decision != events.Escalate {
			s.hear(s.people[w.id], h)
		}
	case events.ApprovalStale:
		if q := s.people[w.id]; q != nil && q.state == h.State {
			delete(q.words, h.By)
		}
	case events.ApprovalClosed:
		q := s.people[w.id]
		delete(s.people, w.id)
		if h.Outcome == events.Succeeded {
			s.judge(w, q)
		}
	}
}

// hear notes what somebody said.
func (s *sim) hear(q *question, h events.Happening) {
	said := word{decision: h.Decision, roles: s.cat.RolesOf(h.By), to: h.To}
	for _, who := range slices.Sorted(maps.Keys(q.words)) {
		if other := q.words[who]; other.decision == events.Delegate && other.to == h.By && h.Decision != events.Delegate {
			said.roles, said.instead = slices.Concat(said.roles, other.roles), append(said.instead, who)
		}
	}
	if h.At != nil {
		said.from = h.At.UnixMilli()
	}
	q.words[h.By] = said
}

func (s *sim) judge(w *world, q *question) {
	yes := q.yes(s.clock)
	for who, said := range q.words {
		if said.decision == events.Reject || said.decision == events.RequestChanges {
			if _, lapsed := yes[who]; !lapsed && len(said.instead) == 0 {
				s.t.Fatalf("an approval at %s succeeded though %s said %s", q.state, who, said.decision)
			}
		}
	}
	authors := []string{"ana"}
	var need []string // one role a seat
	excluded := map[string]bool{}
	switch q.state {
	case "approve":
		need, excluded = []string{"release-manager", "release-lead"}, map[string]bool{"marta": true, "ana": true}
	case "first":
		need, excluded = []string{"release-manager", "release-manager", "release-lead"}, map[string]bool{"marta": true}
	case "ask":
		if len(yes) < 2 {
			s.t.Fatalf("the approval at ask succeeded with %d people", len(yes))
		}
	}
	for who := range yes {
		if excluded[who] || who == "zoe" && len(q.words[who].instead) == 0 {
			s.t.Fatalf("%s's approval at %s was taken", who, q.state)
		}
	}
	if !fill(need, yes) {
		s.t.Fatalf("the approval at %s succeeded with %v, which cannot fill %v", q.state, yes, need)
	}
	if q.state == "approve" && !slices.ContainsFunc(slices.Collect(maps.Keys(yes)), func(u string) bool { return u != "marta" && !slices.Contains(authors, u) }) {
		s.t.Fatalf("nobody but %v approved", yes)
	}
}

// fill tries every way to give the seats to distinct people.
func fill(seats []string, people map[string][]string) bool {
	if len(seats) == 0 {
		return true
	}
	for who, roles := range people {
		if slices.Contains(roles, seats[0]) {
			rest := maps.Clone(people)
			delete(rest, who)
			if fill(seats[1:], rest) {
				return true
			}
		}
	}
	return false
}

// look checks what must be true of all at any time.
func (s *sim) look() {
	owner := map[string]string{}
	for _, w := range s.worlds {
		if !w.state.Done() && len(w.why()) == 0 {
			s.t.Fatalf("run %s is in %s and waits for nothing", w.id, w.state.At)
		}
		if w.state.Done() && slices.ContainsFunc(w.state.Tasks, func(t *run.Task) bool { return !t.Detached }) && !w.quiet() {
			s.t.Fatalf("run %s has ended and has tasks", w.id)
		}
		for name, grant := range w.state.Grants {
			if s.place(name).freed[grant] {
				continue // a person has decided, the run does not know yet
			}
			if other := owner[name]; other != "" {
				s.t.Fatalf("environment %s belongs to %s and %s", name, other, w.id)
			}
			owner[name] = w.id
		}
	}
	s.lookAtDeployments()
	s.lookAtFlow()
}

// lookAtDeployments checks that nothing is deployed twice at a time, and that
// a deployment part of the way keeps its environment.
func (s *sim) lookAtDeployments() {
	at := map[string]string{}
	for _, w := range s.worlds {
		for _, task := range w.state.Tasks {
			if task.Kind != "deploy" || task.Status != "running" && task.Status != "cancelling" || s.place(task.Env).freed[w.state.Grants[task.Env]] || w.state.Grants[task.Env] == 0 {
				continue
			}
			if other := at[task.Env]; other != "" {
				s.t.Fatalf("%s and %s of %s deploy to %s at a time", other, task.Path, w.id, task.Env)
			}
			at[task.Env] = task.Path
		}
		for _, e := range w.state.Effects {
			p := s.place(e.Env)
			if e.Deploys && e.Weight > 0 && e.Weight < 100 && e.Status == "begun" && e.Grant > 0 && !p.freed[e.Grant] && (p.state.Holder == nil || p.state.Holder.Run != w.id) {
				s.t.Fatalf("%s is part of the way to %s, which is held by %+v", e.Path, e.Env, p.state.Holder)
			}
		}
	}
}

// drain lets everything that goes on come to its end: messages arrive, work
// succeeds, people approve, time passes, and at last somebody cancels.
func (s *sim) drain() {
	s.cat = s.cats[0]
	for round := 0; ; round++ {
		for _, w := range s.worlds {
			w.apply(s.cat)
			s.push(w, round)
		}
		for range 50 {
			from, what := s.outboxes()
			if len(from) == 0 {
				break
			}
			for i := range from {
				s.deliver(from[i], what[i], true)
			}
		}
		s.wake()
		for _, name := range slices.Sorted(maps.Keys(s.places)) { // a person frees what nobody knows about, and takes holds away
			if h := s.places[name].state; h != nil && len(h.Holds) > 0 {
				id := fmt.Sprint("unhold", round)
				s.step(s.places[name], record.Input{ID: id, Kind: record.InEnvUnhold, By: "jonas", Hold: &events.HoldEnvironment{ID: id, Environment: name}})
			}
			if h := s.places[name].state; h != nil && h.Holder != nil {
				if w := s.world(h.Holder.Run); w.state.Done() && w.state.Kept[name] != "" {
					s.free(s.places[name], fmt.Sprint("free", round))
				}
			}
		}
		s.look()
		if from, _ := s.outboxes(); len(from) == 0 && !slices.ContainsFunc(s.worlds, func(w *world) bool { return !w.state.Done() }) {
			break
		}
		if round > 60 {
			for _, w := range s.worlds {
				s.t.Logf("%s: %s %+v, outbox %+v", w.id, w.state.At, w.why(), w.state.Outbox)
			}
			for _, p := range s.places {
				j, _ := json.Marshal(p.state)
				s.t.Logf("%s: %s", p.name, j)
			}
			s.t.Fatalf("not everything came to its end")
		}
	}
	for name, p := range s.places {
		if p.state != nil && (p.state.Holder != nil || len(p.state.Queue) > 0) {
			s.t.Fatalf("all runs have ended, and environment %s is held by %+v, awaited by %+v", name, p.state.Holder, p.state.Queue)
		}
	}
}

func (s *sim) world(id string) *world {
	return s.worlds[slices.IndexFunc(s.worlds, func(w *world) bool { return w.id == id })]
}

// can names the people who could carry a run on.
func (s *sim) can(w *world) (who []string) {
	for _, r := range w.why() {
		who = append(who, r.Can...)
	}
	return who
}

// push carries one run on.
func (s *sim) push(w *world, round int) {
	s.clock++
	if w.state.Paused != nil {
		s.do(w, s.order(w, "resume", "marta"))
	}
	if len(w.state.Listens()) > 0 && round%3 == 2 {
		s.seq++
		s.do(w, signalInput(fmt.Sprint("e", s.seq), "sim.ready.now", `{"severity": 3}`))
	}
	for _, task := range run.Details(w.d, w.state, 0, s.clock).Tasks {
		if task.Status == "queued" {
			s.do(w, attempt(record.InAttemptStart, task.ID, "w9", nil))
		}
	}
	for _, task := range slices.Sorted(maps.Keys(w.state.Running())) {
		r := result(events.Succeeded)
		s.do(w, attempt(record.InAttemptFinish, task, w.state.Running()[task], &r))
	}
	for _, who := range s.can(w) {
		s.seq++
		id := fmt.Sprint("c", s.seq)
		if w.state.Open != nil {
			s.do(w, record.Input{ID: id, Kind: record.InDecide, By: who, Decide: &events.Decide{ID: id, Run: w.id, Content: w.content(), Decision: events.Approve}})
		}
	}
	if d := w.state.NextDeadline(); d > 0 {
		s.clock = max(s.clock, d)
		s.do(w, record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
	}
	if round%20 == 19 && !w.state.Done() {
		s.seq++
		id := fmt.Sprint("c", s.seq)
		s.do(w, record.Input{ID: id, Kind: record.InCancel, By: "marta", Cancel: &events.CancelRun{ID: id, Run: w.id}})
	}
}

// checks says how many cases a property is tried on, unless a flag does.
func checks(t *testing.T, n int) {
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	if testing.Short() {
		n = max(n/4, 1)
	}
	old := f.Value.String()
	if err := f.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Value.Set(old) })
}

func simCatalogs(t testing.TB) []*workflows.Catalog {
	p, err := os.ReadFile("testdata/sim.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plain := parse.File{Name: "sim.yaml", Content: p}
	strict := parse.File{Name: "strict.yaml", Content: []byte(`apiVersion: penstock/v1
kind: Environment
metadata: {name: staging}
spec:
  target: {local: {}}
  require:
    - {name: somebody, expression: 'size(approvals) > 0'}
    - {name: lead, expression: 'approvals.exists(a, "release-lead" in a.roles)'}
`)}
	return []*workflows.Catalog{catalog(t, plain), catalog(t, plain, strict)}
}

// TestWhateverHappens plays random histories of some runs that share
// environments. What must be true is checked after each step (look, check);
// in the end everything must come to its end, and the records must verify.
func TestWhateverHappens(t *testing.T) {
	cats := simCatalogs(t)
	checks(t, 40)
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t, cats)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			s.act()
		}
		s.drain()
		for _, w := range s.worlds {
			w.verify()
		}
	})
}
