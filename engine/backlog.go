package engine

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// stuckAfter is for how long nothing could be published before the engine says
// that it is not ready.
const stuckAfter = 30 * time.Second

// backlog is a publisher that knows whether what is to be published moves.
type backlog struct {
	journal.Publisher
	what string
	now  func() time.Time

	waiting atomic.Int64 // messages that are not stored yet
	failing atomic.Bool  // since is set

	mu    sync.Mutex
	since time.Time // of the first failure that no success came after; zero when there is none
	why   error
}

func newBacklog(what string, p journal.Publisher) *backlog {
	return &backlog{Publisher: p, what: what, now: time.Now}
}

// Publish implements journal.Publisher.
func (b *backlog) Publish(msgs ...journal.Message) {
	b.waiting.Add(int64(len(msgs)))
	msgs = slices.Clone(msgs) // the caller publishes its own again
	for i := range msgs {
		done := msgs[i].Done
		msgs[i].Done = func(seq uint64, err error) {
			b.waiting.Add(-1)
			b.note(err)
			if done != nil {
				done(seq, err)
			}
		}
	}
	b.Publisher.Publish(msgs...)
}

func (b *backlog) note(err error) {
	if err == nil && !b.failing.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing.Store(err != nil)
	switch {
	case err == nil:
		b.since, b.why = time.Time{}, nil
	case b.since.IsZero():
		b.since, b.why = b.now(), err
	default:
		b.why = err
	}
}

// stuck says why nothing has been published for a while, nil when it moves.
func (b *backlog) stuck() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() || b.now().Sub(b.since) < stuckAfter {
		return nil
	}
	return fmt.Errorf("no %s could be published since %s: %w", b.what, b.since.UTC().Format(time.RFC3339), b.why)
}
