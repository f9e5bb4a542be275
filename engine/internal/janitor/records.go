package janitor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
// What the relay has not carried out yet stays, whatever its age, and all of its
// partition behind it; it is looked at again when that is carried out. So does
// what LOG has lost the newest record of: there the older ones count again.
// Removing is repeated without harm: the mark is stored after it.
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

// position is how far the audit log has been read.
type position struct {
	Older mark // the older records of what has ended are gone up to here
	Last  mark // their last records too
}

// mark is a message of the audit log, and for each partition that stayed
// behind, because something of it was not to go yet, the message of that.
type mark struct {
	Next uint64
	Left map[int]uint64
}

// written is how a position is stored.
type written struct {
	Older     uint64         `json:"older"`
	Last      uint64         `json:"last"`
	OlderLeft map[int]uint64 `json:"olderLeft,omitempty"`
	LastLeft  map[int]uint64 `json:"lastLeft,omitempty"`
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
	s := &sweep{r: r, ctx: ctx, log: log, now: now(), ends: time.Now().Add(sweepTime)}
	err = s.read(&at.Older, r.Keep, func(d audit.Superseded) (uint64, bool) {
		if d.First {
			return 0, true
		}
		return d.Seq, passed[d.VP] >= d.Seq // what is before it
	})
	if err == nil {
		err = s.read(&at.Last, max(KeepLast, r.Keep), func(d audit.Superseded) (uint64, bool) {
			if !d.Ended {
				return 0, true
			}
			return d.Seq + 1, passed[d.VP] >= d.Seq && d.Seq < end
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
	now     time.Time
	ends    time.Time
	removed int // calls
}

// rule gives the sequence below which the records go of what a record has
// superseded, none when it is 0, and whether they may go now.
type rule func(audit.Superseded) (below uint64, now bool)

// read goes on reading the audit log and removes what has been in it for long
// enough, first of the partitions that had stayed behind.
func (s *sweep) read(at *mark, keep time.Duration, what rule) error {
	if at.Left == nil {
		at.Left = map[int]uint64{}
	}
	for _, vp := range slices.Sorted(maps.Keys(at.Left)) {
		if err := s.catchUp(at, vp, what); err != nil {
			return err
		}
	}
	var err error
	at.Next, err = audit.Done(s.ctx, s.r.Audit, at.Next, s.now.Add(-keep), func(d audit.Superseded) error {
		if _, behind := at.Left[d.VP]; behind {
			return nil
		}
		below, now := what(d)
		if !now {
			at.Left[d.VP] = d.Message
			return nil
		}
		return s.remove(d, below)
	})
	return err
}

// catchUp does so for a partition that had stayed behind, up to where the others are.
func (s *sweep) catchUp(at *mark, vp int, what rule) error {
	behind := false
	next, err := audit.Done(s.ctx, s.r.Audit, at.Left[vp], s.now, func(d audit.Superseded) error {
		if d.Message >= at.Next {
			return audit.ErrEnough
		}
		below, now := what(d)
		if behind = !now; behind {
			return audit.ErrEnough
		}
		return s.remove(d, below)
	}, vp)
	if at.Left[vp] = next; err == nil && !behind {
		delete(at.Left, vp)
	}
	return err
}

// remove removes the records of a subject below a sequence, if LOG has the
// record that supersedes them.
func (s *sweep) remove(d audit.Superseded, below uint64) error {
	if below == 0 {
		return nil
	}
	if time.Now().After(s.ends) {
		return errLater
	}
	began := time.Now()
	m, err := s.log.GetMsg(s.ctx, d.Seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && (m.Subject != d.Subject || !bytes.Equal(m.Data, d.Data)) {
		return nil // it went with a later one, or is lost
	}
	if err != nil {
		return fmt.Errorf("stream %s: record %d of %s: %w", events.StreamLog, d.Seq, d.Subject, err)
	}
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
	var w written
	if err := json.Unmarshal(e.Value(), &w); err != nil {
		return at, 0, fmt.Errorf("read how far records were removed: %w", err)
	}
	return position{mark{w.Older, w.OlderLeft}, mark{w.Last, w.LastLeft}}, e.Revision(), nil
}

// store stores the mark, unless another engine has meanwhile.
func (r *Records) store(ctx context.Context, at position, rev uint64) error {
	p, err := json.Marshal(written{at.Older.Next, at.Last.Next, at.Older.Left, at.Last.Left})
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
