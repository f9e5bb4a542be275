package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// runID is the run of every scenario.
const runID = "scenario"

// world is all there is while a scenario is played. Times are milliseconds
// since 1970.
type world struct {
	cat    *workflows.Catalog
	doc    *workflows.Scenario
	spec   *workflows.ScenarioSpec
	start  int64
	now    int64
	until  time.Duration // negative: to the end
	actors []*actor
	byName map[[2]string]*actor
	jobs   []job // by time, rank and order
	seq    int
	inputs int // given so far
	idle   int // deadlines in a row that moved nothing

	answers  map[string]int // by path: how many were used
	attempts map[string]*attempt
	told     map[*actor]bool // runs that know what the scenario says of the change

	why         string       // the run was not started
	refusedActs map[int]bool // by index of spec.people

	failures []Failure
	story    []Moment
	effects  []Effect
	notified map[string]int
	path     []string
	seen     seen
}

// actor is an aggregate of the world.
type actor struct {
	typ, id string
	path    string // of a run that another one started: the path of the work that it is, and a dot
	defs    run.Definitions
	state   any // *run.State, *env.Environment, …; nil before the first input
	v       int64
	deaf    int64 // a deadline at which it had nothing to do
}

// job is something that will happen.
type job struct {
	at   int64
	rank int // of things at the same time, the lower one first
	seq  int
	do   func()
}

// Ranks of jobs.
const (
	byWorker = iota
	byEvent
	byPerson
)

func newWorld(c *workflows.Catalog, s *workflows.Scenario) *world {
	w := &world{doc: s, spec: &s.Spec, byName: map[[2]string]*actor{}, answers: map[string]int{}, attempts: map[string]*attempt{},
		told: map[*actor]bool{}, notified: map[string]int{}, seen: newSeen(), refusedActs: map[int]bool{}}
	w.cat = withAuthors(c, s.Spec.Facts.Authors)
	w.start = firstMonday.UnixMilli()
	if at, err := time.Parse(time.RFC3339, s.Spec.Start); err == nil {
		w.start = at.UnixMilli()
	}
	w.now = w.start
	return w
}

// withAuthors lets names of authors be those of users.
func withAuthors(c *workflows.Catalog, authors []string) *workflows.Catalog {
	users := map[string]*workflows.User{}
	for _, name := range authors {
		if c.UserByIdentity("git:"+name) == "" {
			users[name] = &workflows.User{Identities: []string{"git:" + name}}
		}
	}
	if len(users) == 0 {
		return c
	}
	extended := *c
	extended.Roles = append(slices.Clone(c.Roles), &workflows.Roles{Metadata: workflows.Metadata{Name: "scenario"}, Spec: workflows.RolesSpec{Users: users}})
	return &extended
}

// at plans something for a time after the start.
func (w *world) at(after time.Duration, rank int, do func()) {
	w.plan(w.start+after.Milliseconds(), rank, do)
}

func (w *world) plan(at int64, rank int, do func()) {
	w.seq++
	j := job{at: max(at, w.now), rank: rank, seq: w.seq, do: do}
	i, _ := slices.BinarySearchFunc(w.jobs, j, func(a, b job) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank), cmp.Compare(a.seq, b.seq))
	})
	w.jobs = slices.Insert(w.jobs, i, j)
}

// main is the run that the scenario is about; nil when it was not started.
func (w *world) main() *actor { return w.byName[[2]string{record.Run, runID}] }

func (a *actor) run() *run.State {
	if a == nil {
		return nil
	}
	s, _ := a.state.(*run.State)
	return s
}

// actor finds an aggregate, or makes one that has no state yet.
func (w *world) actor(typ, id string) *actor {
	name := [2]string{typ, id}
	a := w.byName[name]
	if a == nil {
		a = &actor{typ: typ, id: id}
		w.byName[name] = a
		w.actors = append(w.actors, a)
	}
	return a
}

// play lets things happen until there are no more.
func (w *world) play() {
	for w.inputs < maxInputs {
		a, due := w.nextDeadline()
		next := due
		if len(w.jobs) > 0 && (a == nil || w.jobs[0].at <= due) {
			next = w.jobs[0].at
		} else if a == nil || w.idle >= maxIdle || len(w.jobs) == 0 && w.over() {
			return
		}
		if w.until >= 0 && next > w.start+w.until.Milliseconds() {
			w.now = w.start + w.until.Milliseconds()
			return
		}
		w.now = max(w.now, next)
		if len(w.jobs) > 0 && w.jobs[0].at <= next {
			do := w.jobs[0].do
			w.jobs = w.jobs[1:]
			w.idle = 0
			do()
			continue
		}
		w.idle++
		before := a.v
		w.give(a, record.Input{ID: "timer", Kind: record.InTimer, By: "engine"})
		if a.v == before {
			a.deaf = due
		}
	}
	w.fail("", "it does not come to an end: %d inputs were given", maxInputs)
}

// over reports whether the run has ended and nothing of it is under way.
func (w *world) over() bool {
	s := w.main().run()
	return s == nil || s.Idle()
}

// nextDeadline finds the aggregate that wants a timer first.
func (w *world) nextDeadline() (*actor, int64) {
	var first *actor
	var at int64
	for _, a := range w.actors {
		waits, ok := a.state.(interface{ NextDeadline() int64 })
		if !ok {
			continue
		}
		if d := waits.NextDeadline(); d > 0 && d != a.deaf && (first == nil || d < at) {
			first, at = a, d
		}
	}
	return first, at
}

// give gives an aggregate an input, carries out what it decided, and delivers
// what it and others send to each other until nothing is left to deliver.
func (w *world) give(a *actor, in record.Input) record.Answer {
	answer := w.step(a, in)
	for w.inputs < maxInputs && w.deliver() {
	}
	return answer
}

// step lets an aggregate decide.
func (w *world) step(a *actor, in record.Input) record.Answer {
	w.inputs++
	var state any
	var emitted []record.Emitted
	var answer record.Answer
	switch a.typ {
	case record.Run:
		return w.stepRun(a, in)
	case record.Environment:
		prev, _ := a.state.(*env.Environment)
		t := env.StepEnvironment(w.cat, a.id, prev, a.v+1, in, w.now)
		if t.Record {
			state = t.State
		}
		emitted, answer = t.Events, t.Answer
	case record.Key:
		prev, _ := a.state.(*env.Key)
		t := env.StepKey(a.id, prev, in, w.now)
		if t.Record {
			state = t.State
		}
		emitted, answer = t.Events, t.Answer
	default:
		return record.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "there is no " + a.typ + " in a scenario"}
	}
	if state != nil {
		a.state, a.v, a.deaf = state, a.v+1, 0
	}
	w.tell("", emitted)
	return answer
}

func (w *world) stepRun(a *actor, in record.Input) record.Answer {
	if a.defs.Workflow == nil {
		if in.Kind != record.InStart {
			// a run of before the scenario: it takes what it is told
			return record.Answer{Status: events.StatusApplied}
		}
		wf := w.cat.Workflows[in.Start.Workflow]
		if wf == nil {
			return record.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: fmt.Sprintf("there is no workflow %q", in.Start.Workflow)}
		}
		a.defs = run.Definitions{Workflow: wf, Kinds: w.cat.Kinds, Now: w.cat}
		if p := in.Start.Parent; p != nil {
			a.path = w.actor(record.Run, p.Run).path + p.Path + "."
		}
	}
	prev := a.run()
	t := run.Step(a.defs, prev, a.v+1, in, w.now)
	if !t.Record {
		return t.Answer
	}
	a.state, a.v, a.deaf = t.State, a.v+1, 0
	w.seen.add(a.defs, prev, &t)
	w.tell(a.path, t.Events)
	for _, task := range t.Tasks {
		w.idle = 0
		w.publish(a, task)
	}
	w.supervise(a)
	return t.Answer
}

// deliver delivers the first message that somebody wants to send, with its
// answer; false when there is none.
func (w *world) deliver() bool {
	for _, a := range w.actors {
		var out []record.Send
		switch s := a.state.(type) {
		case *run.State:
			out = s.Outbox
		case *env.Environment:
			out = s.Outbox
		case *env.Key:
			out = s.Outbox
		}
		if len(out) == 0 {
			continue
		}
		m := out[0]
		answer := record.Answer{Status: events.StatusError, Reason: "a scenario has at most so many runs"}
		if len(w.actors) < maxRuns || w.byName[[2]string{m.To, m.ID}] != nil {
			answer = w.step(w.actor(m.To, m.ID), m.Input)
		}
		w.step(a, record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine",
			Sent: &record.Sent{ID: m.Input.ID, Status: answer.Status, Reason: answer.Reason}})
		return true
	}
	return false
}

// tell adds to the story.
func (w *world) tell(path string, emitted []record.Emitted) {
	for _, e := range emitted {
		if ofNotice(e) {
			continue // the notification itself is told
		}
		w.story = append(w.story, Moment{At: w.elapsed(), Run: strings.TrimSuffix(path, "."), Event: e})
		switch e.Type {
		case events.StateEntered:
			w.idle = 0
			if path == "" {
				w.path = append(w.path, e.Data.State)
			}
		case events.Notification:
			if e.Data.Reason == "" { // how often people are reminded is no promise of the workflow
				w.notified[e.Data.Channel]++
			}
		}
	}
}

// ofNotice reports whether an event is about the task that delivers a
// notification.
func ofNotice(e record.Emitted) bool {
	n, ok := strings.CutPrefix(e.Data.State, "notify.")
	_, err := strconv.Atoi(n)
	return ok && err == nil && e.Data.Kind == "notify"
}

// note adds to the story what makes no event.
func (w *world) note(path, format string, args ...any) {
	w.story = append(w.story, Moment{At: w.elapsed(), Run: strings.TrimSuffix(path, "."), Text: fmt.Sprintf(format, args...)})
}

func (w *world) elapsed() time.Duration { return time.Duration(w.now-w.start) * time.Millisecond }

// fail notes that something is not as it should be; path is that of a key of
// the scenario.
func (w *world) fail(path, format string, args ...any) {
	w.failures = append(w.failures, Failure{Pos: w.doc.Origin.Place(path), Text: fmt.Sprintf(format, args...)})
}

// result sums up.
func (w *world) result() *Result {
	r := &Result{Scenario: w.doc, Story: w.story, Path: w.path, Effects: w.effects, Notified: w.notified, Took: w.elapsed(),
		seen: w.seen, end: w}
	for _, a := range w.actors {
		s := a.run()
		if s == nil || s.Done() {
			continue
		}
		for _, reason := range run.Why(a.defs, s, w.now) {
			reason.State = a.path + reason.State
			r.Waiting = append(r.Waiting, reason)
		}
	}
	if s := w.main().run(); s != nil {
		r.At, r.Outputs = s.At, s.Outputs
		if s.Done() {
			r.Outcome, r.Took = s.Outcome, time.Duration(s.EndedAt-w.start)*time.Millisecond
		}
	}
	r.Failures = w.failures
	return r
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
