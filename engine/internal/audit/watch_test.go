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
