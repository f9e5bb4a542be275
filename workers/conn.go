package workers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// OnBus gives the Bus behind a connection, whose credential must be a
// worker's. The connection verifies that the engine signed each task.
func OnBus(conn *bus.Conn) Bus {
	return &busConn{conn: conn, sources: map[string]*bus.TaskSource{}}
}

type busConn struct {
	conn *bus.Conn

	mu      sync.Mutex
	sources map[string]*bus.TaskSource
}

// atOnce is how long to wait for tasks that are there already.
const atOnce = time.Millisecond

// Fetch asks for many tasks without waiting and, when there is none, waits for
// one: a request for many would wait for all of them.
func (b *busConn) Fetch(ctx context.Context, pool, kind string, n int, wait time.Duration) ([]Message, error) {
	source := b.source(pool, kind)
	if n > 1 {
		if found, err := source.Fetch(ctx, n, atOnce); err != nil || len(found) > 0 {
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
	answer, err := b.conn.Request(ctx, verb, request, nil)
	if refusal, ok := errors.AsType[*bus.Refusal](err); ok {
		if answer.Status == "" { // by the server, not by the engine
			answer = events.Answer{Status: refusal.Status, Code: refusal.Code, Reason: refusal.Reason}
		}
		return answer, nil
	}
	return answer, err
}

type busMessage struct{ m *bus.TaskMessage }

func (b busMessage) Task() *events.Task            { return &b.m.Task }
func (b busMessage) Ack() error                    { return b.m.Ack(context.Background()) }
func (b busMessage) Nak(delay time.Duration) error { return b.m.Nak(delay) }
