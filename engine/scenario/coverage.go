package scenario

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// seen is what a world came through.
type seen struct {
	states    map[string]bool // "workflow/state"
	arms      map[string]bool // "workflow/state/key" of transitions that were taken
	decisions []record.Decision
}

func newSeen() seen { return seen{states: map[string]bool{}, arms: map[string]bool{}} }

// add notes what a step of a run came through; prev is its state before.
func (s *seen) add(d run.Definitions, prev *run.State, t *run.Transition) {
	name := d.Workflow.Metadata.Name
	leaving := prev != nil && prev.Leaving != nil // the way was decided before
	for _, e := range t.Events {
		at := name + "/" + e.Data.State + "/"
		st := d.Workflow.Spec.States[e.Data.State]
		switch e.Type {
		case events.StateEntered:
			s.states[name+"/"+e.Data.State] = true
		case events.RunHeard:
			if key := eventArm(st, e.Data, t.Decisions); key != "" {
				s.arms[at+key], leaving = true, true
			}
		case events.StateLeft:
			if key := armTaken(st, e.Data, t.Decisions); key != "" && !leaving {
				s.arms[at+key] = true
			}
			leaving = false
		}
	}
	s.decisions = append(s.decisions, t.Decisions...)
}

// armTaken names the arm by which a state was left, "" for none: the first one
// that takes the outcome and whose condition held in the same step.
func armTaken(st *workflows.State, left events.Happening, decisions []record.Decision) string {
	if st == nil || left.To == "" {
		return ""
	}
	for i, arm := range st.Arms() {
		if arm.To == left.To && arm.Takes(left.Outcome) && (arm.When == nil || held(decisions, st.Name, armKey(arm, i))) {
			return armKey(arm, i)
		}
	}
	return ""
}

// eventArm names the arm that an event has taken, "" for none.
func eventArm(st *workflows.State, heard events.Happening, decisions []record.Decision) string {
	if st == nil || heard.To == "" || heard.Cause == nil {
		return ""
	}
	for i, arm := range st.Events {
		if arm.To == heard.To && workflows.Match(arm.Event, heard.Cause.Type) && (arm.When == nil || held(decisions, st.Name, eventKey(i))) {
			return eventKey(i)
		}
	}
	return ""
}

// armKey names an arm as it stands in the file: "next", "transitions[1]".
func armKey(arm *workflows.Transition, i int) string {
	return cmp.Or(arm.Key, "transitions["+strconv.Itoa(i)+"]")
}

func eventKey(i int) string { return "events[" + strconv.Itoa(i) + "]" }

// held reports whether the condition of an arm was true.
func held(decisions []record.Decision, state, key string) bool {
	want := workflows.Join("spec.states", state) + "." + key + ".when"
	return slices.ContainsFunc(decisions, func(d record.Decision) bool { return d.Rule == want && d.Value == true })
}

// Sorts of what can be covered.
const (
	SortState      = "state"
	SortTransition = "transition"
	SortRule       = "rule"
)

// Coverage is how much of a workflow its scenarios came through.
type Coverage struct {
	Workflow  string
	Scenarios int
	Items     []*Item

	rules map[string]*rule
}

// Item is something that a scenario can come through: a state, a transition,
// or one way in which a rule can be decided.
type Item struct {
	Sort    string
	Name    string // "approve", "approve → stopped (onFail)", "spec.….when: false because of a clause"
	Pos     workflows.Pos
	Covered bool

	key string
}

// rule is an expression that decides, with its items.
type rule struct {
	of, path string
	expr     *workflows.Expr
	values   map[bool]*Item
	probes   []*probe
}

type probe struct {
	item    *Item
	program workflows.Program
}

// NewCoverage lists what of a workflow can be covered: its states, its
// transitions, its rules, and the rules of the environments that it names.
// Triggers and invariants are not looked at: a scenario does not come through
// them.
func NewCoverage(c *workflows.Catalog, name string) *Coverage {
	wf := c.Workflows[name]
	cov := &Coverage{Workflow: name, rules: map[string]*rule{}}
	if wf == nil {
		return cov
	}
	for _, st := range wf.Ordered() {
		at := workflows.Join("spec.states", st.Name)
		cov.item(SortState, name+"/"+st.Name, st.Name, wf.Origin.Place(at))
		for i, arm := range st.Arms() {
			key := armKey(arm, i)
			cov.item(SortTransition, name+"/"+st.Name+"/"+key, fmt.Sprintf("%s → %s (%s)", st.Name, arm.To, key), wf.Origin.Place(at+"."+key))
		}
		for i, arm := range st.Events {
			key := eventKey(i)
			cov.item(SortTransition, name+"/"+st.Name+"/"+key, fmt.Sprintf("%s → %s (%s)", st.Name, arm.To, key), wf.Origin.Place(at+"."+key))
		}
	}
	cov.ruleIn(workflows.KindWorkflow+"/"+name, reflect.ValueOf(wf).Elem(), "")
	for _, env := range environmentsOf(c, wf) {
		e := c.Environments[env]
		cov.ruleIn(workflows.KindEnvironment+"/"+env, reflect.ValueOf(e).Elem(), "")
		for _, policy := range sortedKeys(c.Policies) {
			if p := c.Policies[policy]; p.Matches(e, name) {
				cov.ruleIn(workflows.KindPolicy+"/"+policy, reflect.ValueOf(p).Elem(), "")
			}
		}
	}
	return cov
}

func (c *Coverage) item(sort, key, name string, pos workflows.Pos) *Item {
	it := &Item{Sort: sort, Name: name, Pos: pos, key: key}
	c.Items = append(c.Items, it)
	return it
}

// notRules are keys whose expression is no condition that a run comes through.
var notRules = []string{"in", "until", "never", "triggers"}

// ruleIn finds the rules in a definition, whatever its shape.
func (c *Coverage) ruleIn(of string, v reflect.Value, path string) {
	eachExpr(v, path, func(path string, e *workflows.Expr) {
		if e.Program != nil {
			c.rule(of, path, e)
		}
	})
}

// rule adds the items of a rule, once.
func (c *Coverage) rule(of, path string, e *workflows.Expr) {
	key := of + " " + path
	if c.rules[key] != nil {
		return
	}
	name := shortPath(path)
	if !strings.HasSuffix(of, "/"+c.Workflow) {
		name = strings.TrimPrefix(of, workflows.KindEnvironment+"/") + " " + name
	}
	r := &rule{of: of, path: path, expr: e, values: map[bool]*Item{}}
	c.rules[key] = r
	for _, v := range []bool{true, false} {
		r.values[v] = c.item(SortRule, key, fmt.Sprintf("%s is %v: %s", name, v, oneLine(e.Source)), e.Pos)
	}
	compiler, ok := e.Program.(workflows.Compiler)
	if !ok {
		return
	}
	for _, b := range branches(e.Source) {
		program, err := compiler.Compile(b.probe)
		if err != nil {
			continue // what cannot be asked is not counted
		}
		r.probes = append(r.probes, &probe{c.item(SortRule, key, fmt.Sprintf("%s: %s decides when it is %v", name, oneLine(b.clause), b.value), e.Pos), program})
	}
}

// Add adds what a result came through.
func (c *Coverage) Add(r *Result) {
	c.Scenarios++
	for _, it := range c.Items {
		switch it.Sort {
		case SortState:
			it.Covered = it.Covered || r.seen.states[it.key]
		case SortTransition:
			it.Covered = it.Covered || r.seen.arms[it.key]
		}
	}
	for _, d := range r.seen.decisions {
		v, ok := d.Value.(bool)
		rule := c.ruleOf(d)
		if !ok || rule == nil {
			continue
		}
		rule.values[v].Covered = true
		for _, p := range rule.probes {
			if p.item.Covered {
				continue
			}
			is, err := p.program.Eval(context.Background(), d.Inputs)
			p.item.Covered = err == nil && is == true
		}
	}
}

// ruleOf finds the rule that a decision is about. Where the core calls it by
// another path than the file, the source and the document tell which it is.
func (c *Coverage) ruleOf(d record.Decision) *rule {
	if r := c.rules[d.Of+" "+d.Rule]; r != nil {
		return r
	}
	var best *rule
	for _, key := range sortedKeys(c.rules) {
		r := c.rules[key]
		if r.of == d.Of && r.expr.Source == d.Source && (best == nil || common(r.path, d.Rule) > common(best.path, d.Rule)) {
			best = r
		}
	}
	if best != nil {
		c.rules[d.Of+" "+d.Rule] = best
	}
	return best
}

// common is the length of what two paths have in common at their beginning.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// Count tells how many items of a sort are covered, of how many; an empty sort
// is all of them.
func (c *Coverage) Count(sort string) (covered, all int) {
	for _, it := range c.Items {
		if sort == "" || it.Sort == sort {
			all++
			if it.Covered {
				covered++
			}
		}
	}
	return covered, all
}

// eachExpr visits the expressions of a definition that decide something, with
// their paths.
func eachExpr(v reflect.Value, path string, visit func(path string, e *workflows.Expr)) {
	eachPart(v, path, func(path string, v reflect.Value) {
		if e, ok := v.Addr().Interface().(*workflows.Expr); ok {
			visit(path, e)
		}
	})
}

// eachPart visits all that pointers in a definition lead to, and the structs in
// it, in a fixed order and with their paths.
func eachPart(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachPart(v.Elem(), path, visit)
		}
	case reflect.Struct:
		visit(path, v)
		switch v.Addr().Interface().(type) {
		case *workflows.Expr, *workflows.Data:
			return
		}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			switch {
			case options == "inline":
				eachPart(v.Field(i), path, visit)
			case key != "" && key != "-" && !slices.Contains(notRules, key):
				eachPart(v.Field(i), strings.TrimPrefix(path+"."+key, "."), visit)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachPart(v.Index(i), index(path, i), visit)
		}
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String || v.Type().Elem().Kind() != reflect.Pointer {
			return
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, k := range keys {
			eachPart(v.MapIndex(k), workflows.Join(path, k.String()), visit)
		}
	}
}

// environmentsOf names the environments that a workflow speaks of, by name or
// by labels, sorted.
func environmentsOf(c *workflows.Catalog, wf *workflows.Workflow) []string {
	named := map[string]bool{}
	body := func(b *workflows.Body) {
		named[b.Environment] = true
		if b.Deploy != nil {
			named[b.Deploy.Environment] = true
		}
	}
	for _, st := range wf.Spec.States {
		body(&st.Body)
		for _, b := range st.Parallel {
			body(&b.Body)
		}
		if f := st.ForEach; f != nil {
			body(f.Do)
			if f.Environments != nil {
				for _, name := range c.Selected(f.Environments) {
					named[name] = true
				}
			}
		}
		if st.Approval != nil {
			for _, name := range st.Approval.Environments {
				named[name] = true
			}
		}
	}
	return slices.DeleteFunc(sortedKeys(named), func(name string) bool { return c.Environments[name] == nil })
}

// shortPath is a path for people, without what stands in all of them.
func shortPath(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, "spec."), "states.")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
