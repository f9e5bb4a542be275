package owner_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// cancelOf is the input that cancels a run.
func cancelOf() record.Input {
	return record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{}}
}

func TestAConfirmedLossLetsThePartitionGoOnForGood(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	a.Do(t.Context(), record.Run, "r1", startOf("r1"))
	b := g.handOver(a, "b")
	m.LoseTail(1)
	b.take(t, all()...)
	b.wantStopped(t, "r1", "the tail of the record was lost")
	vp := events.Partition(record.Run, "r1")

	no := errors.New("the audit log cannot be written")
	if err := b.NewEpoch(t.Context(), vp, func(owner.Epoch) error { return no }); !errors.Is(err, no) {
		t.Fatalf("a loss that is not recorded: %v", err)
	}
	b.wantStopped(t, "r1", "the tail of the record was lost")

	var told owner.Epoch
	if err := b.NewEpoch(t.Context(), vp, func(e owner.Epoch) error { told = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if told.Partition != vp || told.Known.Last == 0 || told.Known.Hash == "" || told.Newest.Seq != 0 || !strings.Contains(told.Stopped, "lost") {
		t.Errorf("told: %+v", told)
	}
	if x := b.Do(t.Context(), record.Run, "r1", startOf("r1")); x.Status != events.StatusApplied {
		t.Errorf("the run that was lost is started again: %+v", x)
	}
	c := g.handOver(b, "c")
	c.take(t, all()...)
	if s := c.Stopped(); len(s) > 0 {
		t.Errorf("the next engine stops %v", s)
	}
	if err := c.NewEpoch(t.Context(), vp, func(owner.Epoch) error { return nil }); err == nil || !strings.Contains(err.Error(), "not stopped") {
		t.Errorf("a new epoch of what goes on: %v", err)
	}
}

func TestAHoleThatWasConfirmedIsNotFoundAgain(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	a.Do(t.Context(), record.Run, "r1", startOf("r1"))
	meddle(t, m, "r1", func(f map[string]any) { f["v"] = 9 })
	b := g.join("b")
	b.take(t, all()...)
	b.wantStopped(t, "r1", "version 9 does not follow version 1")
	if err := b.NewEpoch(t.Context(), events.Partition(record.Run, "r1"), func(owner.Epoch) error { return nil }); err != nil {
		t.Fatal(err)
	}
	c := g.join("c") // b is killed
	c.take(t, all()...)
	if x := c.Do(t.Context(), record.Run, "r1", cancelOf()); x.Status != events.StatusApplied || x.Record != 10 {
		t.Errorf("the run goes on: %+v; stopped: %v", x, c.Stopped())
	}
}

func TestARunWhoseRecordIsUnreadableIsClosedAndItsNeighboursGoOn(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	neighbour := sharing("r1")
	a.Do(t.Context(), record.Run, neighbour, startOf(neighbour))
	put(t, m, "r1", []byte("{"))
	b := g.join("b")
	b.take(t, all()...)
	b.wantStopped(t, "r1", "record")
	var told owner.Epoch
	if err := b.NewEpoch(t.Context(), events.Partition(record.Run, "r1"), func(e owner.Epoch) error { told = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(told.Unreadable) != 1 || told.Unreadable[0].Subject != events.LogSubject(record.Run, "r1") || told.Unreadable[0].Why == "" {
		t.Errorf("told: %+v", told)
	}
	c := g.handOver(b, "c")
	c.take(t, all()...)
	if x := c.Do(t.Context(), record.Run, neighbour, cancelOf()); x.Status != events.StatusApplied {
		t.Errorf("its neighbour: %+v", x)
	}
	if x := c.Do(t.Context(), record.Run, "r1", cancelOf()); x.Status != events.StatusError || !strings.Contains(x.Reason, "cannot be read") {
		t.Errorf("the unreadable run: %+v", x)
	}
	if s := c.Stopped(); len(s) > 0 {
		t.Errorf("stopped: %v", s)
	}
}

func TestWhatANewerVersionHasWrittenIsNoLossToConfirm(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"a newer form": func(f map[string]any) { f["f"] = record.FormatVersion + 1 },
		"an unknown aggregate": func(f map[string]any) {
			f["agg"] = "moon"
			delete(f, "h")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := journal.NewMemory(nil)
			g := newGroup(t, m)
			a := g.join("a")
			a.take(t, all()...)
			a.Do(t.Context(), record.Run, "r1", startOf("r1"))
			meddle(t, m, "r1", change)
			b := g.join("b")
			b.take(t, all()...)
			err := b.NewEpoch(t.Context(), events.Partition(record.Run, "r1"), func(owner.Epoch) error {
				t.Error("a loss is recorded")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), "run the newer version") {
				t.Errorf("%v", err)
			}
			if s := b.Stopped(); len(s) != 1 {
				t.Errorf("stopped: %v", s)
			}
		})
	}
}
