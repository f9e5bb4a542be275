package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// OnBus gives the Bus behind a connection, whose credential must be a
// worker's. The connection verifies that the engine signed each task, with the
// keys in the credential. A credential that names none (that of a user of an
// external NATS server) takes them from the engine's answer to the hello: in
// the account of workers nobody else can answer that, and no task is taken
// before. A task that is signed by a key that is not known, as that of an engine
// that has just come, has the last hello said again.
func OnBus(conn *bus.Conn) Bus {
	b := &busConn{conn: conn, pinned: len(conn.Credential().TaskKeys) > 0, trusted: make(chan struct{}), sources: map[string]*bus.TaskSource{}}
	if b.pinned {
		close(b.trusted)
	} else {
		conn.LearnTaskKeys(b.helloAgain)
	}
	return b
}

type busConn struct {
	conn   *bus.Conn
	pinned bool // the credential names the keys

	trusted chan struct{} // closed when there are keys
	mu      sync.Mutex
	told    bool // trusted is closed
	hello   any  // the last
	said    time.Time
	sources map[string]*bus.TaskSource
}

var errNoKeys = errors.New("the credential names no key that signs tasks, and no engine has told one yet, so no task can be trusted")

// learn trusts the keys that the engine told in its answer to a hello.
func (b *busConn) learn(answer events.Answer) error {
	if b.pinned || answer.Status != events.StatusApplied {
		return nil
	}
	var info events.ServerInfo
	if err := json.Unmarshal(answer.Result, &info); err != nil {
		return fmt.Errorf("the engine's answer to the hello: %w", err)
	}
	if len(info.TaskKeys) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.conn.TrustTaskKeys(info.TaskKeys); err != nil {
		return err
	}
	if !b.told {
		b.told = true
		close(b.trusted)
	}
	return nil
}

// helloPause is how long apart hellos are at least that are said again.
const helloPause = 500 * time.Millisecond

// helloAgain says the last hello again, for the keys that the answer tells.
func (b *busConn) helloAgain(ctx context.Context) error {
	b.mu.Lock()
	hello, soon := b.hello, time.Since(b.said) < helloPause
	if !soon {
		b.said = time.Now()
	}
	b.mu.Unlock()
	if hello == nil || soon {
		return nil
	}
	_, err := b.Request(ctx, events.VerbWorkerHello, hello)
	return err
}

// Fetch asks for many tasks without waiting and, when there is none, waits for
// one: a request for many would wait for all of them.
func (b *busConn) Fetch(ctx context.Context, pool, kind string, n int, wait time.Duration) ([]Message, error) {
	select {
	case <-b.trusted:
	case <-ctx.Done():
		return nil, errNoKeys
	}
	source := b.source(pool, kind)
	if n > 1 {
		if found, err := source.Fetch(ctx, n, 0); err != nil || len(found) > 0 {
			return messages(found), err
		}
	}
	found, err := source.Fetch(ctx, 1, wait)
	return messages(found), err
}

func (b *busConn) source(pool, kind string) *bus.TaskSource {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := events.TaskConsumer(pool, kind)
	if b.sources[name] == nil {
		b.sources[name] = b.conn.Tasks(pool, kind)
	}
	return b.sources[name]
}

func messages(found []*bus.TaskMessage) []Message {
	out := make([]Message, len(found))
	for i, m := range found {
		out[i] = busMessage{m}
	}
	return out
}

func (b *busConn) Output(task *events.Task) Output {
	return b.conn.Output(task.Run, task.State, task.ID)
}

func (b *busConn) Artifacts() Artifacts { return b.conn.Artifacts() }

// Request turns refusals, which the connection gives as errors, back into the
// answers that they are.
func (b *busConn) Request(ctx context.Context, verb string, request any) (events.Answer, error) {
	if verb == events.VerbWorkerHello {
		b.mu.Lock()
		b.hello = request
		b.mu.Unlock()
	}
	answer, err := b.conn.Request(ctx, verb, request, nil)
	if refusal, ok := errors.AsType[*bus.Refusal](err); ok {
		if answer.Status == "" { // by the server, not by the engine
			answer = events.Answer{Status: refusal.Status, Code: refusal.Code, Reason: refusal.Reason}
		}
		return answer, nil
	}
	if err == nil && verb == events.VerbWorkerHello {
		err = b.learn(answer)
	}
	return answer, err
}

type busMessage struct{ m *bus.TaskMessage }

func (b busMessage) Task() *events.Task            { return &b.m.Task }
func (b busMessage) Ack() error                    { return b.m.Ack(context.Background()) }
func (b busMessage) Nak(delay time.Duration) error { return b.m.Nak(delay) }
