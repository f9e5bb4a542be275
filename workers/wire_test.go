package workers_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
)

// wire is a real NATS server with what the engine keeps for workers on it, and
// an engine that answers by the protocol. Workers have no permissions but the
// documented ones.
type wire struct {
	t    testing.TB
	srv  *server.Server
	nc   *nats.Conn
	js   jetstream.JetStream
	key  ed25519.PrivateKey
	cred bus.Credential

	mu       sync.Mutex
	news     chan struct{}
	granted  map[string]string        // task → worker
	verdicts map[string]string        // task → verdict, events.GoOn when there is none
	results  map[string]events.Result // task → result
	beats    map[string][]string      // task → progress of each heartbeat
	hellos   []events.Hello           //
	told     []string                 // keys that the answer to a hello tells
}

const wireKind = "letters"

func newWire(t testing.TB) *wire {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, key: key, news: make(chan struct{}), granted: map[string]string{}, verdicts: map[string]string{},
		results: map[string]events.Result{}, beats: map[string][]string{}}
	w.cred = bus.Credential{User: "w", Password: "pw", Kind: bus.KindWorker, Name: "ci worker", Pool: events.DefaultPool,
		TaskKeys: []string{base64.StdEncoding.EncodeToString(pub)}}
	w.serve()
	w.cred.URL = w.srv.ClientURL()
	return w
}

// permissions are those of docs/workers.md for the worker of the test.
func (w *wire) permissions() *server.Permissions {
	lists := documentedPermissions(w.t, map[string]string{"<pool>": events.Token(w.cred.Pool), "<name>": events.Token(w.cred.Name), "<kind>": events.Token(wireKind)})
	return &server.Permissions{Publish: &server.SubjectPermission{Allow: lists["publish"]}, Subscribe: &server.SubjectPermission{Allow: lists["subscribe"]}}
}

func (w *wire) serve() {
	t := w.t
	t.Helper()
	var err error
	w.srv, err = server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		Users: []*server.User{{Username: "engine", Password: "pw"}, {Username: w.cred.User, Password: w.cred.Password, Permissions: w.permissions()}}})
	if err != nil {
		t.Fatal(err)
	}
	w.srv.Start()
	t.Cleanup(func() { w.srv.Shutdown(); w.srv.WaitForShutdown() })
	if !w.srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	if w.nc, err = nats.Connect(w.srv.ClientURL(), nats.UserInfo("engine", "pw")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.nc.Close)
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{events.StreamTasks: "penstock.task.>", events.StreamOutput: "penstock.output.>"} {
		if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.js.CreateConsumer(t.Context(), events.StreamTasks, jetstream.ConsumerConfig{
		Durable: events.TaskConsumer(w.cred.Pool, wireKind), AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second,
		FilterSubject: strings.TrimSuffix(events.TaskSubject(w.cred.Pool, wireKind, 0), "0") + "*"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.nc.Subscribe(strings.TrimSuffix(events.WorkerSubject(events.DefaultDomain, w.cred.Pool, w.cred.Name, "x"), "x")+">", w.answer); err != nil {
		t.Fatal(err)
	}
}

// answer is the engine.
func (w *wire) answer(m *nats.Msg) {
	prefix := strings.TrimSuffix(events.WorkerSubject(events.DefaultDomain, w.cred.Pool, w.cred.Name, "x"), "x")
	w.mu.Lock()
	answer := w.decide(strings.TrimPrefix(m.Subject, prefix), m.Data)
	close(w.news)
	w.news = make(chan struct{})
	w.mu.Unlock()
	body, err := json.Marshal(answer)
	if err != nil {
		w.t.Error(err)
	}
	if err := m.Respond(body); err != nil {
		w.t.Error(err)
	}
}

func (w *wire) decide(verb string, body []byte) events.Answer {
	ok := events.Answer{Status: events.StatusApplied, Record: 1}
	switch verb {
	case events.VerbWorkerHello:
		var r events.Hello
		w.decode(body, &r)
		w.hellos = append(w.hellos, r)
		ok.Result, _ = json.Marshal(events.ServerInfo{TaskKeys: w.told}) // strings always marshal
	case events.VerbAttemptStart:
		var r events.StartRequest
		w.decode(body, &r)
		if other := w.granted[r.Task]; other != "" {
			return events.Answer{Status: events.StatusRefused, Code: events.CodeConflict, Reason: "the attempt was granted to " + other}
		}
		w.granted[r.Task] = r.Worker
	case events.VerbAttemptHeartbeat:
		var r events.HeartbeatRequest
		w.decode(body, &r)
		w.beats[r.Task] = append(w.beats[r.Task], r.Progress)
		if ok.Verdict = events.GoOn; w.verdicts[r.Task] != "" {
			ok.Verdict = w.verdicts[r.Task]
		}
	case events.VerbAttemptFinish:
		var r events.FinishRequest
		w.decode(body, &r)
		if w.granted[r.Task] != r.Worker {
			return events.Answer{Status: events.StatusStale}
		}
		w.results[r.Task] = r.Result
	default:
		w.t.Errorf("a worker asked for %q", verb)
		return events.Answer{Status: events.StatusError, Code: events.CodeInvalid}
	}
	return ok
}

func (w *wire) decode(body []byte, into any) {
	if err := decodeStrictly(body, into); err != nil {
		w.t.Errorf("a worker sent %s: %v", body, err)
	}
}

// until waits until ok, which is called under the lock.
func (w *wire) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for {
		w.mu.Lock()
		done, news := ok(), w.news
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-deadline:
			w.t.Fatalf("waited a minute for %s", what)
		}
	}
}

func (w *wire) result(task string) events.Result {
	w.t.Helper()
	w.until("the result of "+task, func() bool { _, ok := w.results[task]; return ok })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.results[task]
}

func (w *wire) task(id string, with map[string]any) events.Task {
	return events.Task{ID: id, Run: "run 1", Workflow: "sample", State: "verify.count", Attempt: 1, Pool: w.cred.Pool, Kind: wireKind,
		Runs: events.RunsRepeatable, With: with, Fence: events.Fence{Grant: 7, Version: 12}, Heartbeat: 100, HeartbeatTimeout: 60_000,
		Environment: &events.TaskEnvironment{Name: "staging"}, Issued: time.Now().UTC()}
}

// publish signs tasks as one group and publishes them.
func (w *wire) publish(key ed25519.PrivateKey, tasks ...events.Task) {
	w.t.Helper()
	bodies := make([][]byte, len(tasks))
	for i, t := range tasks {
		var err error
		if bodies[i], err = json.Marshal(t); err != nil {
			w.t.Fatal(err)
		}
	}
	for i, signature := range events.SignGroup(key, bodies) {
		m := nats.NewMsg(events.TaskSubject(tasks[i].Pool, tasks[i].Kind, events.Partition("run", tasks[i].Run)))
		m.Data = bodies[i]
		m.Header.Set(events.HeaderSignature, signature)
		if _, err := w.js.PublishMsg(w.t.Context(), m); err != nil {
			w.t.Fatal(err)
		}
	}
}

// output waits for the whole output of a task.
func (w *wire) output(t events.Task) (chunks []events.Chunk) {
	w.t.Helper()
	consumer, err := w.js.OrderedConsumer(w.t.Context(), events.StreamOutput, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{events.OutputSubject(t.Run, t.State, t.ID)}})
	if err != nil {
		w.t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for !slices.ContainsFunc(chunks, func(c events.Chunk) bool { return c.End }) {
		m, err := consumer.Next(jetstream.FetchMaxWait(time.Until(deadline)))
		if err != nil {
			w.t.Fatalf("the output of %s is not complete: %v; there is %+v", t.ID, err, chunks)
		}
		var c events.Chunk
		w.decode(m.Data(), &c)
		chunks = append(chunks, c)
	}
	return chunks
}

func textOf(chunks []events.Chunk, stream string) string {
	var s strings.Builder
	for _, c := range chunks {
		if c.Stream == stream {
			s.WriteString(c.Text)
		}
	}
	return s.String()
}

// unacknowledged is how many messages wait for an acknowledgement or for a worker.
func (w *wire) unacknowledged() int {
	w.t.Helper()
	c, err := w.js.Consumer(w.t.Context(), events.StreamTasks, events.TaskConsumer(w.cred.Pool, wireKind))
	if err != nil {
		w.t.Fatal(err)
	}
	info := c.CachedInfo()
	return info.NumAckPending + int(info.NumPending)
}

// connect gives the bus as the SDK's worker sees it.
func (w *wire) connect() workers.Bus {
	w.t.Helper()
	conn, err := bus.Connect(w.t.Context(), &w.cred)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Close)
	return workers.OnBus(conn)
}
