package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

const oneEvent = `{"specversion":"1.0","id":"1","source":"ci.example.com/shop","type":"com.example.commit","data":{"commit":"abc"}}`

func TestTheWebhookTakesEveryModeOfCloudEvents(t *testing.T) {
	binary := []string{"Content-Type", "text/plain", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "ci.example.com/shop", "Ce-Type", "com.example.commit", "Ce-Subject", "a%20b", "Ce-Traceparent", "00-1"}
	for name, c := range map[string]struct {
		body    string
		headers []string
		want    int
	}{
		"structured":            {oneEvent, []string{"Content-Type", "application/cloudevents+json; charset=utf-8"}, 1},
		"structured as JSON":    {oneEvent, []string{"Content-Type", "application/json"}, 1},
		"binary":                {"some text", binary, 1},
		"batch":                 {"[" + oneEvent + "," + strings.Replace(oneEvent, `"1"`, `"2"`, 1) + "]", []string{"Content-Type", "application/cloudevents-batch+json"}, 2},
		"a batch without event": {"[]", []string{"Content-Type", "application/cloudevents-batch+json"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			w := call(t, New(options(f)), "t-publisher", "POST /v1/events", c.body, c.headers...)
			if w.Code != 202 || strings.TrimSpace(w.Body.String()) != fmt.Sprintf(`{"accepted":%d}`, c.want) || len(f.ingested) != c.want {
				t.Fatalf("%d %s, stored %d", w.Code, w.Body, len(f.ingested))
			}
			for _, ev := range f.ingested {
				if ev.Source != "ci.example.com/shop" || ev.Type != "com.example.commit" {
					t.Errorf("stored %+v", ev)
				}
			}
			if c.want > 0 && f.by[0] != "ci.example.com" {
				t.Errorf("published by %q", f.by[0])
			}
			if name == "binary" {
				if ev := f.ingested[0]; ev.Subject != "a b" || string(ev.Data) != "some text" || ev.Extensions["traceparent"] != "00-1" {
					t.Errorf("stored %+v", ev)
				}
			}
		})
	}
}

func TestAUserPublishesWithThePermissionOfAUser(t *testing.T) {
	f := &fake{}
	w := call(t, New(options(f)), "t-user", "POST /v1/events", oneEvent, "Content-Type", events.ContentType)
	got := f.last(t)
	if w.Code != 202 || got.verb != events.VerbPublish || got.body != oneEvent || len(f.ingested) != 0 {
		t.Errorf("%d %s, asked %+v", w.Code, w.Body, got)
	}
	h := New(options(always(events.Answer{Status: events.StatusError, Code: events.CodeDenied, Reason: "it takes the permission event.publish"})))
	wantProblem(t, call(t, h, "t-user", "POST /v1/events", oneEvent), 403, "denied")
}

func TestTheWebhookRefusesWhatIsNoEvent(t *testing.T) {
	big := `{"specversion":"1.0","id":"1","source":"ci.example.com","type":"t","data":"` + strings.Repeat("x", events.MaxEventSize) + `"}`
	batch := []string{"Content-Type", batchType}
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		says    string
	}{
		"nothing":                     {"", nil, 400, "CloudEvent"},
		"not JSON":                    {"hello", nil, 400, "CloudEvent"},
		"JSON, no event":              {`{"commit":"abc"}`, nil, 400, "specversion"},
		"no id":                       {`{"specversion":"1.0","source":"s","type":"t"}`, nil, 400, `"id"`},
		"another version":             {strings.Replace(oneEvent, "1.0", "0.3", 1), nil, 400, "0.3"},
		"too large":                   {big, nil, 413, "262144"},
		"too large once structured":   {strings.Repeat("\x01", events.MaxEventSize), []string{"Content-Type", "application/octet-stream", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "ci.example.com", "Ce-Type", "t"}, 413, "structured JSON"},
		"a batch that is no array":    {oneEvent, batch, 400, "array"},
		"a batch with one bad event":  {"[" + oneEvent + `,{"specversion":"1.0"}]`, batch, 400, "nothing was stored: event 1"},
		"a batch of null":             {"[null]", batch, 400, "event 0"},
		"a batch with a large event":  {"[" + big + "]", batch, 400, "262144"},
		"a batch of too many":         {"[" + strings.Repeat("{},", maxEvents) + "{}]", batch, 413, "501"},
		"a batch that is too large":   {"[" + strings.Repeat(" ", maxBatch) + "]", batch, 413, "1048576"},
		"a source of somebody else":   {strings.Replace(oneEvent, "ci.example.com", "cd.example.com", 1), nil, 403, "cd.example.com"},
		"a source that begins alike":  {strings.Replace(oneEvent, "ci.example.com/", "ci.example.community/", 1), nil, 403, "community"},
		"a content type that is none": {oneEvent, []string{"Content-Type", "application/"}, 400, "Content-Type"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			code := "invalid"
			if c.status == 403 {
				code = "denied"
			}
			p := wantProblem(t, call(t, New(options(f)), "t-publisher", "POST /v1/events", c.body, c.headers...), c.status, code)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("%q does not say %q", p.Detail, c.says)
			}
			if f.count() != 0 {
				t.Error("something was stored")
			}
		})
	}
}

func TestALargeEventThatFitsIsTaken(t *testing.T) {
	data, _ := json.Marshal(base64.StdEncoding.EncodeToString(make([]byte, events.MaxEventSize/2)))
	f := &fake{}
	if w := call(t, New(options(f)), "t-publisher", "POST /v1/events", strings.Replace(oneEvent, `{"commit":"abc"}`, string(data), 1)); w.Code != 202 || len(f.ingested) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestABatchThatIsNotStoredWholeMayBeRepeated(t *testing.T) {
	f := &fake{ingest: func(n int) error {
		if n == 1 {
			return errors.New("no space left")
		}
		return nil
	}}
	w := call(t, New(options(f)), "t-publisher", "POST /v1/events", "["+oneEvent+","+oneEvent+"]", "Content-Type", batchType)
	p := wantProblem(t, w, 503, "busy")
	if w.Header().Get("Retry-After") == "" || !strings.Contains(p.Detail, "1 of 2 events are stored") {
		t.Errorf("%v %q", w.Header(), p.Detail)
	}
}

// coded is an error of the service.
type coded struct{ code, reason string }

func (c coded) Error() string { return c.reason }
func (c coded) Code() string  { return c.code }

func TestAPublisherIsToldWhyAnEventIsNotStored(t *testing.T) {
	for code, status := range map[string]int{events.CodeFull: 507, events.CodeInvalid: 422} {
		f := &fake{ingest: func(int) error { return coded{code, "the store takes no more"} }}
		w := call(t, New(options(f)), "t-publisher", "POST /v1/events", oneEvent, "Content-Type", events.ContentType)
		if p := wantProblem(t, w, status, code); p.Detail != "the store takes no more" {
			t.Errorf("%+v", p)
		}
		if code == events.CodeFull && w.Header().Get("Retry-After") == "" {
			t.Error("it is not said when to send it again")
		}
	}
}

// fuzz the parser through HTTP: whatever is sent, the answer is one of those
// that are documented.
func FuzzWebhook(f *testing.F) {
	f.Add(oneEvent, events.ContentType)
	f.Add("["+oneEvent+"]", batchType)
	f.Add("x", "text/plain")
	h := New(options(&fake{}))
	f.Fuzz(func(t *testing.T, body, media string) {
		r := httptest.NewRequest("POST", "/v1/events", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer t-publisher")
		r.Header.Set("Content-Type", media)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 202, 400, 403, 413:
		default:
			t.Errorf("%q %q: %d %s", body, media, w.Code, w.Body)
		}
	})
}
