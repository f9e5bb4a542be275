package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
)

// outbox is a service that has events 1 to n, event i at sequence i, and more
// when they are added.
type outbox struct {
	fake
	mu    sync.Mutex
	n     uint64
	added chan struct{} // closed when one is added
}

func newOutbox(n uint64) *outbox {
	o := &outbox{n: n, added: make(chan struct{})}
	o.answers = o.answer
	return o
}

func (o *outbox) add() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	close(o.added)
	o.added = make(chan struct{})
}

func (o *outbox) newest() (uint64, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n, o.added
}

func (o *outbox) answer(ctx context.Context, verb string, body []byte) events.Answer {
	if verb == events.VerbGet {
		return events.Answer{Status: events.StatusApplied, Result: json.RawMessage(`{"id":"r1-whole"}`)}
	}
	var q events.ReadEvents
	if err := json.Unmarshal(body, &q); err != nil {
		panic(err)
	}
	n, added := o.newest()
	if !q.End && q.After == n && q.Wait > 0 {
		select {
		case <-added:
			n, _ = o.newest()
		case <-ctx.Done():
		}
	}
	page := events.EventPage{Events: []events.Event{}, Next: q.After}
	if q.End {
		page.Next = n
	} else {
		for i := q.After + 1; i <= n && len(page.Events) < 3; i++ {
			page.Next = i
			if i != 4 { // event 4 is one that nobody wants
				page.Events = append(page.Events, events.Event{ID: fmt.Sprint(i), Source: "/test", Type: "t"})
				page.Cursors = append(page.Cursors, i)
			}
		}
	}
	result, err := json.Marshal(page)
	if err != nil {
		panic(err)
	}
	return events.Answer{Status: events.StatusApplied, Result: result}
}

// message is one block of a stream.
type message struct {
	id    string
	event events.Event
	text  string // the block as it came
}

// messages reads blocks until there are n with an event.
func messages(t *testing.T, r io.Reader, n int) []message {
	t.Helper()
	var out []message
	m := message{}
	sc := bufio.NewScanner(r)
	for count := 0; count < n && sc.Scan(); {
		line := sc.Text()
		m.text += line + "\n"
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			m.id = id
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &m.event); err != nil {
				t.Fatal(err)
			}
			count++
		}
		if line == "" {
			out = append(out, m)
			m = message{}
		}
	}
	if m.text != "" {
		out = append(out, m)
	}
	if len(ids(out)) < n {
		t.Fatalf("the stream ended after %d of %d events: %v", len(ids(out)), n, sc.Err())
	}
	return out
}

func ids(list []message) (out []string) {
	for _, m := range list {
		if m.event.ID != "" {
			out = append(out, m.event.ID)
		}
	}
	return out
}

func lastID(list []message) (id string) {
	for _, m := range list {
		if m.id != "" {
			id = m.id
		}
	}
	return id
}

func serve(t *testing.T, f Service, beat time.Duration) string {
	t.Helper()
	s := newServer(options(f))
	if beat > 0 {
		s.heartbeat = beat
	}
	srv := httptest.NewServer(s.handler())
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestAStreamGoesOnBehindTheLastEventSeen(t *testing.T) {
	f := newOutbox(5)
	url := serve(t, f, 0)
	ctx := deadline(t)
	resp := client(ctx, t, url+"/v1/events?after=0", "t-user")
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/event-stream" {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
	first := messages(t, resp.Body, 3)
	if diff := cmp.Diff([]string{"1", "2", "3"}, ids(first)); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(first[0].text, "retry: ") {
		t.Errorf("the stream begins with %q", first[0].text)
	}
	resp.Body.Close()
	if lastID(first) != "3" {
		t.Fatalf("the cursor is %q", lastID(first))
	}

	// as an EventSource comes back: the URL that it began with, and the id
	resp = client(ctx, t, url+"/v1/events?after=0", "t-user", "Last-Event-ID", lastID(first))
	rest := messages(t, resp.Body, 1)
	f.add()
	rest = append(rest, messages(t, resp.Body, 1)...)
	if diff := cmp.Diff([]string{"5", "6"}, ids(rest)); diff != "" {
		t.Error(diff)
	}
	if lastID(rest) != "6" {
		t.Errorf("the cursor is %q", lastID(rest))
	}
}

func TestAStreamThatBreaksInsideOfAPageRepeatsNothing(t *testing.T) {
	url := serve(t, newOutbox(3), 0)
	ctx := deadline(t)
	first := messages(t, client(ctx, t, url+"/v1/events?after=0", "t-user").Body, 2) // 1 and 2, of a page of 3
	if lastID(first) != "2" {
		t.Fatalf("the cursor behind event 2 is %q", lastID(first))
	}
	rest := messages(t, client(ctx, t, url+"/v1/events?after=0", "t-user", "Last-Event-ID", lastID(first)).Body, 1)
	if diff := cmp.Diff([]string{"3"}, ids(rest)); diff != "" {
		t.Error(diff)
	}
}

func TestAStreamWithoutACursorBeginsNow(t *testing.T) {
	f := newOutbox(9)
	resp := client(deadline(t), t, serve(t, f, 0)+"/v1/events", "t-user")
	f.add()
	got := messages(t, resp.Body, 1)
	if diff := cmp.Diff([]string{"10"}, ids(got)); diff != "" {
		t.Error(diff)
	}
	if got[1].id != "9" {
		t.Errorf("a client that is cut off before the first event has no cursor: %+v", got)
	}
}

func TestTheCursorMovesOverEventsThatAreNotWanted(t *testing.T) {
	f := newOutbox(3)
	resp := client(deadline(t), t, serve(t, f, 0)+"/v1/events?after=3", "t-user")
	f.add() // number 4 is not wanted
	f.add()
	got := messages(t, resp.Body, 1)
	if !slices.ContainsFunc(got, func(m message) bool { return m.id == "4" && m.event.ID == "" }) && lastID(got) != "5" {
		t.Errorf("got %+v", got)
	}
}

func TestAnIdleStreamIsKeptAlive(t *testing.T) {
	resp := client(deadline(t), t, serve(t, newOutbox(0), 5*time.Millisecond)+"/v1/events", "t-user")
	sc := bufio.NewScanner(resp.Body)
	for n := 0; n < 3; {
		if !sc.Scan() {
			t.Fatal("the stream ended")
		}
		if strings.HasPrefix(sc.Text(), ":") {
			n++
		}
	}
}

func TestAStreamEndsWhenItsTokenIsRevoked(t *testing.T) {
	var revoked atomic.Bool
	o := options(newOutbox(0))
	known := o.Authenticate
	o.Authenticate = func(token string) (events.Principal, bool) {
		p, ok := known(token)
		return p, ok && !revoked.Load()
	}
	s := newServer(o)
	s.heartbeat = 5 * time.Millisecond
	srv := httptest.NewServer(s.handler())
	defer srv.Close()
	resp := client(deadline(t), t, srv.URL+"/v1/events", "t-user")
	revoked.Store(true)
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the stream did not end: %v", err)
	}
}

func TestAStreamAsksForWhatIsWanted(t *testing.T) {
	f := newOutbox(0)
	resp := client(deadline(t), t, serve(t, f, 0)+"/v1/events?after=0&run=r1&types=run.*,task.queued&types=x", "t-user")
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	if got := f.asked[0]; got.verb != events.VerbGet || got.body != `{"run":"r1"}` {
		t.Errorf("the run is not looked for: %+v", got)
	}
	if got := f.asked[1]; got.body != `{"run":"r1-whole","types":["run.*","task.queued","x"],"limit":100}` {
		t.Errorf("asked %+v", got)
	}
}

func TestAStreamThatCannotBeginIsAProblem(t *testing.T) {
	for _, route := range []string{"GET /v1/events?after=x", "GET /v1/events?after=-1", "GET /v1/events?type=run.started", "GET /v1/events?after=1&after=2", "GET /v1/events?a=%zz"} {
		wantProblem(t, call(t, New(options(newOutbox(0))), "t-user", route, ""), 400, "invalid")
	}
	h := New(options(always(events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "there is no run"})))
	wantProblem(t, call(t, h, "t-user", "GET /v1/events?run=zz", ""), 404, "not_found")
}
