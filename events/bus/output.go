package bus

import (
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

const (
	outputWindow   = 64               // chunks on their way at a time
	outputPatience = 30 * time.Second // how long a chunk is tried, and how long Write waits for room
)

// OutputWriter publishes the output of one attempt. Chunks are sent without
// waiting for each answer; when too many are on their way, Write waits. They
// may be stored out of order or twice after a disturbance: Chunk.Seq tells.
type OutputWriter struct {
	conn    *Conn
	subject string
	slots   chan struct{}
	ctx     context.Context // ends the repeats when Close gives up
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	failed error // the first chunk that was lost
	closed bool
}

// Output gives a writer for the output of an attempt of a task in a state of
// a run. It must be closed.
func (c *Conn) Output(run, state, attempt string) *OutputWriter {
	w := &OutputWriter{conn: c, subject: events.OutputSubject(run, state, attempt), slots: make(chan struct{}, outputWindow)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Write sends a chunk. An error means that this chunk, or one before it, is
// lost; the writer goes on being usable.
func (w *OutputWriter) Write(chunk events.Chunk) error {
	body, err := json.Marshal(chunk)
	if err != nil {
		return fmt.Errorf("output of %s: %w", w.subject, err)
	}
	patience := time.NewTimer(outputPatience)
	defer patience.Stop()
	select {
	case w.slots <- struct{}{}:
	case <-patience.C:
		return fmt.Errorf("output of %s: the bus has taken nothing for %v, chunk %d is lost", w.subject, outputPatience, chunk.Seq)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		<-w.slots
		return fmt.Errorf("output of %s: closed", w.subject)
	}
	m := &nats.Msg{Subject: w.subject, Data: body}
	future, err := w.conn.js.PublishMsgAsync(m)
	w.wg.Go(func() {
		defer func() { <-w.slots }()
		w.settle(m, future, err)
	})
	lost := w.failed
	w.failed = nil
	return lost
}

// settle waits until m is stored and repeats it when it was not.
func (w *OutputWriter) settle(m *nats.Msg, future jetstream.PubAckFuture, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, outputPatience)
	defer cancel()
	if err == nil {
		select {
		case <-future.Ok():
			return
		case err = <-future.Err():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for pause := newBackoff(); ; {
		if pause.sleep(ctx, 0) != nil {
			break
		}
		if _, err = w.conn.publishOnce(ctx, m); err == nil {
			return
		}
		var denied *Refusal
		if errors.As(err, &denied) {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = fmt.Errorf("output of %s: a chunk is lost: %w", w.subject, err)
	}
}

// Close waits until everything is stored, or until ctx ends. It returns the
// first loss that no Write has returned.
func (w *OutputWriter) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	defer w.cancel()
	done := make(chan struct{})
	go func() {
		w.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		w.cancel()
		<-done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}
