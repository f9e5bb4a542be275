package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	Verifier *Verifier
	Owns     func(vp int) bool       // partitions that are somebody else's are left to them
	Stop     func(vp int, err error) // told of a partition whose record is not what it was
	Window   time.Duration           // how far back the audit log is read
	Log      *slog.Logger
}

const (
	watchAfter   = 20 * time.Second // from the start to the first round
	betweenParts = time.Second      // from one partition to the next, at least
)

// Watch verifies the partitions that are owned, one after the other and again
// and again, until ctx ends.
func Watch(ctx context.Context, o WatchOptions) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	told := map[string]bool{} // an alarm is told once
	for wait := watchAfter; ; wait = betweenParts {
		for vp := range events.Partitions {
			if !o.Owns(vp) {
				continue
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			wait = betweenParts
			o.look(ctx, vp, told)
		}
		select { // it may own nothing at all
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// look verifies one partition.
func (o *WatchOptions) look(ctx context.Context, vp int, told map[string]bool) {
	r, err := o.Verifier.Partition(ctx, vp, time.Now().Add(-o.Window))
	if err != nil {
		if ctx.Err() == nil {
			o.Log.Warn("a partition could not be verified; it is tried again in the next round", "partition", vp, "error", err)
		}
		return
	}
	for _, p := range r.Problems {
		if !told[p] && len(told) < 10_000 {
			told[p] = true
			o.Log.Error("the record is not what it was", "partition", vp, "problem", p)
		}
	}
	if err := r.Broken(); err != nil {
		o.Stop(vp, err)
	}
}

// Pace gives a function to be called between pieces of work: it waits as long
// as keeps the work to a share of the time.
func Pace(share float64) func(ctx context.Context) error {
	const enough = 10 * time.Millisecond
	last, worked := time.Now(), time.Duration(0)
	return func(ctx context.Context) error {
		now := time.Now()
		// A call after a long time begins something new.
		worked, last = worked+min(now.Sub(last), enough), now
		if worked < enough {
			return ctx.Err()
		}
		rest := time.Duration(float64(worked) * (1/share - 1))
		worked = 0
		select {
		case <-time.After(rest):
			last = time.Now()
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
