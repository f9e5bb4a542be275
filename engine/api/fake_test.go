package api

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

// asked is one request that the fake service got.
type asked struct {
	who  service.Principal
	verb string
	body string
}

// fake is a service that answers what a test says.
type fake struct {
	mu       sync.Mutex
	asked    []asked
	ingested []*events.Event
	by       []string // publishers of ingested
	answers  func(ctx context.Context, verb string, body []byte) events.Answer
	ingest   func(n int) error // for the nth event
}

func (f *fake) Handle(ctx context.Context, who service.Principal, verb string, body []byte) events.Answer {
	f.mu.Lock()
	f.asked = append(f.asked, asked{who, verb, string(body)})
	f.mu.Unlock()
	if f.answers == nil {
		return events.Answer{Status: events.StatusApplied, Record: 7, Result: json.RawMessage(`{}`)}
	}
	return f.answers(ctx, verb, body)
}

func (f *fake) Ingest(_ context.Context, publisher string, ev *events.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ingest != nil {
		if err := f.ingest(len(f.ingested)); err != nil {
			return err
		}
	}
	f.ingested, f.by = append(f.ingested, ev), append(f.by, publisher)
	return nil
}

func (f *fake) last(t *testing.T) asked {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		t.Fatal("the service was not asked")
	}
	return f.asked[len(f.asked)-1]
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked) + len(f.ingested)
}

// always is a service that gives every request the same answer.
func always(a events.Answer) *fake {
	return &fake{answers: func(context.Context, string, []byte) events.Answer { return a }}
}

// tokens of the principals that tests know.
var tokens = map[string]events.Principal{
	"t-user":      {Kind: "user", Name: "marta"},
	"t-admin":     {Kind: "admin", Name: "admin"},
	"t-worker":    {Kind: "worker", Name: "w1", Pool: "default"},
	"t-publisher": {Kind: "publisher", Name: "ci.example.com"},
}

// safe is a log that may be read while it is written.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func options(f Service) Options {
	return Options{Service: f, Version: "v0.0.0-test", Stats: func() Stats { return Stats{} },
		Authenticate: func(t string) (events.Principal, bool) { p, ok := tokens[t]; return p, ok }}
}

func optionsWithLog(f Service) (Options, *safe) {
	log := &safe{}
	o := options(f)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	return o, log
}

// call sends a request as a principal; headers are name, value, name, value.
func call(t *testing.T, h http.Handler, token, route, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	method, path, _ := strings.Cut(route, " ")
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.7:4711"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// wantProblem checks that a response is a problem and gives it.
func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, code string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("status %d, body %q: not a problem: %v", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != problemType {
		t.Errorf("content type %q, want %q", got, problemType)
	}
	if w.Code != status || p.Status != status || p.Code != code {
		t.Errorf("status %d, problem %+v, want %d %s", w.Code, p, status, code)
	}
	if p.Title == "" || p.Detail == "" || p.Type != "about:blank" || p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("the problem is not complete: %+v, X-Request-Id %q", p, w.Header().Get("X-Request-Id"))
	}
	return p
}

// deadline ends a test that waits for something that does not come.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// client sends a request to a real server.
func client(ctx context.Context, t *testing.T, url, token string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}
