package workflows

import (
	"fmt"
	"slices"
	"strings"
)

// Compiled gives the problems of a document that show only when its
// expressions are understood: where paths lead, what has surely happened
// before, what may never end. reading is of this document.
func (ck *Checker) Compiled(doc any, reading *Reading) []Problem {
	k := &check{Checker: ck, reading: reading}
	switch d := doc.(type) {
	case *Workflow:
		k.origin = d.Origin.Pos
		if !TooLarge(d) {
			k.paths(d)
		}
	case *Environment:
		k.origin = d.Origin.Pos
		k.ownRules(d)
	case *Policy:
		k.origin = d.Origin.Pos
		k.policyRules(d)
	}
	return k.found()
}

// paths checks what depends on where the states lead.
func (k *check) paths(w *Workflow) {
	f := newFlow(k.c, w, k.reading)
	for _, s := range f.states {
		if len(bodies(s)) == 1 && s.Kind() != "final" {
			k.arms(f, s)
		}
	}
	if w.Spec.States[w.Spec.Initial] == nil {
		return
	}
	k.reached(f)
	k.loops(f, k.endless(f))
	k.assigned(f)
	k.order(f)
	k.members(f)
	k.locks(f)
	k.feasible(w)
	for i := range w.Spec.Invariants {
		k.invariant(f, i)
	}
}

// flow is where the states of a workflow lead, by outcome.
type flow struct {
	c       *Catalog
	w       *Workflow
	reading *Reading
	states  []*State // in the order of the file
	number  map[string]int
	initial int
	from    [][]*edge // the edges out of each state, in the order in which arms are tried
	reach   []bool    // from the beginning
}

// end is where an edge leads that ends the run.
const end = -1

// edge is a way out of a state.
type edge struct {
	from, to  int
	outcome   string      // of the state; "" where it is left without one
	arm       *Transition // the arm that is taken; nil for events, a cancel and the end of the run
	event     *EventArm
	cancelled bool // the run was cancelled and goes to onCancel
}

func newFlow(c *Catalog, w *Workflow, reading *Reading) *flow {
	f := &flow{c: c, w: w, reading: reading, states: w.Ordered(), number: map[string]int{}, initial: end}
	for i, s := range f.states {
		f.number[s.Name] = i
	}
	if i, ok := f.number[w.Spec.Initial]; ok {
		f.initial = i
	}
	f.from = make([][]*edge, len(f.states))
	for i := range f.states {
		f.from[i] = f.out(i)
	}
	f.reach = f.reachable()
	return f
}

// out gives the edges out of a state.
func (f *flow) out(i int) []*edge {
	s := f.states[i]
	if s.Kind() == "final" {
		return nil
	}
	var out []*edge
	add := func(e edge, name string) {
		to, ok := f.number[name]
		if !ok {
			return // told where it is named
		}
		e.from, e.to = i, to
		out = append(out, &e)
	}
	for _, arm := range s.Events {
		add(edge{event: arm}, arm.To)
	}
	for _, outcome := range outcomes(f.c, s) {
		taken := false
		for _, arm := range s.Arms() {
			if !arm.Takes(outcome) {
				continue
			}
			holds := yes
			if arm.When != nil {
				holds = f.reading.cond(arm.When).decide(facts{outcome: outcome})
			}
			if holds == no {
				continue
			}
			add(edge{outcome: outcome, arm: arm}, arm.To)
			if taken = holds == yes; taken {
				break
			}
		}
		if !taken {
			out = append(out, &edge{from: i, to: end, outcome: outcome})
		}
	}
	if f.w.Spec.OnCancel != "" {
		add(edge{cancelled: true}, f.w.Spec.OnCancel)
	}
	return out
}

func (f *flow) reachable() []bool {
	reach := make([]bool, len(f.states))
	if f.initial == end {
		return reach
	}
	reach[f.initial] = true
	for queue := []int{f.initial}; len(queue) > 0; queue = queue[1:] {
		for _, e := range f.from[queue[0]] {
			if e.to != end && !reach[e.to] {
				reach[e.to] = true
				queue = append(queue, e.to)
			}
		}
	}
	return reach
}

// outcomes gives the outcomes that a state can have, knowing its task kinds.
func outcomes(c *Catalog, s *State) []string {
	never := map[string]bool{}
	switch s.Kind() {
	case "task":
		kind := c.Kinds[s.Task]
		never["inconclusive"] = kind != nil && kind.Spec.Runs != "once"
	case "approval":
		never["expired"] = s.Approval.Expires == 0
	}
	return slices.DeleteFunc(s.Outcomes(), func(o string) bool { return never[o] })
}

// quiet are outcomes that need no arm: the run ends with them.
func quiet(outcome string) bool { return outcome == "cancelled" || outcome == "superseded" }

// arms checks that each arm of a state can be taken and each outcome has one.
func (k *check) arms(f *flow, s *State) {
	path := Join("spec.states", s.Name)
	arms := s.Arms()
	if len(arms) == 0 && len(s.Events) == 0 {
		k.fault(path, "dead-end", "give it next, or make a state with final", "the state %s leads nowhere", s.Name)
		return
	}
	can := outcomes(f.c, s)
	open := slices.Clone(can)
	for i, arm := range arms {
		at := path + "." + arm.Key
		if arm.Key == "" {
			at = index(path+".transitions", i)
		}
		cond := f.reading.cond(arm.When)
		holds := func(outcome string) truth {
			if !arm.Takes(outcome) {
				return no
			}
			if arm.When == nil {
				return yes
			}
			return cond.decide(facts{outcome: outcome})
		}
		never := func(o string) bool { return holds(o) == no }
		if !slices.ContainsFunc(open, func(o string) bool { return !never(o) }) {
			k.idle(s, arm, at, can, never)
		}
		open = slices.DeleteFunc(open, func(o string) bool { return holds(o) == yes })
	}
	if open = slices.DeleteFunc(open, quiet); len(open) > 0 {
		k.warn(path, "uncovered-outcome", "onFail takes every outcome without an arm of its own",
			"the state %s may have no arm for %s: the run would end there with it", s.Name, strings.Join(open, ", "))
	}
}

// idle tells of an arm that is never taken. A short form for everything else
// may find nothing left.
func (k *check) idle(s *State, arm *Transition, at string, can []string, never func(string) bool) {
	if slices.ContainsFunc(can, func(o string) bool { return !never(o) }) {
		if arm.Key != "onFail" || slices.ContainsFunc(s.Transitions, func(t *Transition) bool { return t.When == nil }) {
			k.fault(at, "never-taken", "the first arm that matches wins", "this arm is never taken, because the ones before it take every outcome")
		}
		return
	}
	switch arm.Key {
	case "onFail":
	case "":
		k.fault(at, "never-taken", s.Name+" ends "+orWords(can), "this arm is never taken, because its condition never holds")
	default:
		hint := map[string]string{"onExpire": "give the approval expires", "onTimeout": "give the wait an event and a timeout",
			"onInconclusive": "a task that is repeatable is tried again"}[arm.Key]
		k.fault(at, "never-taken", hint, "this arm is never taken, because %s ends %s", s.Name, orWords(can))
	}
}

func (k *check) reached(f *flow) {
	for i, s := range f.states {
		if !f.reach[i] {
			k.fault(Join("spec.states", s.Name), "unreachable", "lead a transition to it, or take it out", "no path leads to the state %s", s.Name)
		}
	}
}

// endless refuses states from which no path leads to an end. It gives those
// from which one does.
func (k *check) endless(f *flow) []bool {
	into := make([][]int, len(f.states))
	ends := make([]bool, len(f.states))
	var queue []int
	for i, out := range f.from {
		for _, e := range out {
			if e.to != end {
				into[e.to] = append(into[e.to], i)
			}
		}
		if len(out) == 0 || slices.ContainsFunc(out, func(e *edge) bool { return e.to == end && !quiet(e.outcome) }) {
			ends[i] = true
			queue = append(queue, i)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, i := range into[queue[0]] {
			if !ends[i] {
				ends[i] = true
				queue = append(queue, i)
			}
		}
	}
	for i, s := range f.states {
		if f.reach[i] && !ends[i] {
			k.fault(Join("spec.states", s.Name), "endless", "lead some outcome to a final state", "from the state %s no path leads to an end", s.Name)
		}
	}
	return ends
}

// told writes a way for people: "build → verify (failed) → approve".
func (f *flow) told(way []*edge, to int) string {
	var words []string
	for _, e := range way {
		words = append(words, f.states[e.from].Name+e.how())
	}
	if to != end {
		words = append(words, f.states[to].Name)
	}
	if len(words) > 12 {
		words = slices.Concat(words[:4], []string{"…"}, words[len(words)-7:])
	}
	return strings.Join(words, " → ")
}

// how says how a state is left, where it is not left by having succeeded.
func (e *edge) how() string {
	switch {
	case e.cancelled:
		return " (the run is cancelled)"
	case e.event != nil:
		return fmt.Sprintf(" (%s comes)", e.event.Event)
	case e.outcome == "succeeded":
		return ""
	}
	return " (" + e.outcome + ")"
}
