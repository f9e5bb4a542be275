package notify_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/notify"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// inside are options for targets of the test itself, with no pause to speak of.
var inside = notify.Options{AllowPrivate: true, Backoff: time.Microsecond, Timeout: time.Minute}

// hook is a webhook that answers with one status after another, the last one
// for ever.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
}

func newHook(t *testing.T, statuses ...int) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		status := statuses[min(len(h.bodies), len(statuses)-1)]
		h.bodies = append(h.bodies, string(body))
		if status == http.StatusFound {
			w.Header().Set("Location", "http://169.254.169.254/latest")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, "echo "+r.URL.String())
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bodies
}

func do(t *testing.T, opts notify.Options, with map[string]any) (events.Result, *workers.Job) {
	t.Helper()
	job := workertest.New(t, with)
	return notify.New(opts).Do(t.Context(), job), job
}

func wantFailure(t *testing.T, r events.Result, code string, retryable bool) {
	t.Helper()
	if r.Outcome != events.Failed || r.Error == nil || r.Error.Code != code || r.Error.Retryable != retryable {
		t.Fatalf("result %+v, error %v; want failed with code %s, retryable %v", r, r.Error, code, retryable)
	}
}

func TestAWebhookGetsTitleAndTextAsJSON(t *testing.T) {
	for _, prefix := range []string{"", "webhook+"} {
		h := newHook(t, 200)
		r, _ := do(t, inside, map[string]any{"channel": "releases", "url": prefix + h.URL + "/in?room=7", "title": "two\nlines", "text": "checkout is \x1b[31mlive"})
		if diff := cmp.Diff(r, events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"sent": true, "service": "webhook"}}); diff != "" {
			t.Fatalf("result (-got +want):\n%s", diff)
		}
		var got map[string]string
		if len(h.got()) != 1 || json.Unmarshal([]byte(h.got()[0]), &got) != nil {
			t.Fatalf("got %q, want one JSON body", h.got())
		}
		if diff := cmp.Diff(got, map[string]string{"title": "two lines", "message": "checkout is [31mlive"}); diff != "" {
			t.Errorf("body (-got +want):\n%s", diff)
		}
	}
}

func TestTheUrlsOfShoutrrrAreUnderstood(t *testing.T) {
	h := newHook(t, 200)
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": "generic+" + h.URL, "text": "hello"})
	if r.Outcome != events.Succeeded || r.Outputs["service"] != "generic" {
		t.Fatalf("result %+v, error %v", r, r.Error)
	}
	if got := h.got(); len(got) != 1 || got[0] != "hello" {
		t.Errorf("got %q, want the text alone, as the service does without a template", got)
	}
}

func TestAServiceWithoutATitleGetsItAsTheFirstLine(t *testing.T) {
	h := newHook(t, 200)
	host := strings.TrimPrefix(h.URL, "http://")
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": "signal://" + host + "/+15550001111/+15550002222?disabletls=yes", "title": "Release", "text": "hello"})
	if r.Outcome != events.Succeeded && len(h.got()) == 0 {
		t.Fatalf("nothing was called: %+v, error %v", r, r.Error)
	}
	if got := h.got(); !strings.Contains(got[0], `Release\n\nhello`) {
		t.Errorf("body %q holds no title", got[0])
	}
}

func TestWithoutAUrlNothingIsSentAndThatIsFine(t *testing.T) {
	r, job := do(t, inside, map[string]any{"channel": "c", "text": "hello"})
	if diff := cmp.Diff(r, events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"sent": false}}); diff != "" {
		t.Fatalf("result (-got +want):\n%s", diff)
	}
	if !strings.Contains(workertest.Text(job.Note), "has no url") {
		t.Errorf("the log does not say why: %q", workertest.Text(job.Note))
	}
}

func TestTheUrlIsReadFromTheEnvironmentOrAFile(t *testing.T) {
	h := newHook(t, 200)
	path := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(path, []byte(h.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_CHANNEL_URL", h.URL)
	for _, url := range []string{"env:TEST_CHANNEL_URL", "file:" + path} {
		if r, _ := do(t, inside, map[string]any{"channel": "c", "url": url, "text": "x"}); r.Outcome != events.Succeeded {
			t.Errorf("%s: %v", url, r.Error)
		}
	}
	if len(h.got()) != 2 {
		t.Errorf("%d messages arrived, want 2", len(h.got()))
	}
	for _, url := range []string{"env:TEST_CHANNEL_UNSET", "file:" + path + ".missing"} {
		r, _ := do(t, inside, map[string]any{"channel": "c", "url": url, "text": "x"})
		wantFailure(t, r, "channel_invalid", false)
	}
}

func TestAFailureThatPassesIsTriedAgain(t *testing.T) {
	h := newHook(t, 503, 429, 200)
	r, job := do(t, inside, map[string]any{"channel": "c", "url": h.URL, "text": "x"})
	if r.Outcome != events.Succeeded || len(h.got()) != 3 {
		t.Fatalf("result %+v (%v) after %d requests, want success after 3", r, r.Error, len(h.got()))
	}
	if log := workertest.Text(job.Note); !strings.Contains(log, "503") || !strings.Contains(log, "attempt 2 of 4") {
		t.Errorf("the log does not tell the attempts: %q", log)
	}
}

func TestANoForGoodIsNotTriedAgain(t *testing.T) {
	h := newHook(t, 403)
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": h.URL, "text": "x"})
	wantFailure(t, r, "channel_refused", false)
	if len(h.got()) != 1 || !strings.Contains(r.Error.Message, "403 Forbidden") {
		t.Errorf("%d requests, message %q; want 1 and the status", len(h.got()), r.Error.Message)
	}
}

func TestADeadEndpointFailsAfterItsAttempts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	for _, url := range []string{"http://" + l.Addr().String(), "smtp://" + l.Addr().String() + "/?from=a@x.example&to=b@x.example"} {
		r, _ := do(t, inside, map[string]any{"channel": "releases", "url": url, "text": "x"})
		wantFailure(t, r, "channel_unreachable", true)
		if m := r.Error.Message; !strings.Contains(m, `channel "releases"`) || !strings.Contains(m, "tried 4 times") || !strings.Contains(m, "refused") {
			t.Errorf("message %q does not say which channel, what and how often", m)
		}
	}
}

func TestASilentEndpointIsGivenUpAfterTheTimeout(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	opts := inside
	opts.Timeout, opts.Attempts = 20*time.Millisecond, 2
	r, _ := do(t, opts, map[string]any{"channel": "c", "url": s.URL, "text": "x"})
	wantFailure(t, r, "channel_unreachable", true)
	if !strings.Contains(r.Error.Message, "no answer within") {
		t.Errorf("message %q", r.Error.Message)
	}
}

func TestCancelEndsTheAttemptsAndTheirPauses(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3000")
		w.WriteHeader(503)
		cancel(workers.ErrCancelled)
	}))
	defer s.Close()
	r := notify.New(inside).Do(ctx, workertest.New(t, map[string]any{"channel": "c", "url": s.URL, "text": "x"}))
	if r.Outcome != events.Cancelled {
		t.Errorf("outcome %s, want %s", r.Outcome, events.Cancelled)
	}
}

func TestBadInputsAreNamed(t *testing.T) {
	for _, c := range []struct {
		with map[string]any
		code string
		word string
	}{
		{map[string]any{"text": "x"}, "bad_inputs", "channel"},
		{map[string]any{"channel": "c"}, "bad_inputs", "text"},
		{map[string]any{"channel": "c", "text": 7}, "bad_inputs", "text"},
		{map[string]any{"channel": "c", "text": "x", "url": "carrierpigeon://roof"}, "channel_invalid", "carrierpigeon"},
		{map[string]any{"channel": "c", "text": "x", "url": "no url at all"}, "channel_invalid", "slack://"},
		{map[string]any{"channel": "c", "text": "x", "url": "webhook+ftp://host/"}, "channel_invalid", "webhook+https"},
		{map[string]any{"channel": "c", "text": "x", "url": "slack://short"}, "channel_invalid", "service slack"},
		{map[string]any{"channel": "c", "text": "x", "url": "smtp://mail.example/"}, "channel_invalid", "service smtp"},
	} {
		r, _ := do(t, inside, c.with)
		wantFailure(t, r, c.code, false)
		if !strings.Contains(r.Error.Message, c.word) {
			t.Errorf("%v: message %q does not name %q", c.with, r.Error.Message, c.word)
		}
	}
}
