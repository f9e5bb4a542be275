package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// fakeBus is a bus and an engine in memory. The engine grants every start and
// answers every request, unless a test says otherwise.
type fakeBus struct {
	mu       sync.Mutex
	waiting  map[string][]*fakeMessage // by kind
	news     chan struct{}             // closed and replaced when something changed
	asked    []asked
	chunks   map[string][]events.Chunk // by task
	closed   map[string]bool           // outputs, by task
	largest  int                       // most messages that one Fetch asked for
	sinkFull bool                      // no chunk is taken

	answer map[string]func(n int, task string) (events.Answer, error) // by verb; n counts from 1
}

type asked struct {
	verb string
	at   time.Time
	body map[string]any
}

func newFakeBus() *fakeBus {
	return &fakeBus{waiting: map[string][]*fakeMessage{}, news: make(chan struct{}), chunks: map[string][]events.Chunk{},
		closed: map[string]bool{}, answer: map[string]func(int, string) (events.Answer, error){}}
}

func (b *fakeBus) changed() {
	close(b.news)
	b.news = make(chan struct{})
}

type fakeMessage struct {
	b      *fakeBus
	task   events.Task
	acks   int
	delays []time.Duration
}

func (m *fakeMessage) Task() *events.Task { return &m.task }

func (m *fakeMessage) Ack() error {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.acks++
	m.b.changed()
	return nil
}

// Nak records the delay; a test delivers the message again when it wants to.
func (m *fakeMessage) Nak(delay time.Duration) error {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.delays = append(m.delays, delay)
	m.b.changed()
	return nil
}

func (b *fakeBus) deliver(t events.Task) *fakeMessage {
	m := &fakeMessage{b: b, task: t}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[t.Kind] = append(b.waiting[t.Kind], m)
	b.changed()
	return m
}

func (b *fakeBus) Fetch(ctx context.Context, _, kind string, n int, wait time.Duration) ([]workers.Message, error) {
	end := time.After(wait)
	for {
		b.mu.Lock()
		b.largest = max(b.largest, n)
		var got []workers.Message
		for len(b.waiting[kind]) > 0 && len(got) < n {
			got = append(got, b.waiting[kind][0])
			b.waiting[kind] = b.waiting[kind][1:]
		}
		news := b.news
		b.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-news:
		case <-end:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *fakeBus) Request(ctx context.Context, verb string, request any) (events.Answer, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return events.Answer{}, err
	}
	a := asked{verb: verb, at: time.Now()}
	if err := json.Unmarshal(text, &a.body); err != nil {
		return events.Answer{}, err
	}
	b.mu.Lock()
	b.asked = append(b.asked, a)
	n := 0
	for _, before := range b.asked {
		if before.verb == verb && before.body["task"] == a.body["task"] {
			n++
		}
	}
	answer := b.answer[verb]
	b.changed()
	b.mu.Unlock()
	if answer == nil {
		return events.Answer{Status: events.StatusApplied, Verdict: events.GoOn}, nil
	}
	task, _ := a.body["task"].(string)
	got, err := answer(n, task)
	if errors.Is(err, errNoAnswer) {
		<-ctx.Done()
		return got, ctx.Err()
	}
	return got, err
}

// errNoAnswer makes a request hang until its context ends.
var errNoAnswer = errors.New("no answer")

func applied(verdict string) (events.Answer, error) {
	return events.Answer{Status: events.StatusApplied, Verdict: verdict}, nil
}

func (b *fakeBus) Artifacts() workers.Artifacts { return nil }

type fakeOutput struct {
	b    *fakeBus
	task string
}

func (b *fakeBus) Output(t *events.Task) workers.Output { return fakeOutput{b, t.ID} }

func (o fakeOutput) Write(c events.Chunk) error {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	if o.b.sinkFull {
		return errors.New("the stream is full")
	}
	o.b.chunks[o.task] = append(o.b.chunks[o.task], c)
	o.b.changed()
	return nil
}

func (o fakeOutput) Close(context.Context) error {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	o.b.closed[o.task] = true
	return nil
}

// until waits until ok, which is called under the lock.
func (b *fakeBus) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Hour) // of the bubble's clock
	for {
		b.mu.Lock()
		done, news := ok(), b.news
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("waited for %s; the worker asked %s", what, b.history())
		}
	}
}

func (b *fakeBus) history() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for _, a := range b.asked {
		lines = append(lines, fmt.Sprintf("%s %v", a.verb, a.body))
	}
	return strings.Join(lines, "\n")
}

// of lists the requests of a verb about a task; the caller holds the lock.
func (b *fakeBus) of(verb, task string) []asked {
	return slices.DeleteFunc(slices.Clone(b.asked), func(a asked) bool {
		return a.verb != verb || task != "" && a.body["task"] != task
	})
}

// requests are those of a verb about a task, in order.
func (b *fakeBus) requests(verb, task string) []asked {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of(verb, task)
}

// result waits for the report of a task.
func (b *fakeBus) result(t testing.TB, task string) events.Result {
	t.Helper()
	b.until(t, "the result of "+task, func() bool { return len(b.of(events.VerbAttemptFinish, task)) > 0 })
	text, err := json.Marshal(b.requests(events.VerbAttemptFinish, task)[0].body["result"])
	if err != nil {
		t.Fatal(err)
	}
	var r events.Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// text is what a task printed on a stream.
func (b *fakeBus) text(task, stream string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	for _, c := range b.chunks[task] {
		if c.Stream == stream {
			s.WriteString(c.Text)
		}
	}
	return s.String()
}

func task(id string) events.Task {
	return events.Task{ID: id, Run: "run-1", Workflow: "sample", State: "work", Attempt: 1, Pool: "default", Kind: "work",
		Runs: events.RunsOnce, Heartbeat: 5000, HeartbeatTimeout: 30_000}
}

// start runs a worker; stop tells it to end and gives what Run returned.
func start(t testing.TB, o workers.Options) (stop func() error) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	w, err := workers.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() error { cancel(); return <-ended }
}

// one is the kinds of a worker with one.
func one(do func(ctx context.Context, job *workers.Job) events.Result) map[string]workers.Handler {
	return map[string]workers.Handler{"work": workers.HandlerFunc(do)}
}

func succeed(context.Context, *workers.Job) events.Result {
	return events.Result{Outcome: events.Succeeded}
}

func untilEnded(ctx context.Context, _ *workers.Job) events.Result {
	<-ctx.Done()
	return workers.Interrupted(ctx)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
