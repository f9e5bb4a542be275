package workflows

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestComponentsAreWhatReachesEachOther compares with the slow way: two nodes
// are together when each reaches the other.
func TestComponentsAreWhatReachesEachOther(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		to := make([][]int, 1+r.IntN(9))
		for range r.IntN(20) {
			from := r.IntN(len(to))
			to[from] = append(to[from], r.IntN(len(to)))
		}
		part := make([]int, len(to))
		for i, nodes := range components(to) {
			for _, v := range nodes {
				part[v] = i
			}
		}
		for a := range to {
			for b := range to {
				if together := a == b || reaches(to, a, b) && reaches(to, b, a); together != (part[a] == part[b]) {
					t.Fatalf("%v: %d and %d", to, a, b)
				}
				if slices.Contains(to[a], b) && part[b] > part[a] {
					t.Fatalf("%v: the component of %d comes before that of %d, which it leads to", to, a, b)
				}
			}
		}
	}
}

func reaches(to [][]int, from, node int) bool {
	seen := map[int]bool{}
	var visit func(int) bool
	visit = func(v int) bool {
		for _, w := range to[v] {
			if w == node {
				return true
			}
			if !seen[w] {
				seen[w] = true
				if visit(w) {
					return true
				}
			}
		}
		return false
	}
	return visit(from)
}

func op(name string, of ...*Cond) *Cond {
	c := &Cond{Op: name, Of: of, Weight: 1}
	for _, part := range of {
		c.Weight += part.Weight
	}
	return c
}

func TestConditionsAreDecidedAsFarAsTheFactsGo(t *testing.T) {
	other := op("")
	is := func(words ...string) *Cond { return &Cond{Op: "outcome", Words: words, Weight: 1} }
	few := &Cond{Op: "visits", State: "a", Weight: 1}
	there := &Cond{Op: "has", Path: []string{"build", "digest"}, Weight: 1}
	failed := facts{outcome: "failed"}
	for name, tt := range map[string]struct {
		c    *Cond
		f    facts
		want truth
	}{
		"nothing is known of a condition that is not understood": {nil, failed, unknown},
		"and is false when a part is, whatever the others":       {op("and", other, is("succeeded")), failed, no},
		"and is open when a part is":                             {op("and", other, is("failed")), failed, unknown},
		"or is true when a part is":                              {op("or", other, is("failed", "timedOut")), failed, yes},
		"or is open when a part is":                              {op("or", other, is("succeeded")), failed, unknown},
		"not turns it round":                                     {op("not", is("succeeded")), failed, yes},
		"without an outcome it is open":                          {is("failed"), facts{}, unknown},
		"a choice by what is known":                              {op("if", is("failed"), op("false"), other), failed, no},
		"a choice that does not matter":                          {op("if", other, op("true"), op("true")), failed, yes},
		"visits that have grown":                                 {few, facts{grown: "a"}, no},
		"visits of another state":                                {few, facts{grown: "b"}, unknown},
		"what is not there":                                      {there, facts{absent: gone("build")}, no},
		"what may be there":                                      {there, facts{absent: gone("test")}, unknown},
		"what is too large to look into":                         {&Cond{Op: "true", Weight: maxWeight + 1}, failed, unknown},
	} {
		if got := tt.c.decide(tt.f); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// TestOutputsAreThereOnEveryPathOrNot compares what is surely assigned with
// the slow way: walking at random, for long.
func TestOutputsAreThereOnEveryPathOrNot(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		f := randomFlow(r)
		may := make([][2][]bool, len(f.states)) // by state read, by value, by place
		for i := range may {
			may[i] = [2][]bool{make([]bool, len(f.states)), make([]bool, len(f.states))}
		}
		for range 200 {
			has := make([]bool, len(f.states))
			at := f.initial
			for range 40 {
				for i, h := range has {
					may[i][map[bool]int{false: 0, true: 1}[h]][at] = true
				}
				out := f.from[at]
				if len(out) == 0 {
					break
				}
				e := out[r.IntN(len(out))]
				if has[at] = e.outcome == "succeeded"; e.to == end {
					break
				}
				at = e.to
			}
		}
		for i := range f.states {
			sp := f.follow(hasOutputs(i))
			for at := range f.states {
				for value := range 2 {
					if may[i][value][at] && !sp.seen[value][at] {
						t.Fatalf("s%d has outputs (%d) at s%d on some path, which is not seen", i, value, at)
					}
					if sp.seen[value][at] {
						checkWay(t, f, i, at, value, sp.way(at, value))
					}
				}
			}
		}
	}
}

// checkWay walks a way and looks at what it leads to.
func checkWay(t *testing.T, f *flow, state, at, value int, way []*edge) {
	t.Helper()
	here, has := f.initial, false
	for _, e := range way {
		if e.from != here {
			t.Fatalf("the way leaves s%d where it is at s%d", e.from, here)
		}
		if here == state {
			has = e.outcome == "succeeded"
		}
		here = e.to
	}
	if here != at || has != (value == 1) {
		t.Fatalf("the way leads to s%d (%v), want s%d (%d)", here, has, at, value)
	}
}

func randomFlow(r *rand.Rand) *flow {
	n := 2 + r.IntN(5)
	f := &flow{number: map[string]int{}, from: make([][]*edge, n)}
	for i := range n {
		f.states = append(f.states, &State{Name: string(rune('a' + i))})
		for range 1 + r.IntN(3) {
			f.from[i] = append(f.from[i], &edge{from: i, to: r.IntN(n+1) - 1, outcome: []string{"succeeded", "failed"}[r.IntN(2)]})
		}
	}
	return f
}

// TestNoLoopWithoutEndIsTakenForBounded compares with the slow way: all
// situations of small workflows, with how often each state was visited.
func TestNoLoopWithoutEndIsTakenForBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	bounded := 0
	for range 2000 {
		f := randomFlow(r)
		f.states, f.from = f.states[:min(len(f.states), 4)], f.from[:min(len(f.states), 4)]
		g := &circles{f: f, alive: map[*edge]bool{}, bound: map[*edge][]int{}}
		for _, out := range f.from {
			for _, e := range out {
				if e.to >= len(f.states) {
					e.to = end
				}
				if e.to != end {
					g.alive[e] = true
					for s := range f.states {
						if r.IntN(4) == 0 {
							g.bound[e] = append(g.bound[e], s)
						}
					}
				}
			}
		}
		for g.cut() {
		}
		if len(g.parts()) > 0 {
			continue // it may be too careful
		}
		bounded++
		if endless(f, g.bound) {
			t.Fatalf("%v is taken for bounded, with %v", f.from, g.bound)
		}
	}
	if bounded < 200 {
		t.Errorf("only %d were bounded", bounded)
	}
}

// endless reports whether some path goes on for ever, when an edge can be taken
// as long as each of its states was visited fewer than three times.
func endless(f *flow, bound map[*edge][]int) bool {
	type here struct {
		state  int
		visits [4]int
	}
	const open, done = 1, 2
	seen := map[here]int{}
	var visit func(here) bool
	visit = func(at here) bool {
		switch seen[at] {
		case open:
			return true
		case done:
			return false
		}
		seen[at] = open
		for _, e := range f.from[at.state] {
			if e.to == end || slices.ContainsFunc(bound[e], func(s int) bool { return at.visits[s] >= 3 }) {
				continue
			}
			next := here{e.to, at.visits}
			next.visits[e.to] = min(next.visits[e.to]+1, 3)
			if visit(next) {
				return true
			}
		}
		seen[at] = done
		return false
	}
	start := here{state: f.initial}
	start.visits[f.initial] = 1
	return visit(start)
}
