package workflows

import "slices"

// fact is something that becomes true and false as a run goes from state to
// state: that build has outputs, that a canary is unfinished.
type fact func(e *edge) truth // unknown: as it was

// spread tells for each state whether a fact may be false there when it is
// entered, and whether it may be true.
type spread struct {
	f    *flow
	seen [2][]bool // by truth: 0 false, 1 true
	by   [2][]*edge
	was  [2][]int
}

// follow spreads a fact, false at the beginning, over all paths.
func (f *flow) follow(holds fact) *spread {
	n := len(f.states)
	sp := &spread{f: f}
	for v := range 2 {
		sp.seen[v], sp.by[v], sp.was[v] = make([]bool, n), make([]*edge, n), make([]int, n)
	}
	type node struct{ state, value int }
	sp.seen[0][f.initial] = true
	for queue := []node{{f.initial, 0}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, e := range f.from[at.state] {
			if e.to == end {
				continue
			}
			value := sp.after(holds, e, at.value)
			if !sp.seen[value][e.to] {
				sp.seen[value][e.to], sp.by[value][e.to], sp.was[value][e.to] = true, e, at.value
				queue = append(queue, node{e.to, value})
			}
		}
	}
	return sp
}

func (sp *spread) after(holds fact, e *edge, value int) int {
	switch holds(e) {
	case yes:
		return 1
	case no:
		return 0
	}
	return value
}

// way gives a shortest way to a state on which the fact has the value there.
func (sp *spread) way(state, value int) []*edge {
	var way []*edge
	for sp.by[value][state] != nil && len(way) <= 2*len(sp.f.states) {
		e := sp.by[value][state]
		way = append(way, e)
		state, value = e.from, sp.was[value][state]
	}
	slices.Reverse(way)
	return way
}

// hasOutputs is the fact that a state has the outputs of its last visit: it is
// left by having succeeded, and was not entered again since.
func hasOutputs(state int) fact {
	return func(e *edge) truth {
		if e.from != state {
			return unknown
		}
		return truthOf(e.outcome == "succeeded")
	}
}
