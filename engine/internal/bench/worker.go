package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

const (
	fetchers = 2   // so that one request for tasks waits while the other's come
	fetchMax = 500 // tasks asked for at a time
)

// floorWorker does tasks, which begin at once: it reports the finish and
// acknowledges when that is answered, all by callbacks on one connection.
type floorWorker struct {
	f      *Floor
	nc     *nats.Conn
	inbox  string
	finish request
	next   atomic.Uint64

	mu      sync.Mutex
	waiting map[string]jetstream.Msg // for the finish to be recorded
}

// request is a body with a place for the run's id.
type request struct {
	subject string
	body    []byte
	at      int
}

// Serve implements Side.
func (f *Floor) Serve(slots int) (func() error, error) {
	name := fmt.Sprintf("floor%d", time.Now().UnixNano())
	cred, err := f.b.AddPrincipal(bus.KindWorker, name, "")
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(f.b.InProcess()), nats.UserInfo(cred.User, cred.Password), nats.CustomInboxPrefix(cred.InboxPrefix))
	if err != nil {
		return nil, err
	}
	w := &floorWorker{f: f, nc: nc, inbox: nc.NewInbox() + ".", waiting: map[string]jetstream.Msg{}}
	id := strings.Repeat("0", len(f.shape.id))
	w.finish = newRequest(name, events.VerbAttemptFinish, id, events.FinishRequest{Task: id, Run: id, Worker: name, Result: events.Result{Outcome: events.Succeeded}})
	ctx, cancel := context.WithCancel(context.Background())
	stop := func() error {
		cancel()
		nc.Close()
		return f.b.RevokePrincipal(bus.KindWorker, name)
	}
	if err := w.run(ctx, min(slots, fetchMax)); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

func newRequest(worker, verb, id string, body any) request {
	p, _ := json.Marshal(body) // plain structs always encode
	return request{subject: events.WorkerSubject(events.DefaultDomain, events.DefaultPool, worker, verb), body: p, at: runAt(p)}
}

var runKey = []byte(`"run":"`)

func runAt(p []byte) int { return bytes.Index(p, runKey) + len(runKey) }

// runOf gives the run that a task or request is about.
func runOf(p []byte) string {
	p = p[runAt(p):]
	return string(p[:max(0, bytes.IndexByte(p, '"'))])
}

func (w *floorWorker) run(ctx context.Context, n int) error {
	sub, err := w.nc.Subscribe(w.inbox+"*", w.answered)
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	js, err := jetstream.New(w.nc)
	if err != nil {
		return err
	}
	c, err := js.Consumer(ctx, events.StreamTasks, events.TaskConsumer(events.DefaultPool, w.f.kind))
	if err != nil {
		return err
	}
	for range fetchers {
		go w.fetch(ctx, c, n)
	}
	return nil
}

func (w *floorWorker) fetch(ctx context.Context, c jetstream.Consumer, n int) {
	for ctx.Err() == nil {
		batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			w.fail(ctx, err)
			return
		}
		for m := range batch.Messages() {
			w.do(ctx, m)
		}
	}
}

// do reports the finish of a task.
func (w *floorWorker) do(ctx context.Context, m jetstream.Msg) {
	token := itoa(w.next.Add(1))
	w.mu.Lock()
	w.waiting[token] = m
	w.mu.Unlock()
	w.fail(ctx, w.ask(w.finish, runOf(m.Data()), token))
}

func (w *floorWorker) ask(r request, run, token string) error {
	body := bytes.Clone(r.body)
	copy(body[r.at:], run)
	return w.nc.PublishMsg(&nats.Msg{Subject: r.subject, Reply: w.inbox + token, Data: body})
}

// answered acknowledges a task whose finish is recorded.
func (w *floorWorker) answered(m *nats.Msg) {
	token := m.Subject[len(w.inbox):]
	w.mu.Lock()
	task := w.waiting[token]
	delete(w.waiting, token)
	w.mu.Unlock()
	ctx := context.Background()
	if len(m.Data) == 0 || task == nil {
		w.fail(ctx, errors.New("the floor's owner did not answer"))
		return
	}
	w.fail(ctx, task.Ack())
}

func (w *floorWorker) fail(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !w.nc.IsClosed() {
		w.f.told(Event{Err: err})
	}
}
