package bus

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// waiters tell those who wait for a key that it has happened.
type waiters struct {
	mu    sync.Mutex
	byKey map[string]map[chan struct{}]bool
}

// on gives a channel that gets a value when key is told, and an end to it.
func (w *waiters) on(key string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byKey == nil {
		w.byKey = map[string]map[chan struct{}]bool{}
	}
	if w.byKey[key] == nil {
		w.byKey[key] = map[chan struct{}]bool{}
	}
	w.byKey[key][ch] = true
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.byKey[key], ch)
		if len(w.byKey[key]) == 0 {
			delete(w.byKey, key)
		}
	}
}

func (w *waiters) tell(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.byKey[key] {
		select {
		case ch <- struct{}{}:
		default: // told already
		}
	}
}

// signals are waiters for one thing.
type signals struct{ w waiters }

func (s *signals) on() (<-chan struct{}, func()) { return s.w.on("") }
func (s *signals) tell()                         { s.w.tell("") }

// backoff spreads repeats: from 50 ms, doubling up to 2 s, each between half
// and the whole of that.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: 50 * time.Millisecond} }

const maxPause = 2 * time.Second

// sleep waits, at least atLeast, until ctx ends, whose error it returns.
func (b *backoff) sleep(ctx context.Context, atLeast time.Duration) error {
	d := b.next/2 + rand.N(b.next/2)
	b.next = min(2*b.next, maxPause)
	if atLeast > 0 {
		d = atLeast + rand.N(atLeast/2+1)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
