package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	Verifier *Verifier               // its Pace is set by Watch
	Share    float64                 // the part of the time in which it works, or the store works for it
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
// and again, until ctx ends. Where a partition is read for long, because the
// store has much in others too, the next one is waited for all the longer.
func Watch(ctx context.Context, o WatchOptions) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	pace := &pace{share: o.Share}
	o.Verifier.Pace = pace.keep
	told := map[string]bool{} // an alarm is told once
	for wait := watchAfter; ; wait = betweenParts {
		for vp := range events.Partitions {
			if !o.Owns(vp) {
				continue
			}
			if !rest(ctx, wait) {
				return
			}
			pace.begin()
			o.look(ctx, vp, told)
			wait = max(betweenParts, pace.owed())
		}
		if !rest(ctx, wait) { // it may own nothing at all
			return
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
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

// pace keeps a work to a share of the time.
type pace struct {
	share  float64
	began  time.Time
	rested time.Duration // since then
	last   time.Time
	worked time.Duration // since the latest rest
}

// begin begins a piece of work.
func (p *pace) begin() { p.began, p.rested, p.last, p.worked = time.Now(), 0, time.Now(), 0 }

// keep is called within a piece of work, and rests now and then. It counts the
// work that is done here: a longer time between two calls was waited for others,
// whose work owed counts, when nobody waits for more of it.
func (p *pace) keep(ctx context.Context) error {
	const enough = 10 * time.Millisecond
	now := time.Now()
	p.worked, p.last = p.worked+min(now.Sub(p.last), enough), now
	if p.worked < enough {
		return ctx.Err()
	}
	d := p.over(p.worked)
	p.worked = 0
	if !rest(ctx, d) {
		return ctx.Err()
	}
	p.last = time.Now()
	p.rested += p.last.Sub(now)
	return nil
}

// over is how long to rest for some work.
func (p *pace) over(worked time.Duration) time.Duration {
	return time.Duration(float64(worked) * (1/p.share - 1))
}

// owed is how long to rest after the piece of work.
func (p *pace) owed() time.Duration {
	return p.over(time.Since(p.began)-p.rested) - p.rested
}
