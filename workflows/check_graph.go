package workflows

import (
	"slices"
	"strings"
)

// graph checks where the states lead.
func (k *check) graph(w *Workflow) {
	for _, s := range w.Ordered() {
		path := Join("spec.states", s.Name)
		if len(bodies(s)) == 1 && s.Kind() != "final" {
			k.arms(path, s)
		}
	}
	if w.Spec.States[w.Spec.Initial] == nil {
		return
	}
	reached := reachable(w)
	for _, s := range w.Ordered() {
		if !reached[s.Name] {
			k.fault(Join("spec.states", s.Name), "unreachable", "lead a transition to it, or take it out", "no path leads to the state %s", s.Name)
		}
	}
	k.endless(w, reached)
}

// arms checks that each arm of a state can be taken and each outcome has one.
func (k *check) arms(path string, s *State) {
	arms := s.Arms()
	if len(arms) == 0 {
		k.fault(path, "dead-end", "give it next, or make a state with final", "the state %s leads nowhere", s.Name)
		return
	}
	open := k.outcomes(s)
	for i, arm := range arms {
		takes := slices.ContainsFunc(open, arm.Takes)
		at := path + "." + arm.Key
		if arm.Key == "" {
			at = index(path+".transitions", i)
		}
		if !takes && (arm.Key == "" || !k.shadowsNothing(s, arm)) {
			k.fault(at, "never-taken", "the first arm that matches wins", "this arm is never taken, because the ones before it take every outcome")
		}
		if arm.When == nil {
			open = slices.DeleteFunc(open, arm.Takes)
		}
	}
	open = slices.DeleteFunc(open, func(o string) bool { return o == "cancelled" || o == "superseded" })
	// Arms with conditions may cover the rest; whether they do shows only at run time.
	if len(open) > 0 {
		k.warn(path, "uncovered-outcome", "onFail takes every outcome without an arm of its own",
			"the state %s may have no arm for %s: the run would end there with it", s.Name, strings.Join(open, ", "))
	}
}

// shadowsNothing reports whether a short form is idle only because the state
// cannot have its outcomes at all, as onFail beside onReject and onExpire.
func (k *check) shadowsNothing(s *State, arm *Transition) bool {
	if arm.Key == "onFail" {
		return !slices.ContainsFunc(s.Transitions, func(t *Transition) bool { return t.When == nil })
	}
	return !slices.ContainsFunc(k.outcomes(s), arm.Takes)
}

// outcomes gives the outcomes that a state can have, knowing its task kinds.
func (k *check) outcomes(s *State) []string {
	outcomes := s.Outcomes()
	once := func(a *Activity) bool {
		kind := k.c.Kinds[a.Task]
		return kind == nil || kind.Spec.Runs == "once"
	}
	conclusive := s.Kind() == "task" && !once(&s.Activity) ||
		s.Kind() == "parallel" && !slices.ContainsFunc(s.Branches(), func(b *Branch) bool { return once(&b.Activity) })
	return slices.DeleteFunc(slices.Clone(outcomes), func(o string) bool { return o == "inconclusive" && conclusive })
}

func reachable(w *Workflow) map[string]bool {
	reached := map[string]bool{w.Spec.Initial: true}
	for queue := []string{w.Spec.Initial}; len(queue) > 0; queue = queue[1:] {
		for _, arm := range w.Spec.States[queue[0]].Arms() {
			if w.Spec.States[arm.To] != nil && !reached[arm.To] {
				reached[arm.To] = true
				queue = append(queue, arm.To)
			}
		}
	}
	return reached
}

// endless refuses states from which no path leads to an end.
func (k *check) endless(w *Workflow, reached map[string]bool) {
	ends := map[string]bool{}
	for changed := true; changed; {
		changed = false
		for _, s := range w.Ordered() {
			if !ends[s.Name] && k.canEnd(s, ends) {
				ends[s.Name], changed = true, true
			}
		}
	}
	for _, s := range w.Ordered() {
		if reached[s.Name] && !ends[s.Name] {
			k.fault(Join("spec.states", s.Name), "endless", "lead some outcome to a final state", "from the state %s no path leads to an end", s.Name)
		}
	}
}

func (k *check) canEnd(s *State, ends map[string]bool) bool {
	arms := s.Arms()
	if len(arms) == 0 {
		return true // an end, or a dead end with a problem of its own
	}
	open := k.outcomes(s)
	for _, arm := range arms {
		if ends[arm.To] || len(bodies(s)) != 1 {
			return true
		}
		if arm.When == nil {
			open = slices.DeleteFunc(open, arm.Takes)
		}
	}
	return slices.ContainsFunc(open, func(o string) bool { return o != "cancelled" && o != "superseded" })
}
