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
}

func (c *compiler) run() {
	switch doc := c.unit.value.(type) {
	case *workflows.Workflow:
		c.workflow(doc)
	case *workflows.Environment:
		c.rules(doc)
	case *workflows.Channel:
		for _, name := range slices.Sorted(maps.Keys(doc.Spec.Templates)) {
			c.data(doc.Spec.Templates[name], templateScope(), workflows.Join("spec.templates", name), "string")
		}
	}
}

func (c *compiler) rules(e *workflows.Environment) {
	for i, rule := range e.Spec.Require {
		path := "spec.require[" + strconv.Itoa(i) + "]"
		c.condition(rule.Expression, requireScope(), path+".expression")
		c.data(rule.Message, requireScope(), path+".message", "string")
	}
}

func (c *compiler) workflow(w *workflows.Workflow) {
	world := newWorld(c.c, w)
	c.data(w.Spec.Title, world.at("the title", false, "inputs", "run"), "spec.title", "string")
	for i, t := range w.Spec.Triggers {
		path := "spec.triggers[" + strconv.Itoa(i) + "]"
		c.condition(t.When, triggerScope(), path+".when")
		for _, name := range slices.Sorted(maps.Keys(t.Inputs)) {
			var want workflows.Type
			if input := w.Spec.Inputs[name]; input != nil {
				want = workflows.Type(input.Type)
			}
			c.data(t.Inputs[name], triggerScope(), workflows.Join(path+".inputs", name), want)
		}
	}
	for _, s := range w.Ordered() {
		c.state(w, world, s)
	}
	for i, f := range w.Spec.Finally {
		c.activity(world, &f.Activity, "spec.finally["+strconv.Itoa(i)+"]")
	}
	for i, rule := range w.Spec.Notify {
		path := "spec.notify[" + strconv.Itoa(i) + "].when"
		c.condition(rule.When, world.at("notify.when", false, "state", "outcome", "run", "inputs"), path)
	}
}

func (c *compiler) state(w *workflows.Workflow, world *world, s *workflows.State) {
	path := workflows.Join("spec.states", s.Name)
	c.activity(world, &s.Activity, path)
	for _, b := range s.Branches() {
		c.activity(world, &b.Activity, workflows.Join(path+".parallel", b.Name))
	}
	if len(s.Gate) > 0 {
		scope := world.gate(c.c, s)
		for i, r := range s.Gate {
			at := path + ".gate[" + strconv.Itoa(i) + "]"
			c.condition(r.Require, scope, at+".require")
			c.condition(r.Warn, scope, at+".warn")
			c.data(r.Message, scope, at+".message", "string")
		}
	}
	if a := s.Approval; a != nil {
		c.condition(a.Rule, world.at("an approval's rule", true, "approvals", "rejections", "inputs", "run"), path+".approval.rule")
		c.data(a.Message, world.at("a message", true, "inputs", "run"), path+".approval.message", "string")
	}
	if d := s.Deploy; d != nil {
		scope := world.at("deploy", true, "inputs", "run", "env")
		c.data(d.Artifact, scope, path+".deploy.artifact", "string")
		c.with(d.With, "deploy", scope, path+".deploy.with")
	}
	for i, t := range s.Transitions {
		scope := world.at("transitions.when", true, "outcome", "error", "inputs", "run", visitsName)
		c.condition(t.When, scope, path+".transitions["+strconv.Itoa(i)+"].when")
	}
}

func (c *compiler) activity(world *world, a *workflows.Activity, path string) {
	names := []string{"inputs", "run"}
	if a.Environment != "" {
		names = append(names, "env")
	}
	c.with(a.With, a.Task, world.at("with", true, names...), path+".with")
	if a.Retry != nil {
		c.condition(a.Retry.When, retryScope(), path+".retry.when")
	}
}

// with compiles the inputs of a task of a kind.
func (c *compiler) with(with map[string]*workflows.Data, kind string, sc *scope, path string) {
	declared := map[string]string{}
	if k := c.c.Kinds[kind]; k != nil {
		declared = k.Spec.Inputs
	}
	for _, name := range slices.Sorted(maps.Keys(with)) {
		want, _ := workflows.Optional(declared[name])
		c.data(with[name], sc, workflows.Join(path, name), want)
	}
}
