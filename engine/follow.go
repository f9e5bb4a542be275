package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
)

// follower reads what all engines record, and tells the index.
type follower struct {
	log     journal.Journal
	observe func(owner.Entry)
	logger  *slog.Logger

	mu    sync.Mutex
	at    uint64        // sequence up to which everything was told
	moved chan struct{} // closed when at moves
}

func newFollower(log journal.Journal, observe func(owner.Entry), logger *slog.Logger) *follower {
	return &follower{log: log, observe: observe, logger: logger, moved: make(chan struct{})}
}

// recorded is a filter for all records. What else the log holds tells nothing,
// and not all of it is given to readers: who waited for a probe would wait
// until something is recorded.
const recorded = "penstock.log.>"

// load tells what there is. What is recorded meanwhile may be told twice,
// which changes nothing.
func (f *follower) load(ctx context.Context) error {
	end, err := f.end(ctx)
	if err != nil {
		return err
	}
	err = f.log.LastPerSubject(ctx, []string{recorded}, func(e journal.Entry) error {
		f.tell(e)
		return nil
	})
	f.reach(end)
	return err
}

// end is the sequence of the last record, as its leader has it.
func (f *follower) end(ctx context.Context) (uint64, error) {
	last, err := f.log.Last(ctx, recorded)
	if errors.Is(err, journal.ErrNotFound) {
		return 0, nil
	}
	return last.Seq, err
}

// run tells what is recorded from then on, until ctx ends.
func (f *follower) run(ctx context.Context) error {
	f.mu.Lock()
	next := f.at + 1
	f.mu.Unlock()
	err := f.log.Tail(ctx, next, func(e journal.Entry) error {
		f.tell(e)
		f.reach(e.Seq)
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (f *follower) tell(e journal.Entry) {
	if !strings.HasPrefix(e.Subject, "penstock.log.") {
		return
	}
	entry, err := owner.EntryOf(e)
	if err != nil { // its partition is stopped, and says why
		f.logger.Error("a record cannot be read, and lists do not show it", "subject", e.Subject, "sequence", e.Seq, "error", err)
		return
	}
	f.observe(entry)
}

func (f *follower) reach(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq <= f.at {
		return
	}
	f.at = seq
	close(f.moved)
	f.moved = make(chan struct{})
}

// caughtUp waits until everything that is recorded now was told.
func (f *follower) caughtUp(ctx context.Context) error {
	end, err := f.end(ctx)
	if err != nil {
		return err
	}
	for {
		f.mu.Lock()
		at, moved := f.at, f.moved
		f.mu.Unlock()
		if at >= end {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listening gives the runs that listen for an event: all that are recorded as
// listening when it is called.
func (e *Engine) listening(ctx context.Context, event []byte) ([]string, error) {
	if e.tail != nil {
		if err := e.tail.caughtUp(ctx); err != nil {
			return nil, err
		}
	}
	return e.index.Listening(event), nil
}
