package audit

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// slow is a LOG that takes its time for every reading, and knows how much.
type slow struct {
	takes time.Duration
	spent time.Duration
	reads int
}

func (s *slow) Select(ctx context.Context, _ string, _ uint64, _ func(journal.Entry) error) error {
	s.spent, s.reads = s.spent+s.takes, s.reads+1
	rest(ctx, s.takes)
	return ctx.Err()
}

// A store in which a partition is read for long is left alone for longer; one
// in which that is quick is looked through without a break.
func TestTheStoreIsNotKeptBusyByWatching(t *testing.T) {
	const share, span = 0.05, 24 * time.Hour
	for name, takes := range map[string]time.Duration{"large": 5 * time.Second, "small": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &slow{takes: takes}
				ctx, cancel := context.WithTimeout(t.Context(), span)
				defer cancel()
				Watch(ctx, WatchOptions{Verifier: &Verifier{Log: log, Store: NewMemory(nil)}, Share: share, Owns: func(int) bool { return true }})
				if part := log.spent.Seconds() / span.Seconds(); part > share*1.01 {
					t.Errorf("the store is read for %.3f of the time", part)
				}
				if log.reads < 2*events.Partitions {
					t.Errorf("%d readings in %v", log.reads, span)
				}
			})
		})
	}
}

// rotten is a LOG whose records are other ones from a moment on.
type rotten struct {
	journal.Journal
	since time.Time
}

func (r rotten) Select(ctx context.Context, filter string, seq uint64, fn func(journal.Entry) error) error {
	return r.Journal.Select(ctx, filter, seq, func(e journal.Entry) error {
		if time.Now().After(r.since) {
			e.Data[len(e.Data)/2] ^= 2
		}
		return fn(e)
	})
}

// Each engine looks after the partitions that it owns, for as long as it runs:
// what is changed under it is found, and that partition stopped. Others are
// left to who owns them.
func TestWhatIsChangedUnderARunningEngineStopsItsPartition(t *testing.T) {
	l := newLogged(t)
	f := newForge(t, l)
	vp := f.story()
	f.start("elsewhere")
	l.run(l.writer("a"))
	synctest.Test(t, func(t *testing.T) {
		const good, span = 10 * time.Minute, 12 * time.Minute
		changed := time.Now().Add(good)
		stopped := map[int]bool{}
		ctx, cancel := context.WithTimeout(t.Context(), span)
		defer cancel()
		Watch(ctx, WatchOptions{Verifier: &Verifier{Log: rotten{l.log, changed}, Store: l.audit, Definitions: f}, Share: 0.05,
			Owns: func(of int) bool { return of == vp }, Stop: func(of int, err error) {
				if stopped[of] = true; of != vp || err == nil || time.Now().Before(changed) {
					t.Errorf("partition %d is stopped %v before anything was changed: %v", of, time.Until(changed), err)
				}
			}})
		if !stopped[vp] {
			t.Error("nothing was found")
		}
	})
}
