package service

import (
	"context"

	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// eval gives the value of an expression on a run that the principal may read.
func (s *Service) eval(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.EvalRun
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	line, err := s.readable(ctx, who, req.Run)
	if err != nil {
		return nil, err
	}
	st, _, d, err := s.state(ctx, line.ID)
	if err != nil {
		return nil, err
	}
	if req.Environment != "" && d.Now.Environments[req.Environment] == nil {
		return nil, refuse(events.CodeNotFound, "there is no environment %q", req.Environment)
	}
	types := *d.Now
	types.Kinds = d.Kinds
	p, problems := parse.Expression(&types, d.Workflow, req.Expression)
	if p == nil {
		out := events.Evaluation{}
		for _, problem := range problems {
			out.Problems = append(out.Problems, parse.Caret(problem))
		}
		return out, nil
	}
	return run.Evaluation(run.Inspect(d, st, p, req.Environment, s.o.Owner.Now())), nil
}
