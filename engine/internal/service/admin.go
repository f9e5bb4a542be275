package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/router"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

func (s *Service) apply(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.Apply
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if err := s.may(who, workflows.ActApply); err != nil {
		return nil, err
	}
	files := make([]parse.File, len(req.Files))
	for i, f := range req.Files {
		files[i] = parse.File{Name: f.Name, Content: []byte(f.Content), Author: who.Name}
	}
	return s.Apply(ctx, who.Name, files, req.DryRun)
}

// Apply puts definitions in force and tells so. by is a user, or the folder
// that the engine watches.
func (s *Service) Apply(ctx context.Context, by string, files []parse.File, dryRun bool) (*events.Applied, error) {
	applied, err := s.o.Definitions.Apply(ctx, files, dryRun)
	if err != nil || dryRun {
		return applied, s.stored("the definitions that were in force still are", err)
	}
	var changed, problems []string
	for _, d := range applied.Definitions {
		if d.Change == "created" || d.Change == "changed" {
			changed = append(changed, fmt.Sprintf("%s/%s %s", d.Kind, d.Name, d.Digest))
		}
	}
	for _, p := range applied.Problems {
		var prob workflows.Problem
		if json.Unmarshal(p, &prob) == nil && !prob.Warning {
			problems = append(problems, prob.Error())
		}
	}
	if len(changed) > 0 {
		if err := s.o.Changed(ctx); err != nil {
			s.o.Log.Error("the consumers of task kinds could not be made", "error", err)
		}
		s.emit(events.DefinitionApplied, events.Happening{By: by, Definitions: changed})
	}
	if len(problems) > 0 {
		s.emit(events.DefinitionRefused, events.Happening{By: by, Reasons: problems})
	}
	return applied, nil
}

// emit sends an event that stands in no record.
func (s *Service) emit(typ string, h events.Happening) {
	data, err := json.Marshal(h)
	now := time.UnixMilli(s.o.Owner.Now()).UTC()
	if err == nil {
		err = s.o.Emit(events.Event{ID: record.Derive(typ, now.UnixNano(), h.By, data), Source: "/penstock/definitions", Type: typ,
			Time: now, DataContentType: "application/json", Data: data}, "", "")
	}
	if err != nil {
		s.o.Log.Error("an event was not sent", "type", typ, "error", err)
	}
}

func (s *Service) definitions(context.Context, Principal, []byte) (any, error) {
	return s.o.Definitions.List(), nil
}

func (s *Service) server(context.Context, Principal, []byte) (any, error) { return s.info(), nil }

func (s *Service) info() events.ServerInfo {
	info := s.o.Info
	info.Runs, info.Waiting = s.o.Index.Counts()
	info.Workers = s.workers.live()
	return info
}

// publish takes an event from a person or a program that has no credential of
// a publisher. It is stored under the name that the server vouches for.
func (s *Service) publish(ctx context.Context, who Principal, body []byte) (any, error) {
	if err := s.may(who, workflows.ActEventSend); err != nil {
		return nil, err
	}
	ev, err := events.Parse(nil, body)
	if err != nil {
		return nil, refuse(events.CodeInvalid, "%v", err)
	}
	return nil, s.Ingest(ctx, router.PersonPrefix+who.Name, ev)
}

// Ingest stores an event for the router, once.
func (s *Service) Ingest(ctx context.Context, publisher string, ev *events.Event) error {
	if err := ev.Validate(); err != nil {
		return refuse(events.CodeInvalid, "event %q: %v", ev.ID, err)
	}
	p, err := json.Marshal(ev)
	if err != nil {
		return refuse(events.CodeInvalid, "event %q: %v", ev.ID, err)
	}
	if len(p) > events.MaxEventSize {
		return refuse(events.CodeInvalid, "event %q has %d bytes in structured JSON, at most %d are accepted", ev.ID, len(p), events.MaxEventSize)
	}
	m := &nats.Msg{Subject: events.IngressSubject(events.DefaultTenant, publisher, ev.Subject, ev.Type), Data: p,
		Header: nats.Header{"Content-Type": {events.ContentType}}}
	m.Header.Set(jetstream.MsgIDHeader, events.MessageID(events.DefaultTenant, publisher+"\x00"+ev.Source, ev.ID))
	ack, err := s.ext.PublishMsg(ctx, m)
	if err == nil && ack.Duplicate {
		// The server remembers ids, not contents or who sent them: somebody
		// else may have used this one. Without it the event is stored for
		// certain, and a repeat is recognised when it is recorded.
		m.Header.Del(jetstream.MsgIDHeader)
		_, err = s.ext.PublishMsg(ctx, m)
	}
	return s.stored("the event was not stored", err)
}

func onlyAdmins(who Principal) error {
	if who.Kind != "admin" {
		return refuse(events.CodeDenied, "only an administrator may manage credentials, and %s is a %s", who.Name, who.Kind)
	}
	return nil
}

func (s *Service) authAdd(_ context.Context, who Principal, body []byte) (any, error) {
	var req events.AddPrincipal
	if err := errors.Join(onlyAdmins(who), s.read(body, &req)); err != nil {
		return nil, err
	}
	c, err := s.o.Broker.AddPrincipal(req.Kind, req.Name, req.Pool)
	if err != nil {
		return nil, refuse(events.CodeConflict, "%v", err)
	}
	c.HTTP = s.o.Info.HTTP
	if c.URL != "" {
		c.URL = s.o.Info.NATS
	}
	if req.Kind == "worker" {
		c.TaskKeys = s.o.Info.TaskKeys
	}
	return c, nil
}

func (s *Service) authList(_ context.Context, who Principal, _ []byte) (any, error) {
	if err := onlyAdmins(who); err != nil {
		return nil, err
	}
	return events.Principals{Principals: s.o.Broker.ListPrincipals()}, nil
}

func (s *Service) authRevoke(_ context.Context, who Principal, body []byte) (any, error) {
	var req events.RevokePrincipal
	if err := errors.Join(onlyAdmins(who), s.read(body, &req)); err != nil {
		return nil, err
	}
	if err := s.o.Broker.RevokePrincipal(req.Kind, req.Name); err != nil {
		return nil, refuse(events.CodeNotFound, "%v", err)
	}
	return nil, nil
}
