package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/penstock-cd/penstock/events"
)

// answer asks the service as the caller of ctx. The error is a problem.
func (s *server) answer(ctx context.Context, verb string, req any) (events.Answer, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return events.Answer{}, newProblem(http.StatusUnprocessableEntity, events.CodeInvalid, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	a := s.o.Service.Handle(ctx, callerOf(ctx).Principal, verb, body)
	return a, s.refusal(ctx, verb, a)
}

// ask is answer for a verb whose result is a T.
func ask[T any](ctx context.Context, s *server, verb string, req any) (T, error) {
	var result T
	a, err := s.answer(ctx, verb, req)
	if err != nil {
		return result, err
	}
	if err := json.Unmarshal(a.Result, &result); err != nil {
		return result, s.refusal(ctx, verb, events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()})
	}
	return result, nil
}

// body is a response with nothing but a body.
type body[T any] struct{ Body T }

// get is ask for an operation that answers with what it was told.
func get[T any](ctx context.Context, s *server, verb string, req any) (*body[T], error) {
	result, err := ask[T](ctx, s, verb, req)
	if err != nil {
		return nil, err
	}
	return &body[T]{result}, nil
}

// keyOf is the id of a request that changes something.
func keyOf(header string) string { return cmp.Or(header, uuid.NewString()) }

type startBody struct {
	Workflow string         `json:"workflow" minLength:"1" doc:"Name of the workflow." example:"release"`
	Inputs   map[string]any `json:"inputs,omitempty" doc:"Inputs by name, as the workflow declares them; text is read by the declared type."`
}

type startInput struct {
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same start. One is made when it is missing." example:"release-2026-05-04"`
	Body startBody
}

type startOutput struct {
	Location string `header:"Location" doc:"Path of the run."`
	Key      string `header:"Idempotency-Key" doc:"The key of this start."`
	Body     events.RunView
}

func (s *server) start(ctx context.Context, in *startInput) (*startOutput, error) {
	key := keyOf(in.Key)
	run, err := ask[events.RunView](ctx, s, events.VerbStart, events.StartRun{ID: key, Workflow: in.Body.Workflow, Inputs: in.Body.Inputs})
	if err != nil {
		return nil, err
	}
	return &startOutput{"/v1/runs/" + url.PathEscape(run.ID), key, run}, nil
}

type listInput struct {
	Workflow string `query:"workflow" doc:"Only runs of this workflow." example:"release"`
	Status   string `query:"status" doc:"Only runs that are running, waiting or done, or that ended with this outcome." example:"waiting"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"How many runs at most."`
	Cursor   string `query:"cursor" doc:"The next of the page before."`
}

func (s *server) list(ctx context.Context, in *listInput) (*body[events.RunList], error) {
	return get[events.RunList](ctx, s, events.VerbList, events.ListRuns{Workflow: in.Workflow, Status: in.Status, Limit: in.Limit, Cursor: in.Cursor})
}

type runInput struct {
	Run string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
}

func (s *server) run(ctx context.Context, in *runInput) (*body[events.RunView], error) {
	return get[events.RunView](ctx, s, events.VerbGet, events.GetRun{Run: in.Run})
}

type whyInput struct {
	Run string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	At  int64  `query:"at" minimum:"1" doc:"Number of a record of the run: why it says what it says."`
}

func (s *server) why(ctx context.Context, in *whyInput) (*body[events.WhyView], error) {
	return get[events.WhyView](ctx, s, events.VerbWhy, events.GetRun{Run: in.Run, At: in.At})
}

type evalInput struct {
	Run         string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Expression  string `query:"expression" required:"true" minLength:"1" maxLength:"8192" doc:"A CEL expression." example:"inputs.commit"`
	Environment string `query:"environment" doc:"An environment, whose rules' names it may read too."`
}

func (s *server) eval(ctx context.Context, in *evalInput) (*body[events.Evaluation], error) {
	return get[events.Evaluation](ctx, s, events.VerbEval, events.EvalRun{Run: in.Run, Expression: in.Expression, Environment: in.Environment})
}

type recordsInput struct {
	Run   string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	After uint64 `query:"after" doc:"Only records behind this one: the next of the answer before."`
}

func (s *server) records(ctx context.Context, in *recordsInput) (*body[events.Records], error) {
	return get[events.Records](ctx, s, events.VerbRecords, events.GetRun{Run: in.Run, After: in.After})
}

func (s *server) verify(ctx context.Context, in *runInput) (*body[events.Verification], error) {
	return get[events.Verification](ctx, s, events.VerbVerify, events.GetRun{Run: in.Run})
}

// outcome says that a command was carried out.
type outcome struct {
	Status string `json:"status" enum:"applied,already" doc:"Whether it was recorded now, or had been before." example:"applied"`
	Record int64  `json:"record" doc:"Number of the run's record that holds it." example:"14"`
}

type commandOutput struct {
	Key  string `header:"Idempotency-Key" doc:"The key of this command."`
	Body outcome
}

func (s *server) command(ctx context.Context, key, verb string, req any) (*commandOutput, error) {
	a, err := s.answer(ctx, verb, req)
	if err != nil {
		return nil, err
	}
	return &commandOutput{key, outcome{a.Status, a.Record}}, nil
}

type decisionBody struct {
	State    string    `json:"state,omitempty" doc:"The state that waits for approval; may be left out when one approval is open." example:"release"`
	Comment  string    `json:"comment,omitempty" maxLength:"2000" doc:"Shown with the decision." example:"tested by hand"`
	Content  string    `json:"content" minLength:"1" doc:"Digest of what was shown, from the run's waiting reasons or the approval.requested event. A decision on something else is refused." example:"sha256:5f8c"`
	NotAfter time.Time `json:"notAfter,omitzero" doc:"The decision does not count after this time; 15 minutes from now at most, and by default."`
}

type decideInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same decision. One is made when it is missing."`
	Body decisionBody
}

// decide is the operation for one of the decisions.
func (s *server) decide(decision string) func(context.Context, *decideInput) (*commandOutput, error) {
	return func(ctx context.Context, in *decideInput) (*commandOutput, error) {
		b, key := in.Body, keyOf(in.Key)
		return s.command(ctx, key, events.VerbDecide, events.Decide{ID: key, Run: in.Run, State: b.State, Decision: decision,
			Comment: b.Comment, Content: b.Content, NotAfter: b.NotAfter, Via: "http"})
	}
}

type approveBody struct {
	State     string    `json:"state,omitempty" doc:"The state that waits for approval; may be left out when one approval is open." example:"release"`
	Comment   string    `json:"comment,omitempty" maxLength:"2000" doc:"Shown with the decision." example:"tested by hand"`
	Content   string    `json:"content" minLength:"1" doc:"Digest of what was shown, from the run's waiting reasons or the approval.requested event. A decision on something else is refused." example:"sha256:5f8c"`
	NotAfter  time.Time `json:"notAfter,omitzero" doc:"The decision does not count after this time; 15 minutes from now at most, and by default."`
	NotBefore time.Time `json:"notBefore,omitzero" doc:"The approval is valid now and counts from this time on."`
}

type approveInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same decision. One is made when it is missing."`
	Body approveBody
}

func (s *server) approve(ctx context.Context, in *approveInput) (*commandOutput, error) {
	decision := events.Approve
	if !in.Body.NotBefore.IsZero() {
		decision = events.Defer
	}
	b, key := in.Body, keyOf(in.Key)
	return s.command(ctx, key, events.VerbDecide, events.Decide{ID: key, Run: in.Run, State: b.State, Decision: decision, NotBefore: b.NotBefore,
		Comment: b.Comment, Content: b.Content, NotAfter: b.NotAfter, Via: "http"})
}

type wordBody struct {
	State   string `json:"state,omitempty" doc:"The state that waits for approval; may be left out when one approval is open." example:"release"`
	Comment string `json:"comment,omitempty" maxLength:"2000" doc:"Shown with it." example:"back on Monday"`
}

type wordInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same one. One is made when it is missing."`
	Body *wordBody
}

// word is the operation for a decision that is not about the content.
func (s *server) word(decision string) func(context.Context, *wordInput) (*commandOutput, error) {
	return func(ctx context.Context, in *wordInput) (*commandOutput, error) {
		b, key := cmp.Or(in.Body, &wordBody{}), keyOf(in.Key)
		return s.command(ctx, key, events.VerbDecide, events.Decide{ID: key, Run: in.Run, State: b.State, Decision: decision, Comment: b.Comment, Via: "http"})
	}
}

type delegateBody struct {
	State   string `json:"state,omitempty" doc:"The state that waits for approval; may be left out when one approval is open." example:"release"`
	Comment string `json:"comment,omitempty" maxLength:"2000" doc:"Shown with it." example:"back on Monday"`
	To      string `json:"to" minLength:"1" doc:"Name of who decides instead, with your roles." example:"li"`
}

type delegateInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same one. One is made when it is missing."`
	Body delegateBody
}

func (s *server) delegate(ctx context.Context, in *delegateInput) (*commandOutput, error) {
	b, key := in.Body, keyOf(in.Key)
	return s.command(ctx, key, events.VerbDecide, events.Decide{ID: key, Run: in.Run, State: b.State, Decision: events.Delegate, To: b.To,
		Comment: b.Comment, Via: "http"})
}

type glassBody struct {
	Environment string `json:"environment" minLength:"1" doc:"The environment whose rules, windows and holds are passed." example:"production"`
	Reason      string `json:"reason" minLength:"1" maxLength:"2000" doc:"Why; it is in the record for good." example:"the shop is down"`
}

type glassInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same one. One is made when it is missing."`
	Body glassBody
}

func (s *server) breakGlass(ctx context.Context, in *glassInput) (*commandOutput, error) {
	key := keyOf(in.Key)
	return s.command(ctx, key, events.VerbBreakGlass, events.BreakGlass{ID: key, Run: in.Run, Environment: in.Body.Environment, Reason: in.Body.Reason})
}

type cancelBody struct {
	Reason string `json:"reason,omitempty" maxLength:"2000" doc:"Shown with the run." example:"wrong commit"`
}

type cancelInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same cancel. One is made when it is missing."`
	Body *cancelBody
}

func (s *server) cancel(ctx context.Context, in *cancelInput) (*commandOutput, error) {
	b := cmp.Or(in.Body, &cancelBody{})
	key := keyOf(in.Key)
	return s.command(ctx, key, events.VerbCancel, events.CancelRun{ID: key, Run: in.Run, Reason: b.Reason})
}

type pauseBody struct {
	Reason string `json:"reason,omitempty" maxLength:"2000" doc:"Shown with the run." example:"the incident first"`
}

type pauseInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same request. One is made when it is missing."`
	Body *pauseBody
}

// pause is the operation that pauses a run, or lets it go on.
func (s *server) pause(verb string) func(context.Context, *pauseInput) (*commandOutput, error) {
	return func(ctx context.Context, in *pauseInput) (*commandOutput, error) {
		b, key := cmp.Or(in.Body, &pauseBody{}), keyOf(in.Key)
		return s.command(ctx, key, verb, events.PauseRun{ID: key, Run: in.Run, Reason: b.Reason})
	}
}

type retryBody struct {
	From   string `json:"from,omitempty" doc:"The state to begin at; the last one that the run was in and that is no end, when it is left out." example:"staging"`
	Reason string `json:"reason,omitempty" maxLength:"2000" doc:"Shown with the run." example:"the cluster is back"`
}

type retryInput struct {
	Run  string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same retry. One is made when it is missing."`
	Body *retryBody
}

func (s *server) retry(ctx context.Context, in *retryInput) (*commandOutput, error) {
	b, key := cmp.Or(in.Body, &retryBody{}), keyOf(in.Key)
	return s.command(ctx, key, events.VerbRetry, events.RetryRun{ID: key, Run: in.Run, From: b.From, Reason: b.Reason})
}

type outputInput struct {
	Run   string `path:"run" doc:"Id of the run, or the beginning of it as long as that fits one run only." example:"01976b3e9d1c"`
	State string `query:"state" doc:"Only output of this state, and of the branches in it." example:"verify.test"`
	After uint64 `query:"after" doc:"Cursor: the next of the answer before; 0 is the beginning."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"200" doc:"How many chunks at most."`
	Wait  int64  `query:"wait" minimum:"0" maximum:"20" doc:"For how many seconds to wait when there is nothing new."`
}

func (s *server) output(ctx context.Context, in *outputInput) (*body[events.Output], error) {
	return get[events.Output](ctx, s, events.VerbOutput, events.ReadOutput{Run: in.Run, State: in.State, After: in.After, Limit: in.Limit,
		Wait: in.Wait * 1000})
}

// runOf finds a run by the beginning of its id and gives the whole id.
func (s *server) runOf(ctx context.Context, prefix string) (string, error) {
	run, err := ask[events.RunView](ctx, s, events.VerbGet, events.GetRun{Run: prefix})
	if err != nil {
		return "", err
	}
	return run.ID, nil
}
