package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/definitions"
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
	if strings.ContainsFunc(req.Source, unicode.IsControl) {
		return nil, refuse(events.CodeInvalid, "the name of a source has no control characters")
	}
	source := appliedAs(req.Source)
	if s.o.Definitions.Holds(source) {
		return nil, refuse(events.CodeInvalid, "the server watches %s itself: change what is there", source)
	}
	files := make([]parse.File, len(req.Files))
	for i, f := range req.Files {
		files[i] = parse.File{Name: f.Name, Content: []byte(f.Content), Author: who.Name}
	}
	return s.Apply(ctx, Delivery{By: who.Name, Change: definitions.Change{Source: source, Files: files, Prune: req.Prune, DryRun: req.DryRun}})
}

// appliedAs is the source of what is applied under a name. One that a list of
// definitions shows means itself: what came from a source that the server does
// not have any more can be removed.
func appliedAs(name string) string {
	switch {
	case name == "":
		return "apply"
	case strings.HasPrefix(name, "folder:") || strings.HasPrefix(name, "git+") || strings.HasPrefix(name, "apply:"):
		return name
	}
	return "apply:" + name
}

// Delivery is a change of definitions with who brought it.
type Delivery struct {
	By             string // a user, or the source that the engine watches
	Commit, Author string // of the newest commit of a Git repository
	// Tell is asked whether problems are told; nil always tells them.
	Tell func(problems []string) bool
	definitions.Change
}

// Apply puts definitions in force and tells so.
func (s *Service) Apply(ctx context.Context, d Delivery) (*events.Applied, error) {
	applied, err := s.o.Definitions.Apply(ctx, d.Change)
	if err != nil || d.DryRun {
		return applied, s.stored("the definitions that were in force still are", err)
	}
	var changed, removed []string
	for _, def := range applied.Definitions {
		line := fmt.Sprintf("%s/%s %s", def.Kind, def.Name, def.Digest)
		switch def.Change {
		case "created", "changed":
			changed = append(changed, line)
		case "removed":
			removed = append(removed, line)
		}
	}
	if len(changed)+len(removed) > 0 {
		if err := s.o.Changed(ctx); err != nil {
			s.o.Log.Error("the consumers of task kinds, or the schedules, could not be brought up to date", "error", err)
		}
		s.lookAgain(ctx)
	}
	s.noteDefinitions(ctx, d, changed, removed)
	changed, removed = fitting(changed), fitting(removed)
	h := events.Happening{By: d.By, Commit: d.Commit, Author: d.Author}
	if len(changed) > 0 {
		h.Definitions, h.Warnings = changed, weaker(applied)
		s.Emit(events.DefinitionApplied, h)
	}
	if len(removed) > 0 {
		h.Definitions = removed
		if len(changed) > 0 {
			h.Warnings = nil // they are told already
		} else {
			h.Warnings = weaker(applied)
		}
		s.Emit(events.DefinitionRemoved, h)
	}
	if problems := Serious(applied); len(problems) > 0 && (d.Tell == nil || d.Tell(problems)) {
		h.Definitions, h.Warnings, h.Reasons = nil, nil, fitting(problems)
		s.Emit(events.DefinitionRefused, h)
	}
	return applied, nil
}

// weaker says what a change weakens.
func weaker(a *events.Applied) (lines []string) {
	for _, m := range a.Meaning {
		if m.Weaker {
			lines = append(lines, m.Text)
		}
	}
	return fitting(lines)
}

// Serious gives the problems that are no warnings, one line each.
func Serious(a *events.Applied) (lines []string) {
	for _, p := range a.Problems {
		var prob workflows.Problem
		if json.Unmarshal(p, &prob) == nil && !prob.Warning {
			lines = append(lines, prob.Error())
		}
	}
	return lines
}

// Now is the time by which the engine decides.
func (s *Service) Now() time.Time { return time.UnixMilli(s.o.Owner.Now()).UTC() }

// mostReasons is how many bytes of one list an event holds at most.
const mostReasons = 160 << 10

// fitting gives lines that fit into an event, and how many do not.
func fitting(lines []string) []string {
	size := 0
	for i, line := range lines {
		if size += len(line); size > mostReasons {
			return append(slices.Clone(lines[:i]), fmt.Sprintf("and %d more", len(lines)-i))
		}
	}
	return lines
}

// Emit sends an event about definitions, which stands in no record.
func (s *Service) Emit(typ string, h events.Happening) {
	data, err := json.Marshal(h)
	now := s.Now()
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

// texts gives definitions as they were written.
func (s *Service) texts(ctx context.Context, _ Principal, body []byte) (any, error) {
	var req events.ReadDefinitions
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	page, err := s.o.Definitions.Read(ctx, req, int(min(1<<20, s.o.Broker.Engine.MaxPayload()/4)))
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return nil, refuse(events.CodeNotFound, "there are no definitions %s", cmp.Or(req.Digest, req.Catalog))
	}
	return page, err
}

func (s *Service) server(ctx context.Context, _ Principal, _ []byte) (any, error) {
	return s.info(ctx), nil
}

func (s *Service) info(ctx context.Context) events.ServerInfo {
	info := s.o.Info(ctx)
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

func (s *Service) authAdd(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.AddPrincipal
	if err := errors.Join(onlyAdmins(who), s.read(body, &req)); err != nil {
		return nil, err
	}
	c, err := s.o.Broker.AddPrincipal(req.Kind, req.Name, req.Pool)
	if err != nil {
		return nil, refuse(events.CodeConflict, "%v", err)
	}
	info := s.o.Info(ctx)
	c.HTTP = info.HTTP
	if c.URL != "" {
		c.URL = info.NATS
	}
	if req.Kind == "worker" {
		c.TaskKeys = info.TaskKeys
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
