// Package reference tells a second time what a run does: slowly, without any
// state that is carried from one input to the next, and as plainly as it can
// be said. Tell reads all inputs from the first one on, each time anew, as one
// who reads a log aloud; where the log ends, the run waits.
//
// It is written from the rules (docs/semantics.md, docs/language.md) and knows
// nothing of package run, so that where both agree, neither is likely to be
// wrong by accident. It covers tasks and their retries, joins, gates,
// approvals, waits, events, forEach, transitions, pauses, cancel, compensation
// and deployments in steps; a lock is taken to be granted as soon as it is
// asked for. Rules of environments, analyses, children and notifications are
// left out.
package reference

import (
	"context"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// Input is something that happens to a run.
type Input struct {
	Kind      string // take, finish, lost, timer, approve, reject, cancel, pause, resume or event
	At        int64  // milliseconds
	By        string // the worker, or the user
	Task      int    // of take, finish and lost: which of the attempts that were published, from 0
	Outcome   string // of finish
	Code      string // of finish: of the error
	Retryable bool
	Undone    bool           // of finish: the worker says that nothing is left of it
	Outputs   map[string]any // of finish
	Type      string         // of event
	Data      map[string]any // of event
}

// Step is one visit of a state.
type Step struct {
	State   string
	Visit   int
	Outcome string
}

// Story is what has become of a run.
type Story struct {
	Path    []Step
	Tasks   []string // the paths of all attempts that were published, in order
	Outcome string   // of the run, once it stands
	Done    bool
	Waits   []string // what it waits for: "worker s1", "task s1", "timer s1", "approval s1", "event s1", "held s1"
	Next    int64    // the earliest time at which something happens by itself, 0 for none
}

// Tell says what a run of w is, that was started by a user at a time, after
// all inputs. backoff says when an attempt that failed is tried again, which is
// chance as far as the rules go; attempts count as Input.Task does.
func Tell(w *workflows.Workflow, c *workflows.Catalog, by string, start int64, inputs []Input, backoff func(attempt int) int64) (s *Story) {
	t := &teller{w: w, c: c, by: by, start: start, now: start, inputs: inputs, backoff: backoff, visits: map[string]int{}, values: map[string]any{}, story: &Story{}}
	defer func() {
		if r := recover(); r != nil && r != theEnd {
			panic(r)
		}
		t.waits()
		s = t.story
	}()
	t.walk()
	return t.story
}

// theEnd is the end of the inputs.
var theEnd = new(int)

// teller is one telling.
type teller struct {
	w       *workflows.Workflow
	c       *workflows.Catalog
	by      string
	start   int64
	now     int64
	inputs  []Input
	backoff func(int) int64
	story   *Story
	visits  map[string]int
	values  map[string]any
	effects []*effect
	here    *work // what is done in the present state, or at the end
	cancels int   // how often the run was cancelled
	stops   bool  // it is being cancelled
	paused  bool
}

// effect is what may have to be undone.
type effect struct {
	path  string
	state string
	visit int
	undo  *workflows.Undo
	start workflows.Duration
	limit workflows.Duration
	// Of a deployment: where it is, how much of the traffic it has, whether it
	// is complete, and whether its undo has failed.
	env    string
	weight int
	done   bool
	stuck  bool
}

// read gives the next input; there the telling ends when there is none.
func (t *teller) read() Input {
	if len(t.inputs) == 0 {
		panic(theEnd)
	}
	in := t.inputs[0]
	t.inputs = t.inputs[1:]
	t.now = in.At
	switch may := t.may(in.By, workflows.ActRunPause); {
	case in.Kind == "pause" && may && !t.stops && t.story.Outcome == "":
		t.paused = true
	case in.Kind == "resume" && may && t.paused:
		t.paused = false
		t.here.unpark()
	}
	return in
}

// walk goes from state to state until the run has ended.
func (t *teller) walk() {
	at := t.w.Spec.Initial
	for {
		st := t.w.Spec.States[at]
		t.visits[at]++
		delete(t.values, at)
		t.story.Path = append(t.story.Path, Step{State: at, Visit: t.visits[at]})
		if st.Final != "" {
			t.close(st.Final)
			return
		}
		outcome, to := t.stay(st)
		t.left(outcome)
		if to == "" {
			switch outcome {
			case "timedOut", "inconclusive":
				outcome = "failed"
			}
			t.close(outcome)
			return
		}
		at = to
	}
}

// left notes how the present visit ended.
func (t *teller) left(outcome string) { t.story.Path[len(t.story.Path)-1].Outcome = outcome }

// close runs the closing tasks. A cancelled run ends cancelled, whatever it came to.
func (t *teller) close(outcome string) {
	if t.cancels > 0 {
		outcome = "cancelled"
	}
	t.story.Outcome = outcome
	t.paused = false
	t.here = &work{t: t}
	for i, f := range t.w.Spec.Finally {
		t.here.begin(finally(i), &f.Activity)
	}
	for !t.here.quiet() {
		in := t.read()
		if in.Kind == "cancel" && t.may(in.By, workflows.ActRunCancel) {
			t.here.stop()
		}
		t.here.take(in)
	}
	t.here = nil
	t.story.Done = true
}

// stay does what a state does, and says how it ended and where to go.
func (t *teller) stay(st *workflows.State) (outcome, to string) {
	w := &work{t: t, st: st}
	t.here = w
	w.start()
	for {
		if outcome == "" && (w.asks || !w.doubt && !t.paused) { // people decide in any case
			if o, code, over := w.over(); over {
				outcome, w.code = o, code
				w.asks, w.due = false, 0
			}
		}
		w.held = w.doubt || w.noWay
		if outcome != "" && !w.doubt && !t.paused {
			w.held, w.noWay = false, false
			to, ok := t.arm(st, outcome, w.code)
			if ok {
				return outcome, to
			}
			w.held, w.noWay = true, true // until an event or a cancel comes
			t.left(outcome)
		}
		in := t.read()
		switch arm := t.eventArm(w, in, outcome != ""); {
		case in.Kind == "cancel" && t.may(in.By, workflows.ActRunCancel):
			return "cancelled", t.cancel(w)
		case arm != "":
			t.left(outcome) // where it had come to one already
			if t.leave(w) {
				return "cancelled", t.cancel(w)
			}
			if outcome == "" {
				outcome = "cancelled"
			}
			return outcome, arm
		}
		if outcome == "" {
			w.take(in)
		}
	}
}

// leave stops the work of a state and waits until it has stopped. It reports
// whether the run was cancelled meanwhile.
func (t *teller) leave(w *work) (cancelled bool) {
	w.stop()
	for !w.quiet() || t.paused {
		in := t.read()
		if in.Kind == "cancel" && t.may(in.By, workflows.ActRunCancel) {
			return true
		}
		w.take(in)
	}
	return false
}

// cancel stops the work of a state and says where to go: the first time to the
// state for it, if there is one.
func (t *teller) cancel(w *work) string {
	t.cancels++
	t.stops, t.paused = true, false
	w.stop()
	for !w.quiet() {
		w.take(t.read()) // another cancel is refused now
	}
	to := t.w.Spec.OnCancel
	if t.cancels > 1 {
		to = ""
	}
	if to == "" {
		w.undoUnfinished()
	}
	t.stops = false
	return to
}

// arm finds where to go: by the first arm that fits; "" is nowhere. Where a
// condition errs before that, it is not known.
func (t *teller) arm(st *workflows.State, outcome, code string) (to string, ok bool) {
	for _, a := range st.Arms() {
		if !a.Takes(outcome) {
			continue
		}
		if a.When == nil {
			return a.To, true
		}
		holds, err := t.holds(a.When, map[string]any{"outcome": outcome, "error": map[string]any{"code": code, "message": "", "retryable": false}})
		if err != nil {
			return "", false
		}
		if holds {
			return a.To, true
		}
	}
	return "", true
}

// eventArm finds the arm that an event takes, and has the event end a wait. A
// condition that errs leaves the run in doubt until another event is judged.
func (t *teller) eventArm(w *work, in Input, over bool) string {
	if in.Kind != "event" || !w.hears(in.Type) {
		return ""
	}
	doubt := w.doubt
	w.doubt = false
	for _, a := range w.st.Events {
		if !workflows.Match(a.Event, in.Type) {
			continue
		}
		if a.When == nil {
			return a.To
		}
		holds, err := t.holds(a.When, map[string]any{"event": event(in)})
		if err != nil {
			w.doubt = doubt || !w.noWay
			return ""
		}
		if holds {
			return a.To
		}
	}
	if w.listens && !w.heard && !over && workflows.Match(w.st.Wait.Event, in.Type) {
		w.hearEvent(in)
	}
	return ""
}

func event(in Input) map[string]any {
	return map[string]any{"type": in.Type, "data": workflows.Normal(in.Data)}
}

// may reports whether a user is allowed something.
func (t *teller) may(user, action string) bool {
	return t.c.Allows(t.c.RolesOf(user), action, t.w.Metadata.Name)
}

// holds evaluates a condition on what every expression may read, and extra.
func (t *teller) holds(e *workflows.Expr, extra map[string]any) (bool, error) {
	return e.Bool(context.Background(), t.scope(extra))
}

func (t *teller) scope(extra map[string]any) map[string]any {
	last := t.story.Path[len(t.story.Path)-1]
	scope := map[string]any{"inputs": map[string]any{}, "now": at(t.now),
		"run": map[string]any{"startedAt": at(t.start), "requestedBy": t.by, "visit": int64(last.Visit), "labels": map[string]any{}}}
	visits := map[string]any{}
	for name := range t.w.Spec.States {
		visits[name] = int64(t.visits[name])
		scope[name] = map[string]any{}
		if v, ok := t.values[name]; ok {
			scope[name] = v
		}
	}
	scope["visits__"] = visits
	for k, v := range extra {
		scope[k] = v
	}
	return scope
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// waits says what the run waits for where the inputs end.
func (t *teller) waits() {
	if t.here == nil {
		return
	}
	add := func(what, where string, due int64) {
		t.story.Waits = append(t.story.Waits, what+" "+where)
		if due > 0 && (t.story.Next == 0 || due < t.story.Next) {
			t.story.Next = due
		}
	}
	w := t.here
	if t.paused {
		add("paused", w.st.Name, 0)
	}
	for _, j := range w.jobs {
		switch j.status {
		case queued:
			add("worker", j.path, j.due)
		case running, stopping:
			add("task", j.path, j.due)
		case backoff, pausing:
			add("timer", j.path, j.due)
		case between:
			add("held", j.path, 0)
		case undoing:
			add("undo", j.path, 0)
		}
	}
	if w.held {
		add("held", w.st.Name, 0)
	}
	switch {
	case w.held && !w.doubt, w.stopped:
	case w.asks:
		add("approval", w.st.Name, w.due)
	case w.listens && !w.heard:
		add("event", w.st.Name, w.due)
	case w.due > 0:
		add("timer", w.st.Name, w.due)
	}
	if len(t.story.Waits) > 0 {
		for _, e := range t.effects {
			if e.env != "" && !e.done && !w.worksOn(e) {
				add("claim", e.path, 0)
			}
		}
	}
	slices.Sort(t.story.Waits)
}
