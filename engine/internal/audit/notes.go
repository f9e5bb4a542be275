package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	maxNotes     = 1000 // that wait
	notesMessage = 200  // notes in one message
)

// Notes writes down what happens without a record, in the order in which it
// is told.
type Notes struct {
	store    Store
	instance string
	log      *slog.Logger

	mu      sync.Mutex
	queue   []Note
	dropped Note // the last refusal for which there was no room; Count is how many
	room    chan struct{}
	wake    chan struct{}
	closed  bool
	cancel  context.CancelFunc
	over    chan struct{}
}

// NewNotes begins to write; Close ends it.
func NewNotes(store Store, instance string, log *slog.Logger) *Notes {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &Notes{store: store, instance: instance, log: log, cancel: cancel,
		room: make(chan struct{}), wake: make(chan struct{}, 1), over: make(chan struct{})}
	go n.run(ctx)
	return n
}

// errClosed is the answer to a note that comes after the end.
var errClosed = errors.New("the audit log takes no more notes: the engine is stopping")

// Add queues a note about something that was done. It waits for room.
func (n *Notes) Add(ctx context.Context, note Note) error {
	for {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return errClosed
		}
		if len(n.queue) < maxNotes {
			n.queue = append(n.queue, note)
			n.mu.Unlock()
			n.nudge()
			return nil
		}
		room := n.room
		n.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Refused queues a note about something that was not done. It never waits:
// where there is no room, the number of those that found none is noted.
func (n *Notes) Refused(note Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
	case len(n.queue) < maxNotes:
		n.queue = append(n.queue, note)
		n.nudge()
	default:
		note.Count = n.dropped.Count + 1
		n.dropped = note
	}
}

func (n *Notes) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Notes) run(ctx context.Context) {
	defer close(n.over)
	for {
		notes, closed := n.next()
		if len(notes) > 0 {
			now := time.Now()
			h := Header{Kind: KindNote, Writer: n.instance, At: now.UnixMilli(), VP: noteVP, Notes: notes}
			if err := put(ctx, n.store, h, now); err != nil {
				n.log.Error("notes for the audit log are lost", "notes", len(notes), "error", err)
				if ctx.Err() != nil {
					return
				}
			}
			continue
		}
		if closed {
			return
		}
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		select { // what comes together is stored together
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// next takes from the queue what fits into a message.
func (n *Notes) next() (notes []Note, closed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := min(len(n.queue), notesMessage)
	notes, n.queue = n.queue[:k:k], n.queue[k:]
	if len(n.queue) == 0 && n.dropped.Count > 0 {
		notes = append(notes, n.dropped)
		n.dropped = Note{}
	}
	if k > 0 {
		close(n.room)
		n.room = make(chan struct{})
	}
	return notes, n.closed
}

// Close stores what waits, until ctx ends.
func (n *Notes) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.nudge()
	defer n.cancel()
	select {
	case <-n.over:
		return nil
	case <-ctx.Done():
		n.mu.Lock()
		defer n.mu.Unlock()
		return fmt.Errorf("%d notes were not stored in the audit log: %w", len(n.queue), ctx.Err())
	}
}
