package run

import (
	"context"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Inspect gives the value of an expression on all that a run knows at a
// moment, with the value of each part. An environment's rules see what they
// would if the run entered it; environment may be empty. It decides nothing.
func Inspect(d Definitions, s *State, p workflows.Program, environment string, now int64) *workflows.Explanation {
	x := &step{ctx: context.Background(), d: d, s: s.clone(), now: max(now, s.Now), mute: true}
	in := record.Cut(x.lookup(x.everything(environment)), p.Refs())
	if e, ok := p.(workflows.Explainer); ok {
		return e.Explain(x.ctx, in)
	}
	v, err := p.Eval(x.ctx, in)
	out := &workflows.Explanation{Value: v}
	if err != nil {
		out.Value, out.Error = nil, err.Error()
	}
	return out
}

// everything holds the names that only some positions have.
func (x *step) everything(environment string) map[string]any {
	extra := map[string]any{"state": x.s.At, "outcome": x.s.Outcome, "error": errorScope(x.s.Error)}
	labels := map[string]any{}
	for k, v := range x.s.Labels {
		labels[k] = v
	}
	extra["labels"] = labels
	var said []Decision
	if a := x.s.Open; a != nil {
		said = slices.Concat(said, a.Said)
	} else {
		for _, a := range x.s.Given {
			said = slices.Concat(said, a.Said)
		}
	}
	for k, v := range x.people(said) {
		extra[k] = v
	}
	if n := len(x.s.Path); n > 0 && x.s.Outcome == "" {
		extra["outcome"], extra["error"] = x.s.Path[n-1].Outcome, errorScope(x.s.Path[n-1].Error)
	}
	if environment != "" {
		extra["env"] = x.envScope(environment)
		extra["artifact"] = map[string]any{"digest": strings.Join(x.artifactsFor(environment), " ")}
	}
	list := []any{}
	for _, a := range x.s.Attested {
		list = append(list, workflows.Normal(a))
	}
	extra["attestations"] = list
	return extra
}

// Evaluation is an explanation as it is sent to people.
func Evaluation(e *workflows.Explanation) events.Evaluation {
	out := events.Evaluation{Value: e.Value, Error: e.Error}
	for _, p := range e.Parts {
		out.Parts = append(out.Parts, events.EvaluationPart{Source: p.Source, Depth: p.Depth, Value: p.Value, Error: p.Error})
	}
	return out
}
