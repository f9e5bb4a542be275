package audit

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Memory is the twin of the stream in memory, for tests and simulations.
type Memory struct {
	now func() time.Time

	mu    sync.Mutex
	msgs  []Raw
	fault func(n int) Fault
}

// Fault is what befalls an Append to a Memory.
type Fault struct {
	// Stored is how many of its messages are stored: -1 for all. A number
	// between is a torn batch.
	Stored int
	Err    error // what is answered
}

// NewMemory gives an empty log whose clock is now; nil is the real one.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now}
}

var _ Store = (*Memory)(nil)

// Inject has f asked about every Append, which is of n messages. f is called
// with the log locked.
func (m *Memory) Inject(f func(n int) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Change has f change what is stored, as somebody does who gets at the disk.
func (m *Memory) Change(f func(msgs []Raw) []Raw) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.msgs = f(slices.Clone(m.msgs))
}

// Last implements Store.
func (m *Memory) Last(ctx context.Context) (Raw, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.msgs) == 0 {
		return Raw{}, ctx.Err()
	}
	return m.msgs[len(m.msgs)-1], ctx.Err()
}

// Append implements Store.
func (m *Memory) Append(_ context.Context, after uint64, msgs []Out) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := uint64(0)
	if n := len(m.msgs); n > 0 {
		last = m.msgs[n-1].Seq
	}
	if last != after {
		return ErrBehind
	}
	f := Fault{Stored: -1}
	if m.fault != nil {
		f = m.fault(len(msgs))
	}
	if f.Stored < 0 {
		f.Stored = len(msgs)
	}
	for _, o := range msgs[:f.Stored] {
		last++
		m.msgs = append(m.msgs, Raw{Seq: last, Subject: o.Subject, Time: m.now(), Data: bytes.Clone(o.Data)})
	}
	return f.Err
}

// Read implements Store.
func (m *Memory) Read(ctx context.Context, q Query, fn func(Raw) error) error {
	m.mu.Lock()
	msgs := m.msgs
	m.mu.Unlock()
	for _, raw := range msgs {
		if raw.Seq < q.From || !q.Since.IsZero() && raw.Time.Before(q.Since) || !q.matches(raw.Subject) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(raw); err != nil {
			if errors.Is(err, ErrEnough) {
				return nil
			}
			return err
		}
	}
	return nil
}

func (q Query) matches(subject string) bool {
	return len(q.Filters) == 0 || slices.ContainsFunc(q.Filters, func(f string) bool { return events.MatchSubject(f, subject) })
}
