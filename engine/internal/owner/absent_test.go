package owner_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/events"
)

// A start of a run that has no record asks the store for nothing, and one that
// was started before, by this engine or by the one before it, is known.
func TestAStartNeedNotAskTheStoreAndARepeatIsKnown(t *testing.T) {
	m := journal.NewMemory(nil)
	begin := func() (*fixture, *sync.Map) {
		asked, seen := &sync.Map{}, &sync.Map{}
		j := &meddled{Journal: m.Open(), last: func(subject string) error { asked.Store(subject, true); return nil }}
		f := startWith(t, owner.Options{Journal: j, Catalogs: catalogs{compile(t, definitions)}, Instance: "e",
			Observe: func(e owner.Entry) { seen.Store(e.Aggregate+e.ID, true) },
			Absent:  func(agg, id string) bool { _, there := seen.Load(agg + id); return !there }})
		return f, asked
	}
	f, asked := begin()
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusApplied {
		t.Fatalf("the start: %+v", a)
	}
	if _, ok := asked.Load(events.LogSubject("run", "r1")); ok {
		t.Error("the store was asked for a run that there cannot be")
	}
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusAlready {
		t.Errorf("the start repeated: %+v", a)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f.Close(ctx)
	f, asked = begin()
	if a := f.begin(t, "r1", "job"); a.Status != events.StatusAlready {
		t.Errorf("the start repeated after a restart: %+v", a)
	}
	if _, ok := asked.Load(events.LogSubject("run", "r1")); !ok {
		t.Error("the store was not asked for a run that there is")
	}
}
