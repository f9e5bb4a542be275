package owner_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

func TestAStormOfCallersAfterATakeOverIsAnswered(t *testing.T) {
	g := newGroup(t, journal.NewMemory(nil))
	a, b := g.join("a"), g.join("b")
	a.take(t, all()...)
	const callers = 5000
	var wg sync.WaitGroup
	wg.Go(func() { // a is gone without a word
		if err := b.Take(t.Context(), all()); err != nil {
			t.Error(err)
		}
	})
	var first atomic.Int64
	for i := range callers {
		wg.Go(func() {
			id := fmt.Sprintf("storm%d", i%(callers/2)) // each run is asked for twice
			if x := g.do(record.Run, id, startOf(id)); x.Status == events.StatusApplied {
				first.Add(1)
			} else if x.Status != events.StatusAlready {
				t.Errorf("%s: %+v", id, x)
			}
		})
	}
	wg.Wait()
	if first.Load() != callers/2 {
		t.Errorf("%d of %d runs were started", first.Load(), callers/2)
	}
}

func TestTooManyCommandsForOneRunAreToldToComeAgainAndOthersGoOn(t *testing.T) {
	m := journal.NewMemory(nil)
	w := &meddled{Journal: m.Open()}
	goOn := make(chan struct{})
	w.last = func(subject string) error {
		if strings.HasSuffix(subject, ".slow") {
			<-goOn
		}
		return nil
	}
	f := startOn(t, w, catalogs{compile(t, definitions)}, nil)
	var wg sync.WaitGroup
	var busy, done atomic.Int64
	crowded := make(chan struct{})
	for range 1101 {
		wg.Go(func() {
			x := f.begin(t, "slow", "job")
			if x.Final() {
				done.Add(1)
				return
			}
			if x.Status != events.StatusBusy || x.RetryAfter == 0 {
				t.Errorf("%+v", x)
			}
			if busy.Add(1) == 100 {
				close(crowded)
			}
		})
	}
	<-crowded // one is under way, a thousand wait
	if x := f.begin(t, "quick", "job"); x.Status != events.StatusApplied {
		t.Errorf("another run: %+v", x)
	}
	close(goOn)
	wg.Wait()
	if done.Load() < 1000 || busy.Load() < 100 {
		t.Errorf("%d were answered, %d told to come again", done.Load(), busy.Load())
	}
}
