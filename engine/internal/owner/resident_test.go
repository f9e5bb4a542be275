package owner_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// looked counts how often a last record is read.
type looked struct {
	journal.Journal
	n atomic.Int64
}

func (l *looked) Last(ctx context.Context, subject string) (journal.Entry, error) {
	l.n.Add(1)
	return l.Journal.Last(ctx, subject)
}

// States that are large in sum do not stay in memory; they are read again, and
// are what they were. What is small stays.
func TestStatesBeyondTheLimitAreForgottenAndReadAgain(t *testing.T) {
	const runs = 40
	for name, limit := range map[string]int64{"small": 0, "large": 4096} {
		t.Run(name, func(t *testing.T) {
			log := &looked{Journal: journal.NewMemory(nil).Open()}
			f := startWith(t, owner.Options{Journal: log, Catalogs: catalogs{compile(t, definitions)}, Instance: "e1", Resident: limit})
			for i := range runs {
				if a := f.begin(t, fmt.Sprint("r", i), "job"); a.Status != events.StatusApplied {
					t.Fatalf("%+v", a)
				}
			}
			begun := log.n.Load()
			readAll := func() {
				for i := range runs {
					if s := f.run(t, fmt.Sprint("r", i)); s == nil || s.Done() {
						t.Fatalf("run %d is %+v", i, s)
					}
				}
			}
			readAll()
			if limit == 0 {
				if n := log.n.Load(); n != begun {
					t.Errorf("%d states were read again", n-begun)
				}
				return
			}
			for deadline := time.Now().Add(20 * time.Second); log.n.Load() == begun && time.Now().Before(deadline); {
				readAll()
			}
			if log.n.Load() == begun {
				t.Fatal("no state was read again")
			}
			// What was forgotten goes on as if it had not been.
			for i := range runs {
				in := record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{ID: "c", Run: fmt.Sprint("r", i)}}
				if a := f.Do(t.Context(), record.Run, in.Cancel.Run, in); a.Status != events.StatusApplied || a.Record != 2 {
					t.Errorf("run %d: %+v", i, a)
				}
			}
		})
	}
}
