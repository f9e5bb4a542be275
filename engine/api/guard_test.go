package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

// routes are all routes that are not public, with a body where one is needed.
var routes = map[string]string{
	"POST /v1/runs":       `{"workflow":"x"}`,
	"GET /v1/runs":        "",
	"GET /v1/runs/r1":     "",
	"GET /v1/runs/r1/why": "",

	"GET /v1/runs/r1/eval?expression=state": "",
	"POST /v1/runs/r1/approve":              `{"content":"c"}`,
	"POST /v1/runs/r1/reject":               `{"content":"c"}`,
	"POST /v1/runs/r1/cancel":               "",
	"GET /v1/runs/r1/records":               "",
	"GET /v1/runs/r1/verify":                "",
	"GET /v1/runs/r1/output":                "",
	"GET /v1/events":                        "",
	"POST /v1/events":                       `{"specversion":"1.0","id":"1","source":"ci.example.com","type":"t"}`,
	"GET /v1/definitions":                   "",
	"POST /v1/definitions":                  `{"files":[{"name":"a","content":"b"}]}`,
	"GET /v1/environments":                  "",
	"GET /v1/server":                        "",
	"GET /metrics":                          "",
	"GET /nowhere":                          "",
}

func TestNothingIsAnsweredWithoutAToken(t *testing.T) {
	f := &fake{}
	h := New(options(f))
	for route, body := range routes {
		for name, header := range map[string]string{"none": "", "unknown": "Bearer nobody", "empty": "Bearer ", "another scheme": "Basic t-user", "bare": "t-user"} {
			w := call(t, h, "", route, body, "Authorization", header)
			wantProblem(t, w, 401, "unauthenticated")
			if !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s, token %s: WWW-Authenticate %q", route, name, w.Header().Get("WWW-Authenticate"))
			}
		}
	}
	if w := call(t, h, "", "GET /v1/runs?token=t-user&access_token=t-user", ""); w.Code != 401 {
		t.Errorf("a token in the URL, where logs keep it, is taken: %d", w.Code)
	}
	if f.count() != 0 {
		t.Error("the service was asked")
	}
}

func TestProgramsMayNotDoWhatPeopleDo(t *testing.T) {
	f := &fake{}
	h := New(options(f))
	for route, body := range routes {
		wantProblem(t, call(t, h, "t-worker", route, body), 403, "denied")
		if route != "POST /v1/events" {
			wantProblem(t, call(t, h, "t-publisher", route, body), 403, "denied")
		}
	}
	if f.count() != 0 {
		t.Error("the service was asked")
	}
	if w := call(t, h, "t-publisher", "POST /v1/events", routes["POST /v1/events"]); w.Code != 202 {
		t.Errorf("a publisher may not publish: %d %s", w.Code, w.Body)
	}
}

func TestTheSchemeOfATokenHasNoCase(t *testing.T) {
	if w := call(t, New(options(&fake{})), "", "GET /v1/runs", "", "Authorization", "bearer  t-user"); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestProbesAndDescriptionTakeNoToken(t *testing.T) {
	h := New(options(&fake{}))
	for _, route := range []string{"GET /livez", "GET /readyz", "GET /openapi.json", "HEAD /livez"} {
		if w := call(t, h, "", route, ""); w.Code != 200 {
			t.Errorf("%s: %d", route, w.Code)
		}
	}
}

func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	f := &fake{}
	h := New(options(f))
	for route, body := range routes {
		if !strings.HasPrefix(route, "POST ") {
			continue
		}
		wantProblem(t, call(t, h, "t-user", route, body, "Sec-Fetch-Site", "cross-site"), 403, "denied")
		wantProblem(t, call(t, h, "t-user", route, body, "Origin", "https://evil.example"), 403, "denied")
		if f.count() != 0 {
			t.Fatalf("%s: the service was asked", route)
		}
		if w := call(t, h, "t-user", route, body, "Origin", "http://penstock.example", "Host", "penstock.example"); w.Code >= 300 {
			t.Errorf("%s from a page of its own: %d %s", route, w.Code, w.Body)
		}
		f.asked = nil
	}
}

func TestWhatIsNotThereIsSaidSo(t *testing.T) {
	h := New(options(&fake{}))
	wantProblem(t, call(t, h, "t-user", "GET /v1/nothing", ""), 404, "not_found")
	wantProblem(t, call(t, h, "t-user", "GET /docs", ""), 404, "not_found")
	w := call(t, h, "t-user", "DELETE /v1/runs", "")
	wantProblem(t, w, 405, "invalid")
	if allow := w.Header().Get("Allow"); !strings.Contains(allow, "GET") || !strings.Contains(allow, "POST") {
		t.Errorf("Allow: %q", allow)
	}
}

func TestTheRequestIdIsEchoedWhenItIsOne(t *testing.T) {
	h := New(options(&fake{}))
	if got := call(t, h, "t-user", "GET /v1/runs", "", "X-Request-Id", "abc-1.2_3").Header().Get("X-Request-Id"); got != "abc-1.2_3" {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"", "a b", "<script>", strings.Repeat("x", 65)} {
		if got := call(t, h, "t-user", "GET /v1/runs", "", "X-Request-Id", bad).Header().Get("X-Request-Id"); got == bad || len(got) != 36 {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	o, log := optionsWithLog(&fake{answers: func(context.Context, string, []byte) events.Answer { panic("of the moon") }})
	for _, route := range []string{"GET /v1/runs", "GET /v1/events"} {
		w := call(t, New(o), "t-user", route, "")
		wantProblem(t, w, 500, "internal")
		if strings.Contains(w.Body.String(), "moon") || !strings.Contains(log.String(), "of the moon") {
			t.Errorf("%s: body %s, log %s", route, w.Body, log)
		}
	}
}

func TestReadinessSaysWhetherTheEngineWorks(t *testing.T) {
	o := options(&fake{})
	h := New(o)
	if w := call(t, h, "", "GET /readyz", ""); w.Code != 200 || w.Body.String() != "ready\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	o.Stats = func() Stats { return Stats{Ready: errors.New("not connected to NATS"), Runs: 3} }
	h = New(o)
	if w := call(t, h, "", "GET /readyz?verbose", ""); w.Code != 503 || w.Body.String() != "not ready\n" || w.Header().Get("Retry-After") == "" {
		t.Errorf("a stranger is told %d %q", w.Code, w.Body)
	}
	if w := call(t, h, "t-user", "GET /readyz?verbose=1", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "not connected to NATS") || !strings.Contains(w.Body.String(), "runs: 3") {
		t.Errorf("a user is told %d %q", w.Code, w.Body)
	}
	if w := call(t, h, "", "GET /livez", ""); w.Code != 200 {
		t.Errorf("alive though not ready: %d", w.Code)
	}
}

func TestMetricsCountWithoutIds(t *testing.T) {
	o := options(always(events.Answer{Status: events.StatusError, Code: events.CodeNotFound}))
	o.Stats = func() Stats {
		hello := func(kinds ...string) events.WorkerInfo { return events.WorkerInfo{Hello: events.Hello{Kinds: kinds}} }
		return Stats{Applied: 42, Runs: 5, Waiting: 2, Workers: []events.WorkerInfo{hello("build", "test"), hello("test", "test")}}
	}
	h := New(o)
	call(t, h, "t-user", "GET /v1/runs/secret-run-id", "")
	call(t, h, "t-user", "GET /nowhere/secret-path", "")
	text := call(t, h, "t-admin", "GET /metrics", "").Body.String()
	for _, want := range []string{`penstock_build_info{goversion="go`, `version="v0.0.0-test"} 1`, "penstock_records_total 42", "penstock_runs 5", "penstock_runs_waiting 2", "penstock_ready 1",
		`penstock_workers{kind="build"} 1`, `penstock_workers{kind="test"} 2`, `penstock_http_request_duration_seconds_count{code="404",route="GET /v1/runs/{run}"} 1`,
		`penstock_http_request_duration_seconds_count{code="404",route="none"} 1`, "go_goroutines", "process_start_time_seconds"} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(text, "secret") {
		t.Error("metrics have an id or a path")
	}
}

func TestMetricsNeedNoTokenOnThisHostOnly(t *testing.T) {
	for _, c := range []struct {
		remote, host string
		headers      []string
		status       int
	}{
		{"127.0.0.1:5000", "127.0.0.1:8420", nil, 200},
		{"[::1]:5000", "localhost:8420", nil, 200},
		{"127.0.0.1:5000", "[::1]:8420", nil, 200},
		{"192.0.2.7:5000", "127.0.0.1:8420", nil, 401},
		{"127.0.0.1:5000", "rebound.evil.example:8420", nil, 401},
		{"127.0.0.1:5000", "127.0.0.1:8420", []string{"X-Forwarded-For", "192.0.2.7"}, 401},
		{"127.0.0.1:5000", "127.0.0.1:8420", []string{"Forwarded", "for=192.0.2.7"}, 401},
	} {
		h := New(options(&fake{}))
		r := httptest.NewRequest("GET", "http://"+c.host+"/metrics", nil)
		r.RemoteAddr = c.remote
		for i := 0; i+1 < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%+v: status %d", c, w.Code)
		}
	}
}

func TestABrokenAnswerIsNoWholeOne(t *testing.T) {
	s := newServer(options(&fake{}))
	s.mux.HandleFunc("GET /v1/half", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(strings.Repeat("x", 1<<16)))
		panic("in the middle")
	})
	srv := httptest.NewServer(s.handler())
	defer srv.Close()
	resp := client(deadline(t), t, srv.URL+"/v1/half", "t-user")
	n, err := resp.Body.Read(make([]byte, 1))
	for err == nil {
		n, err = resp.Body.Read(make([]byte, 4096))
	}
	if err.Error() == "EOF" {
		t.Errorf("the body ended as if it were whole (%d)", n)
	}
}
