package api

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

func TestAnswersBecomeStatuses(t *testing.T) {
	for name, c := range map[string]struct {
		answer events.Answer
		status int
		code   string
		retry  string
	}{
		"invalid":              {events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: "no"}, 422, "invalid", ""},
		"not found":            {events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "no"}, 404, "not_found", ""},
		"conflict":             {events.Answer{Status: events.StatusError, Code: events.CodeConflict, Reason: "no"}, 409, "conflict", ""},
		"denied":               {events.Answer{Status: events.StatusError, Code: events.CodeDenied, Reason: "no"}, 403, "denied", ""},
		"full":                 {events.Answer{Status: events.StatusError, Code: events.CodeFull, Reason: "no"}, 507, "full", "30"},
		"stopped":              {events.Answer{Status: events.StatusError, Code: events.CodeStopped, Reason: "no"}, 503, "stopped", ""},
		"internal":             {events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: "secret"}, 500, "internal", ""},
		"a code from tomorrow": {events.Answer{Status: events.StatusError, Code: "novel", Reason: "secret"}, 500, "internal", ""},
		"a status of tomorrow": {events.Answer{Status: "novel"}, 500, "internal", ""},
		"busy":                 {events.Answer{Status: events.StatusBusy}, 503, "busy", "1"},
		"busy for a while":     {events.Answer{Status: events.StatusBusy, RetryAfter: 2500}, 503, "busy", "3"},
		"stale":                {events.Answer{Status: events.StatusStale, Reason: "old"}, 409, "conflict", ""},
		"refused":              {events.Answer{Status: events.StatusRefused, Record: 9, Reason: "no"}, 409, "conflict", ""},
		"refused to somebody":  {events.Answer{Status: events.StatusRefused, Record: 9, Code: events.CodeDenied, Reason: "no"}, 403, "denied", ""},
	} {
		t.Run(name, func(t *testing.T) {
			o, log := optionsWithLog(always(c.answer))
			for _, route := range []string{"GET /v1/runs", "GET /v1/runs/r1", "POST /v1/runs/r1/approve", "POST /v1/runs/r1/cancel", "GET /v1/events?after=0", "GET /v1/definitions"} {
				body := ""
				if strings.HasSuffix(route, "approve") {
					body = `{"content":"sha256:1"}`
				}
				w := call(t, New(o), "t-user", route, body)
				p := wantProblem(t, w, c.status, c.code)
				if got := w.Header().Get("Retry-After"); got != c.retry {
					t.Errorf("%s: Retry-After %q, want %q", route, got, c.retry)
				}
				if p.Record != c.answer.Record {
					t.Errorf("%s: record %d, want %d", route, p.Record, c.answer.Record)
				}
				if strings.Contains(w.Body.String(), "secret") {
					t.Errorf("%s: the reason of an internal error is told: %s", route, w.Body)
				}
			}
			if c.answer.Reason == "secret" && !strings.Contains(log.String(), "secret") {
				t.Error("the reason of an internal error is not in the log")
			}
		})
	}
}

func TestRequestsReachTheServiceAsTheyWereMeant(t *testing.T) {
	for _, c := range []struct {
		route, body, verb, want string
		status                  int
	}{
		{"POST /v1/runs", `{"workflow":"release","inputs":{"commit":"abc"}}`, events.VerbStart, `{"id":"k1","workflow":"release","inputs":{"commit":"abc"}}`, 201},
		{"GET /v1/runs?workflow=release&status=waiting&limit=3&cursor=r9", "", events.VerbList, `{"workflow":"release","status":"waiting","limit":3,"cursor":"r9"}`, 200},
		{"GET /v1/runs", "", events.VerbList, `{"limit":50}`, 200},
		{"GET /v1/runs/r1", "", events.VerbGet, `{"run":"r1"}`, 200},
		{"GET /v1/runs/r1/why", "", events.VerbWhy, `{"run":"r1"}`, 200},
		{"GET /v1/runs/r1/eval?expression=a%20%26%26%20b&environment=production", "", events.VerbEval, `{"run":"r1","expression":"a \u0026\u0026 b","environment":"production"}`, 200},
		{"GET /v1/runs/r1/records", "", events.VerbRecords, `{"run":"r1"}`, 200},
		{"GET /v1/runs/r1/records?after=42", "", events.VerbRecords, `{"run":"r1","after":42}`, 200},
		{"GET /v1/runs/r1/verify", "", events.VerbVerify, `{"run":"r1"}`, 200},
		{"GET /v1/runs/r1/output?state=verify.test&after=18446744073709551615&limit=5&wait=2", "", events.VerbOutput,
			`{"run":"r1","state":"verify.test","after":18446744073709551615,"limit":5,"waitMs":2000}`, 200},
		{"POST /v1/runs/r1/approve", `{"state":"go","comment":"fine","content":"sha256:1","notAfter":"2026-05-04T09:30:00Z"}`, events.VerbDecide,
			`{"id":"k1","run":"r1","state":"go","decision":"approved","comment":"fine","content":"sha256:1","notAfter":"2026-05-04T09:30:00Z","via":"http"}`, 200},
		{"POST /v1/runs/r1/approve", `{"content":"sha256:1"}`, events.VerbDecide, `{"id":"k1","run":"r1","decision":"approved","content":"sha256:1","via":"http"}`, 200},
		{"POST /v1/runs/r1/reject", `{"comment":"no","content":"c"}`, events.VerbDecide, `{"id":"k1","run":"r1","decision":"rejected","comment":"no","content":"c","via":"http"}`, 200},
		{"POST /v1/runs/r1/cancel", `{"reason":"wrong"}`, events.VerbCancel, `{"id":"k1","run":"r1","reason":"wrong"}`, 200},
		{"GET /v1/definitions", "", events.VerbDefinitions, `{}`, 200},
		{"POST /v1/definitions", `{"files":[{"name":"a.yaml","content":"x"}],"dryRun":true}`, events.VerbApply, `{"id":"k1","files":[{"name":"a.yaml","content":"x"}],"dryRun":true}`, 200},
		{"GET /v1/environments", "", events.VerbEnvironments, `{}`, 200},
		{"GET /v1/server", "", events.VerbServer, `{}`, 200},
	} {
		f := &fake{}
		w := call(t, New(options(f)), "t-user", c.route, c.body, "Idempotency-Key", "k1")
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.route, w.Code, c.status, w.Body)
			continue
		}
		got := f.last(t)
		if got.verb != c.verb || got.body != c.want {
			t.Errorf("%s: asked %s %s\nwant %s %s", c.route, got.verb, got.body, c.verb, c.want)
		}
		if got.who.Kind != "user" || got.who.Name != "marta" || got.who.Via != "http" {
			t.Errorf("%s: asked as %+v", c.route, got.who)
		}
		if strings.HasPrefix(c.route, "POST") && w.Header().Get("Idempotency-Key") != "k1" {
			t.Errorf("%s: the key is not echoed", c.route)
		}
	}
}

func TestAKeyIsMadeWhenThereIsNone(t *testing.T) {
	f := &fake{}
	h := New(options(f))
	keys := map[string]bool{}
	for range 2 {
		w := call(t, h, "t-user", "POST /v1/runs/r1/cancel", "")
		var req events.CancelRun
		if err := json.Unmarshal([]byte(f.last(t).body), &req); err != nil || req.ID == "" || req.ID != w.Header().Get("Idempotency-Key") {
			t.Errorf("id %q, header %q, %v", req.ID, w.Header().Get("Idempotency-Key"), err)
		}
		keys[req.ID] = true
	}
	if len(keys) != 2 {
		t.Error("two requests without a key got the same one")
	}
}

func TestAStartSaysWhereTheRunIs(t *testing.T) {
	h := New(options(always(events.Answer{Status: events.StatusApplied, Result: json.RawMessage(`{"id":"abc123","workflow":"release"}`)})))
	w := call(t, h, "t-user", "POST /v1/runs", `{"workflow":"release"}`)
	var run events.RunView
	if err := json.Unmarshal(w.Body.Bytes(), &run); err != nil || w.Code != 201 || run.ID != "abc123" || w.Header().Get("Location") != "/v1/runs/abc123" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestRecordsKeepTheirBytes(t *testing.T) {
	const record = `{"b":1,"a":"<&>\u003c","n":12345678901234567890}`
	h := New(options(always(events.Answer{Status: events.StatusApplied, Result: json.RawMessage(`{"records":[{"seq":3,"hash":"h","record":` + record + `}]}`)})))
	if w := call(t, h, "t-user", "GET /v1/runs/r1/records", ""); !strings.Contains(w.Body.String(), record) {
		t.Errorf("the record came as %s, want it with %s", w.Body, record)
	}
}

func TestRequestsThatMakeNoSenseAreNotPassedOn(t *testing.T) {
	for _, c := range []struct {
		route, body string
		status      int
		says        string
	}{
		{"POST /v1/runs", ``, 400, "body"},
		{"POST /v1/runs", `{"workflow":`, 400, ""},
		{"POST /v1/runs", `{}`, 422, "body: expected required property workflow"},
		{"POST /v1/runs", `{"workflow":"x","input":{}}`, 422, "body.input"},
		{"POST /v1/runs", `{"workflow":7}`, 422, "body.workflow"},
		{"POST /v1/runs/r1/approve", ``, 400, "body"},
		{"POST /v1/runs/r1/approve", `{"comment":"x"}`, 422, "required property content"},
		{"POST /v1/runs/r1/approve", `{"content":"c","coment":"x"}`, 422, "body.coment"},
		{"POST /v1/runs/r1/approve", `{"content":"c","comment":"` + strings.Repeat("x", 2001) + `"}`, 422, "body.comment"},
		{"POST /v1/definitions", `{"files":[]}`, 422, "body.files"},
		{"GET /v1/runs?limit=0", ``, 422, "query.limit"},
		{"GET /v1/runs?limit=many", ``, 422, "query.limit"},
		{"GET /v1/runs?statsu=waiting", ``, 422, "query.statsu"},
		{"GET /v1/runs/r1/output?wait=21", ``, 422, "query.wait"},
		{"POST /v1/runs", `{"workflow":"` + strings.Repeat("x", 2<<20) + `"}`, 413, ""},
		{"POST /v1/definitions", `{"files":[{"name":"a","content":"` + strings.Repeat("x", maxDefinitions) + `"}]}`, 413, ""},
	} {
		f := &fake{}
		p := wantProblem(t, call(t, New(options(f)), "t-user", c.route, c.body), c.status, "invalid")
		if !strings.Contains(p.Detail, c.says) {
			t.Errorf("%s: %q does not say %q", c.route, p.Detail, c.says)
		}
		if f.count() != 0 {
			t.Errorf("%s: the service was asked", c.route)
		}
	}
	w := call(t, New(options(&fake{})), "t-user", "POST /v1/runs", "workflow=x", "Content-Type", "application/x-www-form-urlencoded")
	wantProblem(t, w, 415, "invalid")
	w = call(t, New(options(&fake{})), "t-user", "POST /v1/runs/r1/cancel", "", "Idempotency-Key", strings.Repeat("k", 101))
	wantProblem(t, w, 422, "invalid")
}

func TestADefinitionWithAProblemIsNoSuccess(t *testing.T) {
	answer := func(problems string) *fake {
		return &fake{answers: func(context.Context, string, []byte) events.Answer {
			return events.Answer{Status: events.StatusApplied, Result: json.RawMessage(`{"definitions":[{"kind":"Workflow","name":"a","digest":"d","change":"created"}],"text":"a.yaml:3:1: bad","problems":` + problems + `}`)}
		}}
	}
	const body = `{"files":[{"name":"a.yaml","content":"x"}]}`
	w := call(t, New(options(answer(`[{"code":"unknown-key","message":"bad"},{"code":"x","warning":true}]`))), "t-user", "POST /v1/definitions", body)
	p := wantProblem(t, w, 422, "invalid")
	if p.Detail != "a.yaml:3:1: bad" || p.Applied == nil || len(p.Applied.Definitions) != 1 || len(p.Applied.Problems) != 2 {
		t.Errorf("the problem does not say what came of each document: %s", w.Body)
	}
	if w := call(t, New(options(answer(`[{"code":"x","warning":true}]`))), "t-user", "POST /v1/definitions", body); w.Code != 200 {
		t.Errorf("a warning refused definitions: %d %s", w.Code, w.Body)
	}
}
