package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// longest is how long a person's command may stay valid.
const longest = 15 * time.Minute

func (s *Service) start(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.StartRun
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	id := record.Derive("start", who.Kind, who.Name, req.ID, req.Workflow)
	inputs, _ := workflows.Normal(req.Inputs).(map[string]any)
	a := s.command(ctx, who, record.Run, id, record.Input{ID: req.ID, Kind: record.InStart,
		Start: &record.Start{Run: id, Workflow: req.Workflow, Inputs: inputs, Text: true}})
	if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		return a, nil
	}
	view, err := s.details(ctx, id)
	if err != nil {
		return nil, err
	}
	return view, nil
}

// named reads a request that names a run which the principal may read.
func (s *Service) named(ctx context.Context, who Principal, body []byte) (string, error) {
	var req events.GetRun
	if err := s.read(body, &req); err != nil {
		return "", err
	}
	line, err := s.readable(ctx, who, req.Run)
	return line.ID, err
}

// readable finds a run that the principal may read.
func (s *Service) readable(ctx context.Context, who Principal, prefix string) (projection.Line, error) {
	line, err := s.run(ctx, prefix)
	if err != nil {
		return line, err
	}
	if !s.reads(who)(line.Workflow) {
		return line, refuse(events.CodeDenied, "%s may not read runs of %s: it takes the permission %s", who.Name, line.Workflow, workflows.ActRunRead)
	}
	return line, nil
}

// reads tells of which workflows a principal may read the runs: those on which
// it may do anything at all.
func (s *Service) reads(who Principal) func(workflow string) bool {
	cat := s.o.Definitions.Current()
	roles := s.roles(who, cat)
	known := map[string]bool{}
	return func(workflow string) bool {
		ok, seen := known[workflow]
		if !seen {
			ok = slices.ContainsFunc([]string{workflows.ActRunRead, workflows.ActRunStart, workflows.ActRunApprove, workflows.ActRunCancel,
				workflows.ActRunPause, workflows.ActRunRetry},
				func(action string) bool { return cat.Allows(roles, action, workflow) })
			known[workflow] = ok
		}
		return ok
	}
}

func (s *Service) get(ctx context.Context, who Principal, body []byte) (any, error) {
	id, err := s.named(ctx, who, body)
	if err != nil {
		return nil, err
	}
	return s.details(ctx, id)
}

// state reads a run and what it is decided by.
func (s *Service) state(ctx context.Context, id string) (*run.State, int64, run.Definitions, error) {
	state, v, err := s.o.Owner.State(ctx, record.Run, id)
	if err != nil {
		return nil, 0, run.Definitions{}, err
	}
	st, ok := state.(*run.State)
	if !ok || st == nil {
		return nil, 0, run.Definitions{}, refuse(events.CodeNotFound, "there is no run %s", id)
	}
	d, err := s.Definitions(st.Catalog, s.o.Definitions.Current().Digest, st.Workflow)
	return st, v, d, err
}

// Definitions finds what a run is decided by; it is a run.Lookup.
func (s *Service) Definitions(started, inForce, workflow string) (run.Definitions, error) {
	pinned, err := s.o.Definitions.ByDigest(started)
	if err != nil {
		return run.Definitions{}, err
	}
	now, err := s.o.Definitions.ByDigest(inForce)
	if err != nil {
		return run.Definitions{}, err
	}
	wf := pinned.Workflows[workflow]
	if wf == nil {
		return run.Definitions{}, fmt.Errorf("definitions %s have no workflow %s", started, workflow)
	}
	return run.Definitions{Workflow: wf, Kinds: pinned.Kinds, Now: now}, nil
}

func (s *Service) details(ctx context.Context, id string) (*events.RunView, error) {
	st, v, d, err := s.state(ctx, id)
	if err != nil {
		return nil, err
	}
	view := run.Details(d, st, v, s.o.Owner.Now())
	var working []string
	for _, t := range view.Tasks {
		if t.Status == "running" {
			working = append(working, t.ID)
		}
	}
	lines := s.o.Owner.Progress(ctx, id, working...)
	for i := range view.Tasks {
		view.Tasks[i].Progress = lines[view.Tasks[i].ID]
	}
	view.Children = s.o.Index.Children(id)
	s.complete(ctx, id, view.Waiting)
	return &view, nil
}

func (s *Service) decide(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.Decide
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	line, err := s.run(ctx, req.Run)
	if err != nil {
		return nil, err
	}
	id := line.ID
	req.Run = id
	if req.Via == "" {
		req.Via = who.Via
	}
	if at := time.UnixMilli(s.o.Owner.Now()).Add(longest); req.NotAfter.IsZero() || req.NotAfter.After(at) {
		req.NotAfter = at
	}
	return s.command(ctx, who, record.Run, id, record.Input{ID: who.Name + ":" + req.ID, Kind: record.InDecide, Decide: &req}), nil
}

// toRun reads a command to a run into req and gives it to the run. name and id
// are where the command says which run it is for and what it is known by.
func (s *Service) toRun(ctx context.Context, who Principal, body []byte, req any, name, id *string, in record.Input) (any, error) {
	if err := s.read(body, req); err != nil {
		return nil, err
	}
	line, err := s.run(ctx, *name)
	if err != nil {
		return nil, err
	}
	full := line.ID
	*name, in.ID = full, who.Name+":"+*id
	return s.command(ctx, who, record.Run, full, in), nil
}

func (s *Service) cancel(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.CancelRun
	return s.toRun(ctx, who, body, &req, &req.Run, &req.ID, record.Input{Kind: record.InCancel, Cancel: &req})
}

func (s *Service) pause(ctx context.Context, who Principal, body []byte) (any, error) {
	return s.pauseOr(ctx, who, body, record.InPause)
}

func (s *Service) resume(ctx context.Context, who Principal, body []byte) (any, error) {
	return s.pauseOr(ctx, who, body, record.InResume)
}

func (s *Service) pauseOr(ctx context.Context, who Principal, body []byte, kind string) (any, error) {
	var req events.PauseRun
	return s.toRun(ctx, who, body, &req, &req.Run, &req.ID, record.Input{Kind: kind, Pause: &req})
}

func (s *Service) retry(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.RetryRun
	return s.toRun(ctx, who, body, &req, &req.Run, &req.ID, record.Input{Kind: record.InRetry, Retry: &req})
}
