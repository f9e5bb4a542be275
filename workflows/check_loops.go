package workflows

import "slices"

// loops refuses circles of states that can go on for ever by themselves. A
// circle is bounded where one of its arms can no longer be taken when a state
// that every way round passes was visited often enough, or where it goes on
// only when people decide or an event comes.
func (k *check) loops(f *flow, ends []bool) {
	g := &circles{f: f, alive: map[*edge]bool{}, bound: map[*edge][]int{}}
	for i, out := range f.from {
		for _, e := range out {
			if f.reach[i] && e.to != end && !f.outside(e) {
				g.alive[e] = true
				g.bound[e] = f.bounds(e)
			}
		}
	}
	for g.cut() {
	}
	for _, part := range g.parts() {
		if !ends[part[0]] {
			continue // told already
		}
		first := f.states[part[0]]
		for _, i := range part {
			if s := f.states[i]; s.Index < first.Index {
				first = s
			}
		}
		if slices.ContainsFunc(part, func(i int) bool {
			return slices.ContainsFunc(f.states[i].Transitions, func(t *Transition) bool { return t.When != nil && t.When.Program == nil })
		}) {
			continue // a condition could not be understood: a problem says so
		}
		way := g.round(f.number[first.Name])
		k.fault(Join("spec.states", first.Name), "unbounded-loop", `let a condition on the way ask visits("`+first.Name+`") < 3, say`,
			"nothing bounds this circle: %s", f.told(way, f.number[first.Name]))
	}
}

// outside reports whether an edge is taken only because people decide or
// events come.
func (f *flow) outside(e *edge) bool {
	s := f.states[e.from]
	switch {
	case e.event != nil || e.cancelled:
		return true
	case s.Approval != nil:
		return e.outcome == "rejected" || e.outcome == "succeeded" && s.Approval.Auto == nil
	case s.Wait != nil:
		return s.Wait.Event != "" && e.outcome == "succeeded"
	}
	return false
}

// bounds gives the states of which many visits close an edge: its condition
// fails then, or an arm before it is taken instead.
func (f *flow) bounds(e *edge) []int {
	var closing []int
	for _, arm := range f.states[e.from].Arms() {
		if !arm.Takes(e.outcome) {
			continue
		}
		cond := f.reading.cond(arm.When)
		for _, name := range cond.counted() {
			at, ok := f.number[name]
			if !ok || slices.Contains(closing, at) {
				continue
			}
			holds := cond.decide(facts{outcome: e.outcome, grown: name})
			if arm.same(e.arm) && holds == no || !arm.same(e.arm) && holds == yes {
				closing = append(closing, at)
			}
		}
		if arm.same(e.arm) {
			break
		}
	}
	return closing
}

// same reports whether two arms of a state are one: short forms are made anew
// each time.
func (t *Transition) same(other *Transition) bool {
	return t == other || t.Key != "" && t.Key == other.Key
}

// circles are the edges that may still be taken for ever.
type circles struct {
	f     *flow
	alive map[*edge]bool
	bound map[*edge][]int
	steps int
}

// maxLoopSteps bounds the work on a workflow. What is not proved by then counts as
// unbounded.
const maxLoopSteps = 20_000_000

func (g *circles) graph() [][]int {
	to := make([][]int, len(g.f.states))
	for i, out := range g.f.from {
		for _, e := range out {
			if g.alive[e] {
				to[i] = append(to[i], e.to)
			}
		}
	}
	return to
}

// parts gives the groups of states that can be gone round.
func (g *circles) parts() [][]int {
	to := g.graph()
	return slices.DeleteFunc(components(to), func(part []int) bool {
		return len(part) == 1 && !slices.Contains(to[part[0]], part[0])
	})
}

// cut takes out edges that are not taken for ever, because every way round
// them passes a state whose visits close them. It reports whether there were any.
func (g *circles) cut() bool {
	cut := false
	part := make([]int, len(g.f.states))
	for n, states := range g.parts() {
		for _, i := range states {
			part[i] = n + 1
		}
	}
	for i, out := range g.f.from {
		for _, e := range out {
			if !g.alive[e] {
				continue
			}
			if part[i] == 0 || part[i] != part[e.to] {
				delete(g.alive, e) // no circle
				continue
			}
			if slices.ContainsFunc(g.bound[e], func(by int) bool { return part[by] == part[i] && !g.goesRound(e, by) }) {
				delete(g.alive, e)
				cut = true
			}
		}
	}
	return cut
}

// goesRound reports whether the target of an edge leads back to its origin
// without passing a state.
func (g *circles) goesRound(e *edge, without int) bool {
	if e.to == without || e.from == without {
		return false
	}
	if g.steps > maxLoopSteps {
		return true
	}
	seen := map[int]bool{e.to: true}
	for queue := []int{e.to}; len(queue) > 0; queue = queue[1:] {
		if queue[0] == e.from {
			return true
		}
		g.steps += len(g.f.from[queue[0]])
		for _, next := range g.f.from[queue[0]] {
			if g.alive[next] && next.to != without && !seen[next.to] {
				seen[next.to] = true
				queue = append(queue, next.to)
			}
		}
	}
	return false
}

// round gives the shortest way from a state back to itself.
func (g *circles) round(start int) []*edge {
	by := map[int]*edge{}
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.f.from[queue[0]] {
			if !g.alive[e] || by[e.to] != nil {
				continue
			}
			by[e.to] = e
			if e.to == start {
				way := []*edge{e}
				for at := e.from; at != start; at = by[at].from {
					way = append(way, by[at])
				}
				slices.Reverse(way)
				return way
			}
			queue = append(queue, e.to)
		}
	}
	return nil
}
