package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// publishTimeout is how long one try waits for the server's acknowledgement.
const publishTimeout = 5 * time.Second

// Publish sends an event. When it returns nil the event is stored, on disk if
// the server syncs (its default). It is repeated until ctx ends while nobody
// answers; the pair of source and id makes every repeat the same event.
// A *Refusal says why an event is not taken: CodeInvalid, CodeDenied, or
// CodeFull when the store takes no more for now.
//
// A publisher's credential is for one source: the event's source is the
// credential's name or begins with it and "/"; an empty one becomes the name.
func (c *Conn) Publish(ctx context.Context, event *events.Event) error {
	e := *event
	if c.cred.Kind == KindPublisher {
		e.Source = cmp.Or(e.Source, c.cred.Name)
	}
	if err := e.Validate(); err != nil {
		return invalid("event %q: %w", e.ID, err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return invalid("event %q: %w", e.ID, err)
	}
	if len(body) > events.MaxEventSize {
		return invalid("event %q has %d bytes, at most %d are accepted; put large content elsewhere and its URL into the event", e.ID, len(body), events.MaxEventSize)
	}
	if c.cred.Kind != KindPublisher {
		_, err := c.Request(ctx, events.VerbPublish, json.RawMessage(body), nil)
		return err
	}
	if !events.SourceOf(c.cred.Name, e.Source) {
		return &Refusal{Status: events.StatusError, Code: events.CodeDenied,
			Reason: fmt.Sprintf("event %q: its source is %q, and this credential publishes for %q", e.ID, e.Source, c.cred.Name)}
	}
	return c.publishIngress(ctx, &e, body)
}

func invalid(format string, args ...any) error {
	return &Refusal{Status: events.StatusError, Code: events.CodeInvalid, Reason: fmt.Errorf(format, args...).Error()}
}

func (c *Conn) publishIngress(ctx context.Context, e *events.Event, body []byte) error {
	m := &nats.Msg{
		Subject: events.IngressSubject(events.DefaultTenant, c.cred.Name, e.Subject, e.Type),
		Header:  nats.Header{"Content-Type": {events.ContentType}},
		Data:    body,
	}
	m.Header.Set(jetstream.MsgIDHeader, events.MessageID(events.DefaultTenant, e.Source, e.ID))
	pause := newBackoff()
	for {
		ack, err := c.publishOnce(ctx, m)
		switch {
		case err == nil && ack.Duplicate:
			// The server remembers ids, not contents: whoever used this id
			// first, with whatever body, made the server drop ours. Without the
			// id it is stored for certain, and the engine itself recognises a
			// repeat by source and id.
			m.Header.Del(jetstream.MsgIDHeader)
			continue
		case err == nil:
			return nil
		case !mayPass(err) && !errors.Is(err, jetstream.ErrNoStreamResponse):
			return explainPublish(e, err)
		}
		if pause.sleep(ctx, 0) != nil {
			return fmt.Errorf("event %q: not acknowledged by %s; it may be stored, and publishing it again is harmless: %w (last: %v)",
				e.ID, hideSecrets(c.cred.URL), context.Cause(ctx), err)
		}
	}
}

func (c *Conn) publishOnce(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	try, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	denied, done := c.denied.on(m.Subject)
	defer done()
	back, done := c.resyncs.on()
	defer done()
	type outcome struct {
		ack *jetstream.PubAck
		err error
	}
	answered := make(chan outcome, 1)
	go func() {
		ack, err := c.js.PublishMsg(try, m, jetstream.WithRetryAttempts(0))
		answered <- outcome{ack, err}
	}()
	select {
	case o := <-answered:
		return o.ack, o.err
	case <-back: // the acknowledgement was lost with the connection
		cancel()
		<-answered
		return nil, errReconnected
	case <-denied:
		cancel()
		<-answered
		return nil, &Refusal{Status: events.StatusError, Code: events.CodeDenied,
			Reason: fmt.Sprintf("publishing on %s: this credential (%s %q) is not allowed to", m.Subject, c.cred.Kind, c.cred.Name)}
	}
}

// Codes of the server for a store that takes no more.
const (
	errAccountFull  = 10002 // the account may store no more
	errResources    = 10023 // insufficient resources
	errStoreFailed  = 10077 // a limit of the stream
	errTooManyWait  = 10167 // too many requests
	errMessageLarge = 10054 // over the stream's message size
)

func explainPublish(e *events.Event, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		var r *Refusal
		if errors.As(err, &r) {
			return r
		}
		return fmt.Errorf("event %q: %w", e.ID, err)
	}
	switch api.ErrorCode {
	case errAccountFull, errResources, errStoreFailed, errTooManyWait:
		return &Refusal{Status: events.StatusError, Code: events.CodeFull,
			Reason: fmt.Sprintf("event %q was not stored: the event store is full (%s); try again later, and have the server's disk looked at", e.ID, api.Description)}
	case errMessageLarge:
		return invalid("event %q is larger than the server accepts (%s)", e.ID, api.Description)
	}
	return fmt.Errorf("event %q was not stored: %w", e.ID, err)
}
