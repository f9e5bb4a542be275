package service

import (
	"context"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

func (s *Service) environments(context.Context, Principal, []byte) (any, error) {
	out := events.Environments{Environments: []events.EnvironmentView{}}
	for _, name := range s.o.Index.Environments(s.o.Definitions.Current()) {
		out.Environments = append(out.Environments, s.environment(name))
	}
	return out, nil
}

// environment is one as people see it now.
func (s *Service) environment(name string) events.EnvironmentView {
	e := s.o.Index.Environment(name)
	v := environmentView(name, e)
	d := s.door(name, e)
	v.Open, v.Closed, v.Until = d.Open, d.Reason, moment(d.Until)
	return v
}

// door tells whether an environment lets anything in now.
func (s *Service) door(name string, e *env.Environment) env.Door {
	at := env.Environment{Name: name, Now: s.o.Owner.Now()}
	if e != nil {
		at.Holds = slices.DeleteFunc(slices.Clone(e.Holds), func(h env.Hold) bool { return h.Until > 0 && h.Until <= at.Now })
	}
	return at.Door(s.o.Definitions.Current().Environments[name])
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

func milli(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	return new(time.UnixMilli(ms).UTC())
}

func environmentView(name string, e *env.Environment) events.EnvironmentView {
	v := events.EnvironmentView{Name: name}
	if e == nil {
		return v
	}
	if h := e.Holder; h != nil {
		v.Holder, v.Grant, v.Since = h.Run, h.Grant, milli(h.Since)
	}
	for _, q := range e.Queue {
		v.Queue = append(v.Queue, q.Run)
	}
	for _, h := range e.Holds {
		v.Holds = append(v.Holds, events.HoldView{ID: h.ID, By: h.By, Reason: h.Reason, At: *milli(h.At), Until: milli(h.Until)})
	}
	if d := e.Deployed; d != nil {
		v.Artifact, v.Run, v.URL, v.At = d.Artifact, d.Run, d.URL, milli(d.At)
	}
	return v
}

// lookAgain lets environments that runs wait for look whether the definitions
// that were put in force open or close them.
func (s *Service) lookAgain(ctx context.Context) {
	for _, name := range s.o.Index.Environments(s.o.Definitions.Current()) {
		if e := s.o.Index.Environment(name); e != nil && e.Waited() {
			s.o.Owner.Do(ctx, record.Environment, name, record.Input{ID: "definitions:" + s.o.Definitions.Current().Digest, Kind: record.InTimer, By: "engine"})
		}
	}
}

func (s *Service) freeEnvironment(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.FreeEnvironment
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	state, _, err := s.o.Owner.State(ctx, record.Environment, req.Environment)
	if err != nil {
		return nil, err
	}
	e, _ := state.(*env.Environment)
	if e == nil && s.o.Definitions.Current().Environments[req.Environment] == nil {
		return nil, refuse(events.CodeNotFound, "there is no environment %q", req.Environment)
	}
	if e == nil {
		return nil, refuse(events.CodeConflict, "nobody holds the environment %s", req.Environment)
	}
	if h := e.Holder; h != nil { // without one the environment itself knows whether this is a repeat
		state, _, err := s.o.Owner.State(ctx, record.Run, h.Run)
		if err != nil {
			return nil, err
		}
		if st, ok := state.(*run.State); ok && st != nil && !st.Done() {
			return nil, refuse(events.CodeConflict, "run %s holds the environment %s and goes on; cancel it first", h.Run, req.Environment)
		}
	}
	return s.command(ctx, who, record.Environment, req.Environment, record.Input{ID: who.Name + ":" + req.ID, Kind: record.InEnvFree}), nil
}

func (s *Service) holdEnvironment(ctx context.Context, who Principal, body []byte) (any, error) {
	return s.hold(ctx, who, body, record.InEnvHold)
}

func (s *Service) unholdEnvironment(ctx context.Context, who Principal, body []byte) (any, error) {
	return s.hold(ctx, who, body, record.InEnvUnhold)
}

func (s *Service) hold(ctx context.Context, who Principal, body []byte, kind string) (any, error) {
	var req events.HoldEnvironment
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if s.o.Index.Environment(req.Environment) == nil && s.o.Definitions.Current().Environments[req.Environment] == nil {
		return nil, refuse(events.CodeNotFound, "there is no environment %q", req.Environment)
	}
	return s.command(ctx, who, record.Environment, req.Environment, record.Input{ID: who.Name + ":" + req.ID, Kind: kind, Hold: &req}), nil
}

func (s *Service) breakGlass(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.BreakGlass
	return s.toRun(ctx, who, body, &req, &req.Run, &req.ID, record.Input{Kind: record.InBreakGlass, Glass: &req})
}
