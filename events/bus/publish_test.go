package bus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

func TestPublishedEventIsStoredAsItIs(t *testing.T) {
	in := start(t)
	conn := dial(t, in.ci)
	e := &events.Event{ID: "1", Source: "ci/checkout", Type: "org.example.built", Subject: "main", Data: []byte(`{"commit":"abc"}`)}
	for range 2 { // a repeat is harmless
		if err := conn.Publish(soon(t), e); err != nil {
			t.Fatal(err)
		}
	}
	m := lastOf(t, in.ext, events.StreamIngress, "penstock.ev.default.ci.main.org=2Eexample=2Ebuilt")
	got, err := events.Parse(m.Header, m.Data)
	if err != nil || got.ID != "1" || got.Source != "ci/checkout" || string(got.Data) != `{"commit":"abc"}` {
		t.Errorf("stored is %+v, %v", got, err)
	}
	if m.Header.Get("Content-Type") != events.ContentType {
		t.Errorf("content type %q", m.Header.Get("Content-Type"))
	}
}

func TestPublishRefusesWhatTheServerWouldNotTake(t *testing.T) {
	in := start(t)
	conn := dial(t, in.ci)
	for name, c := range map[string]struct {
		event events.Event
		code  string
	}{
		"no id":          {events.Event{Type: "x"}, events.CodeInvalid},
		"too large":      {events.Event{ID: "1", Type: "x", Data: fmt.Appendf(nil, "%q", strings.Repeat("x", events.MaxEventSize))}, events.CodeInvalid},
		"another source": {events.Event{ID: "1", Source: "bank", Type: "x"}, events.CodeDenied},
		"source beside":  {events.Event{ID: "1", Source: "ci2", Type: "x"}, events.CodeDenied},
	} {
		var r *Refusal
		if err := conn.Publish(soon(t), &c.event); !errors.As(err, &r) || r.Code != c.code {
			t.Errorf("%s: got %v, want a refusal with code %s", name, err, c.code)
		}
	}
	wrong := *in.ci
	wrong.Name, wrong.InboxPrefix = "bank", "_INBOX.ci"
	var r *Refusal
	if err := dial(t, &wrong).Publish(soon(t), &events.Event{ID: "1", Type: "x"}); !errors.As(err, &r) || r.Code != events.CodeDenied {
		t.Errorf("a name that is not the server's user: got %v, want code denied", err)
	}
}

func TestPublishToAFullStoreIsARefusal(t *testing.T) {
	in := start(t)
	conn := dial(t, in.ci)
	for i := range 100 {
		err := conn.Publish(soon(t), &events.Event{ID: fmt.Sprint(i), Type: "x", Data: fmt.Appendf(nil, "%q", strings.Repeat("x", 200<<10))})
		if err == nil {
			continue
		}
		var r *Refusal
		if !errors.As(err, &r) || r.Code != events.CodeFull || i == 0 {
			t.Fatalf("event %d: got %v, want a refusal with code full", i, err)
		}
		return
	}
	t.Fatal("the store is never full")
}

func TestUsersPublishThroughTheEngine(t *testing.T) {
	in := start(t)
	got := make(chan *events.Event, 1)
	in.answer(t, "penstock.api.u.bot.event.publish", func(m *nats.Msg) events.Answer {
		e, err := events.Parse(map[string][]string{"Content-Type": {events.ContentType}}, m.Data)
		if err != nil {
			return events.Answer{Status: events.StatusError, Reason: err.Error()}
		}
		got <- e
		return events.Answer{Status: events.StatusApplied}
	})
	if err := dial(t, in.bot).Publish(soon(t), &events.Event{ID: "1", Source: "x", Type: "y"}); err != nil {
		t.Fatal(err)
	}
	if e := <-got; e.ID != "1" {
		t.Errorf("got %+v", e)
	}
}

func lastOf(t *testing.T, nc *nats.Conn, stream, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return m
}
