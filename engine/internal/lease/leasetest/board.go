// Package leasetest has a board in memory, for tests and simulations of
// engines that share partitions.
package leasetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/lease"
)

// Board is a lease.Board in memory. The zero value is an empty one.
type Board struct {
	mu       sync.Mutex
	entries  map[string]lease.Entry
	revision uint64
	watchers map[*watcher]bool
	down     bool
}

type watcher struct {
	waiting []lease.Entry
	wake    chan struct{}
}

// ErrDown is what a board that cannot be reached gives.
var ErrDown = errors.New("the board does not answer")

// SetDown makes the board unreachable for everybody, or reachable again.
func (b *Board) SetDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	for w := range b.watchers {
		w.nudge()
	}
}

// Forget breaks all watches without telling them, as a server that is
// started again does.
func (b *Board) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.watchers)
}

// Keys gives the keys that have values.
func (b *Board) Keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for key, e := range b.entries {
		if e.Value != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Put implements lease.Board.
func (b *Board) Put(_ context.Context, key string, value []byte, last uint64) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.set(key, slices.Clone(value), last); err != nil {
		return 0, err
	}
	return b.revision, nil
}

// Delete implements lease.Board.
func (b *Board) Delete(_ context.Context, key string, last uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set(key, nil, last)
}

func (b *Board) set(key string, value []byte, last uint64) error {
	if b.down {
		return ErrDown
	}
	if b.entries[key].Revision != last {
		return lease.ErrConflict
	}
	if b.entries == nil {
		b.entries = map[string]lease.Entry{}
	}
	b.revision++
	e := lease.Entry{Key: key, Value: value, Revision: b.revision, At: time.Now()}
	b.entries[key] = e
	for w := range b.watchers {
		w.add(e)
	}
	return nil
}

func (w *watcher) add(e lease.Entry) {
	w.waiting = append(w.waiting, e)
	w.nudge()
}

func (w *watcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements lease.Board.
func (b *Board) Watch(ctx context.Context) (<-chan lease.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, ErrDown
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	if b.watchers == nil {
		b.watchers = map[*watcher]bool{}
	}
	b.watchers[w] = true
	for _, e := range slices.SortedFunc(maps.Values(b.entries), func(x, y lease.Entry) int { return int(x.Revision) - int(y.Revision) }) {
		w.add(e)
	}
	w.add(lease.Entry{Caught: true})
	out := make(chan lease.Entry)
	go b.feed(ctx, w, out)
	return out, nil
}

func (b *Board) feed(ctx context.Context, w *watcher, out chan<- lease.Entry) {
	defer close(out)
	defer func() {
		b.mu.Lock()
		delete(b.watchers, w)
		b.mu.Unlock()
	}()
	for {
		b.mu.Lock()
		waiting := w.waiting
		if w.waiting = nil; b.down {
			waiting, w.waiting = nil, waiting
		}
		b.mu.Unlock()
		for _, e := range waiting {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
	}
}
