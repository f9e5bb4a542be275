package compare

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

func (d *differ) workflow(a, b *workflows.Workflow) {
	d.labels(a.Metadata.Labels, b.Metadata.Labels)
	for _, name := range keysOf(a.Spec.Inputs, b.Spec.Inputs) {
		d.at("input "+name, func() { d.input(a.Spec.Inputs[name], b.Spec.Inputs[name]) })
	}
	for _, name := range keysOf(a.Spec.Outputs, b.Spec.Outputs) {
		d.at("output "+name, func() { d.output(a.Spec.Outputs[name], b.Spec.Outputs[name]) })
	}
	d.triggers(a.Spec.Triggers, b.Spec.Triggers)
	d.concurrency(a.Spec.Concurrency, b.Spec.Concurrency)
	d.field("initial state", a.Spec.Initial, b.Spec.Initial, plainly)
	d.field("onCancel", a.Spec.OnCancel, b.Spec.OnCancel, plainly)
	d.states(a, b)
	d.unguarded(a, b)
	d.finally(a.Spec.Finally, b.Spec.Finally)
	matched(a.Spec.Notify, b.Spec.Notify, func(n *workflows.NotifyRule) string { return n.Channel + "\x00" + text(n.When) + "\x00" + n.Template },
		func(_, _ *workflows.NotifyRule) {},
		func(n *workflows.NotifyRule) { d.add("%s is told when %s", n.Channel, text(n.When)) },
		func(n *workflows.NotifyRule) { d.add("%s is no longer told when %s", n.Channel, text(n.When)) })
	matched(a.Spec.Invariants, b.Spec.Invariants, func(i *workflows.Invariant) string { return text(i.Never) },
		func(_, _ *workflows.Invariant) {},
		func(i *workflows.Invariant) { d.add("invariant added: never %s", text(i.Never)) },
		func(i *workflows.Invariant) { d.weaker("invariant removed: never %s", text(i.Never)) })
}

func (d *differ) labels(a, b map[string]string) {
	for _, k := range keysOf(a, b) {
		d.field("label "+k, a[k], b[k], plainly)
	}
}

func (d *differ) input(a, b *workflows.Input) {
	switch {
	case a == nil && b.Default == nil:
		d.add("added, required, %s", b.Type)
		return
	case a == nil:
		d.add("added, %s, %s where it is left out", b.Type, text(b.Default))
		return
	case b == nil:
		d.add("removed")
		return
	}
	d.field("type", a.Type, b.Type, plainly)
	d.field("pattern", a.Pattern, b.Pattern, guard)
	switch {
	case a.Default == nil && b.Default != nil:
		d.add("made optional: %s where it is left out", text(b.Default))
	case a.Default != nil && b.Default == nil:
		d.add("made required (was %s where it was left out)", text(a.Default))
	default:
		d.field("default", a.Default, b.Default, plainly)
	}
	if len(a.Enum) == 0 || len(b.Enum) == 0 {
		d.field("enum", valuesOf(a.Enum), valuesOf(b.Enum), guard)
		return
	}
	d.set(texts(a.Enum), texts(b.Enum),
		func(v string) { d.weaker("may be %s, too", v) },
		func(v string) { d.add("may no longer be %s", v) })
}

func texts(values []any) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = text(v)
	}
	return out
}

func valuesOf(values []any) string { return strings.Join(texts(values), ", ") }

func (d *differ) output(a, b *workflows.Output) {
	switch {
	case a == nil:
		d.add("added, %s", b.Type)
	case b == nil:
		d.add("removed")
	default:
		d.field("type", a.Type, b.Type, plainly)
		d.field("value", a.Value, b.Value, plainly)
	}
}

// triggerKey names a trigger in words.
func triggerKey(t *workflows.Trigger) string {
	if t.Schedule != nil {
		zone := t.Schedule.Timezone
		if zone == "" {
			zone = "UTC"
		}
		return "schedule " + t.Schedule.Cron + " " + zone
	}
	return "event " + t.Event
}

func (d *differ) triggers(a, b []*workflows.Trigger) {
	matched(a, b, triggerKey, func(x, y *workflows.Trigger) {
		d.at("trigger of "+triggerKey(x), func() {
			d.field("when", x.When, y.When, guard)
			d.datas("input", x.Inputs, y.Inputs)
		})
	}, func(t *workflows.Trigger) {
		if t.When != nil {
			d.add("is started by %s when %s", triggerKey(t), text(t.When))
			return
		}
		d.add("is started by %s", triggerKey(t))
	}, func(t *workflows.Trigger) { d.add("is no longer started by %s", triggerKey(t)) })
}

func (d *differ) concurrency(a, b *workflows.Concurrency) {
	policy := func(c *workflows.Concurrency) string {
		if c.Policy == "" {
			return "queue"
		}
		return c.Policy
	}
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.add("runs go on one at a time for the key %s (%s)", text(b.Key), policy(b))
	case b == nil:
		d.weaker("concurrency removed: runs for the key %s go on at the same time", text(a.Key))
	default:
		d.field("concurrency key", a.Key, b.Key, plainly)
		d.field("concurrency policy", policy(a), policy(b), plainly)
	}
}

func (d *differ) finally(a, b []*workflows.Finally) {
	key := func(f *workflows.Finally) string { return f.Task }
	matched(a, b, key, func(x, y *workflows.Finally) {
		d.at("finally "+x.Task, func() {
			d.activity(&x.Activity, &y.Activity)
			d.outputs(&x.Activity, &y.Activity)
		})
	}, func(f *workflows.Finally) { d.add("at the end %s is done, too", f.Task) },
		func(f *workflows.Finally) { d.add("at the end %s is no longer done", f.Task) })
}

func (d *differ) states(a, b *workflows.Workflow) {
	var names []string // in the order of the files
	for _, s := range b.Ordered() {
		names = append(names, s.Name)
	}
	for _, s := range a.Ordered() {
		if b.Spec.States[s.Name] == nil {
			names = append(names, s.Name)
		}
	}
	for _, name := range names {
		x, y := a.Spec.States[name], b.Spec.States[name]
		d.at(name, func() {
			switch {
			case x == nil:
				d.add("state added: %s", kindWords(y))
			case y == nil:
				d.note(holds(x), "state removed (was %s)", kindWords(x))
			case x.Kind() != y.Kind():
				d.note(holds(x), "was %s, is %s", kindWords(x), kindWords(y))
				d.arms(x, y)
			default:
				d.state(x, y)
			}
		})
	}
}

// holds reports whether a state can keep a change from going on.
func holds(s *workflows.State) bool { return s.Kind() == "approval" || len(s.Gate) > 0 }

func kindWords(s *workflows.State) string {
	words := strings.Join(s.Words(), ", ")
	switch s.Kind() {
	case "approval":
		return "an approval by " + words
	case "final":
		return "an end, " + words
	case "wait":
		return "a wait, " + words
	case "compensate":
		return words
	case "deploy":
		return "a deployment, " + words
	case "workflow":
		return "a child run, " + words
	case "task":
		return "the task " + words
	}
	return s.Kind() + " of " + words
}

// arms compares where each outcome leads.
func (d *differ) arms(a, b *workflows.State) {
	type move struct{ from, to string }
	var order []move
	moved := map[move][]string{}
	also := d.after.Outcomes(b)
	for _, o := range d.before.Outcomes(a) {
		if !slices.Contains(also, o) || cancels(o) && a.Kind() != "workflow" {
			continue
		}
		m := move{leads(a, o), leads(b, o)}
		if m.from == m.to {
			continue
		}
		if moved[m] == nil {
			order = append(order, m)
		}
		moved[m] = append(moved[m], o)
	}
	for _, m := range order {
		d.add("on %s it leads %s; it led %s", list(moved[m]), m.to, m.from)
	}
	key := func(e *workflows.EventArm) string { return e.Event + "\x00" + text(e.When) + "\x00" + e.To }
	matched(a.Events, b.Events, key, func(_, _ *workflows.EventArm) {},
		func(e *workflows.EventArm) { d.add("is left for %s when %s comes%s", e.To, e.Event, whenWords(e.When)) },
		func(e *workflows.EventArm) {
			d.weaker("is no longer left for %s when %s comes%s", e.To, e.Event, whenWords(e.When))
		})
}

// cancels reports whether an outcome comes of a cancel, after which a run goes
// no further; only a child run can end so for itself.
func cancels(outcome string) bool { return outcome == "cancelled" || outcome == "superseded" }

func whenWords(e *workflows.Expr) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf(" and %s", text(e))
}

// leads says where an outcome leads: "to a", "to a when x, else to b", or that
// the run ends.
func leads(s *workflows.State, outcome string) string {
	var parts []string
	for _, arm := range s.Arms() {
		if !arm.Takes(outcome) {
			continue
		}
		if arm.When == nil {
			return strings.Join(append(parts, "to "+arm.To), ", else ")
		}
		switch only := arm.OutcomesOf(); {
		case only == nil:
			parts = append(parts, "to "+arm.To+" when "+text(arm.When))
		case slices.Contains(only, outcome):
			return strings.Join(append(parts, "to "+arm.To), ", else ")
		}
	}
	return strings.Join(append(parts, "nowhere: the run ends"), ", else ")
}

// unguarded tells of states that touch an environment and can now be reached
// past an approval or a gate that stood before them.
func (d *differ) unguarded(a, b *workflows.Workflow) {
	for _, g := range b.Ordered() {
		old := a.Spec.States[g.Name]
		if old == nil || !holds(old) {
			continue
		}
		var open []string
		for _, s := range b.Ordered() {
			if a.Spec.States[s.Name] != nil && touches(s) && guards(d.before, a, g.Name, s.Name) && !guards(d.after, b, g.Name, s.Name) {
				open = append(open, s.Name)
			}
		}
		if len(open) > 0 {
			d.weaker("%s can be reached without %s", list(open), g.Name)
		}
	}
}

// touches reports whether a state works on an environment.
func touches(s *workflows.State) bool {
	body := func(b *workflows.Body) bool { return b.Deploy != nil || b.Workflow != nil || b.Environment != "" }
	if s.ForEach != nil && s.ForEach.Do != nil {
		return body(s.ForEach.Do)
	}
	return body(&s.Body) || slices.ContainsFunc(s.Branches(), func(b *workflows.Branch) bool { return body(&b.Body) })
}

// guards reports whether no run reaches the state unless the guard has succeeded.
func guards(c *workflows.Catalog, w *workflows.Workflow, guard, state string) bool {
	reached := map[string]bool{w.Spec.Initial: true}
	for queue := []string{w.Spec.Initial}; len(queue) > 0; queue = queue[1:] {
		s := w.Spec.States[queue[0]]
		if s == nil {
			continue
		}
		visit := func(to string) {
			if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
		for _, o := range c.Outcomes(s) {
			if s.Name == guard && o == "succeeded" {
				continue
			}
			for _, arm := range s.Arms() {
				only := arm.OutcomesOf()
				if arm.Takes(o) && (only == nil || slices.Contains(only, o)) {
					visit(arm.To)
					if arm.When == nil || only != nil {
						break
					}
				}
			}
		}
		for _, e := range s.Events {
			visit(e.To)
		}
	}
	return !reached[state]
}
