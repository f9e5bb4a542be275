package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// longestWait is how long a reader may ask to wait for something new.
const longestWait = 20 * time.Second

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
// when there are none it waits. It gives the sequence it came to.
func (p page) read(ctx context.Context, take func(jetstream.Msg) (bool, error)) (uint64, error) {
	cons, err := p.js.OrderedConsumer(ctx, p.stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{p.filter},
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.after + 1, InactiveThreshold: 5 * time.Second})
	if err != nil {
		return p.after, err
	}
	next, taken := p.after, 0
	deadline := time.Now().Add(p.wait)
	for {
		wait := time.Until(deadline)
		opts := []jetstream.FetchOpt{jetstream.FetchMaxWait(max(wait, time.Millisecond))}
		fetch := func() (jetstream.MessageBatch, error) { return cons.Fetch(1, opts...) }
		if taken > 0 || wait <= 0 { // there may be more, but it is not waited for
			fetch = func() (jetstream.MessageBatch, error) { return cons.FetchNoWait(256) }
		}
		batch, err := fetch()
		if err != nil {
			return next, err
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return next, err
			}
			if taken >= p.limit {
				return next, nil
			}
			wanted, err := take(m)
			if err != nil {
				return next, err
			}
			next = meta.Sequence.Stream
			if wanted {
				taken++
			}
		}
		if n == 0 && (taken > 0 || time.Until(deadline) <= 0) || ctx.Err() != nil {
			return next, nil
		}
	}
}

func waitOf(ms int64) time.Duration {
	return min(time.Duration(ms)*time.Millisecond, longestWait)
}

func (s *Service) output(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ReadOutput
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	id, err := s.readable(who, req.Run)
	if err != nil {
		return nil, err
	}
	line, _ := s.o.Index.Run(id)
	done := line.Status == run.StatusDone
	out := events.Output{Chunks: []events.OutputChunk{}, Next: req.After}
	p := page{js: s.work, stream: events.StreamOutput, filter: "penstock.output." + events.Token(id) + ".>", after: req.After,
		limit: min(cmp.Or(req.Limit, 200), 1000), wait: waitOf(req.Wait)}
	if done {
		p.wait = 0
	}
	size := 0
	out.Next, err = p.read(ctx, func(m jetstream.Msg) (bool, error) {
		tokens := strings.Split(m.Subject(), ".")
		state, err := events.Untoken(tokens[3])
		if err != nil || req.State != "" && state != req.State && !strings.HasPrefix(state, req.State+".") {
			return false, nil
		}
		if size += len(m.Data()); size > 512<<10 && len(out.Chunks) > 0 {
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
	out.Done = done && len(out.Chunks) == 0
	return out, err
}

// errPageFull ends a page whose next message would make it too large.
var errPageFull = errors.New("the page is full")

func (s *Service) events(ctx context.Context, _ Principal, body []byte) (any, error) {
	var req events.ReadEvents
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	out := events.EventPage{Events: []events.Event{}}
	if req.End {
		return s.newest(ctx)
	}
	p := page{js: s.notify, stream: events.StreamOut, filter: "penstock.out.>", after: req.After,
		limit: min(cmp.Or(req.Limit, 100), 500), wait: waitOf(req.Wait)}
	size := 0
	var err error
	out.Next, err = p.read(ctx, func(m jetstream.Msg) (bool, error) {
		var e events.Event
		if err := json.Unmarshal(m.Data(), &e); err != nil || req.Run != "" && e.Subject != req.Run || !events.MatchTypes(req.Types, e.Type) {
			return false, nil
		}
		if size += len(m.Data()); size > 512<<10 && len(out.Events) > 0 {
			return false, errPageFull
		}
		out.Events = append(out.Events, e)
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
