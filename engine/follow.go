package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/events"
)

// follower reads what all engines record, and tells the index.
type follower struct {
	log     journal.Journal
	observe func(owner.Entry)
	logger  *slog.Logger

	turn   chan struct{} // full while somebody tells what there was at the beginning
	owed   map[int]bool  // partitions of which that was not told yet; guarded by turn
	from   uint64        // sequence behind which everything is told as it is recorded
	loaded chan struct{} // closed when nothing is owed

	complained time.Time // when it was told last that a record cannot be read

	mu    sync.Mutex
	at    uint64        // sequence up to which everything was told
	moved chan struct{} // closed when at moves
}

// complainEvery is how often it is told that records cannot be read: of a newer
// version, that is all that it writes.
const complainEvery = 10 * time.Second

func newFollower(log journal.Journal, observe func(owner.Entry), logger *slog.Logger) *follower {
	return &follower{log: log, observe: observe, logger: logger, turn: make(chan struct{}, 1), owed: map[int]bool{}, loaded: make(chan struct{}), moved: make(chan struct{})}
}

// begin notes where the log ends now: what there is then is owed, and what is
// recorded later is told by run.
func (f *follower) begin(ctx context.Context) (err error) {
	f.from, err = f.end(ctx)
	for vp := range events.Partitions {
		f.owed[vp] = true
	}
	return err
}

// owing reports whether the index still lacks something of the beginning:
// whoever reads records then tells it of them.
func (f *follower) owing() bool {
	select {
	case <-f.loaded:
		return false
	default:
		return true
	}
}

// load tells what is owed, but for partitions that take reads and tells of; it
// may be nil. A million records are read once, not twice.
func (f *follower) load(ctx context.Context, but []int, take func() error) error {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var vps []int
	for vp := range f.owed {
		if !slices.Contains(but, vp) {
			vps = append(vps, vp)
		}
	}
	if err := f.read(ctx, vps); err != nil {
		return err
	}
	f.told(vps)
	if take == nil {
		return nil
	}
	if err := take(); err != nil {
		return err
	}
	f.told(but)
	return nil
}

// read tells the last records of partitions. What is recorded meanwhile may be
// told twice, which changes nothing.
func (f *follower) read(ctx context.Context, vps []int) error {
	if len(vps) == 0 {
		return nil
	}
	var wanted [events.Partitions]bool
	for _, vp := range vps {
		wanted[vp] = true
	}
	return f.log.LastPerSubject(ctx, owner.Filters(vps), func(e journal.Entry) error {
		if vp := events.LogPartition(e.Subject); vp >= 0 && vp < len(wanted) && wanted[vp] {
			f.tell(e)
		}
		return nil
	})
}

// told notes that partitions are not owed any more.
func (f *follower) told(vps []int) {
	for _, vp := range vps {
		delete(f.owed, vp)
	}
	if len(f.owed) == 0 && f.owing() {
		f.reach(f.from)
		close(f.loaded)
	}
}

// end is the sequence of the last record, as its leader has it. What else the
// log holds tells nothing, and is not waited for.
func (f *follower) end(ctx context.Context) (uint64, error) {
	last, err := f.log.Last(ctx, journal.AllRecords)
	if errors.Is(err, journal.ErrNotFound) {
		return 0, nil
	}
	return last.Seq, err
}

// run tells what is recorded from then on, until ctx ends.
func (f *follower) run(ctx context.Context) error {
	select {
	case <-f.loaded:
	case <-ctx.Done():
		return nil
	}
	err := f.log.Tail(ctx, f.from+1, func(e journal.Entry) error {
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
	if e.Damaged {
		f.logger.Error("a record cannot be read, since the store's file is damaged; lists may not show what it tells of", "subject", e.Subject, "sequence", e.Seq)
	}
	if e.Damaged || !strings.HasPrefix(e.Subject, "penstock.log.") {
		return
	}
	entry, err := owner.EntryOf(e)
	if err != nil { // its partition is stopped and says why, or a newer version works there
		if time.Since(f.complained) < complainEvery {
			return
		}
		f.complained = time.Now()
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
			return fmt.Errorf("of the record, which ends at %d, this engine has read up to %d: %w", end, at, context.Cause(ctx))
		}
	}
}

// readIn is how long an engine may take to read what is recorded when an event
// comes; then it says so, and tries again.
const readIn = 10 * time.Second

// listening gives the runs that listen for an event: all that are recorded as
// listening when it is called.
func (e *Engine) listening(ctx context.Context, event []byte) ([]string, error) {
	if e.tail != nil {
		ctx, cancel := context.WithTimeout(ctx, readIn)
		defer cancel()
		if err := e.tail.caughtUp(ctx); err != nil {
			return nil, err
		}
	}
	return e.index.Listening(event), nil
}
