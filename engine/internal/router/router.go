// Package router reads incoming events, in their order, and has each recorded
// as an aggregate of its own: which runs it starts, or why none.
//
// It reads the ingress stream with an ordered consumer from its own
// checkpoint, never with acknowledgements: what was not recorded is read
// again, and an event that was recorded already is recognised by who
// published it, its source and its id.
package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Doer has a command recorded; *owner.Owner is one.
type Doer interface {
	Do(ctx context.Context, agg, id string, in record.Input) events.Answer
}

// Options configure Run.
type Options struct {
	Ingress jetstream.JetStream // of the account that holds the stream
	Marks   jetstream.KeyValue  // where the checkpoint is kept
	Owner   Doer
	Log     *slog.Logger
}

const mark = "router.ingress"

// Run routes until ctx ends.
func Run(ctx context.Context, o Options) error {
	for {
		err := route(ctx, o)
		if ctx.Err() != nil {
			return nil
		}
		o.Log.Warn("reading events begins again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

func route(ctx context.Context, o Options) error {
	seq, err := checkpoint(ctx, o.Marks)
	if err != nil {
		return err
	}
	cons, err := o.Ingress.OrderedConsumer(ctx, events.StreamIngress, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq + 1})
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", events.StreamIngress, err)
	}
	saved, savedAt := seq, time.Now()
	save := func(ctx context.Context) {
		if seq == saved {
			return
		}
		if _, err := o.Marks.Put(ctx, mark, []byte(strconv.FormatUint(seq, 10))); err != nil {
			o.Log.Warn("the position in the events was not stored", "error", err)
			return
		}
		saved, savedAt = seq, time.Now()
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		save(last)
	}()
	for ctx.Err() == nil {
		batch, err := cons.Fetch(64, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if !one(ctx, o, m, meta) {
				return ctx.Err()
			}
			seq = meta.Sequence.Stream
		}
		if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, jetstream.ErrNoMessages) {
			return err
		}
		if time.Since(savedAt) > time.Second {
			save(ctx)
		}
	}
	return ctx.Err()
}

func checkpoint(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
	e, err := kv.Get(ctx, mark)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the position in the events: %w", err)
	}
	return strconv.ParseUint(string(e.Value()), 10, 64)
}

// one has one event recorded, however often that takes; false when ctx ended.
func one(ctx context.Context, o Options, m jetstream.Msg, meta *jetstream.MsgMetadata) bool {
	publisher := publisherOf(m.Subject())
	in, id := Input(publisher, m.Headers(), m.Data(), fmt.Sprintf("%d@%d", meta.Sequence.Stream, meta.Timestamp.UnixNano()))
	wait := 50 * time.Millisecond
	for {
		a := o.Owner.Do(ctx, record.Event, id, in)
		if a.Status != events.StatusBusy {
			if a.Status == events.StatusError {
				o.Log.Error("an event could not be recorded", "subject", m.Subject(), "sequence", meta.Sequence.Stream, "reason", a.Reason)
			}
			return true
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// Input makes the command that records an event, and the identity of its
// aggregate. publisher is who sent it, as the server enforces it; place tells
// a message that is no event from others.
func Input(publisher string, headers map[string][]string, body []byte, place string) (record.Input, string) {
	ev, err := events.Parse(headers, body)
	if err == nil && !isPerson(publisher) && !events.SourceOf(publisher, ev.Source) {
		err = fmt.Errorf("publisher %q may not speak as source %q: a source is the publisher's name, or the name, \"/\" and more", publisher, ev.Source)
	}
	in := record.Input{Kind: record.InEvent, By: by(publisher)}
	if err != nil {
		in.Bad = err.Error()
		in.ID = record.Derive("bad", publisher, place)
		return in, in.ID
	}
	in.ID = record.Derive("event", publisher, ev.Source, ev.ID)
	if in.Event, err = json.Marshal(ev); err != nil {
		in.Event, in.Bad = nil, err.Error()
	}
	return in, in.ID
}

// by is how the record names a publisher. A person who published is the person,
// so that the starter of a run cannot hide behind an event.
func by(publisher string) string {
	if name, ok := strings.CutPrefix(publisher, PersonPrefix); ok {
		return name
	}
	return "event:" + publisher
}

// PersonPrefix stands before the name of a person who published an event, in
// the place of the publisher. No publisher's name has a ':'.
const PersonPrefix = "user:"

func isPerson(publisher string) bool { return strings.HasPrefix(publisher, PersonPrefix) }

// publisherOf is the token of the subject that belongs to the publisher.
func publisherOf(subject string) string {
	tokens := strings.Split(subject, ".") // penstock.ev.<tenant>.<source>.…
	if len(tokens) < 4 {
		return "unknown"
	}
	name, err := events.Untoken(tokens[3])
	if err != nil {
		return tokens[3]
	}
	return name
}
