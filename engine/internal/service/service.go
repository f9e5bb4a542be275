// Package service answers the engine's API: what people, bots and workers ask
// over the bus, and the same over HTTP.
//
// Who asks is not what a request says. On the bus it is the token of the
// subject, below which the server lets nobody else publish, and the account
// that the server names; over HTTP it is the principal whose token was shown.
// Deny is the default: what changes something asks the roles in force.
package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-playground/validator/v10"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/definitions"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/peer"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/events/bus/funnel"
	"github.com/penstock-cd/penstock/workflows"
)

// Principal is who asks.
type Principal struct {
	Kind   string   // "user", "admin", "worker", "publisher"
	Name   string   //
	Pool   string   // of a worker
	Groups []string // that a login proved
	Via    string   // "bus" or "http"
}

// Owner is whatever owns the partition of an aggregate: in this process or in
// another engine.
type Owner interface {
	Do(ctx context.Context, agg, id string, in record.Input) events.Answer
	Go(ctx context.Context, agg, id string, in record.Input, reply func(events.Answer))
	State(ctx context.Context, agg, id string) (state any, v int64, err error)
	Heartbeat(ctx context.Context, hb events.HeartbeatRequest) events.Answer
	Progress(ctx context.Context, run string, tasks ...string) map[string]string
	Now() int64
}

// Options configure a Service.
type Options struct {
	Owner       Owner
	Definitions *definitions.Store
	Index       *projection.Index
	Journal     journal.Journal
	Audit       audit.Store
	Partitions  Partitions
	Notes       *audit.Notes // of what stands in no record; may be nil
	Broker      *broker.Broker
	Emit        func(e events.Event, env, workflow string) error
	Changed     func(ctx context.Context) error // called after definitions changed
	// Info tells what the engine is, without runs and workers.
	Info func(ctx context.Context) events.ServerInfo
	// OtherEpochs has the other engines do what Epochs does here; nil where
	// there can be none. What has not been heard of is an error, beside the rest.
	OtherEpochs func(ctx context.Context, by string, req events.NewEpoch) ([]events.Epoch, error)
	// AcceptClock has all engines believe their clocks.
	AcceptClock func(ctx context.Context) ([]events.EngineClock, error)
	// Hello is told of every worker's hello, for the other engines; may be nil.
	Hello func(pool string, h events.Hello)
	Log   *slog.Logger
}

// Service answers requests.
type Service struct {
	o        Options
	work     jetstream.JetStream
	notify   jetstream.JetStream
	ext      jetstream.JetStream
	validate *validator.Validate
	workers  *workerList
	readers  *readers

	verifying sync.Mutex // one verification at a time
	artifacts *bus.Artifacts
	prepared  sync.Map // [2]string{pool, kind} whose consumer is there
	handlers  map[string]handler
}

type handler func(ctx context.Context, who Principal, body []byte) (any, error)

// New makes a service.
func New(o Options) (*Service, error) {
	s := &Service{o: o, validate: validator.New(validator.WithRequiredStructEnabled()), workers: newWorkerList(), readers: newReaders()}
	var errs [4]error
	s.work, errs[0] = jetstream.New(o.Broker.Work)
	s.notify, errs[1] = jetstream.New(o.Broker.Notify)
	s.ext, errs[2] = jetstream.New(o.Broker.Ext)
	s.artifacts, errs[3] = bus.NewArtifacts(o.Broker.Work)
	s.handlers = map[string]handler{
		events.VerbStart: s.start, events.VerbList: s.list, events.VerbGet: s.get, events.VerbWhy: s.why, events.VerbEval: s.eval,
		events.VerbDecide: s.decide, events.VerbCancel: s.cancel, events.VerbPause: s.pause, events.VerbResume: s.resume, events.VerbRetry: s.retry,
		events.VerbRecords: s.records, events.VerbVerify: s.verify, events.VerbAuditVerify: s.verifyAudit, events.VerbAuditLog: s.auditLog,
		events.VerbNewEpoch: s.newEpoch, events.VerbClockAccept: s.acceptClock,
		events.VerbOutput: s.output, events.VerbArtifact: s.artifact, events.VerbEvents: s.events, events.VerbPublish: s.publish,
		events.VerbApply: s.apply, events.VerbDefinitions: s.definitions, events.VerbTexts: s.texts, events.VerbServer: s.server,
		events.VerbEnvironments: s.environments, events.VerbEnvFree: s.freeEnvironment,
		events.VerbEnvHold: s.holdEnvironment, events.VerbEnvUnhold: s.unholdEnvironment, events.VerbBreakGlass: s.breakGlass,
		events.VerbAuthAdd: s.authAdd, events.VerbAuthList: s.authList, events.VerbAuthRevoke: s.authRevoke,
		events.VerbAttemptStart: s.attemptStart, events.VerbAttemptHeartbeat: s.attemptHeartbeat,
		events.VerbAttemptFinish: s.attemptFinish, events.VerbWorkerHello: s.workerHello,
	}
	return s, errors.Join(errs[:]...)
}

// problem is a refusal with a code.
type problem struct {
	code, reason string
}

func (p *problem) Error() string { return p.reason }

// Code is the code of the answer, for callers that make answers of their own.
func (p *problem) Code() string { return p.code }

func refuse(code, format string, args ...any) error {
	return &problem{code, fmt.Sprintf(format, args...)}
}

// answered is an answer that the owner gave; it is passed on as it is.
type answered struct{ events.Answer }

// later is an answer that is there when a record is stored. It is called with
// whoever is to be told, who must not block, and does not wait.
type later func(ctx context.Context, reply func(events.Answer))

// Handle answers one request.
func (s *Service) Handle(ctx context.Context, who Principal, verb string, body []byte) events.Answer {
	reply := make(chan events.Answer, 1)
	s.begin(ctx, who, verb, body, func(a events.Answer) { reply <- a })
	select {
	case a := <-reply:
		return a
	case <-ctx.Done():
	}
	select {
	case a := <-reply: // both were ready
		return a
	default:
		return failure(ctx.Err())
	}
}

// begin answers one request: reply is called once with the answer, before
// begin returns unless that is there later.
func (s *Service) begin(ctx context.Context, who Principal, verb string, body []byte, reply func(events.Answer)) {
	a, follows := s.answer(ctx, who, verb, body)
	if follows == nil {
		s.note(ctx, who, verb, body, a)
		reply(a)
		return
	}
	follows(ctx, func(a events.Answer) {
		s.note(ctx, who, verb, body, a)
		reply(a)
	})
}

// answer gives the answer to a request, or says that it follows. A request
// that a handler cannot take stops nobody else: its panic is an answer.
func (s *Service) answer(ctx context.Context, who Principal, verb string, body []byte) (a events.Answer, follows later) {
	defer func() {
		if p := recover(); p != nil {
			s.o.Log.Error("a request cannot be answered", "verb", verb, "by", who.Name, "panic", p, "stack", string(debug.Stack()))
			a = events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: fmt.Sprintf("the engine cannot answer %s: %v", verb, p)}
			follows = nil
		}
	}()
	h := s.handlers[verb]
	if h == nil {
		return events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: fmt.Sprintf("there is no verb %q", verb)}, nil
	}
	if err := mayAsk(who, verb); err != nil {
		return failure(err), nil
	}
	result, err := h(ctx, who, body)
	if err != nil {
		return failure(err), nil
	}
	switch r := result.(type) {
	case answered:
		return r.Answer, nil
	case later:
		return a, r
	}
	a = events.Answer{Status: events.StatusApplied}
	if result != nil {
		if a.Result, err = json.Marshal(result); err != nil {
			return failure(err), nil
		}
	}
	return a, nil
}

func failure(err error) events.Answer {
	var p *problem
	if errors.As(err, &p) {
		return events.Answer{Status: events.StatusError, Code: p.code, Reason: p.reason}
	}
	if owner := new(peer.Unanswered); errors.As(err, &owner) {
		return forPeople(owner.Answer)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return events.Answer{Status: events.StatusBusy, Reason: "no answer in time; repeat with the same id"}
	}
	if isTransient(err) {
		return events.Answer{Status: events.StatusBusy, Reason: "the store does not answer; repeat with the same id: " + err.Error(), RetryAfter: 1000}
	}
	return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
}

// unreachable are errors of a store that may answer again.
var unreachable = []error{nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting,
	jetstream.ErrNoStreamResponse}

// Codes of the server for a store that has no leader at the moment, or too few
// of its servers: incomplete results, temporarily unavailable, cannot handle
// the request, and offline streams and consumers.
var leaderless = []jetstream.ErrorCode{10004, 10008, 10009, 10118, 10119}

// isTransient reports whether the store may well answer when it is asked again.
func isTransient(err error) bool {
	if api := new(jetstream.APIError); errors.As(err, &api) && slices.Contains(leaderless, api.ErrorCode) {
		return true
	}
	return slices.ContainsFunc(unreachable, func(why error) bool { return errors.Is(err, why) })
}

// Codes of the server for a store that takes no more.
var fullCodes = []jetstream.ErrorCode{10002, 10023, 10047, 10122}

// codeStoreFailed is any failure to store, among them a limit of the stream.
const codeStoreFailed = 10077

func isFull(api *jetstream.APIError) bool {
	return slices.Contains(fullCodes, api.ErrorCode) || api.ErrorCode == codeStoreFailed && strings.HasPrefix(api.Description, "maximum ")
}

// stored turns the server's answer that it takes no more into a refusal.
func (s *Service) stored(what string, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || !isFull(api) {
		return err
	}
	if why := s.o.Broker.Full(); why != nil {
		err = why
	}
	return refuse(events.CodeFull, "the store takes no more, and %s: %v", what, err)
}

// read decodes and validates a request.
func (s *Service) read(body []byte, req any) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := json.Unmarshal(body, req); err != nil {
		return refuse(events.CodeInvalid, "the request is not the JSON that is asked for: %v", err)
	}
	err := s.validate.Struct(req)
	var fields validator.ValidationErrors
	if errors.As(err, &fields) {
		f := fields[0]
		return refuse(events.CodeInvalid, "the request's field %s does not satisfy %q", f.Field(), f.ActualTag()+cmp.Or(prefixed("=", f.Param()), ""))
	}
	return nil
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// command runs an input on an aggregate and passes the answer on.
func (s *Service) command(ctx context.Context, who Principal, agg, id string, in record.Input) answered {
	in.By, in.Groups, in.Admin, in.Via = who.Name, who.Groups, who.Kind == "admin", who.Via
	return answered{forPeople(s.o.Owner.Do(ctx, agg, id, in))}
}

// forPeople makes errors of what will stay busy until somebody does something:
// people want to know; programs may repeat it.
func forPeople(a events.Answer) events.Answer {
	if a.Code == events.CodeFull || a.Code == events.CodeStopped {
		a.Status = events.StatusError
	}
	return a
}

// may refuses unless the principal may do an action.
func (s *Service) may(who Principal, action string) error {
	cat := s.o.Definitions.Current()
	if cat.Allows(s.roles(who, cat), action, "") {
		return nil
	}
	return refuse(events.CodeDenied, "%s may not do this: it takes the permission %s", who.Name, action)
}

// roles are those that a principal holds.
func (s *Service) roles(who Principal, cat *workflows.Catalog) []string {
	roles := cat.RolesOf(who.Name, who.Groups...)
	if who.Kind == "admin" {
		roles = append(roles, workflows.AdministratorR)
	}
	return roles
}

// run finds a run by its id or the beginning of it.
func (s *Service) run(ctx context.Context, prefix string) (projection.Line, error) {
	id, fits := s.o.Index.Resolve(prefix)
	switch {
	case prefix == "":
		return projection.Line{}, refuse(events.CodeInvalid, "the request names no run")
	case fits > 1:
		return projection.Line{}, refuse(events.CodeInvalid, "%d runs begin with %q; give more of the id", fits, prefix)
	case fits == 1:
		line, _ := s.o.Index.Run(id)
		return line, nil
	}
	return s.unseen(ctx, prefix)
}

// unseen finds a run that the index does not know yet, because it was started
// a moment ago by another engine: its owner knows it by its whole id.
func (s *Service) unseen(ctx context.Context, id string) (projection.Line, error) {
	none := refuse(events.CodeNotFound, "there is no run %q", id)
	if !record.IsDerived(id) {
		return projection.Line{}, none
	}
	state, v, err := s.o.Owner.State(ctx, record.Run, id)
	if err != nil {
		return projection.Line{}, err
	}
	st, ok := state.(*run.State)
	if !ok || st == nil {
		return projection.Line{}, none
	}
	view := run.View(st, v)
	return projection.Line{ID: id, Workflow: view.Workflow, Status: view.Status, Outcome: view.Outcome, StartedAt: view.StartedAt, Records: v}, nil
}

// busy is the answer to a request for which there is no place.
var busy, _ = json.Marshal(events.Answer{Status: events.StatusBusy, RetryAfter: 500, // texts and numbers always encode
	Reason: "the engine answers as many requests as it can; repeat it with the same id"})

// Serve answers requests on the bus until ctx ends. Taking a request never
// waits: one for which there is no place is answered at once. listening is
// called once requests get here.
func (s *Service) Serve(ctx context.Context, listening func()) error {
	places := newSlots()
	answers := funnel.New(s.send)
	var work sync.WaitGroup
	reports := newDesk(&work)
	defer reports.close()
	sub, err := s.o.Broker.Engine.QueueSubscribe("penstock.api.>", "penstock-engine", func(m *nats.Msg) {
		if m.Reply == "" {
			return // nobody would hear the answer, and nothing unanswered is done
		}
		release := places.take(m.Subject)
		if release == nil {
			answers.Add(nats.Msg{Subject: m.Reply, Data: busy})
			return
		}
		do := func() {
			s.respond(ctx, m, func(data []byte) {
				release()
				answers.Add(nats.Msg{Subject: m.Reply, Data: data})
			})
		}
		switch {
		case !reportsOnly(m.Subject):
			work.Go(do)
		case nothingBehind(m):
			do()
		default:
			reports.take(do)
		}
	})
	if err != nil {
		return fmt.Errorf("serve the API on the bus: %w", err)
	}
	if err := sub.SetPendingLimits(-1, 256<<20); err != nil {
		return err
	}
	if err := s.heard(ctx); err != nil {
		s.o.Log.Warn("the server has not said that it passes requests on; it will when it is back", "error", err)
	}
	listening()
	<-ctx.Done()
	err = sub.Unsubscribe()
	reports.close()
	work.Wait()
	answers.Wait()
	return err
}

// nothingBehind reports whether no other message of its subscription waits: the
// goroutine that brings them has the time then, and no other one has to wake up.
func nothingBehind(m *nats.Msg) bool {
	if m.Sub == nil {
		return false
	}
	n, _, err := m.Sub.Pending()
	return err == nil && n == 0
}

// heard waits for the server to know what is subscribed to: before it does, it
// tells whoever asks that nobody answers.
func (s *Service) heard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.o.Broker.Engine.FlushWithContext(ctx)
}

// send sends answers.
func (s *Service) send(answers []nats.Msg) {
	for i := range answers {
		if err := s.o.Broker.Engine.PublishMsg(&answers[i]); err != nil {
			s.o.Log.Warn("an answer was not sent", "subject", answers[i].Subject, "error", err)
		}
	}
}

// respond has reply called once with the answer to a request, as JSON.
func (s *Service) respond(ctx context.Context, m *nats.Msg, reply func([]byte)) {
	send := func(a events.Answer) { reply(encode(a, s.o.Broker.Engine.MaxPayload())) }
	who, verb, err := caller(m, s.o.Broker.AccountName)
	if err != nil {
		a := failure(err)
		s.o.Log.Warn("a request was refused", "subject", m.Subject, "reason", err)
		s.note(ctx, Principal{Name: m.Subject, Via: "bus"}, verb, m.Data, a)
		send(a)
		return
	}
	if slices.Contains(reportVerbs, verb) { // which waits for nothing
		s.begin(ctx, who, verb, m.Data, send)
		return
	}
	limit := 30 * time.Second
	if verb == events.VerbAuditVerify || verb == events.VerbNewEpoch {
		limit = longestVerification
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	send(s.Handle(ctx, who, verb, m.Data))
}

// encode gives an answer as JSON. One that the server would not take is an
// answer that says so.
func encode(a events.Answer, most int64) []byte {
	p, err := a.AppendJSON(make([]byte, 0, 64+len(a.Result)))
	if err == nil && int64(len(p)) > most {
		err = refuse(events.CodeInvalid, "the answer has %d bytes, and the server passes on %d at most: ask for less at once", len(p), most)
	}
	if err != nil {
		p, _ = json.Marshal(failure(err)) // texts always encode
	}
	return p
}
