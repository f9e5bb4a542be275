package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

const definitions = `apiVersion: penstock/v1
kind: TaskKind
metadata: {name: noop}
spec: {runs: once}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: pooled}
spec:
  initial: work
  states:
    work: {task: noop, pool: trusted, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: triggered}
spec:
  triggers: [{event: org.example.go, inputs: {commit: '${{ event.data.commit }}'}}]
  inputs: {commit: {type: string}}
  initial: ask
  states:
    ask: {approval: {quorum: [{role: managers, count: 1}], exclude: [starter], expires: 1h}, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: roles}
spec:
  roles: {managers: {users: [marta]}}
  permissions: [{roles: [managers], allow: [run.approve, run.read, event.publish]}]
`

// stand is a real engine with an administrator.
type stand struct {
	*testing.T
	stop  context.CancelFunc
	ended chan error
	admin *nats.Conn
}

func newStand(t *testing.T) *stand {
	s := standIn(t, t.TempDir())
	s.asAdmin(events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: definitions}}}, nil)
	return s
}

// standIn is an engine with a data directory.
func standIn(t *testing.T, dir string) *stand {
	e, err := engine.New(engine.Options{Dir: dir, Listen: "127.0.0.1:0", HTTP: "none"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &stand{T: t, stop: stop, ended: make(chan error, 1)}
	go func() { s.ended <- e.Run(ctx) }()
	t.Cleanup(s.end)
	select {
	case <-e.Ready():
	case err := <-s.ended:
		s.ended <- err
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("the engine does not get ready")
	}
	cred, err := bus.ReadCredential(filepath.Join(dir, engine.AdminFile))
	if err != nil {
		t.Fatal(err)
	}
	s.admin = s.connect(*cred)
	return s
}

// end stops the engine and waits for it.
func (s *stand) end() {
	s.stop()
	select {
	case err := <-s.ended:
		s.ended <- err
		if err != nil {
			s.Error(err)
		}
	case <-time.After(time.Minute):
		s.Error("the engine does not end")
	}
}

func (s *stand) connect(c bus.Credential) *nats.Conn {
	s.Helper()
	nc, err := nats.Connect(c.URL, nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(nc.Close)
	return nc
}

// ask gives the answer to a request.
func (s *stand) ask(nc *nats.Conn, subject string, req any) events.Answer {
	s.Helper()
	p, ok := req.(json.RawMessage)
	if !ok {
		var err error
		if p, err = json.Marshal(req); err != nil {
			s.Fatal(err)
		}
	}
	// As every client does, it asks again: a worker whose permissions change is
	// disconnected for a moment, and the answer may be under way just then.
	var m *nats.Msg
	err := errors.New("not asked")
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
		m, err = nc.Request(subject, p, 3*time.Second)
	}
	if err != nil {
		s.Fatalf("%s: %v", subject, err)
	}
	var a events.Answer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		s.Fatal(err)
	}
	return a
}

// asAdmin asks as the administrator, who is not refused.
func (s *stand) asAdmin(verb string, req, result any) {
	s.Helper()
	a := s.ask(s.admin, events.AdminSubject("admin", verb), req)
	if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		s.Fatalf("%s: %+v", verb, a)
	}
	if result != nil {
		if err := json.Unmarshal(a.Result, result); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *stand) add(kind, name, pool string) (c bus.Credential) {
	s.Helper()
	s.asAdmin(events.VerbAuthAdd, events.AddPrincipal{Kind: kind, Name: name, Pool: pool}, &c)
	return c
}

// until waits until an event about an incoming event with this id is told.
func (s *stand) until(id string) {
	s.Helper()
	q := events.ReadEvents{Types: []string{"event.*"}, Wait: 1000}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		var page events.EventPage
		s.asAdmin(events.VerbEvents, q, &page)
		for i := range page.Events {
			if h, err := events.DecodeHappening(&page.Events[i]); err == nil && h.Cause != nil && h.Cause.ID == id {
				return
			}
		}
		q.After = page.Next
	}
	s.Fatalf("of the event %s nothing is recorded, though it was acknowledged", id)
}

func event(id, more string) json.RawMessage {
	return json.RawMessage(`{"specversion":"1.0","id":"` + id + `","source":"ci","type":"org.example.go"` + more + `}`)
}

func TestAPersonCannotTakeThePlaceOfAPublishersEvent(t *testing.T) {
	s := newStand(t)
	ci := s.connect(s.add("publisher", "ci", ""))
	marta := s.connect(s.add("user", "marta", ""))
	if a := s.ask(marta, events.UserSubject("marta", events.VerbPublish), event("b100", `,"data":{"commit":"claimed"}`)); a.Status != events.StatusApplied {
		t.Fatalf("%+v", a)
	}
	s.until("b100")
	if err := ci.Publish(events.IngressSubject("default", "ci", "", "org.example.go"), event("b100", `,"data":{"commit":"own"}`)); err != nil {
		t.Fatal(err)
	}
	by := map[any]events.RunView{}
	for deadline := time.Now().Add(30 * time.Second); len(by) < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("the event that ci published itself starts nothing: %+v", by)
		}
		var list events.RunList
		s.asAdmin(events.VerbList, events.ListRuns{Workflow: "triggered"}, &list)
		for _, r := range list.Runs {
			s.asAdmin(events.VerbGet, events.GetRun{Run: r.ID}, &r)
			by[r.Inputs["commit"]] = r
		}
	}
	if a, b := by["claimed"].RequestedBy, by["own"].RequestedBy; a != "marta" || b != "event:ci" {
		t.Errorf("the runs are requested by %q and %q", a, b)
	}
	for commit, want := range map[string]string{"claimed": events.StatusRefused, "own": events.StatusApplied} {
		r := by[commit]
		if len(r.Waiting) != 1 {
			t.Fatalf("%+v", r)
		}
		a := s.ask(marta, events.UserSubject("marta", events.VerbDecide), events.Decide{ID: commit, Run: r.ID, Decision: events.Approve, Content: r.Waiting[0].Content})
		if a.Status != want {
			t.Errorf("marta approves the run of %s: %+v, want %s", commit, a, want)
		}
	}
}

func TestAnEventWhoseIDSomebodyElseUsedIsStored(t *testing.T) {
	s := newStand(t)
	other := s.connect(s.add("publisher", "mallory", ""))
	m := nats.NewMsg(events.IngressSubject("default", "mallory", "x", "y"))
	m.Header.Set("Nats-Msg-Id", events.MessageID(events.DefaultTenant, "user:admin\x00ci", "7"))
	if _, err := other.RequestMsg(m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	s.asAdmin(events.VerbPublish, event("7", ""), nil)
	s.until("7")
}

func TestAnEventWithAVeryLongSubjectIsStored(t *testing.T) {
	s := newStand(t)
	s.asAdmin(events.VerbPublish, event("8", `,"subject":"`+strings.Repeat("x", 6000)+`"`), nil)
	s.until("8")
	s.asAdmin(events.VerbPublish, event("9", ""), nil)
	s.until("9")
	a := s.ask(s.admin, events.AdminSubject("admin", events.VerbPublish), json.RawMessage(`{"specversion":"1.0","id":"10","source":"ci","type":"`+strings.Repeat("t", 300)+`"}`))
	if a.Code != events.CodeInvalid || !strings.Contains(a.Reason, "255") {
		t.Errorf("%+v", a)
	}
}

func TestAWorkerTakesAndReportsOnlyWhatIsItsOwn(t *testing.T) {
	s := newStand(t)
	var r events.RunView
	s.asAdmin(events.VerbStart, events.StartRun{ID: "1", Workflow: "pooled"}, &r)
	low, trusted := s.connect(s.add("worker", "low", "lowtrust")), s.connect(s.add("worker", "good", "trusted"))
	start := events.StartRequest{Task: r.Tasks[0].ID, Run: r.ID, Worker: "w"}
	if a := s.ask(low, events.WorkerSubject("default", "lowtrust", "low", events.VerbAttemptStart), start); a.Status != events.StatusRefused || a.Code != events.CodeDenied {
		t.Errorf("a worker of another pool asks for the task: %+v", a)
	}
	subject := events.WorkerSubject("default", "trusted", "good", events.VerbAttemptStart)
	if a := s.ask(trusted, subject, start); a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		t.Errorf("a worker of its pool asks for the task: %+v", a)
	}
	long := events.FinishRequest{Task: "x", Run: r.ID, Worker: strings.Repeat("w", 200_000), Result: events.Result{Outcome: events.Succeeded}}
	finish := events.WorkerSubject("default", "lowtrust", "low", events.VerbAttemptFinish)
	if a := s.ask(low, finish, long); a.Code != events.CodeInvalid {
		t.Errorf("a worker of a very long name: %+v", a)
	}
	if a := s.ask(low, finish, events.FinishRequest{Task: "x", Run: r.ID, Worker: "w", Result: events.Result{Outcome: events.Succeeded}}); a.Status != events.StatusStale {
		t.Errorf("the result of a task that there was not: %+v", a)
	}
	var list events.Records
	s.asAdmin(events.VerbRecords, events.GetRun{Run: r.ID}, &list)
	if len(list.Records) != 2 {
		t.Errorf("%d records, want the start and the attempt", len(list.Records))
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	s := newStand(t)
	for verb, req := range map[string]any{events.VerbList: events.ListRuns{Limit: -1}, events.VerbEvents: events.ReadEvents{Limit: -1},
		events.VerbGet: events.GetRun{Run: strings.Repeat("r", 201)}} {
		if a := s.ask(s.admin, events.AdminSubject("admin", verb), req); a.Code != events.CodeInvalid {
			t.Errorf("%s: %+v", verb, a)
		}
	}
}

func TestReadersThatWaitKeepNeitherOthersNorTheEndWaiting(t *testing.T) {
	s := newStand(t)
	var now events.EventPage
	s.asAdmin(events.VerbEvents, events.ReadEvents{End: true}, &now)
	body, err := json.Marshal(events.ReadEvents{After: now.Next + 1_000_000, Wait: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	inbox := s.admin.NewInbox()
	answers, err := s.admin.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := s.admin.PublishRequest(events.AdminSubject("admin", events.VerbEvents), inbox, body); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 { // more than one principal may have
		m, err := answers.NextMsg(15 * time.Second)
		if err != nil {
			t.Fatalf("nobody is told that too many wait: %v", err)
		}
		var a events.Answer
		if err := json.Unmarshal(m.Data, &a); err != nil || a.Status != events.StatusBusy || a.RetryAfter == 0 {
			t.Fatalf("%s: %v", m.Data, err)
		}
	}
	s.asAdmin(events.VerbServer, nil, nil)
	s.stop()
	select {
	case err := <-s.ended:
		s.ended <- err
	case <-time.After(15 * time.Second): // they wait 20 s
		t.Fatal("the engine waits for those who read")
	}
}
