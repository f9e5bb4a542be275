package run

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// ExplainRecord says why a record of a run says what it says: what came in,
// each condition that was evaluated with how it came to its value on what it
// read then, and what happened. d are the definitions that it was decided with.
func ExplainRecord(d Definitions, r *record.Record) *events.RecordWhy {
	why := &events.RecordWhy{Record: r.V, Time: at(r.T), Cause: causeText(&r.In)}
	if r.Answer.Status == events.StatusRefused || r.Answer.Status == events.StatusError || r.Answer.Status == events.StatusStale {
		why.Answer = strings.TrimSuffix(fmt.Sprintf("%s: %s", r.Answer.Status, r.Answer.Reason), ": ")
	}
	for _, dec := range r.Decisions {
		why.Decisions = append(why.Decisions, explainDecision(d, dec))
	}
	for _, e := range r.Events {
		why.Happened = append(why.Happened, happened(e)+byArm(d.Workflow, e))
	}
	return why
}

// explainDecision evaluates a decision once more on what it read, to show its
// parts; the value is the one that was recorded.
func explainDecision(d Definitions, dec record.Decision) events.RuleReason {
	r := events.RuleReason{Name: dec.Rule, Of: dec.Of, Source: dec.Source}
	doc := document(d, dec.Of)
	if e := expression(doc, dec.Source); e != nil {
		r = explained(dec.Rule, dec.Of, e, e.Explain(context.Background(), dec.Inputs))
	}
	r.Name = cmp.Or(ruleName(doc, dec.Source), dec.Rule)
	r.Value, r.Error = dec.Value, dec.Error
	return r
}

// document is the definition that owns a rule; nil when it is not there.
func document(d Definitions, of string) any {
	kind, name, _ := strings.Cut(of, "/")
	switch kind {
	case workflows.KindWorkflow:
		return d.Workflow
	case workflows.KindEnvironment:
		if e := d.Now.Environments[name]; e != nil {
			return e
		}
	case workflows.KindPolicy:
		if p := d.Now.Policies[name]; p != nil {
			return p
		}
	}
	return nil
}

// ruleName is the name of a rule of an environment or a policy.
func ruleName(doc any, source string) string {
	var rules []*workflows.Rule
	switch doc := doc.(type) {
	case *workflows.Environment:
		rules = doc.Spec.Require
	case *workflows.Policy:
		rules = doc.Spec.Require
	}
	for _, r := range rules {
		if r.Expression.Source == source {
			return r.Name
		}
	}
	return ""
}

// expression finds an expression in a definition by its source.
func expression(doc any, source string) *workflows.Expr {
	if doc == nil {
		return nil
	}
	var find func(v reflect.Value) *workflows.Expr
	find = func(v reflect.Value) *workflows.Expr {
		switch v.Kind() {
		case reflect.Pointer:
			if e, ok := v.Interface().(*workflows.Expr); ok {
				if e != nil && e.Source == source && e.Program != nil {
					return e
				}
				return nil
			}
			return find(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				if e := find(v.Field(i)); e != nil {
					return e
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				if e := find(v.Index(i)); e != nil {
					return e
				}
			}
		case reflect.Map:
			keys := v.MapKeys()
			slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
			for _, k := range keys {
				if e := find(v.MapIndex(k)); e != nil {
					return e
				}
			}
		}
		return nil
	}
	return find(reflect.ValueOf(doc))
}

// causeText says what came in.
func causeText(in *record.Input) string {
	by := in.By
	text := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	switch in.Kind {
	case record.InStart:
		if c := in.Start.Cause; c != nil {
			return text("the event %s of %s started the run", c.Type, c.Source)
		}
		return by + " started the run"
	case record.InAttemptStart:
		return text("worker %s asked to begin a task", in.Attempt.Worker)
	case record.InAttemptFinish:
		return text("worker %s reported the end of a task: %s", in.Attempt.Worker, in.Attempt.Result.Outcome)
	case record.InAttemptLost:
		return text("worker %s was not heard of any more", in.Attempt.Worker)
	case record.InTimer:
		return "a deadline passed"
	case record.InDecide:
		return withReason(text("%s decided: %s", by, in.Decide.Decision), in.Decide.Comment)
	case record.InCancel:
		return withReason(by+" cancelled the run", in.Cancel.Reason)
	case record.InPause:
		return withReason(by+" paused the run", in.Pause.Reason)
	case record.InResume:
		return withReason(by+" let the run go on", in.Pause.Reason)
	case record.InRetry:
		return withReason(strings.TrimSuffix(text("%s let the run begin again at %s", by, in.Retry.From), " at "), in.Retry.Reason)
	case record.InBreakGlass:
		return withReason(text("%s broke the glass of environment %s", by, in.Glass.Environment), in.Glass.Reason)
	case record.InGranted:
		return text("environment %s gave its lock, grant %d", in.Granted.Environment, in.Granted.Grant)
	case record.InFreed:
		return text("a person took grant %d of environment %s back", in.Freed.Grant, in.Freed.Environment)
	case record.InEnvState:
		if in.EnvState.Open {
			return text("environment %s said that it is open", in.EnvState.Environment)
		}
		return withReason(text("environment %s said that it is closed", in.EnvState.Environment), in.EnvState.Reason)
	case record.InProven:
		return text("environment %s said that %s has succeeded there, by run %s", in.Proof.Environment, shortText(in.Proof.Artifact), in.Proof.By)
	case record.InSignal:
		return text("an event of type %s came, from %s", in.Signal.Cause.Type, in.Signal.Cause.Source)
	case record.InChildEnded:
		return text("the child run %s ended: %s", in.Child.Run, in.Child.Outcome)
	case record.InKeyGranted:
		return text("the concurrency key %s was given to the run", in.Key.Key)
	case record.InKeyDenied:
		return withReason(text("the concurrency key %s was not given to the run", in.Key.Key), in.Key.Reason)
	case record.InSendAnswer:
		return withReason("a message was answered: "+in.Sent.Status, in.Sent.Reason)
	}
	return in.Kind
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

// byArm names the arm by which a state was left.
func byArm(wf *workflows.Workflow, e record.Emitted) string {
	st := wf.Spec.States[e.Data.State]
	if e.Type != events.StateLeft || st == nil || e.Data.To == "" {
		return ""
	}
	for i, arm := range st.Arms() {
		switch {
		case arm.To != e.Data.To || !arm.Takes(e.Data.Outcome):
		case arm.Key != "":
			return " (" + arm.Key + ")"
		case arm.When == nil:
			return fmt.Sprintf(" (transition %d, which has no condition)", i+1)
		default:
			return fmt.Sprintf(" (transition %d: %s)", i+1, arm.When.Source)
		}
	}
	return ""
}

// happened is an event in a sentence.
func happened(e record.Emitted) string {
	h := e.Data
	s := h.State
	if h.Visit > 1 {
		s = fmt.Sprintf("%s (visit %d)", s, h.Visit)
	}
	text := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	failure := ""
	if h.Error != nil {
		failure = h.Error.Message
	}
	switch e.Type {
	case events.RunStarted:
		return "the run began"
	case events.RunFinished:
		return withReason(text("the run ended in %s: %s", h.State, h.Outcome), failure)
	case events.RunHeld:
		return withReason(text("the run is held at %s", s), h.Reason)
	case events.RunAuthors:
		return "the change was written by " + joinWords(h.Authors)
	case events.StateEntered:
		if h.Kind != "" {
			return text("entered %s, whose %s task waits for a worker", s, h.Kind)
		}
		return "entered " + s
	case events.StateLeft:
		if h.To == "" {
			return withReason(text("%s ended %s, and the run with it", s, h.Outcome), failure)
		}
		return withReason(text("%s ended %s; from there to %s", s, h.Outcome, h.To), failure)
	case events.TaskQueued:
		return text("the %s task of %s waits for a worker (attempt %d)", h.Kind, h.State, h.Attempt)
	case events.TaskStarted:
		return text("worker %s began the %s task of %s (attempt %d)", h.Worker, h.Kind, h.State, h.Attempt)
	case events.TaskFinished:
		return withReason(text("the %s task of %s ended: %s", h.Kind, h.State, h.Outcome), failure)
	case events.TaskRetrying:
		return withReason(text("the %s task of %s is tried again (attempt %d)", h.Kind, h.State, h.Attempt), failure)
	case events.GateEvaluated:
		return withReason(text("the gate of %s: %s", h.State, h.Outcome), strings.Join(h.Reasons, "; "))
	case events.ApprovalRequested:
		return withReason("people are asked at "+s, strings.Join(h.Missing, "; "))
	case events.ApprovalDecided:
		return withReason(text("%s decided at %s: %s", h.By, s, h.Decision), prefixed("still missing: ", strings.Join(h.Missing, "; ")))
	case events.ApprovalRefused:
		return withReason(text("the decision of %s at %s does not count", h.By, s), h.Reason)
	case events.ApprovalStale:
		return withReason(text("what %s said at %s does not count any more", h.By, s), strings.Join(h.Reasons, "; "))
	case events.ApprovalClosed:
		return withReason(text("the approval at %s is over: %s", s, h.Outcome), h.Reason)
	case events.EnvironmentGranted:
		return text("has the lock of environment %s (grant %d)", h.Environment, h.Grant)
	case events.EnvironmentQueued:
		return text("asked for the lock of environment %s", h.Environment)
	case events.EnvironmentReleased:
		return text("gave environment %s back (grant %d)", h.Environment, h.Grant)
	case events.EnvironmentClosed:
		return withReason(text("environment %s lets nothing in", h.Environment), h.Reason)
	case events.EnvironmentDeployed:
		return text("%s is deployed in environment %s", shortText(h.Artifact), h.Environment)
	case events.Notification:
		return text("channel %s was told: %s", h.Channel, h.Text)
	}
	words := strings.NewReplacer(".", " ", "_", " ").Replace(events.ShortType(e.Type))
	for _, more := range []string{prefixed(" at ", s), prefixed(" of ", h.Environment), prefixed(" by ", h.By), prefixed(": ", h.Outcome),
		prefixed(": ", cmp.Or(h.Reason, strings.Join(h.Reasons, "; "), failure))} {
		words += more
	}
	return words
}
