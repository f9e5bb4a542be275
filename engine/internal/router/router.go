// Package router reads incoming events, in their order, and has each recorded
// as an aggregate of its own: which runs it starts, or why none.
//
// It reads the ingress stream in order from its own checkpoint, never with
// acknowledgements: what was not recorded is read again, and an event that was
// recorded already is recognised by who published it, its source and its id.
package router

import (
	"cmp"
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
	// Lost is told when the stream ends before what was recorded of it, or has
	// another event there: it was made anew, or restored from a backup, or a
	// power cut has taken its end. It may be nil.
	Lost  func(recorded, last uint64)
	Retry time.Duration // how often what could not be recorded is tried again; 10 s when 0
	Log   *slog.Logger
}

const mark = "router.ingress"

// position is up to where events are recorded.
type position struct {
	seq uint64
	at  int64 // when the event there was stored, by the server's clock; 0 where that is not known
}

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

// routing is a stream of incoming events being read.
type routing struct {
	Options
	pos     position     // up to where events were read
	saved   position     // the mark
	savedAt time.Time    //
	waiting []waiting    // those before pos without a record, in their order
	triedAt time.Time    // when these were tried last
	said    map[int]bool // the partitions of which it was told that events of theirs wait
}

// waiting is an event that could not be recorded when it was read.
type waiting struct {
	position
	before position // of the event before it
	vp     int      // the partition that it belongs to
}

func route(ctx context.Context, o Options) error {
	pos, err := begin(ctx, o)
	if err != nil {
		return err
	}
	r, err := read(ctx, o.Ingress, pos.seq)
	if err != nil {
		return err
	}
	defer r.close(o.Ingress)
	o.Retry = cmp.Or(o.Retry, patience)
	t := &routing{Options: o, pos: pos, saved: pos, savedAt: time.Now(), said: map[int]bool{}}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		t.save(last)
	}()
	for ctx.Err() == nil {
		wait := o.Retry
		if t.saved != t.mark() {
			wait = min(wait, time.Second)
		}
		err := r.next(ctx, wait, func(m jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			return t.take(ctx, message{m.Subject(), m.Headers(), m.Data(), position{meta.Sequence.Stream, meta.Timestamp.UnixNano()}})
		})
		if err != nil {
			return err
		}
		if err := t.again(ctx); err != nil {
			return err
		}
		if time.Since(t.savedAt) > time.Second {
			t.save(ctx)
		}
	}
	return ctx.Err()
}

// take has the next event recorded; false when ctx ended first.
func (t *routing) take(ctx context.Context, m message) bool {
	switch o := one(ctx, t.Options, m); o.became {
	case ended:
		return false
	case held: // the mark stays before it; what comes after it goes on
		if len(t.waiting) == 0 {
			t.triedAt = time.Now()
			clear(t.said)
		}
		if !t.said[o.vp] {
			t.said[o.vp] = true
			t.Log.Error("an event cannot be recorded now; it stays in the stream and is tried again, and so are those of its partition behind it",
				"subject", m.subject, "sequence", m.seq, "partition", o.vp, "reason", o.why.Reason)
		}
		t.waiting = append(t.waiting, waiting{m.position, t.pos, o.vp})
	}
	t.pos = m.position
	if time.Since(t.savedAt) > time.Second {
		t.save(ctx)
	}
	return true
}

// again tries those once more that have no record yet, every few seconds; of a
// partition that is stopped, only the first. One that is not in the stream as
// it was gives an error: then all is read from the mark.
func (t *routing) again(ctx context.Context) error {
	if len(t.waiting) == 0 || time.Since(t.triedAt) < t.Retry {
		return nil
	}
	s, err := t.Ingress.Stream(ctx, events.StreamIngress)
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamIngress, err)
	}
	stopped, left := map[int]bool{}, []waiting{}
	for i, w := range t.waiting {
		if stopped[w.vp] {
			left = append(left, w)
			continue
		}
		raw, err := s.GetMsg(ctx, w.seq)
		if err == nil && raw.Time.UnixNano() != w.at {
			err = errors.New("another one is in its place")
		}
		if err != nil {
			return fmt.Errorf("stream %s: event %d, which has no record yet: %w", events.StreamIngress, w.seq, err)
		}
		o := one(ctx, t.Options, message{raw.Subject, raw.Header, raw.Data, w.position})
		if o.became == ended {
			left = append(left, t.waiting[i:]...)
			break
		}
		if o.became == held {
			stopped[w.vp] = o.why.Code == events.CodeStopped
			left = append(left, w)
		}
	}
	t.waiting, t.triedAt = left, time.Now()
	return nil
}

// mark is up to where everything has a record.
func (t *routing) mark() position {
	if len(t.waiting) > 0 {
		return t.waiting[0].before
	}
	return t.pos
}

func (t *routing) save(ctx context.Context) {
	pos := t.mark()
	if pos == t.saved {
		return
	}
	if _, err := t.Marks.Put(ctx, mark, fmt.Appendf(nil, "%d %d", pos.seq, pos.at)); err != nil {
		t.Log.Warn("the position in the events was not stored", "error", err)
		return
	}
	t.saved, t.savedAt = pos, time.Now()
}

// begin gives the position to go on behind. A stream that ends before the mark,
// or has another event there, is not the one that the mark was set in: it was
// made anew or restored from a backup, or has lost its end and was written on,
// and all of it is read. What was recorded before is recognised.
func begin(ctx context.Context, o Options) (position, error) {
	pos, err := marked(ctx, o.Marks)
	if err != nil || pos.seq == 0 {
		return pos, err
	}
	s, err := o.Ingress.Stream(ctx, events.StreamIngress)
	if err != nil {
		return position{}, fmt.Errorf("stream %s: %w", events.StreamIngress, err)
	}
	same, err := has(ctx, s, pos)
	if err != nil || same {
		return pos, err
	}
	last := s.CachedInfo().State.LastSeq
	o.Log.Error("the stream of incoming events was made anew or restored, or has lost its end: it is read from its beginning; events that it has lost must be sent again",
		"stream", events.StreamIngress, "recorded", pos.seq, "last", last)
	if o.Lost != nil {
		o.Lost(pos.seq, last)
	}
	// stored at once: later the stream may have grown past the old mark
	if _, err := o.Marks.Put(ctx, mark, []byte("0")); err != nil {
		return position{}, fmt.Errorf("store the position in the events: %w", err)
	}
	return position{}, nil
}

// has reports whether a stream still has the event at a position, or had it.
func has(ctx context.Context, s jetstream.Stream, pos position) (bool, error) {
	if s.CachedInfo().State.LastSeq < pos.seq {
		return false, nil
	}
	if pos.at == 0 {
		return true, nil
	}
	m, err := s.GetMsg(ctx, pos.seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // what is recorded is removed
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("stream %s: event %d: %w", events.StreamIngress, pos.seq, err)
	}
	return m.Time.UnixNano() == pos.at, nil
}

// Mark gives the sequence up to which incoming events are recorded; 0 when the
// stream is not the one that they were read from.
func Mark(ctx context.Context, kv jetstream.KeyValue, ingress jetstream.JetStream) (uint64, error) {
	pos, err := marked(ctx, kv)
	if err != nil || pos.seq == 0 {
		return 0, err
	}
	s, err := ingress.Stream(ctx, events.StreamIngress)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", events.StreamIngress, err)
	}
	if same, err := has(ctx, s, pos); err != nil || !same {
		return 0, err
	}
	return pos.seq, nil
}

func marked(ctx context.Context, kv jetstream.KeyValue) (pos position, err error) {
	e, err := kv.Get(ctx, mark)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return pos, nil
	}
	if err != nil {
		return pos, fmt.Errorf("read the position in the events: %w", err)
	}
	seq, at, _ := strings.Cut(string(e.Value()), " ")
	if pos.seq, err = strconv.ParseUint(seq, 10, 64); err == nil && at != "" {
		pos.at, err = strconv.ParseInt(at, 10, 64)
	}
	if err != nil {
		return pos, fmt.Errorf("read the position in the events: %w", err)
	}
	return pos, nil
}

// outcome is what became of an event.
type outcome struct {
	became int
	vp     int           // the partition that it belongs to
	why    events.Answer // where it is held
}

const (
	ended    = iota // ctx ended before anything did
	recorded        // it has a record
	held            // it cannot have one now, not even of the reason
)

// message is a message of the stream.
type message struct {
	subject string
	header  map[string][]string
	data    []byte
	position
}

// one has one event recorded, however often that takes, unless its partition
// is stopped: that may take days, and no other event may wait for it. An event
// that cannot be recorded as it is, is recorded as one that starts nothing,
// with the reason: none is passed over without a record.
func one(ctx context.Context, o Options, m message) outcome {
	publisher := publisherOf(m.subject)
	in, id := Input(publisher, m.header, m.data, fmt.Sprintf("%d@%d", m.seq, m.at))
	vp := events.Partition(record.Event, id)
	wait, told := 50*time.Millisecond, time.Now()
	for {
		a := do(ctx, o, id, &in)
		switch {
		case a.Status == events.StatusError && in.Bad == "":
			o.Log.Error("an event starts nothing, because it cannot be recorded as it is", "subject", m.subject, "sequence", m.seq, "reason", a.Reason)
			in.Event, in.Bad = nil, "it cannot be recorded as it is: "+a.Reason
			continue
		case a.Status == events.StatusError, a.Code == events.CodeStopped:
			return outcome{held, vp, a}
		case a.Status != events.StatusBusy:
			return outcome{became: recorded}
		case time.Since(told) > patience:
			told = time.Now()
			o.Log.Warn("an event waits to be recorded, and all behind it", "subject", m.subject, "sequence", m.seq, "reason", a.Reason)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return outcome{became: ended}
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
