package janitor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

const (
	// KeepLast is how long the last record of a run or event stays in LOG at
	// least: as long as anybody could repeat what had started it. It is longer
	// than incoming events are kept.
	KeepLast = 30 * 24 * time.Hour

	// share is the part of the time that removing records may take.
	share = 0.2
	// sweepTime ends a sweep; the next one goes on where it ended.
	sweepTime = 30 * time.Second
)

// Records makes room in LOG.
//
// It reads the audit log from its own mark, at a distance: a record that says
// that a run has ended, and that has been in the audit log for as long as
// records are to be kept, has all records of the run before it removed from
// LOG; they are in the audit log, and are read from there. So nothing is ever
// removed that the audit log does not have. Of what does not end, such as
// environments, the older records go from time to time. Much later, when
// nobody can begin it again, the last record of what has ended goes too.
//
// The probes of LOG go when the audit log has passed them.
//
// What the relay has not carried out yet stays, whatever its age. Removing is
// repeated without harm: the mark is stored after it.
type Records struct {
	Audit audit.Store
	Log   jetstream.JetStream // of the account that holds LOG
	Marks jetstream.KeyValue  // where the mark is kept
	// Passed gives for each partition up to where its relay has carried it out, for certain.
	Passed func(ctx context.Context) (map[int]uint64, error)
	Keep   time.Duration     // how long records of what has ended are kept; for ever when negative
	Note   func(removed int) // told of every sweep that removed something; may be nil
	Now    func() time.Time  // time.Now when nil
	Logger *slog.Logger      //
	share  float64           // of the time; share when 0
}

// recordsMark is the key of the mark.
const recordsMark = "janitor.records"

// position is how far the audit log has been read, by message.
type position struct {
	Older uint64 `json:"older"` // the older records of what has ended are gone up to here
	Last  uint64 `json:"last"`  // their last records too
}

// Sweep removes what may go, as much as a sweep may. more says that there is more.
func (r *Records) Sweep(ctx context.Context) (more bool, err error) {
	if err := r.probes(ctx); err != nil || r.Keep < 0 {
		return false, err
	}
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	at, rev, err := r.position(ctx)
	if err != nil {
		return false, err
	}
	log, err := r.Log.Stream(ctx, events.StreamLog)
	if err != nil {
		return false, fmt.Errorf("stream %s: %w", events.StreamLog, err)
	}
	// The very last message stays: it says where LOG ends.
	end := log.CachedInfo().State.LastSeq
	passed, err := r.Passed(ctx)
	if err != nil {
		return false, err
	}
	s := &sweep{r: r, ctx: ctx, log: log, passed: passed, ends: time.Now().Add(sweepTime)}
	at.Older, err = audit.Done(ctx, r.Audit, at.Older, now().Add(-r.Keep), func(d audit.Superseded) error {
		if d.First {
			return nil
		}
		return s.remove(d, d.Seq) // what is before it
	})
	if err == nil {
		at.Last, err = audit.Done(ctx, r.Audit, at.Last, now().Add(-max(KeepLast, r.Keep)), func(d audit.Superseded) error {
			if !d.Ended || d.Seq >= end {
				return nil
			}
			return s.remove(d, d.Seq+1)
		})
	}
	if stored := r.store(ctx, at, rev); err == nil {
		err = stored
	}
	if r.Note != nil && s.removed > 0 {
		r.Note(s.removed)
	}
	if errors.Is(err, errLater) {
		return true, nil
	}
	return false, err
}

// probes removes the probes that the audit log has passed.
func (r *Records) probes(ctx context.Context) error {
	pos, err := audit.Position(ctx, r.Audit)
	if err != nil {
		return err
	}
	return journal.ForgetProbes(ctx, r.Log, pos)
}

// errLater ends a sweep.
var errLater = errors.New("the rest is for the next sweep")

// sweep is a sweep under way.
type sweep struct {
	r       *Records
	ctx     context.Context
	log     jetstream.Stream
	passed  map[int]uint64
	ends    time.Time
	removed int // calls
}

// remove removes the records of a subject below a sequence.
func (s *sweep) remove(d audit.Superseded, below uint64) error {
	if s.passed[d.VP] < d.Seq {
		return nil // of a partition that is stopped, for example: it stays
	}
	if time.Now().After(s.ends) {
		return errLater
	}
	began := time.Now()
	if err := s.log.Purge(s.ctx, jetstream.WithPurgeSubject(d.Subject), jetstream.WithPurgeSequence(below)); err != nil {
		return fmt.Errorf("stream %s: remove the records of %s below %d: %w", events.StreamLog, d.Subject, below, err)
	}
	s.removed++
	rest := time.Duration(float64(time.Since(began)) * (1/cmp.Or(s.r.share, share) - 1))
	select {
	case <-time.After(rest):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (r *Records) position(ctx context.Context) (at position, rev uint64, err error) {
	e, err := r.Marks.Get(ctx, recordsMark)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, 0, nil
	}
	if err != nil {
		return at, 0, fmt.Errorf("read how far records were removed: %w", err)
	}
	if err := json.Unmarshal(e.Value(), &at); err != nil {
		return at, 0, fmt.Errorf("read how far records were removed: %w", err)
	}
	return at, e.Revision(), nil
}

// store stores the mark, unless another engine has meanwhile.
func (r *Records) store(ctx context.Context, at position, rev uint64) error {
	p, err := json.Marshal(at)
	if err != nil {
		return err
	}
	if rev == 0 {
		_, err = r.Marks.Create(ctx, recordsMark, p)
	} else {
		_, err = r.Marks.Update(ctx, recordsMark, p, rev)
	}
	if err != nil {
		return fmt.Errorf("store how far records were removed: %w", err)
	}
	return nil
}

// Run sweeps until ctx ends.
func (r *Records) Run(ctx context.Context) {
	for wait := Every; ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		more, err := r.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			r.Logger.Warn("old records could not be removed; it is tried again", "error", err)
		}
		if wait = Every; more {
			wait = time.Second
		}
	}
}
