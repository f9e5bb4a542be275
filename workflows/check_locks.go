package workflows

import (
	"cmp"
	"maps"
	"slices"
)

// Locks. A run gives an environment back when it goes on to a state that does
// not use it, and a parallel state gives back what none of its branches needs
// any more. It holds one while it asks for another one only while a canary is
// unfinished: until it is finished or undone. Two runs that do so in opposite
// order wait for each other for ever.

// claim is a place where an environment is asked for while another one is held.
type claim struct {
	workflow      string
	holds, asks   string // environments
	holder, state string // the state whose deployment is unfinished, and the one that asks
	child         string // the workflow that asks, when it is a child run
	way           func() string
}

// claims are the places by what is held and what is asked for; of several the
// first one.
type claims map[[2]string]claim

// opposite finds one that asks for what another one holds and holds what it
// asks for.
func (cs claims) opposite(c claim) (claim, bool) {
	o, ok := cs[[2]string{c.asks, c.holds}]
	return o, ok && c.asks != c.holds
}

// maxClaims is how many of them are looked at.
const maxClaims = 10_000

// add finds the claims of a workflow.
func (cs claims) add(f *flow) {
	for i, s := range f.states {
		d := s.Deploy
		if d == nil || d.Strategy != "canary" || !f.reach[i] || d.Environment == "" {
			continue
		}
		sp := f.follow(f.unfinished(i))
		for j, other := range f.states {
			if !sp.seen[1][j] {
				continue
			}
			for _, a := range f.asks(other) {
				key := [2]string{d.Environment, a.environment}
				if _, known := cs[key]; known || len(cs) >= maxClaims || a.child == "" && a.environment == d.Environment {
					continue
				}
				cs[key] = claim{workflow: f.w.Metadata.Name, holds: d.Environment, asks: a.environment, holder: s.Name, state: other.Name,
					child: a.child, way: func() string { return f.told(sp.way(j, 1), j) }}
			}
		}
	}
}

// asked is an environment that a state asks for, itself or by a child run.
type asked struct{ environment, child string }

func (f *flow) asks(s *State) []asked {
	var found []asked
	add := func(b *Body, each *ForEach) {
		if b == nil {
			return
		}
		if b.Workflow != nil {
			for _, name := range childEnvironments(f.c, b.Workflow.Name, map[string]bool{}) {
				found = append(found, asked{name, b.Workflow.Name})
			}
			return
		}
		if b.Deploy != nil && b.Deploy.Resume != "" {
			return
		}
		places, _ := f.c.environments(b, each)
		for _, name := range places {
			found = append(found, asked{environment: name})
		}
	}
	add(&s.Body, nil)
	for _, b := range s.Branches() {
		add(&b.Body, nil)
	}
	if s.ForEach != nil {
		add(s.ForEach.Do, s.ForEach)
	}
	for _, name := range s.Compensate {
		if of := f.w.Spec.States[name]; of != nil && of.Compensate == nil {
			found = append(found, f.asks(of)...)
		}
	}
	return found
}

// childEnvironments lists the environments that a workflow and those that it
// starts work on.
func childEnvironments(c *Catalog, name string, seen map[string]bool) []string {
	w := c.Workflows[name]
	if w == nil || seen[name] || TooLarge(w) {
		return nil
	}
	seen[name] = true
	var found []string
	add := func(b *Body, each *ForEach) {
		if b == nil {
			return
		}
		if b.Workflow != nil {
			found = append(found, childEnvironments(c, b.Workflow.Name, seen)...)
		}
		places, _ := c.environments(b, each)
		found = append(found, places...)
	}
	for _, s := range w.Ordered() {
		add(&s.Body, nil)
		for _, b := range s.Branches() {
			add(&b.Body, nil)
		}
		if s.ForEach != nil {
			add(s.ForEach.Do, s.ForEach)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// locks refuses a lock order by which runs can wait for each other for ever.
// Where another workflow is part of it, it is a warning in both: neither is
// wrong by itself.
func (k *check) locks(f *flow) {
	own := claims{}
	own.add(f)
	for _, key := range slices.SortedFunc(maps.Keys(own), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		c := own[key]
		path := Join("spec.states", c.state)
		if c.holds == c.asks {
			k.fault(path, "lock-order", "finish the deployment first, or let the child run work elsewhere",
				"%s can wait for ever: its child run %s asks for the environment %s, which %s still holds (%s)", c.state, c.child, c.asks, c.holder, c.way())
			continue
		}
		if other, ok := own.opposite(c); ok {
			if c.holds < c.asks { // told once
				k.fault(path, "lock-order", "finish or undo one deployment before the other one begins",
					"two runs can wait for each other for ever: %s asks for the environment %s while %s holds %s (%s), and %s asks for %s while %s holds %s",
					c.state, c.asks, c.holder, c.holds, c.way(), other.state, other.asks, other.holder, other.holds)
			}
			continue
		}
		if other, ok := k.allClaims().opposite(c); ok && other.workflow != c.workflow {
			k.warn(path, "lock-order", "take the environments in the same order everywhere",
				"runs can wait for each other for ever: %s asks for the environment %s while %s holds %s, and in the workflow %s the state %s asks for %s while %s holds %s",
				c.state, c.asks, c.holder, c.holds, other.workflow, other.state, other.asks, other.holder, other.holds)
		}
	}
}

// everyClaim finds the claims of all workflows. Their conditions are not looked
// at: they may not be compiled yet.
func (ck *Checker) everyClaim() claims {
	all := claims{}
	for _, name := range names(ck.c.Workflows) {
		w := ck.c.Workflows[name]
		if TooLarge(w) || !slices.ContainsFunc(w.Ordered(), func(s *State) bool { return s.Deploy != nil && s.Deploy.Strategy == "canary" }) {
			continue
		}
		if f := newFlow(ck.c, w, nil); f.initial != end {
			all.add(f)
		}
	}
	return all
}
