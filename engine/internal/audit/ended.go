package audit

import (
	"context"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
)

// Superseded is a record behind which the older ones of its aggregate are not
// needed in LOG any more.
type Superseded struct {
	VP      int
	Subject string
	Seq     uint64
	Data    []byte
	Message uint64 // of the audit log that has it
	First   bool   // there is none before it
	// Ended says that the aggregate had come to its end with it: what is left
	// in LOG of it is not needed either, once nobody could begin it again.
	Ended bool
}

// longLived is after how many records those of what does not end are
// superseded: environments, keys and schedules.
const longLived = 64

// Done reads the audit log from message from on, up to what was stored before
// until, and calls fn with what is superseded: everything of those aggregates
// up to there is in the audit log. Where partitions are given it reads of these
// only. It gives the message to go on from. An error of fn ends the reading
// before the message that it was called for, and is returned, except ErrEnough.
func Done(ctx context.Context, s Store, from uint64, until time.Time, fn func(Superseded) error, partitions ...int) (next uint64, err error) {
	at, err := find(ctx, s)
	if err != nil {
		return from, err
	}
	next = max(from, 1)
	q := Query{From: next}
	for _, vp := range partitions {
		q.Filters = append(q.Filters, filterOf(vp))
	}
	err = s.Read(ctx, q, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		if !raw.Time.Before(until) || m.To > at.pos {
			return ErrEnough
		}
		for _, e := range m.Entries() {
			h, err := record.DecodeHead(e.Data)
			if e.Key == "" || err != nil {
				continue // whoever verifies it says so; it stays
			}
			ended, superseding := supersedes(e, h)
			if !superseding {
				continue
			}
			if err := fn(Superseded{VP: e.VP, Subject: e.Subject(), Seq: e.Seq, Data: e.Data, Message: raw.Seq, First: h.V == 1, Ended: ended}); err != nil {
				return err
			}
		}
		next = raw.Seq + 1
		return nil
	})
	return next, err
}

// supersedes reports whether the older records of an aggregate are not needed
// behind this one, and whether it ends the aggregate.
func supersedes(e Entry, h record.Head) (ended, superseding bool) {
	switch h.Aggregate {
	case record.Run, record.Event:
		if h.Old { // from before heads said so
			r, err := record.Decode(e.Data)
			if err != nil {
				return false, false
			}
			state, err := load(r)
			ended = err == nil && over(state)
		} else {
			ended = !h.Busy && h.Due == 0 && (h.Aggregate == record.Event || h.Status == "done")
		}
		return ended, ended
	}
	return false, h.V%longLived == 0
}
