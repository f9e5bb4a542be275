package integration_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
	workerexec "github.com/penstock-cd/penstock/workers/exec"
)

// simple is the good workflow that must go on working after everything bad,
// and slow, odd, guarded and crude are for what goes wrong in them.
const simple = `
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: simple}
spec:
  inputs:
    change: {type: string, pattern: '^[a-z]+$'}
    count: {type: int, default: 1}
  triggers:
    - {event: com.example.simple, inputs: {change: '${{ event.data.change }}'}}
  initial: build
  states:
    build: {task: make, with: {change: '${{ inputs.change }}'}, next: done, onFail: broken}
    done: {final: succeeded}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: slow}
spec:
  initial: build
  states:
    build: {task: hang, with: {change: x}, timeout: 500ms, next: done, onTimeout: late, onFail: broken}
    done: {final: succeeded}
    late: {final: failed}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: odd}
spec:
  inputs: {how: {type: string}}
  initial: build
  states:
    build: {task: odd, with: {how: '${{ inputs.how }}'}, next: done, onFail: broken}
    done: {final: succeeded}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: script}
spec:
  inputs: {how: {type: string}}
  initial: build
  states:
    build: {task: script, with: {how: '${{ inputs.how }}'}, next: done, onFail: broken}
    done: {final: succeeded}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: guarded}
spec:
  initial: ask
  states:
    ask:
      approval: {quorum: [{role: releaser, count: 2}], exclude: [starter], expires: 1h}
      next: done
      onFail: broken
    done: {final: succeeded}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: brief}
spec:
  initial: ask
  states:
    ask: {approval: {quorum: [{role: releaser, count: 1}], expires: 300ms}, next: done, onExpire: late, onFail: broken}
    done: {final: succeeded}
    late: {final: expired}
    broken: {final: failed}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: odd}
spec: {runs: repeatable, inputs: {how: string}, outputs: {size: int, names: list(string)}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: hang}
spec: {runs: repeatable, inputs: {change: string}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: script}
spec: {runs: repeatable, inputs: {how: string}, outputs: {size: int}}
`

// here starts the server in this process, where the race detector sees it.
func (s *server) here() {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- serve(ctx, s.plan, slog.New(slog.NewTextHandler(&tail{}, nil)), func(string) { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		s.t.Fatalf("the server ended before it was ready: %v", err)
	}
	s.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.t.Errorf("the server ended with: %v", err)
		}
	})
}

// work runs a worker of these kinds in this process until the test ends.
func (s *server) work(t testing.TB, kinds map[string]workers.Handler) {
	t.Helper()
	conn := s.connect(s.credential(engine.WorkerFile))
	w, err := workers.New(workers.Options{Conn: workers.OnBus(conn), Kinds: kinds, Dir: t.TempDir(), Concurrency: 4,
		DrainTimeout: -1, Log: slog.New(slog.DiscardHandler)})
	require(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the worker ended with: %v", err)
		}
	})
}

// bad is a server with everything that the tests of bad input need.
type bad struct {
	*client
	n int
}

func newBad(t *testing.T) *bad {
	t.Helper()
	s := newServer(t, serverPlan{Heartbeat: 200 * time.Millisecond, HeartbeatLimit: time.Second}, people+kinds+simple)
	s.here()
	b := &bad{client: newClient(s)}
	all := handlers(filepath.Join(t.TempDir(), "ledger"), func(string, string) {})
	all["hang"] = workers.HandlerFunc(func(ctx context.Context, _ *workers.Job) events.Result {
		<-ctx.Done()
		return workers.Interrupted(ctx)
	})
	all["odd"] = workers.HandlerFunc(oddResult)
	all["script"] = workerexec.Handler{Args: []string{"sh", "-c", `read task
		case "$task" in
		*says-nothing*) echo "the disk is on fire" >&2; exit 3 ;;
		*prints-rubbish*) echo "all is well" ;;
		*says-why*) echo '{"outcome":"failed","error":{"code":"no_fuel","message":"the tank is empty"}}'; exit 1 ;;
		*kills-itself*) kill -9 $$ ;;
		*) echo '{"size": 3}' ;;
		esac`}}
	s.work(t, all)
	return b
}

// oddResult gives a result that is wrong in the way that the task asks for.
func oddResult(_ context.Context, job *workers.Job) events.Result {
	r := events.Result{Outcome: events.Succeeded}
	switch job.With["how"] {
	case "missing":
		r.Outputs = map[string]any{"size": 1}
	case "type":
		r.Outputs = map[string]any{"size": "many", "names": []any{"a", 2}}
	case "outcome":
		r.Outcome = "splendid"
	case "huge":
		r.Outputs = map[string]any{"size": 1, "names": []any{strings.Repeat("x", 1<<20)}}
	case "panics":
		panic("the handler is broken")
	}
	return r
}

// goesOn proves that the server still does its work.
func (b *bad) goesOn(t *testing.T) {
	t.Helper()
	b.n++
	b.t = t
	var v events.RunView
	b.must(b.marta, events.VerbStart, events.StartRun{ID: fmt.Sprintf("good-%d", b.n), Workflow: "simple", Inputs: map[string]any{"change": "good"}}, &v)
	if v := b.untilDone(v.ID); v.Outcome != events.Succeeded {
		t.Errorf("a good run after it ended %s: %+v", v.Outcome, v.Path)
	}
}

// refused asks for something that must be refused with this code and words.
func (b *bad) refused(t *testing.T, conn *bus.Conn, verb string, request any, code string, words ...string) {
	t.Helper()
	b.t = t
	a, err := b.ask(conn, verb, request, nil)
	if err == nil {
		t.Errorf("%s was %s, and should have been refused", verb, a.Status)
		return
	}
	if a.Code != code {
		t.Errorf("%s: the code is %q, want %q (%v)", verb, a.Code, code, err)
	}
	says(t, err.Error(), words...)
}

func says(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("the text does not say %q:\n%s", w, text)
		}
	}
}

func TestBadStartsAreRefusedWithAllThatIsWrong(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	start := func(workflow string, inputs map[string]any) events.StartRun {
		b.n++
		return events.StartRun{ID: fmt.Sprintf("bad-%d", b.n), Workflow: workflow, Inputs: inputs}
	}
	b.refused(t, b.marta, events.VerbStart, start("nowhere", nil), events.CodeNotFound, `there is no workflow "nowhere"`, "penstock definitions")
	b.refused(t, b.marta, events.VerbStart, start("simple", nil), events.CodeInvalid, `input "change" (string) is missing`)
	b.refused(t, b.marta, events.VerbStart, start("simple", map[string]any{"change": "UPPER", "count": "lots", "chnage": "x"}), events.CodeInvalid,
		`"UPPER" does not match the pattern`, `input "count"`, `there is no input "chnage"`, "it takes change and count")
	b.refused(t, b.marta, events.VerbStart, events.StartRun{Workflow: "simple"}, events.CodeInvalid, "ID", "required")
	b.refused(t, b.login(bus.KindUser, "nobody"), events.VerbStart, start("simple", map[string]any{"change": "x"}), events.CodeDenied, "nobody may not start simple")
	b.refused(t, b.marta, events.VerbGet, events.GetRun{Run: "zzzz"}, events.CodeNotFound, `there is no run "zzzz"`)
	b.refused(t, b.marta, "run.fly", nil, events.CodeNotFound, `there is no verb "run.fly"`)
	b.refused(t, b.marta, events.VerbStart, json.RawMessage(`[1]`), events.CodeInvalid, "not the JSON that is asked for")
	b.refused(t, b.marta, events.VerbStart, start("simple", map[string]any{"change": strings.Repeat("x", 900<<10)}), events.CodeInvalid, "too large")
	b.goesOn(t)
}

// refusedEvents follows the events that say why an incoming event started
// nothing, and gives their reasons.
func (b *bad) refusedEvents(t *testing.T) func(word ...string) {
	t.Helper()
	var after events.EventPage
	b.must(b.admin, events.VerbEvents, events.ReadEvents{End: true}, &after)
	return func(words ...string) {
		t.Helper()
		var all []string
		eventually(t, fmt.Sprintf("an event that says %q", words), func() (bool, error) {
			var page events.EventPage
			b.must(b.admin, events.VerbEvents, events.ReadEvents{After: after.Next, Types: []string{"event.*"}, Wait: 1000}, &page)
			after = page
			for _, e := range page.Events {
				var h events.Happening
				require(t, json.Unmarshal(e.Data, &h))
				text := e.Type + " " + strings.Join(h.Reasons, "\n")
				all = append(all, text)
				if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
					return true, nil
				}
			}
			return false, fmt.Errorf("there were %q", all)
		})
	}
}

func TestBadEventsStartNothingAndSayWhy(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	cred := b.principal(events.AddPrincipal{Kind: bus.KindPublisher, Name: "shop"})
	nc, err := nats.Connect(cred.URL, nats.UserInfo(cred.User, cred.Password), nats.CustomInboxPrefix(cred.InboxPrefix))
	require(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require(t, err)
	raw := func(source string, body []byte) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, events.IngressSubject(events.DefaultTenant, source, "key", "com.example.simple"), body)
		return err
	}
	told := b.refusedEvents(t)

	for _, c := range []struct{ body, why string }{
		{"\x00\xff nonsense", "not a CloudEvent in structured JSON"},
		{`{"specversion":"0.3","id":"1","source":"shop","type":"com.example.simple"}`, `"specversion" is "0.3", want "1.0"`},
		{`{"specversion":"1.0","id":"","source":"shop","type":"com.example.simple"}`, `attribute "id" is required`},
		{`{"specversion":"1.0","id":"f1","source":"bank","type":"com.example.simple","data":{"change":"x"}}`, `publisher "shop" may not speak as source "bank"`},
		{`{"specversion":"1.0","id":"f2","source":"shop","type":"com.example.simple","data":{"change":"UPPER"}}`, "does not match the pattern"},
		{`{"specversion":"1.0","id":"f3","source":"shop","type":"com.example.simple","data":{}}`, `input "change" (string) is missing`},
	} {
		require(t, raw("shop", []byte(c.body)))
		told("event.refused", c.why)
	}
	require(t, raw("shop", []byte(`{"specversion":"1.0","id":"f4","source":"shop","type":"com.example.other","data":{}}`)))
	told("event.ignored", "no workflow has a trigger for events of type com.example.other")
	// An event that is taken gets a record, also when it is too large for what it would start.
	big := fmt.Sprintf(`{"specversion":"1.0","id":"f5","source":"shop","type":"com.example.simple","data":{"change":%q}}`, strings.Repeat("x", events.MaxEventSize-200))
	require(t, raw("shop", []byte(big)))
	told("event.refused", "too large to be recorded")
	medium := strings.Replace(big, "f5", "f6", 1)
	medium = medium[:len(medium)-3-events.MaxEventSize/4] + medium[len(medium)-3:]
	require(t, raw("shop", []byte(medium)))
	told("event.refused", "was not started", "too large to be recorded")
	if err := raw("shop", make([]byte, events.MaxEventSize+64<<10)); err == nil || !strings.Contains(err.Error(), "exceeds maximum") {
		t.Errorf("an oversized message: %v", err)
	}
	if err := raw("bank", []byte(`{}`)); err == nil {
		t.Error("a publisher has published below the name of another")
	}
	b.goesOn(t)

	// The library says it before anything is sent.
	ctx := t.Context()
	for _, c := range []struct {
		e   events.Event
		why string
	}{
		{events.Event{ID: "1", Source: "bank", Type: "t"}, `its source is "bank", and this credential publishes for "git"`},
		{events.Event{Source: "git", Type: "t"}, `attribute "id" is required`},
		{events.Event{ID: "1", Source: "git", Type: "t", Data: []byte("{")}, "data is not JSON"},
		{events.Event{ID: "1", Source: "git", Type: "t", Data: fmt.Appendf(nil, "%q", strings.Repeat("x", events.MaxEventSize))}, "at most 262144 are accepted"},
	} {
		if err := b.git.Publish(ctx, &c.e); err == nil {
			t.Errorf("%s: it was published", c.why)
		} else {
			says(t, err.Error(), c.why)
		}
	}
	b.refused(t, b.marta, events.VerbPublish, json.RawMessage(`{"hello": "world"}`), events.CodeInvalid, "not a CloudEvent")
	b.refused(t, b.marta, events.VerbPublish, json.RawMessage(big[:len(big)-3]+strings.Repeat("x", 1000)+`"}}`), events.CodeInvalid, "at most 262144 are accepted")
	b.refused(t, b.login(bus.KindUser, "zoe"), events.VerbPublish, json.RawMessage(`{"specversion":"1.0","id":"1","source":"zoe","type":"t"}`), events.CodeDenied, "event.publish")
	b.goesOn(t)
}

func TestBadResultsFailTheTaskAndSayWhy(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	for i, c := range []struct{ workflow, how, code, why string }{
		{"odd", "missing", events.CodeBadOutputs, `output "names" (list(string)) is missing`},
		{"odd", "type", events.CodeBadOutputs, `output "size"`},
		{"odd", "outcome", "bad_result", `"splendid"`},
		{"odd", "huge", "result_too_large", "store large values as an artifact"},
		{"odd", "panics", "worker_panic", "panicked"},
		{"script", "says-nothing", "exit_3", "the disk is on fire"},
		{"script", "prints-rubbish", "bad_result", "standard output is not one JSON object"},
		{"script", "says-why", "no_fuel", "the tank is empty"},
		{"script", "kills-itself", "killed", "killed"},
		{"slow", "", events.CodeTimeout, "longer than its timeout"},
	} {
		var v events.RunView
		inputs := map[string]any{"how": c.how}
		if c.how == "" {
			inputs = nil
		}
		b.must(b.marta, events.VerbStart, events.StartRun{ID: strconv.Itoa(i), Workflow: c.workflow, Inputs: inputs}, &v)
		v = b.untilDone(v.ID)
		p := v.Path[0]
		if v.Outcome != events.Failed || p.Error == nil || p.Error.Code != c.code {
			t.Errorf("%s %s: ended %s, build %s: %+v; want the code %s", c.workflow, c.how, v.Outcome, p.Outcome, p.Error, c.code)
			continue
		}
		says(t, p.Error.Message, c.why)
		b.audit(v.ID)
	}
	b.goesOn(t)
}

// TestWorkersThatLieChangeNothing speaks the protocol of workers by hand.
func TestWorkersThatLieChangeNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverPlan{Heartbeat: 200 * time.Millisecond, HeartbeatLimit: time.Second}, people+kinds+simple)
	s.here()
	b := &bad{client: newClient(s)}
	honest := s.connect(s.credential(engine.WorkerFile))
	liar := s.connect(b.principal(events.AddPrincipal{Kind: bus.KindWorker, Name: "liar"}))
	start := func(id, workflow string) (string, *bus.TaskMessage) {
		var v events.RunView
		inputs := map[string]any{"change": "x"}
		kind := "make"
		if workflow == "slow" {
			inputs, kind = nil, "hang"
		}
		b.must(b.marta, events.VerbStart, events.StartRun{ID: id, Workflow: workflow, Inputs: inputs}, &v)
		got, err := honest.Tasks(events.DefaultPool, kind).Fetch(t.Context(), 1, patience)
		require(t, err)
		if len(got) != 1 {
			t.Fatalf("%d tasks were fetched", len(got))
		}
		return v.ID, got[0]
	}
	good := events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"size": 1}}

	run, m := start("1", "simple")
	b.must(honest, events.VerbAttemptStart, events.StartRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil)
	require(t, m.Ack(t.Context()))
	claim := func(conn *bus.Conn, worker, status string) {
		t.Helper()
		a, err := b.ask(conn, events.VerbAttemptFinish, events.FinishRequest{Task: m.Task.ID, Run: run, Worker: worker, Result: good}, nil)
		if err == nil || a.Status != status {
			t.Errorf("a foreign result was %s (%v), want %s", a.Status, err, status)
		}
	}
	claim(liar, "a", events.StatusStale) // the same name for itself, another principal
	claim(liar, "local/a", events.StatusStale)
	claim(honest, "b", events.StatusStale)
	if a, err := b.ask(liar, events.VerbAttemptStart, events.StartRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil); err == nil || a.Status != events.StatusRefused {
		t.Errorf("an attempt was granted twice: %+v", a)
	} else {
		says(t, err.Error(), "the attempt was granted to local/a")
	}
	var hb events.Answer
	hb, err := b.ask(liar, events.VerbAttemptHeartbeat, events.HeartbeatRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil)
	if err != nil || hb.Verdict != events.Stale {
		t.Errorf("a foreign heartbeat was answered %+v, %v", hb, err)
	}
	b.refused(t, liar, events.VerbDecide, events.Decide{ID: "1", Run: run, Decision: events.Approve}, events.CodeDenied, "liar")
	b.refused(t, b.marta, events.VerbAttemptFinish, events.FinishRequest{Task: m.Task.ID, Run: run, Worker: "a", Result: good}, events.CodeDenied, "marta")
	if v := b.get(run); v.Status != "running" {
		t.Errorf("the run is %s after foreign results", v.Status)
	}
	b.must(honest, events.VerbAttemptFinish, events.FinishRequest{Task: m.Task.ID, Run: run, Worker: "a", Result: good}, nil)
	if v := b.untilDone(run); v.Outcome != events.Succeeded {
		t.Errorf("the run ended %s", v.Outcome)
	}
	refusals := 0
	for _, r := range b.audit(run) {
		for _, e := range r.Events {
			if e.Type == events.TaskRefused {
				refusals++
			}
		}
	}
	if refusals != 3 {
		t.Errorf("%d foreign results are in the record, want 3", refusals)
	}

	// A worker that says it lives and never ends: the engine ends the attempt.
	run, m = start("2", "slow")
	b.must(honest, events.VerbAttemptStart, events.StartRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil)
	require(t, m.Ack(t.Context()))
	for b.get(run).Status != "done" {
		_, err := b.ask(honest, events.VerbAttemptHeartbeat, events.HeartbeatRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil)
		require(t, err)
		time.Sleep(50 * time.Millisecond) // as heartbeats come
	}
	if v := b.get(run); v.Outcome != events.Failed || v.Path[0].Outcome != events.TimedOut {
		t.Errorf("a worker that hangs: the run ended %s, its task %s", v.Outcome, v.Path[0].Outcome)
	}
	hb, err = b.ask(honest, events.VerbAttemptHeartbeat, events.HeartbeatRequest{Task: m.Task.ID, Run: run, Worker: "a"}, nil)
	if err != nil || hb.Verdict != events.Stale {
		t.Errorf("the heartbeat of an attempt that has timed out was answered %+v, %v", hb, err)
	}

	// A worker that dies without a word is given up, and the task done by another.
	run, m = start("3", "simple")
	b.must(honest, events.VerbAttemptStart, events.StartRequest{Task: m.Task.ID, Run: run, Worker: "dead"}, nil)
	require(t, m.Ack(t.Context()))
	s.work(t, handlers(filepath.Join(t.TempDir(), "ledger"), func(string, string) {}))
	if v := b.untilDone(run); v.Outcome != events.Succeeded {
		t.Errorf("after a dead worker the run ended %s: %+v", v.Outcome, v.Path)
	}
	b.goesOn(t)
}

// TestForgedTasksAreNotDone puts into the tasks' stream what the engine did
// not sign, what somebody else has signed, and what it did sign and was done
// long ago. A worker's own credential cannot even try.
func TestForgedTasksAreNotDone(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverPlan{}, people+kinds+simple)
	s.start()
	b := &bad{client: newClient(s)}
	plan := workerPlan{Credential: filepath.Join(s.plan.Dir, engine.WorkerFile), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
	w := spawn(t, "worker", plan)
	b.goesOn(t)

	cred := s.credential(engine.WorkerFile)
	nc, err := nats.Connect(cred.URL, nats.UserInfo(cred.User, cred.Password), nats.CustomInboxPrefix(cred.InboxPrefix))
	require(t, err)
	denied := make(chan error, 10)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err })
	require(t, nc.Publish(events.TaskSubject(events.DefaultPool, "make", 1), []byte("{}")))
	require(t, nc.Flush())
	select {
	case err := <-denied:
		says(t, strings.ToLower(err.Error()), "permissions violation")
	case <-time.After(patience):
		t.Error("a worker may publish tasks")
	}
	nc.Close()

	require(t, s.proc.stop(t))
	forge(t, s.plan.Dir)
	s.start()
	b.goesOn(t)
	eventually(t, "the worker refuses both forged tasks", func() (bool, error) {
		return strings.Count(w.log.String(), "refused a task message that the engine cannot have sent") == 2, errNotYet
	})
	b.goesOn(t)
	all, err := readLedger(plan.Ledger)
	require(t, err)
	if len(all) != 3 {
		t.Errorf("there are %d effects of 3 good runs: %+v", len(all), all)
	}
	onceOnly(t, plan.Ledger, "")
}

// forge opens the store of a stopped server and adds messages to its tasks:
// one without a signature, one signed with another key, and one again that is
// there already.
func forge(t *testing.T, dir string) {
	t.Helper()
	o := &natsserver.Options{}
	require(t, o.ProcessConfigString("accounts { "+events.AccountWork+" { jetstream: enabled, users: [{user: w, password: w}] } }"))
	o.Host, o.Port, o.NoSigs, o.NoLog, o.JetStream, o.StoreDir = "127.0.0.1", natsserver.RANDOM_PORT, true, true, true, dir
	n, err := natsserver.NewServer(o)
	require(t, err)
	n.Start()
	defer func() { n.Shutdown(); n.WaitForShutdown() }()
	if !n.ReadyForConnections(patience) {
		t.Fatal("the store could not be opened")
	}
	nc, err := nats.Connect(n.ClientURL(), nats.UserInfo("w", "w"))
	require(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require(t, err)
	stream, err := js.Stream(t.Context(), events.StreamTasks)
	require(t, err)
	old, err := stream.GetMsg(t.Context(), 1)
	require(t, err)

	task := events.Task{ID: "forged", Run: "r", State: "build", Kind: "make", Runs: events.RunsRepeatable, Pool: events.DefaultPool, With: map[string]any{"change": "forged"}}
	body, err := json.Marshal(task)
	require(t, err)
	_, key, err := ed25519.GenerateKey(nil)
	require(t, err)
	for _, m := range []*nats.Msg{
		{Subject: old.Subject, Data: body},
		{Subject: old.Subject, Data: body, Header: nats.Header{events.HeaderSignature: events.SignGroup(key, [][]byte{body})}},
		{Subject: old.Subject, Data: old.Data, Header: old.Header},
	} {
		_, err := js.PublishMsg(t.Context(), m)
		require(t, err)
	}
}

func TestBadDecisionsAreRefusedAndRecorded(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	zoe := b.login(bus.KindUser, "zoe")
	run := func(id string) string {
		var v events.RunView
		b.must(zoe, events.VerbStart, events.StartRun{ID: id, Workflow: "guarded"}, &v)
		return v.ID
	}
	first := run("1")
	content := b.asked(first)
	n := 0
	decide := func(r, content string) events.Decide {
		n++
		return events.Decide{ID: strconv.Itoa(n), Run: r, Decision: events.Approve, Content: content}
	}
	b.refused(t, zoe, events.VerbDecide, decide(first, content), events.CodeDenied, "zoe may not approve runs of guarded")
	b.refused(t, b.login(bus.KindUser, "stranger"), events.VerbDecide, decide(first, content), events.CodeDenied, "stranger may not approve")
	b.refused(t, b.marta, events.VerbDecide, decide(first, ""), events.CodeInvalid, "must name the content")
	b.refused(t, b.marta, events.VerbDecide, decide(first, "sha256:00"), events.CodeConflict, "something else than what waits now")
	late := decide(first, content)
	late.NotAfter = time.Now().Add(-time.Minute)
	b.refused(t, b.marta, events.VerbDecide, late, events.CodeConflict, "came too late")
	elsewhere := decide(first, content)
	elsewhere.State = "done"
	b.refused(t, b.marta, events.VerbDecide, elsewhere, events.CodeConflict, "at ask, not at done")
	maybe := decide(first, content)
	maybe.Decision = "maybe"
	b.refused(t, b.marta, events.VerbDecide, maybe, events.CodeInvalid, "Decision")

	yes := decide(first, content)
	b.must(b.marta, events.VerbDecide, yes, nil)
	if a, err := b.ask(b.marta, events.VerbDecide, yes, nil); err != nil || a.Status != events.StatusAlready {
		t.Errorf("the same decision once more was %s (%v), want already", a.Status, err)
	}
	b.refused(t, b.marta, events.VerbDecide, decide(first, content), events.CodeConflict, "a person counts once")
	if v := b.get(first); v.Status != "waiting" {
		t.Fatalf("one person has filled two seats: the run is %s", v.Status)
	}
	second := run("2")
	b.refused(t, b.li, events.VerbDecide, decide(second, content), events.CodeConflict, "something else than what waits now")
	b.must(b.li, events.VerbDecide, decide(first, content), nil)
	if v := b.untilDone(first); v.Outcome != events.Succeeded {
		t.Errorf("the run ended %s", v.Outcome)
	}
	b.refused(t, b.li, events.VerbDecide, decide(first, content), events.CodeConflict, "the run has ended: succeeded")
	b.refused(t, b.li, events.VerbCancel, events.CancelRun{ID: "c", Run: first}, events.CodeConflict, "the run has ended")
	b.refused(t, zoe, events.VerbCancel, events.CancelRun{ID: "c", Run: second}, events.CodeDenied, "zoe may not cancel")

	// The starter of a run may not approve it.
	var own events.RunView
	b.must(b.marta, events.VerbStart, events.StartRun{ID: "own", Workflow: "guarded"}, &own)
	b.refused(t, b.marta, events.VerbDecide, decide(own.ID, b.asked(own.ID)), events.CodeDenied, "marta started this run")

	// Nobody decided in time.
	var brief events.RunView
	b.must(b.marta, events.VerbStart, events.StartRun{ID: "brief", Workflow: "brief"}, &brief)
	shown := approval(brief).Content
	if v := b.untilDone(brief.ID); v.Outcome != events.Expired {
		t.Errorf("an approval that nobody gave: the run ended %s", v.Outcome)
	}
	b.refused(t, b.li, events.VerbDecide, decide(brief.ID, shown), events.CodeConflict, "the run has ended: expired")

	refusals := 0
	for _, r := range b.audit(first) {
		for _, e := range r.Events {
			if e.Type == events.ApprovalRefused {
				refusals++
			}
		}
	}
	if refusals != 8 {
		t.Errorf("%d refused decisions are in the record, want 8", refusals)
	}
	b.goesOn(t)
}

func TestBadDefinitionsAreRefusedAndGoodOnesCount(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	wf := func(name, require string) string {
		return fmt.Sprintf(`apiVersion: penstock/v1
kind: Workflow
metadata: {name: %s}
spec:
  initial: build
  states:
    build:
      parallel: {one: {task: make, with: {change: x}}}
      gate: [{name: g, require: %s}]
      next: done
      onFail: broken
    done: {final: succeeded}
    broken: {final: failed}
`, name, require)
	}
	apply := func(files ...events.SourceFile) events.Applied {
		t.Helper()
		b.n++
		var a events.Applied
		b.must(b.admin, events.VerbApply, events.Apply{ID: fmt.Sprintf("apply-%d", b.n), Files: files}, &a)
		return a
	}
	a := apply(events.SourceFile{Name: "first.yaml", Content: wf("stays", "one.size > 0")})
	if strings.Contains(a.Text, "first.yaml") { // others of the catalog have warnings
		t.Fatalf("a good file has problems: %s", a.Text)
	}
	a = apply(
		events.SourceFile{Name: "cel.yaml", Content: wf("stays", "one.sise > 0")},
		events.SourceFile{Name: "syntax.yaml", Content: wf("broken-cel", "'one.size > > 0'")},
		events.SourceFile{Name: "yaml.yaml", Content: "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: x\n"},
		events.SourceFile{Name: "keys.yaml", Content: strings.Replace(wf("typo", "one.size > 0"), "onFail", "onFial", 1)},
		events.SourceFile{Name: "good.yaml", Content: wf("good", "one.size > 0")},
	)
	says(t, a.Text, "cel.yaml:9:37: ", "sise", "syntax.yaml:9:45: ", "yaml.yaml:3:", "keys.yaml:11:7: ", "onFial")
	for _, p := range a.Problems {
		var at struct {
			Pos struct {
				File         string
				Line, Column int
			}
		}
		if err := json.Unmarshal(p, &at); err != nil || at.Pos.File == "" || at.Pos.Line == 0 || at.Pos.Column == 0 {
			t.Errorf("a problem without its place: %s (%v)", p, err)
		}
	}
	var in events.Definitions
	b.must(b.admin, events.VerbDefinitions, nil, &in)
	var names []string
	for _, d := range in.Definitions {
		names = append(names, d.Name)
	}
	if !slices.Contains(names, "good") || slices.Contains(names, "typo") || slices.Contains(names, "broken-cel") {
		t.Errorf("in force are %v", names)
	}
	for _, name := range []string{"stays", "good"} { // the old version of the one, the first of the other
		var v events.RunView
		b.must(b.marta, events.VerbStart, events.StartRun{ID: name, Workflow: name}, &v)
		if v := b.untilDone(v.ID); v.Outcome != events.Succeeded {
			t.Errorf("%s ended %s: %+v", name, v.Outcome, v.Path)
		}
	}
	b.refused(t, b.marta, events.VerbApply, events.Apply{ID: "x", Files: []events.SourceFile{{Name: "a.yaml", Content: wf("mine", "true")}}},
		events.CodeDenied, "marta may not do this: it takes the permission definitions.apply")

	// The same in the folder that the server watches: the bad file is told, the rest counts.
	require(t, os.WriteFile(filepath.Join(b.s.plan.Workflows, "late.yaml"), []byte(wf("late", "one.size > 0")), 0o600))
	require(t, os.WriteFile(filepath.Join(b.s.plan.Workflows, "worse.yaml"), []byte("{{{"), 0o600))
	eventually(t, "the new file counts", func() (bool, error) {
		var v events.RunView
		b.n++
		_, err := b.ask(b.marta, events.VerbStart, events.StartRun{ID: fmt.Sprintf("late-%d", b.n), Workflow: "late"}, &v)
		return err == nil, err
	})
	b.goesOn(t)
}

func TestSecondServerOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	b := newBad(t)
	err := serve(t.Context(), serverPlan{Dir: b.s.plan.Dir, Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(string) {})
	if err == nil {
		t.Fatal("a second server runs on the same data directory")
	}
	says(t, err.Error(), "in use by another penstock server", "process "+strconv.Itoa(os.Getpid()), "another directory")
	b.goesOn(t)
}

// digest is that of a workflow in force.
func (c *client) digest(workflow string) string {
	c.t.Helper()
	var in events.Definitions
	c.must(c.admin, events.VerbDefinitions, nil, &in)
	for _, d := range in.Definitions {
		if d.Kind == "Workflow" && d.Name == workflow {
			return d.Digest
		}
	}
	return ""
}

func TestWaitingRunsOutliveTheServerAndNewDefinitions(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverPlan{}, people+kinds+road)
	s.start()
	c := newClient(s)
	var v events.RunView
	c.must(c.marta, events.VerbStart, events.StartRun{ID: "1", Workflow: "hold"}, &v)
	content := c.asked(v.ID)
	// In the new version the approval leads to failure, and a run that starts now goes there.
	changed := strings.Replace(road, "next: done\n      onFail: broken\n    done: {final: succeeded}\n    broken: {final: failed}\n`", "", 1)
	i := strings.Index(changed, "metadata: {name: hold}")
	changed = changed[:i] + strings.ReplaceAll(changed[i:], "next: done", "next: broken")
	changed = changed[:i] + strings.Replace(changed[i:], "onFail: broken", "onFail: done", 1)
	before := c.digest("hold")
	require(t, os.WriteFile(filepath.Join(s.plan.Workflows, "all.yaml"), []byte(people+kinds+changed), 0o600))
	eventually(t, "the definitions in force are the new ones", func() (bool, error) { return c.digest("hold") != before, nil })
	require(t, s.proc.stop(t))
	s.start()
	if again := c.asked(v.ID); again != content {
		t.Errorf("after the restart the approval is about %s, before about %s", again, content)
	}
	var newer events.RunView
	c.must(c.marta, events.VerbStart, events.StartRun{ID: "2", Workflow: "hold"}, &newer)
	for _, r := range []events.RunView{v, newer} {
		c.must(c.li, events.VerbDecide, events.Decide{ID: r.ID, Run: r.ID, Decision: events.Approve, Content: c.asked(r.ID)}, nil)
	}
	if got := c.untilDone(v.ID); got.State != "done" || got.Definition == c.get(newer.ID).Definition {
		t.Errorf("the waiting run ended in %s with definition %s, and should have kept its own", got.State, got.Definition)
	}
	if got := c.untilDone(newer.ID); got.State != "broken" {
		t.Errorf("the new run ended in %s, and should have the new definition", got.State)
	}
	c.audit(v.ID)
	c.audit(newer.ID)
}

// TestFailingCommandsOfWorkerExec drives the command line program.
func TestFailingCommandsOfWorkerExec(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the program")
	}
	program := filepath.Join(t.TempDir(), "penstock")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../cmd/penstock").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := newServer(t, serverPlan{}, people+kinds+simple)
	s.here()
	b := &bad{client: newClient(s)}
	log := &tail{}
	cmd := exec.Command(program, "worker", "exec", "--data", s.plan.Dir, "--kind", "script", "--",
		"sh", "-c", `read task; case "$task" in *bad*) echo "no such fuel" >&2; exit 7;; esac; echo '{"size": 1}'`)
	cmd.Stdout, cmd.Stderr = log, log
	require(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for how, want := range map[string]string{"bad": events.Failed, "fine": events.Succeeded} {
		var v events.RunView
		b.must(b.marta, events.VerbStart, events.StartRun{ID: how, Workflow: "script", Inputs: map[string]any{"how": how}}, &v)
		v = b.untilDone(v.ID)
		if v.Outcome != want {
			t.Errorf("%s ended %s: %+v\n%s", how, v.Outcome, v.Path, log)
		}
		if how == "bad" {
			if e := v.Path[0].Error; e == nil || e.Code != "exit_7" || !strings.Contains(e.Message, "no such fuel") {
				t.Errorf("the error is %+v", e)
			}
		}
	}
}
