package parse

import (
	"maps"
	"slices"
	"strconv"

	"github.com/penstock-cd/penstock/workflows"
)

// compiler compiles the expressions of one document against a catalog. Which
// names a position may read is the table in docs/language.md.
type compiler struct {
	c        *workflows.Catalog
	unit     *unit
	compiled map[expressionKey]compiled

	expressions int // so far
	noting      any // the *Expr or *Data that is compiled
	roleNames   []string
}

// roles gives the names of all roles; none when there is no Roles document.
func (c *compiler) roles() []string {
	if c.roleNames == nil {
		c.roleNames = []string{}
		for _, doc := range c.c.Roles {
			c.roleNames = append(c.roleNames, sorted(doc.Spec.Roles)...)
		}
		slices.Sort(c.roleNames)
		c.roleNames = slices.Compact(c.roleNames)
	}
	return c.roleNames
}

func (c *compiler) run() {
	switch doc := c.unit.value.(type) {
	case *workflows.Workflow:
		c.workflow(doc)
	case *workflows.Environment:
		c.rules(doc.Spec.Require, requireScope())
	case *workflows.Policy:
		c.rules(doc.Spec.Require, policyScope())
	case *workflows.Channel:
		for _, name := range sorted(doc.Spec.Templates) {
			c.data(doc.Spec.Templates[name], templateScope(), workflows.Join("spec.templates", name), "string")
		}
	}
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func (c *compiler) rules(rules []*workflows.Rule, sc *scope) {
	for i, rule := range rules {
		path := indexed("spec.require", i)
		c.condition(rule.Expression, sc, path+".expression")
		c.data(rule.Message, sc, path+".message", "string")
	}
}

func (c *compiler) workflow(w *workflows.Workflow) {
	world := newWorld(c.c, w)
	atStart := []string{"inputs", "run"}
	c.data(w.Spec.Title, world.at("the title", nil, atStart...), "spec.title", "string")
	if k := w.Spec.Concurrency; k != nil {
		c.data(k.Key, world.at("concurrency.key", nil, atStart...), "spec.concurrency.key", "string")
	}
	for i, t := range w.Spec.Triggers {
		path, scope := indexed("spec.triggers", i), triggerScope()
		if t.Schedule != nil {
			scope = scheduleScope()
		}
		c.condition(t.When, scope, path+".when")
		c.given(t.Inputs, w.Spec.Inputs, scope, path+".inputs")
	}
	for _, s := range w.Ordered() {
		c.state(world, s)
	}
	for i, f := range w.Spec.Finally {
		c.activity(world, nil, &f.Activity, indexed("spec.finally", i))
	}
	for i, rule := range w.Spec.Notify {
		c.condition(rule.When, world.at("notify.when", nil, "state", "outcome", "run", "inputs"), indexed("spec.notify", i)+".when")
	}
	for i, v := range w.Spec.Invariants {
		c.condition(v.Never, world.invariant(), indexed("spec.invariants", i)+".never")
	}
	for _, name := range sorted(w.Spec.Outputs) {
		out, path := w.Spec.Outputs[name], workflows.Join("spec.outputs", name)
		c.data(out.Value, world.at("an output", world.states, atStart...), path+".value", workflows.Type(out.Type))
	}
}

// given compiles what the inputs of a workflow are given.
func (c *compiler) given(inputs map[string]*workflows.Data, declared map[string]*workflows.Input, sc *scope, path string) {
	for _, name := range sorted(inputs) {
		var want workflows.Type
		if input := declared[name]; input != nil {
			want = workflows.Type(input.Type)
		}
		c.data(inputs[name], sc, workflows.Join(path, name), want)
	}
}

func (c *compiler) state(world *world, s *workflows.State) {
	path := workflows.Join("spec.states", s.Name)
	c.body(world, nil, &s.Body, path)
	for _, b := range s.Branches() {
		c.body(world, nil, &b.Body, workflows.Join(path+".parallel", b.Name))
	}
	if f := s.ForEach; f != nil {
		c.typed(f.In, world.at("forEach.in", world.states, "inputs", "run"), path+".forEach.in", "list(string)")
		if f.Do != nil {
			c.body(world, []string{f.As}, f.Do, path+".forEach.do")
		}
	}
	if len(s.Gate) > 0 {
		scope := world.gate(s)
		for i, r := range s.Gate {
			line := indexed(path+".gate", i)
			c.condition(r.Require, scope, line+".require")
			c.condition(r.Warn, scope, line+".warn")
			c.data(r.Message, scope, line+".message", "string")
		}
	}
	if a := s.Approval; a != nil {
		c.approval(world, a, path+".approval")
	}
	if wait := s.Wait; wait != nil {
		c.typed(wait.Until, world.at("wait.until", world.states, "inputs", "run"), path+".wait.until", "timestamp")
		c.condition(wait.When, world.at("wait.when", world.states, "event", "inputs", "run"), path+".wait.when")
	}
	for i, arm := range s.Events {
		c.condition(arm.When, world.at("events.when", world.states, "event", "inputs", "run"), indexed(path+".events", i)+".when")
	}
	for i, t := range s.Transitions {
		scope := world.at("transitions.when", world.states, "outcome", "error", "inputs", "run", visitsName)
		c.condition(t.When, scope, indexed(path+".transitions", i)+".when")
	}
}

func (c *compiler) approval(world *world, a *workflows.Approval, path string) {
	people := []string{"approvals", "rejections", "inputs", "run"}
	c.condition(a.Rule, world.at("an approval's rule", world.states, people...), path+".rule")
	c.condition(a.Reject, world.at("an approval's reject", world.states, people...), path+".reject")
	c.condition(a.Auto, world.at("an approval's auto", world.states, people...), path+".auto")
	c.data(a.Message, world.at("a message", world.states, "inputs", "run"), path+".message", "string")
}

// body compiles what is done at one place. members are the names that it has
// besides those of its position.
func (c *compiler) body(world *world, members []string, b *workflows.Body, path string) {
	c.activity(world, members, &b.Activity, path)
	if child := b.Workflow; child != nil {
		var declared map[string]*workflows.Input
		if w := c.c.Workflows[child.Name]; w != nil {
			declared = w.Spec.Inputs
		}
		scope := world.at("the inputs of a child run", world.states, append(members, "inputs", "run")...)
		c.given(child.Inputs, declared, scope, path+".workflow.inputs")
	}
	if d := b.Deploy; d != nil {
		scope := world.at("deploy", world.states, append(members, "inputs", "run", "env")...)
		c.data(d.Artifact, scope, path+".deploy.artifact", "string")
		c.with(d.With, "deploy", scope, path+".deploy.with")
		for i, m := range d.Analysis {
			metric := indexed(path+".deploy.analysis", i)
			c.condition(m.Pass, analysisScope(), metric+".pass")
			c.condition(m.Fail, analysisScope(), metric+".fail")
		}
	}
}

func (c *compiler) activity(world *world, members []string, a *workflows.Activity, path string) {
	names := append(members, "inputs", "run")
	if a.Environment != "" {
		names = append(names, "env")
	}
	c.with(a.With, a.Task, world.at("with", world.states, names...), path+".with")
	if a.Retry != nil {
		c.condition(a.Retry.When, retryScope(), path+".retry.when")
	}
	if a.Undo != nil {
		c.with(a.Undo.With, a.Undo.Task, world.at("undo.with", world.states, names...), path+".undo.with")
	}
}

// with compiles the inputs of a task of a kind.
func (c *compiler) with(with map[string]*workflows.Data, kind string, sc *scope, path string) {
	declared := map[string]string{}
	if k := c.c.Kinds[kind]; k != nil {
		declared = k.Spec.Inputs
	}
	for _, name := range sorted(with) {
		want, _ := workflows.Optional(declared[name])
		c.data(with[name], sc, workflows.Join(path, name), want)
	}
}
