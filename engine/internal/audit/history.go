package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// early is how long before its beginning the history of an aggregate is looked
// for: the time of a record and the time when it was stored are of two clocks.
const early = 10 * time.Minute

// History gives all records of an aggregate, oldest first: those that LOG has,
// and before them those that only the audit log has. since is when the
// aggregate began, as far as known. Where records are in neither, those that
// there are begin with a later version than 1 or have a gap.
func History(ctx context.Context, log interface {
	History(ctx context.Context, subject string) ([]journal.Entry, error)
}, s Store, agg, id string, since time.Time) ([]journal.Entry, error) {
	subject := events.LogSubject(agg, id)
	list, err := log.History(ctx, subject)
	if err != nil {
		return nil, err
	}
	first := record.Head{V: -1} // of what LOG has
	if len(list) > 0 {
		if first, err = record.DecodeHead(list[0].Data); err != nil || first.V == 1 {
			return list, nil // whoever reads it says what is wrong with it
		}
	}
	vp, key, err := split(subject)
	if err != nil {
		return nil, err
	}
	if !since.IsZero() {
		since = since.Add(-early)
	}
	old, whole, err := older(ctx, s, vp, key, since, first)
	if err == nil && !whole && !since.IsZero() {
		old, _, err = older(ctx, s, vp, key, time.Time{}, first)
	}
	return append(old, list...), err
}

// older reads what the audit log has of an aggregate before the record that
// first heads; all when its version is -1. whole says that nothing is missing.
func older(ctx context.Context, s Store, vp int, key string, since time.Time, first record.Head) (list []journal.Entry, whole bool, err error) {
	var versions []int64
	err = s.Read(ctx, Query{Filters: []string{filterOf(vp)}, Since: since}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		for _, e := range m.Entries() {
			if e.Key != key {
				continue
			}
			h, err := record.DecodeHead(e.Data)
			if err != nil {
				return err
			}
			// After a loss, versions are used again: the later ones count.
			for len(versions) > 0 && versions[len(versions)-1] >= h.V {
				versions, list = versions[:len(versions)-1], list[:len(list)-1]
			}
			if first.V >= 0 && h.V >= first.V {
				continue
			}
			versions = append(versions, h.V)
			list = append(list, journal.Entry{Seq: e.Seq, Subject: e.Subject(), Data: bytes.Clone(e.Data), Time: time.UnixMilli(e.Time)})
			hash := sha256.Sum256(e.Data)
			if whole = versions[0] == 1 && h.V == int64(len(versions)) && h.V == first.V-1 && hex.EncodeToString(hash[:]) == first.Prev; whole {
				return ErrEnough
			}
		}
		return nil
	})
	if first.V < 0 && len(versions) > 0 {
		whole = versions[0] == 1 && versions[len(versions)-1] == int64(len(versions))
	}
	return list, whole, err
}
