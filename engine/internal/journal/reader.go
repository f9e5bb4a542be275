package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// errEnough ends a reading from within.
var errEnough = errors.New("read enough")

// reader reads a stream in order with a consumer that the server keeps no
// state for: when anything is amiss it makes a new one behind what it has
// given out.
type reader struct {
	l       *Log
	stream  string
	filters []string // none for all
	lasts   bool     // only the last record of each subject
	next    uint64   // sequence of the next record to give out, at least
	last    Entry    // that was given out
	fn      func(Entry) error
	idle    func(context.Context) error // called when nothing came for a while; may be nil
	began   func(context.Context) error // called when there is a consumer, and what it gives first is settled; may be nil
	patient bool                        // outlast errors until the context ends

	gave   []uint64 // the sequences of last records that were given out, rising
	given  uint64   // by the present consumer
	listed uint64   // of the last records: how many the present consumer has to give, at least
	due    uint64   // of the last records: how many subjects there are, at least
	misses uint64   // how often nothing came though some of them were due
}

const (
	fetchSize  = 500
	fetchWait  = time.Second
	missWait   = 20 * time.Millisecond
	retryPause = 200 * time.Millisecond

	// Where there is much, much is asked for at a time: the server gives
	// nothing between one request and the next.
	fetchMost      = 8000
	fetchMostBytes = 16 << 20 // about, by the records before
	fetchMostWait  = 2 * time.Second
	// Of the last records as much is to come before a request runs out: the one
	// that the server has in its hands then is given to nobody, now or later. It
	// is found to be missing at the end, which costs another reading of all.
	fetchLastsWait = 10 * time.Second

	// fewQuestions is for how many filters the server is asked for each: more
	// would keep a partition from being taken for seconds, in a cluster.
	fewQuestions = 8
)

func (r *reader) read(ctx context.Context) error {
	failures := 0
	for {
		progress, err := r.session(ctx)
		if progress {
			failures = 0
		}
		failures++
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errEnough):
			return nil
		case isFinal(err), !r.patient && failures > 25:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

// final marks an error that no new attempt will mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func isFinal(err error) bool {
	_, ok := errors.AsType[final](err)
	return ok
}

// session reads with one consumer until something is amiss.
func (r *reader) session(ctx context.Context) (progress bool, err error) {
	cons, err := r.consumer(ctx)
	if err != nil {
		return false, err
	}
	defer r.drop(cons)
	r.given, r.misses, r.listed = 0, 0, cons.CachedInfo().NumPending
	if r.began != nil {
		if err := r.began(ctx); err != nil {
			return false, err
		}
	}
	size, wait := fetchSize, fetchWait
	for ctx.Err() == nil {
		batch, err := cons.Fetch(size, jetstream.FetchMaxWait(wait))
		if err != nil {
			return progress, fmt.Errorf("stream %s: reading: %w", r.stream, err)
		}
		n, bytes, err := r.giveAll(ctx, batch)
		progress = progress || n > 0
		if err != nil {
			// Reading on would give out a gap.
			go drain(batch)
			return progress, err
		}
		if n == 0 {
			if err := r.quiet(ctx, cons); err != nil {
				return progress, err
			}
		}
		if size, wait = fetchSize, fetchWait; r.misses > 0 {
			wait = missWait
		} else if n >= fetchSize {
			size, wait = max(1, min(fetchMost, fetchMostBytes*n/max(1, bytes))), fetchMostWait
			if r.lasts {
				wait = fetchLastsWait
			}
		}
	}
	return progress, ctx.Err()
}

// giveAll gives out a batch as it comes.
func (r *reader) giveAll(ctx context.Context, batch jetstream.MessageBatch) (n, bytes int, err error) {
	messages := batch.Messages()
	for {
		select {
		case msg, more := <-messages:
			if !more {
				if err := batch.Error(); err != nil {
					return n, bytes, fmt.Errorf("stream %s: reading: %w", r.stream, err)
				}
				return n, bytes, nil
			}
			if err := r.give(msg); err != nil {
				return n, bytes, err
			}
			n++
			bytes += len(msg.Data())
			if ctx.Err() != nil {
				return n, bytes, ctx.Err()
			}
		case <-ctx.Done():
			return n, bytes, ctx.Err()
		}
	}
}

func drain(batch jetstream.MessageBatch) {
	for range batch.Messages() {
	}
}

func (r *reader) give(msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("stream %s: reading: %w", r.stream, err)
	}
	if r.given++; meta.Sequence.Consumer != r.given {
		return fmt.Errorf("stream %s: reading: a message is missing before %d", r.stream, meta.Sequence.Stream)
	}
	e := Entry{Seq: meta.Sequence.Stream, Subject: msg.Subject(), Data: msg.Data(), Time: meta.Timestamp}
	if e.Seq == r.last.Seq && (e.Subject != r.last.Subject || !bytes.Equal(e.Data, r.last.Data)) {
		return final{fmt.Errorf("stream %s: %d is another record than the one that has been read already: %w", r.stream, e.Seq, ErrLost)}
	}
	if e.Seq < r.next {
		return nil // from before this consumer
	}
	if r.lasts {
		r.gave = append(r.gave, e.Seq)
	}
	if err := r.fn(e); err != nil {
		if errors.Is(err, errEnough) {
			return err
		}
		return final{err}
	}
	r.next, r.last = e.Seq+1, e
	return nil
}

// quiet looks whether nothing came because there is nothing: a server that
// was restarted has forgotten the consumer, and a message that was lost on its
// way is missed by nobody while none comes after it.
func (r *reader) quiet(ctx context.Context, cons jetstream.Consumer) error {
	var over error
	if r.idle != nil {
		over = r.idle(ctx)
	}
	if over != nil && r.given >= r.due {
		return over
	}
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	info, err := cons.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: reading: %w", r.stream, err)
	}
	if info.Delivered.Consumer != r.given {
		return fmt.Errorf("stream %s: reading: a message was lost on its way", r.stream)
	}
	if r.given < r.due {
		// The server passes over one that it cannot read, and gives nothing
		// more until it is asked again.
		switch r.misses++; {
		case r.misses <= r.due-r.given:
			return nil
		case over != nil:
			return over
		}
		return fmt.Errorf("stream %s: reading: %d messages are due, %d came, and there is another one", r.stream, r.due, r.given)
	}
	return r.pastDamage(ctx)
}

func (r *reader) consumer(ctx context.Context) (jetstream.Consumer, error) {
	one, cancel := oneRequest(ctx)
	defer cancel()
	s, err := r.l.t.Stream(one, r.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, final{fmt.Errorf("stream %s: reading: %w", r.stream, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: reading: %w", r.stream, err)
	}
	if err := endsBefore(r.stream, s.CachedInfo().State.LastSeq, r.next); err != nil {
		return nil, final{err}
	}
	cfg := jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(r.next, 1),
		FilterSubjects:    r.filters,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 30 * time.Second,
	}
	if r.last.Seq > 0 { // once more, to see that it is the same: the stream may have lost its end and be as long again
		cfg.OptStartSeq = r.last.Seq
	}
	if r.lasts {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverLastPerSubjectPolicy, 0
	}
	making, cancel := context.WithTimeout(ctx, makingTakes(s.CachedInfo().State.Msgs))
	defer cancel()
	cons, err := s.CreateConsumer(making, cfg)
	if err != nil {
		return nil, fmt.Errorf("stream %s: reading: %w", r.stream, err)
	}
	return cons, nil
}

// makingTakes is how long the server may take to make a consumer, for which it
// looks through what the stream has.
func makingTakes(messages uint64) time.Duration {
	const each, most = 20 * time.Microsecond, time.Minute
	return requestTimeout + min(most, each*time.Duration(min(messages, uint64(most/each))))
}

func endsBefore(stream string, last, next uint64) error {
	if next <= last+1 {
		return nil
	}
	return fmt.Errorf("stream %s ends at %d, but %d has been read already: %w", stream, last, next-1, ErrLost)
}

// drop removes the consumer; the server does so by itself when this fails.
func (r *reader) drop(cons jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.l.t.DeleteConsumer(ctx, r.stream, cons.CachedInfo().Name)
}

// until reads up to the record that is the last one now.
func (r *reader) until(ctx context.Context) error {
	end, err := r.end(ctx)
	if err != nil {
		return err
	}
	if r.next = max(r.next, 1); r.next > end {
		return nil
	}
	fn := r.fn
	r.fn = func(e Entry) error {
		if e.Seq > end && !e.Damaged {
			return errEnough
		}
		if err := fn(e); err != nil {
			return err
		}
		if e.Seq >= end {
			return errEnough
		}
		return nil
	}
	r.endsEarly()
	return unwrapFinal(r.read(ctx))
}

// untilLasts reads the last record of each subject. The server makes a list of
// them with the consumer, and gives it by rising sequence; then it goes on with
// what was stored later, as do servers that lag behind. What is the last record
// when the list is there is therefore behind all of it. Had that been asked
// before, a subject recorded in between would stand in the list behind it, and
// nowhere else.
func (r *reader) untilLasts(ctx context.Context) error {
	var end uint64
	few := len(r.filters) <= fewQuestions // else the consumer is believed: a question for each takes long
	r.began = func(ctx context.Context) (err error) {
		none := r.listed == 0
		if few {
			end, err = r.end(ctx)
			none = end < max(r.next, 1)
		}
		if err == nil && none && r.due == 0 {
			return errEnough
		}
		return err
	}
	fn := r.fn
	r.fn = func(e Entry) error {
		if err := fn(e); err != nil {
			return err
		}
		if all := few && e.Seq >= end || !few && r.given >= r.listed; all && r.given >= r.due {
			return errEnough
		}
		return nil
	}
	r.endsEarly()
	return unwrapFinal(r.read(ctx))
}

// endsEarly ends the reading when there is nothing more: what was the last
// record may have been purged meanwhile.
func (r *reader) endsEarly() {
	r.idle = func(ctx context.Context) error {
		if now, err := r.end(ctx); err == nil && now < max(r.next, 1) {
			return errEnough
		}
		return nil
	}
}

// end asks the stream's leader for the last sequence that there is to read; 0
// when there is none.
func (r *reader) end(ctx context.Context) (end uint64, err error) {
	filters := r.filters
	if len(filters) == 0 {
		filters = []string{">"}
	}
	for _, f := range filters {
		e, err := r.l.last(ctx, r.stream, f)
		if errors.Is(err, ErrNotFound) && !r.lasts { // or it cannot be read
			var there state
			if there, err = r.l.matching(ctx, r.stream, f, 0); len(there.Subjects) > 0 {
				e.Seq = there.Last
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return 0, err
		}
		end = max(end, e.Seq)
	}
	return end, nil
}

func unwrapFinal(err error) error {
	if f, ok := errors.AsType[final](err); ok {
		return f.error
	}
	return err
}

// History implements Journal.
func (l *Log) History(ctx context.Context, subject string) ([]Entry, error) {
	var all []Entry
	r := &reader{l: l, stream: events.StreamLog, filters: []string{subject}, fn: func(e Entry) error {
		if !e.Damaged { // it is a gap
			all = append(all, e)
		}
		return nil
	}}
	err := r.until(ctx)
	return all, err
}

// LastPerSubject implements Journal.
func (l *Log) LastPerSubject(ctx context.Context, filters []string, fn func(Entry) error) error {
	due, err := l.subjects(ctx, filters)
	if err != nil {
		return err
	}
	r := &reader{l: l, stream: events.StreamLog, filters: filters, lasts: true, due: due, fn: records(fn)}
	if err := r.untilLasts(ctx); err != nil || r.given >= r.due {
		return err
	}
	fn = records(fn)
	return l.unread(ctx, events.StreamLog, filters, func(e Entry) error {
		if _, before := slices.BinarySearch(r.gave, e.Seq); before {
			return nil
		}
		return fn(e)
	})
}

// From implements Journal.
func (l *Log) From(ctx context.Context, seq uint64, fn func(Entry) error) error {
	one, cancel := oneRequest(ctx)
	s, err := l.t.Stream(one, events.StreamLog)
	cancel()
	if err != nil {
		return fmt.Errorf("stream %s: reading: %w", events.StreamLog, err)
	}
	if err := endsBefore(events.StreamLog, s.CachedInfo().State.LastSeq, seq); err != nil {
		return err
	}
	return (&reader{l: l, stream: events.StreamLog, next: seq, fn: fn}).until(ctx)
}

// Tail implements Journal.
func (l *Log) Tail(ctx context.Context, seq uint64, fn func(Entry) error) error {
	r := &reader{l: l, stream: events.StreamLog, next: seq, fn: fn, patient: true}
	return unwrapFinal(r.read(ctx))
}
