package service_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

func TestAnExpressionIsEvaluatedForWhoMayReadTheRun(t *testing.T) {
	s := newStand(t)
	var r events.RunView
	s.asAdmin(events.VerbStart, events.StartRun{ID: "1", Workflow: "triggered", Inputs: map[string]any{"commit": "abc"}}, &r)
	marta := s.connect(s.add("user", "marta", ""))
	eval := func(expression string) events.Evaluation {
		t.Helper()
		a := s.ask(marta, events.UserSubject("marta", events.VerbEval), events.EvalRun{Run: r.ID[:8], Expression: expression})
		var e events.Evaluation
		if a.Status != events.StatusApplied || json.Unmarshal(a.Result, &e) != nil {
			t.Fatalf("%s: %+v", expression, a)
		}
		return e
	}
	if e := eval(`inputs.commit == "abc" && state == "ask"`); e.Value != true || len(e.Parts) < 3 {
		t.Errorf("%+v", e)
	}
	if e := eval("run.authors.size()"); e.Value != nil || !strings.Contains(e.Error, "authors") {
		t.Errorf("%+v", e)
	}
	if e := eval("inputs.comit"); len(e.Problems) != 1 || !strings.Contains(e.Problems[0], "^") {
		t.Errorf("%+v", e)
	}
	zoe := s.connect(s.add("user", "zoe", ""))
	for want, req := range map[string]events.EvalRun{events.CodeDenied: {Run: r.ID, Expression: "state"}, events.CodeNotFound: {Run: "nosuchrun", Expression: "state"},
		events.CodeInvalid: {Run: r.ID}} {
		if a := s.ask(zoe, events.UserSubject("zoe", events.VerbEval), req); a.Code != want {
			t.Errorf("zoe asks %+v: %+v, want %s", req, a, want)
		}
	}
	if a := s.ask(marta, events.UserSubject("marta", events.VerbEval), events.EvalRun{Run: r.ID, Expression: "env.name", Environment: "moon"}); a.Code != events.CodeNotFound {
		t.Errorf("%+v", a)
	}
}
