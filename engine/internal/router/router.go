// Package router reads incoming events, in their order, and has each recorded
// as an aggregate of its own: which runs it starts, or why none.
//
// It reads the ingress stream in order from its own checkpoint, never with
// acknowledgements: what was not recorded is read again, and an event that was
// recorded already is recognised by who published it, its source and its id.
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
	// Listening gives the runs that listen for an event, not nil when there are
	// none: all that are recorded as listening when it is called.
	Listening func(ctx context.Context, event []byte) ([]string, error)
	// Lost is told when the stream ends before what was recorded of it: it was
	// made anew, or restored from a backup. It may be nil.
	Lost func(recorded, last uint64)
	Log  *slog.Logger
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

// What is asked for at once, and for how long it is waited.
const (
	batch    = 256
	patience = 10 * time.Second
)

// reader reads the stream in order, each event once, and notices when one was
// lost on its way.
type reader struct {
	cons jetstream.Consumer
	seen uint64 // how many it has given
}

func read(ctx context.Context, js jetstream.JetStream, after uint64) (*reader, error) {
	cons, err := js.CreateConsumer(ctx, events.StreamIngress, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: 3 * patience})
	if err != nil {
		return nil, fmt.Errorf("consumer of %s: %w", events.StreamIngress, err)
	}
	return &reader{cons: cons}, nil
}

// next calls take for what there is, until take says that it is enough; when
// there is nothing it waits for a while.
func (r *reader) next(ctx context.Context, wait time.Duration, take func(jetstream.Msg, *jetstream.MsgMetadata) bool) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	list, err := r.cons.Fetch(batch, jetstream.FetchContext(ctx))
	if err != nil {
		return err
	}
	n := 0
	for m := range list.Messages() {
		n++
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if r.seen++; meta.Sequence.Consumer != r.seen {
			return errLost
		}
		if !take(m, meta) {
			return nil
		}
	}
	if err := list.Error(); err != nil && ctx.Err() == nil {
		return err
	}
	if n > 0 {
		return nil
	}
	// What was lost with a connection is noticed even when nothing comes after it.
	info, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	is, err := r.cons.Info(info)
	if err == nil && is.Delivered.Consumer != r.seen {
		err = errLost
	}
	return err
}

var errLost = errors.New("an event was lost on its way from the stream")

func (r *reader) close(js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = js.DeleteConsumer(ctx, events.StreamIngress, r.cons.CachedInfo().Name) // it ends by itself when this fails
}

func route(ctx context.Context, o Options) error {
	seq, err := begin(ctx, o)
	if err != nil {
		return err
	}
	r, err := read(ctx, o.Ingress, seq)
	if err != nil {
		return err
	}
	defer r.close(o.Ingress)
	saved, savedAt, stays := seq, time.Now(), false
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
		wait := patience
		if saved != seq {
			wait = time.Second
		}
		err := r.next(ctx, wait, func(m jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			switch one(ctx, o, m, meta) {
			case ended:
				return false
			case held:
				stays = true // the mark stays before it; what comes after it goes on
			}
			if !stays {
				seq = meta.Sequence.Stream
			}
			if time.Since(savedAt) > time.Second {
				save(ctx)
			}
			return true
		})
		if err != nil {
			return err
		}
		if time.Since(savedAt) > time.Second {
			save(ctx)
		}
	}
	return ctx.Err()
}

// begin gives the sequence to go on behind. A stream that ends before the
// mark is not the one that the mark was set in: it was made anew or restored
// from a backup, and all of it is read. What was recorded before is recognised.
func begin(ctx context.Context, o Options) (uint64, error) {
	seq, err := Mark(ctx, o.Marks)
	if err != nil {
		return 0, err
	}
	s, err := o.Ingress.Stream(ctx, events.StreamIngress)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", events.StreamIngress, err)
	}
	if last := s.CachedInfo().State.LastSeq; last < seq {
		o.Log.Error("the stream of incoming events was made anew or restored: it is read from its beginning; events that it has lost must be sent again",
			"stream", events.StreamIngress, "recorded", seq, "last", last)
		if o.Lost != nil {
			o.Lost(seq, last)
		}
		// stored at once: later the stream may have grown past the old mark
		if _, err := o.Marks.Put(ctx, mark, []byte("0")); err != nil {
			return 0, fmt.Errorf("store the position in the events: %w", err)
		}
		return 0, nil
	}
	return seq, nil
}

// Mark gives the sequence up to which incoming events are recorded.
func Mark(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
	e, err := kv.Get(ctx, mark)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the position in the events: %w", err)
	}
	return strconv.ParseUint(string(e.Value()), 10, 64)
}

// What became of an event.
const (
	ended    = iota // ctx ended before anything did
	recorded        // it has a record
	held            // it cannot have one now, not even of the reason
)

// one has one event recorded, however often that takes. An event that cannot
// be recorded as it is, is recorded as one that starts nothing, with the
// reason: none is passed over without a record.
func one(ctx context.Context, o Options, m jetstream.Msg, meta *jetstream.MsgMetadata) int {
	publisher := publisherOf(m.Subject())
	in, id := Input(publisher, m.Headers(), m.Data(), fmt.Sprintf("%d@%d", meta.Sequence.Stream, meta.Timestamp.UnixNano()))
	log := o.Log.With("subject", m.Subject(), "sequence", meta.Sequence.Stream)
	wait := 50 * time.Millisecond
	for {
		a := do(ctx, o, id, &in)
		switch {
		case a.Status == events.StatusError && in.Bad == "":
			log.Error("an event starts nothing, because it cannot be recorded as it is", "reason", a.Reason)
			in.Event, in.Bad = nil, "it cannot be recorded as it is: "+a.Reason
			continue
		case a.Status == events.StatusError:
			log.Error("an event cannot be recorded now; it is tried again at the next start", "reason", a.Reason)
			return held
		case a.Status != events.StatusBusy:
			return recorded
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ended
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// do has an event recorded as it is, with who listens for it now.
func do(ctx context.Context, o Options, id string, in *record.Input) events.Answer {
	if in.Bad == "" {
		var err error
		if in.Listening, err = o.Listening(ctx, in.Event); err != nil {
			return events.Answer{Status: events.StatusBusy, Reason: err.Error()}
		}
	}
	return o.Owner.Do(ctx, record.Event, id, *in)
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
