package run

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// lookup finds a name that every expression of the workflow may read; extra
// holds the names of the position.
func (x *step) lookup(extra map[string]any) func(string) (any, bool) {
	return func(name string) (any, bool) {
		if v, ok := extra[name]; ok {
			return v, true
		}
		switch name {
		case "inputs":
			return map[string]any(x.s.Inputs), true
		case "run":
			return x.runScope(), true
		case "now":
			return at(x.now), true
		case "visits__":
			visits := map[string]any{}
			for name := range x.d.Workflow.Spec.States {
				visits[name] = int64(x.s.Visits[name])
			}
			return visits, true
		}
		if x.d.Workflow.Spec.States[name] == nil {
			return nil, false
		}
		if v, ok := x.s.Values[name]; ok {
			return v, true
		}
		return map[string]any{}, true // a state that has not run has no outputs
	}
}

// runScope is what expressions know as run. Authors are absent while nobody
// has said who they are, so that a rule that reads them errs, and holds.
func (x *step) runScope() map[string]any {
	labels := map[string]any{}
	for k, v := range x.s.Labels {
		labels[k] = v
	}
	m := map[string]any{"id": x.s.ID, "workflow": x.s.Workflow, "title": x.s.Title, "requestedBy": x.s.RequestedBy,
		"labels": labels, "startedAt": at(x.s.StartedAt), "done": x.s.Phase == phaseDone, "outcome": x.s.Outcome,
		"visit": int64(x.s.Visit)}
	if x.s.AuthorsSet {
		m["authors"] = workflows.Normal(x.authors())
	}
	return m
}

// envScope is what expressions know as env.
func (x *step) envScope(name string) map[string]any {
	m := map[string]any{"name": name, "config": map[string]any{}, "labels": map[string]any{}}
	if e := x.d.Now.Environments[name]; e != nil {
		m["config"] = workflows.Normal(mapOr(e.Spec.Config))
		labels := map[string]any{}
		for k, v := range e.Metadata.Labels {
			labels[k] = v
		}
		m["labels"] = labels
	}
	return m
}

func mapOr(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// evalBool evaluates a rule and records the decision: the rule, what it read
// and what it gave.
func (x *step) evalBool(of, rule string, e *workflows.Expr, extra map[string]any) (bool, error) {
	in := record.Cut(x.lookup(extra), e.Program.Refs())
	ok, err := e.Bool(x.ctx, in)
	if x.mute {
		return ok, err
	}
	d := record.Decision{Rule: rule, Source: e.Source, Of: of, Inputs: in}
	if err != nil {
		d.Error = err.Error()
	} else {
		d.Value = ok
	}
	x.out.Decisions = append(x.out.Decisions, d)
	return ok, err
}

// value evaluates an expression that decides something, and records the decision.
func (x *step) value(e *workflows.Expr, rule string, extra map[string]any) (any, error) {
	in := record.Cut(x.lookup(extra), e.Program.Refs())
	v, err := e.Program.Eval(x.ctx, in)
	if err != nil {
		err = fmt.Errorf("%s: %q: %w", e.Pos, e.Source, err)
	}
	if x.mute {
		return v, err
	}
	d := record.Decision{Rule: rule, Source: e.Source, Of: "Workflow/" + x.s.Workflow, Inputs: in, Value: workflows.Normal(v)}
	if err != nil {
		d.Value, d.Error = nil, err.Error()
	}
	x.out.Decisions = append(x.out.Decisions, d)
	return v, err
}

// rule names a rule of this workflow.
func (x *step) rule(e *workflows.Expr, path string, extra map[string]any) (bool, error) {
	return x.evalBool("Workflow/"+x.s.Workflow, path, e, extra)
}

// data evaluates text or a structure with expressions in it. It decides
// nothing, so it leaves no decision in the record.
func (x *step) data(_ string, d *workflows.Data, extra map[string]any) (any, error) {
	if d.Program == nil {
		return workflows.Normal(d.Value), nil
	}
	return d.Eval(x.ctx, record.Cut(x.lookup(extra), d.Refs()))
}

// message gives a text for people, or fallback when there is none or it cannot be made.
func (x *step) message(d *workflows.Data, extra map[string]any, fallback string) string {
	if d == nil {
		return fallback
	}
	v, err := x.data("message", d, extra)
	if err != nil {
		return fallback
	}
	return record.Text(v)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

// joinWords writes "a, b and c".
func joinWords(words []string) string {
	switch len(words) {
	case 0:
		return "nobody"
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

func joinLines(lines []string) string { return strings.Join(lines, "; ") }
