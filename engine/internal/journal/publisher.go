package journal

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// NewPublisher gives a publisher for one stream in the account of js, with a
// connection of its own if what it sends shall not wait for others.
func NewPublisher(ctx context.Context, js jetstream.JetStream, stream string, opts Options) (Publisher, error) {
	return NewPublisherOn(ctx, On(js), stream, opts)
}

// NewPublisherOn is NewPublisher on another transport.
func NewPublisherOn(ctx context.Context, t Transport, stream string, opts Options) (Publisher, error) {
	opts = opts.withDefaults()
	lim, err := streamLimits(ctx, t, stream)
	if err != nil {
		return nil, err
	}
	w, err := newWire(t, stream, lim.replicas, opts.AckTimeout)
	if err != nil {
		return nil, err
	}
	p := &relay{c: newCommitter(w, choose(opts.Sync, lim.replicas), opts), limit: lim.maxSize - headerRoom}
	p.c.start()
	return p, nil
}

type relay struct {
	c     *committer
	limit int
}

func (p *relay) Publish(msgs ...Message) {
	records := make([]*record, len(msgs))
	for i, m := range msgs {
		r := &record{subject: m.Subject, header: m.Header, data: m.Data, vp: -1, done: m.Done}
		if r.done == nil {
			r.done = func(uint64, error) {}
		}
		if size := m.size(); size > p.limit {
			r.err = tooLarge(size, p.limit)
		} else if m.Subject == "" {
			r.err = fmt.Errorf("message without a subject")
		}
		records[i] = r
	}
	p.c.add(records...)
}

// size is that of the data and headers as the server counts them.
func (m Message) size() int {
	n := len(m.Data)
	for k, vs := range m.Header {
		for _, v := range vs {
			n += len(k) + len(v) + len(": \r\n")
		}
	}
	return n
}

func (p *relay) Close(ctx context.Context) error { return p.c.close(ctx) }
