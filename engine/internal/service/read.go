package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// longestWait is how long a reader may ask to wait for something new.
const longestWait = 20 * time.Second

// What one look into a stream may cost. It ends there, with the cursor moved
// on, and the reader asks again.
const (
	scanMessages = 10_000
	scanTime     = 5 * time.Second
	scanBatch    = 256
	pageBytes    = 512 << 10
)

// page is one look into a stream.
type page struct {
	js     jetstream.JetStream
	stream string
	filter string
	after  uint64
	limit  int
	wait   time.Duration
}

// read calls take for messages after a sequence, up to limit that it wants;
// when there are none it waits. It gives the sequence it came to, and whether
// it came to the end of the stream.
func (p page) read(ctx context.Context, take func(jetstream.Msg, uint64) (bool, error)) (next uint64, end bool, err error) {
	if p.after == math.MaxUint64 {
		return p.after, true, nil
	}
	cons, err := p.js.CreateConsumer(ctx, p.stream, jetstream.ConsumerConfig{FilterSubject: p.filter,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.after + 1, AckPolicy: jetstream.AckNonePolicy,
		InactiveThreshold: 2 * longestWait, MemoryStorage: true, Replicas: 1})
	if err != nil {
		return p.after, false, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = p.js.DeleteConsumer(last, p.stream, cons.CachedInfo().Name) // it ends by itself when this fails
	}()
	next = p.after
	scanned, taken := uint64(0), 0
	began, deadline := time.Now(), time.Now().Add(p.wait)
	for ctx.Err() == nil {
		batch, cancel, err := p.fetch(ctx, cons, scanned, taken, deadline)
		if err != nil {
			return next, false, err
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err == nil && meta.Sequence.Consumer != scanned+1 { // one was lost on the way
				err = fmt.Errorf("a message of %s was lost on its way; ask again", p.stream)
			}
			wanted := false
			if err == nil && taken < p.limit {
				wanted, err = take(m, meta.Sequence.Stream)
			}
			if err != nil || taken >= p.limit {
				cancel()
				return next, false, err
			}
			scanned, next = meta.Sequence.Consumer, meta.Sequence.Stream
			if wanted {
				taken++
			}
		}
		cancel()
		if err := batch.Error(); err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return next, false, err
		}
		switch {
		case n == 0 && (taken > 0 || time.Until(deadline) <= 0):
			return next, true, nil
		case n > 0 && (scanned >= scanMessages || time.Since(began) > scanTime):
			return next, false, nil
		}
	}
	return next, false, nil
}

// fetch gets what is there. Only when there is nothing at all it waits.
func (p page) fetch(ctx context.Context, cons jetstream.Consumer, scanned uint64, taken int, deadline time.Time) (jetstream.MessageBatch, context.CancelFunc, error) {
	if wait := time.Until(deadline); taken == 0 && wait > 10*time.Millisecond && cons.CachedInfo().NumPending <= scanned {
		waits, cancel := context.WithTimeout(ctx, wait)
		batch, err := cons.Fetch(1, jetstream.FetchContext(waits))
		return batch, cancel, err
	}
	batch, err := cons.FetchNoWait(scanBatch)
	return batch, func() {}, err
}

func waitOf(ms int64) time.Duration {
	return min(time.Duration(ms)*time.Millisecond, longestWait)
}

// reading takes a place for a reader that may wait; release gives it back. It
// refuses when too many wait, so that they do not keep others from being
// answered.
func (s *Service) reading(who Principal, wait time.Duration) (release func(), refused *answered) {
	if wait <= 0 {
		return func() {}, nil
	}
	if release, ok := s.readers.enter(who.Kind + ":" + who.Name); ok {
		return release, nil
	}
	return nil, &answered{events.Answer{Status: events.StatusBusy, RetryAfter: 1000,
		Reason: fmt.Sprintf("too many requests of %s wait for something new (at most %d, %d of all): ask without waiting, or later", who.Name, readersOfOne, readersOfAll)}}
}

func (s *Service) output(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ReadOutput
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	line, err := s.readable(ctx, who, req.Run)
	if err != nil {
		return nil, err
	}
	done := line.Status == run.StatusDone
	out := events.Output{Chunks: []events.OutputChunk{}, Next: req.After}
	p := page{js: s.work, stream: events.StreamOutput, filter: "penstock.output." + events.Token(line.ID) + ".>", after: req.After,
		limit: min(cmp.Or(req.Limit, 200), 1000), wait: waitOf(req.Wait)}
	if done {
		p.wait = 0
	}
	release, busy := s.reading(who, p.wait)
	if busy != nil {
		return *busy, nil
	}
	defer release()
	size := 0
	var end bool
	out.Next, end, err = p.read(ctx, func(m jetstream.Msg, _ uint64) (bool, error) {
		tokens := strings.Split(m.Subject(), ".")
		state, err := events.Untoken(tokens[3])
		if err != nil || req.State != "" && state != req.State && !strings.HasPrefix(state, req.State+".") {
			return false, nil
		}
		if size += len(m.Data()); size > pageBytes && len(out.Chunks) > 0 {
			return false, errPageFull
		}
		c := events.OutputChunk{State: state}
		c.Task, _ = events.Untoken(tokens[4])
		if err := json.Unmarshal(m.Data(), &c.Chunk); err != nil {
			return false, nil // not written by our protocol: shown to nobody
		}
		out.Chunks = append(out.Chunks, c)
		return true, nil
	})
	if errors.Is(err, errPageFull) {
		return out, nil
	}
	out.Done = done && end && len(out.Chunks) == 0
	return out, err
}

// errPageFull ends a page whose next message would make it too large.
var errPageFull = errors.New("the page is full")

func (s *Service) events(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ReadEvents
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if req.End {
		return s.newest(ctx)
	}
	out := events.EventPage{Events: []events.Event{}}
	p := page{js: s.notify, stream: events.StreamOut, filter: "penstock.out.>", after: req.After,
		limit: min(cmp.Or(req.Limit, 100), 500), wait: waitOf(req.Wait)}
	release, busy := s.reading(who, p.wait)
	if busy != nil {
		return *busy, nil
	}
	defer release()
	size := 0
	var err error
	out.Next, _, err = p.read(ctx, func(m jetstream.Msg, seq uint64) (bool, error) {
		var e events.Event
		if err := json.Unmarshal(m.Data(), &e); err != nil || req.Run != "" && e.Subject != req.Run || !events.MatchTypes(req.Types, e.Type) {
			return false, nil
		}
		if size += len(m.Data()); size > pageBytes && len(out.Events) > 0 {
			return false, errPageFull
		}
		out.Events, out.Cursors = append(out.Events, e), append(out.Cursors, seq)
		return true, nil
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return out, err
}

// newest gives the cursor of the newest event.
func (s *Service) newest(ctx context.Context) (any, error) {
	stream, err := s.notify.Stream(ctx, events.StreamOut)
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	return events.EventPage{Events: []events.Event{}, Next: info.State.LastSeq}, nil
}
