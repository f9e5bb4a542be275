package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Publisher gives a publisher for a stream that exists in memory only.
func (m *Memory) Publisher(stream string) Publisher {
	p := &memoryPublisher{m: m, stream: stream, wake: make(chan struct{}, 1), over: make(chan struct{})}
	go p.run()
	return p
}

// Published gives what the publishers of a stream have stored, and the
// headers of each message.
func (m *Memory) Published(stream string) ([]Entry, []map[string][]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sent[stream]), slices.Clone(m.headers[stream])
}

type memoryPublisher struct {
	m          *Memory
	stream     string
	wake, over chan struct{}

	mu     sync.Mutex
	queue  []Message
	closed bool
}

func (p *memoryPublisher) Publish(msgs ...Message) {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.queue = append(p.queue, msgs...)
	}
	p.mu.Unlock()
	if closed {
		go func() {
			for _, m := range msgs {
				m.tell(0, fmt.Errorf("%s: %w", m.Subject, ErrClosed))
			}
		}()
		return
	}
	p.nudge()
}

func (m Message) tell(seq uint64, err error) {
	if m.Done != nil {
		m.Done(seq, err)
	}
}

func (p *memoryPublisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *memoryPublisher) run() {
	defer close(p.over)
	for range p.wake {
		p.mu.Lock()
		msgs, closed := p.queue, p.closed
		p.queue = nil
		p.mu.Unlock()
		for _, m := range msgs {
			m.tell(p.store(m))
		}
		if closed {
			return
		}
	}
}

func (p *memoryPublisher) store(msg Message) (uint64, error) {
	if msg.Subject == "" {
		return 0, errors.New("message without a subject")
	}
	if size := msg.size(); size > MaxRecord {
		return 0, fmt.Errorf("%s: %w", msg.Subject, tooLarge(size, MaxRecord))
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	r := &record{subject: msg.Subject, header: msg.Header, data: msg.Data, vp: -1}
	seq, err := p.m.store(r, func(r *record) uint64 {
		seq := uint64(len(p.m.sent[p.stream])) + 1
		p.m.sent[p.stream] = append(p.m.sent[p.stream],
			Entry{Seq: seq, Subject: r.subject, Data: bytes.Clone(r.data), Time: p.m.now()})
		p.m.headers[p.stream] = append(p.m.headers[p.stream], r.header)
		return seq
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", msg.Subject, err)
	}
	return seq, nil
}

func (p *memoryPublisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.nudge()
	select {
	case <-p.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stream %s: not everything was stored before closing: %w", p.stream, ctx.Err())
	}
}
