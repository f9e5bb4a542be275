package workflows

import (
	"cmp"
	"context"
	"slices"
)

// order checks that what is undone or gone on with can have begun.
func (k *check) order(f *flow) {
	for i, s := range f.states {
		if !f.reach[i] {
			continue
		}
		path := Join("spec.states", s.Name)
		for j, name := range s.Compensate {
			if of, ok := f.number[name]; ok && undoable(f.states[of]) && !f.leads(of, i) {
				k.value(index(path+".compensate", j), "never-ran", "", "%s has never begun before %s, so nothing of it is undone", name, s.Name)
			}
		}
		if s.Deploy != nil && s.Deploy.Resume != "" {
			k.resumes(f, path+".deploy.resume", i)
		}
		if s.Approval != nil {
			for j, bound := range s.Approval.Binds {
				name, of, ok := f.state(bound)
				if ok && of != i && !f.leads(of, i) {
					k.value(index(path+".approval.binds", j), "never-ran", "bind what is there when people decide", "%s has never run before %s, so there is nothing to bind", name, s.Name)
				}
			}
		}
	}
}

// state gives the state that a path begins with.
func (f *flow) state(path string) (name string, number int, ok bool) {
	name = path
	for i := range len(path) {
		if path[i] == '.' {
			name = path[:i]
			break
		}
	}
	number, ok = f.number[name]
	return name, number, ok
}

// leads reports whether a way leads from one state to another one.
func (f *flow) leads(from, to int) bool {
	seen := make([]bool, len(f.states))
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		for _, e := range f.from[queue[0]] {
			if e.to == to {
				return true
			}
			if e.to != end && !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, e.to)
			}
		}
	}
	return false
}

// unfinished is the fact that the deployment of a state stopped part of the way.
func (f *flow) unfinished(deploy int) fact {
	name := f.states[deploy].Name
	return func(e *edge) truth {
		s := f.states[e.from]
		switch {
		case e.from == deploy, s.Deploy != nil && s.Deploy.Resume == name:
			return truthOf(e.outcome == "inconclusive" || e.event != nil || e.cancelled)
		case s.Compensate != nil && slices.Contains(s.Compensate, name) && e.outcome == "succeeded":
			return no
		}
		return unknown
	}
}

// resumes checks that a deployment which is gone on with is unfinished on every path.
func (k *check) resumes(f *flow, path string, at int) {
	name := f.states[at].Deploy.Resume
	of, ok := f.number[name]
	if !ok || f.states[of].Deploy == nil || f.states[of].Deploy.Strategy != "canary" {
		return
	}
	sp := f.follow(f.unfinished(of))
	switch {
	case !sp.seen[0][at]:
	case !sp.seen[1][at]:
		k.value(path, "nothing-unfinished", "lead here with onInconclusive, perhaps by way of an approval", "%s never stops part of the way before %s", name, f.states[at].Name)
	default:
		k.value(path, "nothing-unfinished", "lead here only when "+name+" has ended inconclusive", "%s may not have stopped part of the way here: %s", name, f.told(sp.way(at, 0), at))
		k.last().Warning = true // it fails then, and says so
	}
}

// members checks lists of forEach that stand in the file: their members are
// distinct, and are environments where they stand for them.
func (k *check) members(f *flow) {
	for _, s := range f.states {
		e := s.ForEach
		if e == nil || e.In == nil || e.In.Program == nil || len(e.In.Program.Refs()) > 0 {
			continue
		}
		at := Join("spec.states", s.Name) + ".forEach.in"
		v, err := e.In.Program.Eval(context.Background(), nil)
		if err != nil {
			continue // it depends on what is not known here
		}
		list, _ := v.([]any)
		if len(list) == 0 {
			k.value(at, "selects-nothing", "", "the list is empty, so nothing is done")
			k.last().Warning = true
		}
		seen := map[any]bool{}
		for _, member := range list {
			text, ok := member.(string)
			if !ok {
				continue
			}
			if seen[text] {
				k.value(at, "repeated-name", "each member is there once", "%q is in the list twice", text)
			}
			seen[text] = true
			if e.Do != nil && MemberName(e.Do.Doing().Environment, e.As, "") == "" && e.Do.Doing().Environment != "" {
				knownIn(k, at, "environment", text, k.c.Environments)
			}
		}
	}
}

// maxSituations is how many situations are looked at to prove an invariant.
const maxSituations = 100_000

// invariant explores every path of a workflow, as far as an invariant can tell
// them apart, and refuses the workflow when one breaks it.
func (k *check) invariant(f *flow, i int) {
	inv := f.w.Spec.Invariants[i]
	path := index("spec.invariants", i) + ".never"
	if inv.Never == nil || inv.Never.Program == nil || f.initial == end {
		return
	}
	p := newProof(f, inv.Never)
	broken, ok := p.explore()
	switch {
	case p.err != nil:
		k.value(path, "invariant-fails", "read what may be missing as labels.?tier.orValue(\"\")", "it cannot be evaluated: %s", p.err)
	case !ok:
		k.warn(path, "not-proved", "it is still watched while a run goes on; make it read fewer states to have it proved",
			"there are more than %d situations to look at, so this is not proved", maxSituations)
	case broken != "":
		what := cmp.Or(inv.Message, "this must never hold")
		k.value(path, "invariant-broken", "lead that path another way, or say what is meant", "the path %s breaks this: %s", broken, what)
	}
}

// situation is where a run may be: a state, and what an invariant has seen so far.
type situation struct {
	state     int
	seen      uint64 // bits of proof.marks
	cancelled bool
}

// proof looks for a path that breaks an invariant.
type proof struct {
	f       *flow
	never   *Expr
	entered map[int]uint64 // by state, the bit that it sets when it is entered
	granted map[int]uint64 // by approval state, the bit that it sets when it succeeds
	marks   []mark
	known   map[view]bool // values of the invariant
	err     error
	by      map[situation]step
}

type mark struct {
	of   string // entered__ or approved__
	name string
}

// view is what an invariant sees of a situation.
type view struct {
	seen    uint64
	outcome string
}

// step is how a situation came about.
type step struct {
	e   *edge
	was situation
}

// Names that the functions of invariants read, as package parse knows them.
const (
	enteredName  = "entered__"
	approvedName = "approved__"
	outcomeName  = "outcome__"
)

func newProof(f *flow, never *Expr) *proof {
	p := &proof{f: f, never: never, entered: map[int]uint64{}, granted: map[int]uint64{}, known: map[view]bool{}, by: map[situation]step{}}
	for _, ref := range never.Program.Refs() {
		if len(ref) < 2 || ref[0] != enteredName && ref[0] != approvedName || len(p.marks) == 64 {
			continue
		}
		bit := uint64(1) << len(p.marks)
		p.marks = append(p.marks, mark{ref[0], ref[1]})
		if at, ok := f.number[ref[1]]; ok {
			if ref[0] == enteredName {
				p.entered[at] |= bit
			} else {
				p.granted[at] |= bit
			}
		}
	}
	return p
}

// explore gives the first path that breaks the invariant, "" when none does.
// ok is false when there were too many situations.
func (p *proof) explore() (broken string, ok bool) {
	start := situation{state: p.f.initial, seen: p.entered[p.f.initial]}
	p.by[start] = step{}
	for queue := []situation{start}; len(queue) > 0 && p.err == nil; queue = queue[1:] {
		at := queue[0]
		s := p.f.states[at.state]
		for _, outcome := range p.outcomesAt(at, s) {
			if p.breaks(at, outcome) {
				return p.told(at, outcome), true
			}
		}
		for _, e := range p.f.from[at.state] {
			seen := at.seen
			if e.outcome == "succeeded" {
				seen |= p.granted[at.state]
			}
			if e.to == end {
				if outcome := endOutcome(e.outcome); p.breaks(situation{seen: seen}, outcome) {
					return p.told(at, "") + e.how() + " → end", true
				}
				continue
			}
			next := situation{state: e.to, seen: seen | p.entered[e.to], cancelled: at.cancelled || e.cancelled}
			if _, known := p.by[next]; known {
				continue
			}
			if len(p.by) >= maxSituations {
				return "", false
			}
			p.by[next] = step{e: e, was: at}
			queue = append(queue, next)
		}
	}
	return "", true
}

// outcomesAt lists what outcome() may give in a situation: a run goes on, has
// ended in a final state, or is cancelled there.
func (p *proof) outcomesAt(at situation, s *State) []string {
	all := []string{""}
	if s.Final != "" && !at.cancelled {
		all = append(all, s.Final)
	}
	if at.cancelled || s.Final == "" && p.f.w.Spec.OnCancel == "" {
		all = append(all, "cancelled")
	}
	return all
}

func endOutcome(outcome string) string {
	if outcome == "timedOut" || outcome == "inconclusive" {
		return "failed"
	}
	return outcome
}

// breaks evaluates the invariant, once for all situations that it cannot tell apart.
func (p *proof) breaks(at situation, outcome string) bool {
	key := view{at.seen, outcome}
	if v, ok := p.known[key]; ok {
		return v
	}
	entered, approved := map[string]any{}, map[string]any{}
	for i, m := range p.marks {
		if at.seen&(1<<i) == 0 {
			continue
		}
		if m.of == enteredName {
			entered[m.name] = true
		} else {
			approved[m.name] = true
		}
	}
	labels := map[string]any{}
	for name, value := range p.f.w.Metadata.Labels {
		labels[name] = value
	}
	v, err := p.never.Program.Eval(context.Background(), map[string]any{enteredName: entered, approvedName: approved, outcomeName: outcome, "labels": labels})
	if err != nil && p.err == nil {
		p.err = err
	}
	p.known[key] = v == true
	return v == true
}

// told writes the path to a situation.
func (p *proof) told(at situation, outcome string) string {
	var way []*edge
	last := at.state
	for s := p.by[at]; s.e != nil; s = p.by[at] {
		way = append(way, s.e)
		at = s.was
	}
	slices.Reverse(way)
	text := p.f.told(way, last)
	if outcome == "cancelled" && p.f.states[last].Final == "" {
		text += " (the run is cancelled)"
	}
	return text
}
