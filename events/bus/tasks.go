package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// TaskSource gives the tasks of one kind for one pool. Several workers of the
// pool share them: each task goes to one of them, and to another one when it
// is not acknowledged within 30 s.
type TaskSource struct {
	conn       *Conn
	pool, kind string

	mu       sync.Mutex
	consumer jetstream.Consumer
}

// ErrNoTasks says that the engine keeps no tasks of that kind for that pool,
// because no engine has declared the kind yet or the kind does not exist.
var ErrNoTasks = errors.New("the engine keeps no tasks of this kind for this pool (yet)")

// Tasks gives the tasks of a kind for a pool; an empty pool is the
// credential's own. Nothing is asked of the server before Fetch.
func (c *Conn) Tasks(pool, kind string) *TaskSource {
	return &TaskSource{conn: c, pool: cmp.Or(pool, c.cred.Pool, events.DefaultPool), kind: kind}
}

// Fetch takes up to n tasks, waiting for them at most wait; without a wait it
// takes what is there. It gives what there is, possibly nothing, and an
// error only when it gives nothing. A message that the engine did not sign, or
// that is for another pool or kind, is never given: it is ended for good and
// logged, after a while where an engine may have come (see LearnTaskKeys). The error is ErrNoTasks, or a *Refusal with CodeDenied, or says
// what is wrong with the connection.
func (s *TaskSource) Fetch(ctx context.Context, n int, wait time.Duration) ([]*TaskMessage, error) {
	if s.conn.taskKeys().Keys() == 0 {
		return nil, errors.New("the credential names no key that signs tasks (penstock_task_keys), so no task can be trusted")
	}
	consumer, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	back, done := s.conn.resyncs.on()
	defer done()
	batch, err := ask(consumer, n, wait)
	if err != nil {
		return nil, fmt.Errorf("tasks of kind %q: %w", s.kind, err)
	}
	var out []*TaskMessage
	left := n
	for {
		select {
		case m, more := <-batch.Messages():
			if !more {
				if err := batch.Error(); err != nil && len(out) == 0 && !errors.Is(err, nats.ErrTimeout) {
					s.forget()
					return nil, fmt.Errorf("tasks of kind %q: %w", s.kind, err)
				}
				return out, nil
			}
			if t := s.accept(ctx, m); t != nil {
				out = append(out, t)
			}
			if left--; left == 0 {
				return out, nil
			}
		case <-back: // the request was lost with the connection; nothing more comes of it
			giveBack(batch)
			return out, nil
		case <-ctx.Done():
			giveBack(batch)
			if len(out) > 0 {
				return out, nil
			}
			return nil, context.Cause(ctx)
		}
	}
}

func ask(c jetstream.Consumer, n int, wait time.Duration) (jetstream.MessageBatch, error) {
	if wait <= 0 {
		return c.FetchNoWait(n)
	}
	return c.Fetch(n, jetstream.FetchMaxWait(max(wait, time.Millisecond)))
}

// giveBack gives back at once what still arrives, which would come again only
// after the acknowledgement wait.
func giveBack(batch jetstream.MessageBatch) {
	go func() {
		for m := range batch.Messages() {
			_ = m.Nak() // if it fails the server gives it to another worker later
		}
	}()
}

// find looks the durable consumer up, once.
func (s *TaskSource) find(ctx context.Context) (jetstream.Consumer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.consumer != nil {
		return s.consumer, nil
	}
	name := events.TaskConsumer(s.pool, s.kind)
	denied, done := s.conn.denied.on("$JS.API.CONSUMER.INFO." + events.StreamTasks + "." + name)
	defer done()
	try, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	type found struct {
		c   jetstream.Consumer
		err error
	}
	answered := make(chan found, 1)
	go func() {
		c, err := s.conn.js.Consumer(try, events.StreamTasks, name)
		answered <- found{c, err}
	}()
	select {
	case <-denied:
		return nil, &Refusal{Status: events.StatusError, Code: events.CodeDenied, Reason: fmt.Sprintf(
			"tasks of kind %q for pool %q: the credential of %q is not allowed to take them", s.kind, s.pool, s.conn.cred.Name)}
	case f := <-answered:
		switch {
		case errors.Is(f.err, jetstream.ErrConsumerNotFound), errors.Is(f.err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("kind %q, pool %q: %w", s.kind, s.pool, ErrNoTasks)
		case f.err != nil:
			return nil, fmt.Errorf("tasks of kind %q: %w", s.kind, f.err)
		}
		s.consumer = f.c
		return f.c, nil
	}
}

// forget makes the next Fetch look the consumer up again: it may have been
// deleted and made anew.
func (s *TaskSource) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consumer = nil
}

// accept checks a message; nil means that it is none of ours.
func (s *TaskSource) accept(ctx context.Context, m jetstream.Msg) *TaskMessage {
	t, err := s.read(m)
	if errors.Is(err, events.ErrUnknownKey) && s.conn.learnTaskKeys(ctx) {
		if t, err = s.read(m); errors.Is(err, events.ErrUnknownKey) && s.deferred(m) {
			return nil
		}
	}
	if err != nil {
		s.conn.log.Error("refused a task message that the engine cannot have sent", "subject", m.Subject(), "error", err)
		if err := m.TermWithReason("refused by the worker: " + err.Error()); err != nil {
			s.conn.log.Warn("could not end a refused task message", "error", err)
		}
		return nil
	}
	return t
}

// How often, and how long apart, a task comes whose key is not known. An
// engine that has just come is known to the others a moment later.
const (
	keyTries = 5
	keyPause = time.Second
)

// deferred has a task come again whose key is not known yet; false when it has
// come often enough.
func (s *TaskSource) deferred(m jetstream.Msg) bool {
	meta, err := m.Metadata()
	if err != nil || meta.NumDelivered >= keyTries {
		return false
	}
	if err := m.NakWithDelay(keyPause); err != nil {
		s.conn.log.Warn("a task whose key is not known was not given back; it comes again after 30 s", "subject", m.Subject(), "error", err)
	}
	return true
}

// learnTaskKeys asks for the keys that may sign tasks now; false when there is
// nobody to ask.
func (c *Conn) learnTaskKeys(ctx context.Context) bool {
	c.keyMu.RLock()
	learn := c.learn
	c.keyMu.RUnlock()
	if learn == nil {
		return false
	}
	if err := learn(ctx); err != nil {
		c.log.Warn("which keys may sign tasks is not known now", "error", err)
	}
	return true
}

func (s *TaskSource) read(m jetstream.Msg) (*TaskMessage, error) {
	if err := s.conn.taskKeys().Verify(m.Data(), m.Headers().Get(events.HeaderSignature)); err != nil {
		return nil, err
	}
	t := &TaskMessage{msg: m, asks: s.conn.asks}
	if err := json.Unmarshal(m.Data(), &t.Task); err != nil {
		return nil, fmt.Errorf("not a task: %w", err)
	}
	if t.Task.Pool != s.pool || t.Task.Kind != s.kind {
		return nil, fmt.Errorf("it is for pool %q and kind %q", t.Task.Pool, t.Task.Kind)
	}
	if meta, err := m.Metadata(); err == nil {
		t.Delivery = int(meta.NumDelivered)
	}
	return t, nil
}

// TaskMessage is a task as delivered. It is ended by Ack or Nak; when neither
// is done within 30 s another worker gets it.
type TaskMessage struct {
	Task     events.Task
	Delivery int // 1 for the first delivery
	msg      jetstream.Msg
	asks     *asker
}

// Ack says that the task is taken care of: it was granted, or refused by a
// record. It is sent without waiting for the server; one that is lost leads to
// another delivery, which the engine then refuses to grant.
func (m *TaskMessage) Ack(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.asks.tell(m.msg.Reply(), ackBody)
}

var ackBody = []byte("+ACK")

// Nak gives the task back, to be delivered again after delay.
func (m *TaskMessage) Nak(delay time.Duration) error {
	if delay <= 0 {
		return m.msg.Nak()
	}
	return m.msg.NakWithDelay(delay)
}
