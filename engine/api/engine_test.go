package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

const definitions = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: release}
spec:
  inputs:
    commit: {type: string}
  triggers:
    - event: com.example.commit
      inputs: {commit: '${{ event.data.commit }}'}
  initial: approve
  states:
    approve:
      approval: {quorum: [{role: release-manager, count: 1}], exclude: [starter], expires: 1h}
      next: released
      onFail: stopped
    released: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  roles:
    release-manager: {users: [marta, li]}
  permissions:
    - {roles: [release-manager], allow: [run.start, run.approve, run.cancel, run.read]}
`

// server is a real engine with the credentials of some principals.
type server struct {
	t      *testing.T
	url    string
	tokens map[string]string
}

func start(t *testing.T) *server {
	dir := t.TempDir()
	e, err := engine.New(engine.Options{Dir: dir, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-e.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("the engine does not get ready")
	}
	cred, err := bus.ReadCredential(filepath.Join(dir, engine.AdminFile))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, url: cred.HTTP, tokens: map[string]string{"admin": cred.Token}}
	conn, err := bus.Connect(ctx, cred)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, p := range []events.AddPrincipal{{Kind: "user", Name: "marta"}, {Kind: "user", Name: "li"}, {Kind: "user", Name: "nobody"},
		{Kind: "worker", Name: "w1"}, {Kind: "publisher", Name: "ci.example.com"}} {
		var added bus.Credential
		if _, err := conn.Request(ctx, events.VerbAuthAdd, p, &added); err != nil {
			t.Fatal(err)
		}
		s.tokens[p.Name] = added.Token
	}
	return s
}

// send sends a request as somebody and decodes the answer into out.
func (s *server) send(as, route, body string, want int, out any, headers ...string) http.Header {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	method, path, _ := strings.Cut(route, " ")
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.tokens[as])
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != want {
		s.t.Fatalf("%s as %s: %d, want %d: %s", route, as, resp.StatusCode, want, p)
	}
	if out != nil {
		if err := json.Unmarshal(p, out); err != nil {
			s.t.Fatalf("%s: %v in %s", route, err, p)
		}
	}
	return resp.Header
}

// follow reads a stream until take says that it has seen enough, and gives
// the last cursor. take gets each event with its id in the stream, if it has one.
func (s *server) follow(query, last string, take func(ev events.Event, id string) bool) (cursor string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/events"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.tokens["marta"])
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	cursor, own := last, ""
	for sc.Scan() {
		if id, ok := strings.CutPrefix(sc.Text(), "id: "); ok {
			cursor, own = id, id
		}
		if sc.Text() == "" {
			own = ""
		}
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		ev, err := events.Parse(nil, []byte(data))
		if err != nil {
			s.t.Fatal(err)
		}
		if take(*ev, own) {
			return cursor
		}
	}
	s.t.Fatalf("the stream ended: %v", sc.Err())
	return ""
}

type problem struct {
	Code, Detail string
	Record       int64
	Applied      *events.Applied
}

func apply(content string) string {
	p, _ := json.Marshal(map[string]any{"files": []events.SourceFile{{Name: "release.yaml", Content: content}}})
	return string(p)
}

func TestARunGoesItsWayOverHTTP(t *testing.T) {
	s := start(t)
	var p problem
	s.send("nobody", "POST /v1/definitions", apply(definitions), 403, &p)
	s.send("admin", "POST /v1/definitions", apply("apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: bad}\nspec: {initial: nowhere}\n"), 422, &p)
	if p.Applied == nil || !strings.Contains(p.Detail, "release.yaml:") {
		t.Errorf("a bad definition is refused with %+v", p)
	}
	s.send("admin", "POST /v1/definitions", apply(definitions), 200, nil)
	var defs events.Definitions
	s.send("marta", "GET /v1/definitions", "", 200, &defs)
	if len(defs.Definitions) != 2 {
		t.Errorf("in force are %+v", defs.Definitions)
	}

	// a start, once
	const body = `{"workflow":"release","inputs":{"commit":"abc"}}`
	var run, again events.RunView
	h := s.send("marta", "POST /v1/runs", body, 201, &run, "Idempotency-Key", "k1")
	if h.Get("Location") != "/v1/runs/"+run.ID || h.Get("X-Request-Id") == "" {
		t.Errorf("headers %v", h)
	}
	s.send("marta", "POST /v1/runs", body, 201, &again, "Idempotency-Key", "k1")
	if again.ID != run.ID {
		t.Errorf("a repeat of the start made run %s beside %s", again.ID, run.ID)
	}
	s.send("nobody", "POST /v1/runs", body, 403, &p)
	s.send("marta", "POST /v1/runs", `{"workflow":"unknown"}`, 404, &p)
	s.send("marta", "POST /v1/runs", `{"workflow":"release","inputs":{}}`, 422, &p)
	var list events.RunList
	s.send("marta", "GET /v1/runs?status=waiting&workflow=release", "", 200, &list)
	if len(list.Runs) != 1 || list.Runs[0].ID != run.ID {
		t.Errorf("waiting are %+v", list.Runs)
	}

	// its events, up to the request for approval; then the connection breaks
	var seen []string
	query := "?after=0&run=" + run.ID[:12]
	cursor := s.follow(query, "", func(ev events.Event, id string) bool {
		seen = append(seen, events.ShortType(ev.Type))
		return id != "" && slices.Contains(seen, "approval.requested")
	})

	// an approval, bound to what was shown
	var why events.WhyView
	s.send("li", "GET /v1/runs/"+run.ID[:12]+"/why", "", 200, &why)
	if len(why.Waiting) != 1 || why.Waiting[0].Content == "" {
		t.Fatalf("why: %+v", why)
	}
	decision := fmt.Sprintf(`{"state":"approve","comment":"fine","content":%q}`, why.Waiting[0].Content)
	s.send("marta", "POST /v1/runs/"+run.ID+"/approve", decision, 403, &p)
	if p.Record == 0 {
		t.Errorf("the starter's own approval was refused without a record: %+v", p)
	}
	s.send("li", "POST /v1/runs/"+run.ID+"/approve", `{"content":"sha256:other"}`, 409, &p)
	var outcome struct {
		Status string
		Record int64
	}
	s.send("li", "POST /v1/runs/"+run.ID+"/approve", decision, 200, &outcome, "Idempotency-Key", "d1")
	if outcome.Status != "applied" {
		t.Errorf("approved: %+v", outcome)
	}
	s.send("li", "POST /v1/runs/"+run.ID+"/approve", decision, 200, &outcome, "Idempotency-Key", "d1")
	if outcome.Status != "already" {
		t.Errorf("approved again: %+v", outcome)
	}
	s.send("li", "POST /v1/runs/"+run.ID+"/reject", decision, 409, &p)
	s.send("marta", "POST /v1/runs/"+run.ID+"/cancel", `{}`, 409, &p)
	s.send("marta", "GET /v1/runs/"+run.ID, "", 200, &run)
	if run.Status != "done" || run.Outcome != "succeeded" {
		t.Errorf("the run is %s, %s", run.Status, run.Outcome)
	}

	// what happened, proven
	var records events.Records
	var audit events.Verification
	s.send("marta", "GET /v1/runs/"+run.ID+"/records", "", 200, &records)
	s.send("marta", "GET /v1/runs/"+run.ID+"/verify", "", 200, &audit)
	if !audit.OK || len(records.Records) == 0 || audit.Records != len(records.Records) {
		t.Errorf("audit %+v of %d records", audit, len(records.Records))
	}
	var output events.Output
	s.send("marta", "GET /v1/runs/"+run.ID+"/output?wait=20", "", 200, &output)
	if !output.Done {
		t.Errorf("output %+v", output)
	}
	s.send("marta", "GET /v1/runs/ffffffffffff", "", 404, &p)
	s.send("marta", "GET /v1/environments", "", 200, &events.Environments{})
	var info events.ServerInfo
	s.send("marta", "GET /v1/server", "", 200, &info)
	if info.HTTP != s.url {
		t.Errorf("the server is at %s, it says %s", s.url, info.HTTP)
	}

	// the stream goes on where it was broken off: nothing is missing, nothing comes twice
	s.follow(query, cursor, func(ev events.Event, _ string) bool {
		seen = append(seen, events.ShortType(ev.Type))
		return ev.Type == events.RunFinished
	})
	count := map[string]int{}
	for _, typ := range seen {
		count[typ]++
	}
	if count["run.started"] != 1 || count["approval.requested"] != 1 || count["approval.decided"] != 1 || count["run.finished"] != 1 {
		t.Errorf("the stream had %v", seen)
	}
}

func TestAnEventOverTheWebhookStartsARun(t *testing.T) {
	s := start(t)
	s.send("admin", "POST /v1/definitions", apply(definitions), 200, nil)
	const event = `{"specversion":"1.0","id":"1","source":"ci.example.com/shop","type":"com.example.commit","data":{"commit":"abc"}}`
	s.send("ci.example.com", "POST /v1/events", event, 202, nil, "Content-Type", events.ContentType)
	s.send("ci.example.com", "POST /v1/events", event, 202, nil, "Content-Type", events.ContentType) // the same event
	s.send("ci.example.com", "POST /v1/events", `{"commit":"def"}`, 202, nil, "Ce-Specversion", "1.0", "Ce-Id", "2", "Ce-Source", "ci.example.com", "Ce-Type", "com.example.commit")
	batch := "[" + strings.Replace(event, `"id":"1"`, `"id":"3"`, 1) + "," + strings.Replace(event, `"id":"1"`, `"id":"4"`, 1) + "]"
	s.send("ci.example.com", "POST /v1/events", batch, 202, nil, "Content-Type", "application/cloudevents-batch+json")
	s.send("admin", "POST /v1/events", strings.Replace(event, `"id":"1"`, `"id":"last"`, 1), 202, nil, "Content-Type", events.ContentType)

	started := map[string]int{}
	s.follow("?after=0&types=run.started", "", func(ev events.Event, _ string) bool {
		h, err := events.DecodeHappening(&ev)
		if err != nil || h.Cause == nil {
			t.Fatalf("%v in %+v", err, ev)
		}
		started[h.Cause.ID]++
		return len(started) == 5
	})
	for id, n := range started {
		if n != 1 {
			t.Errorf("event %s started %d runs", id, n)
		}
	}

	big, _ := json.Marshal(string(bytes.Repeat([]byte("x"), events.MaxEventSize)))
	s.send("ci.example.com", "POST /v1/events", strings.Replace(event, `{"commit":"abc"}`, string(big), 1), 413, nil)
	s.send("ci.example.com", "POST /v1/events", `{"commit":"abc"}`, 400, nil)
	s.send("ci.example.com", "POST /v1/events", strings.Replace(event, "ci.example.com", "cd.example.com", 1), 403, nil)
	s.send("nobody", "POST /v1/events", event, 403, nil)
	s.send("w1", "POST /v1/events", event, 403, nil)
	s.send("w1", "GET /v1/runs", "", 403, nil)
	s.send("ci.example.com", "GET /v1/runs", "", 403, nil)
	s.send("a stranger", "GET /v1/runs", "", 401, nil)
	s.send("marta", "POST /v1/runs", `{"workflow":"release","inputs":{"commit":"abc"}}`, 403, nil, "Origin", "https://evil.example")
	s.send("a stranger", "GET /readyz", "", 200, nil)
	s.send("a stranger", "GET /metrics", "", 200, nil) // from this host
}
