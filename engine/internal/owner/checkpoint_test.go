package owner_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// startOf is the input that starts a run of the workflow "job".
func startOf(id string) record.Input {
	return record.Input{ID: "start-" + id, Kind: record.InStart, By: "admin", Admin: true, Start: &record.Start{Run: id, Workflow: "job"}}
}

// wantStopped checks that of all partitions only that of a run is stopped.
func (n *node) wantStopped(t *testing.T, id, why string) {
	t.Helper()
	vp := events.Partition(record.Run, id)
	got := n.Stopped()
	if err := got[vp]; err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("the partition of %s: %v, want %q", id, err, why)
	}
	if len(got) != 1 {
		t.Errorf("stopped: %v", got)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.stopped[vp]; err == nil || len(n.stopped) != 1 {
		t.Errorf("reported as stopped: %v", n.stopped)
	}
	a := n.Do(t.Context(), record.Run, id, record.Input{ID: "c", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{}})
	if a.Final() || a.Code != events.CodeStopped || !strings.Contains(a.Reason, why) {
		t.Errorf("a command for it is answered %+v", a)
	}
}

// handOver gives everything back and lets a new engine take it.
func (g *group) handOver(from *node, name string) *node {
	g.t.Helper()
	if err := from.Release(g.t.Context(), all()); err != nil {
		g.t.Fatal(err)
	}
	return g.join(name)
}

func TestALostTailStopsItsPartitionAndTheOthersGoOn(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	a.Do(t.Context(), record.Run, "r1", startOf("r1"))
	a.Do(t.Context(), record.Run, "r2", startOf("r2"))
	b := g.handOver(a, "b")
	m.LoseTail(1)
	b.take(t, all()...)
	b.wantStopped(t, "r2", "the tail of the record was lost")
	if x := b.Do(t.Context(), record.Run, "r1", startOf("r1")); x.Status != events.StatusAlready {
		t.Errorf("another partition: %+v", x)
	}
}

func TestASequenceThatWasUsedAgainStopsThePartition(t *testing.T) {
	for name, later := range map[string]func(g *group, n *node){
		"by a record of the same run": func(g *group, n *node) { n.Do(g.t.Context(), record.Run, "r2", startOf("r2")) },
		"by a record of another partition": func(g *group, n *node) {
			n.Do(g.t.Context(), record.Run, "r3", startOf("r3"))
			n.Do(g.t.Context(), record.Run, "r2", startOf("r2"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := journal.NewMemory(nil)
			g := newGroup(t, m)
			a := g.join("a")
			a.take(t, all()...)
			a.Do(t.Context(), record.Run, "r1", startOf("r1"))
			a.Do(t.Context(), record.Run, "r2", startOf("r2"))
			b := g.handOver(a, "b")
			m.LoseTail(1)
			restore(t, m, func() { // somebody who knows no checkpoints goes on meanwhile
				c := startWith(t, owner.Options{Journal: m.Open(), Catalogs: catalogs{compile(t, definitions)}, Instance: "c", Beat: time.Second, BeatOut: time.Minute})
				later(g, &node{Owner: c.Owner})
				c.Close(t.Context())
			})
			b.take(t, all()...)
			b.wantStopped(t, "r2", "knows another record at sequence")
		})
	}
}

// restore runs f as if there were no checkpoints.
func restore(t *testing.T, m *journal.Memory, f func()) {
	t.Helper()
	j := m.Open()
	stored, err := j.LoadCheckpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	none := map[int][]byte{}
	for vp := range stored {
		none[vp] = []byte("{}")
	}
	if err := j.Checkpoint(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	f()
	if err := j.Checkpoint(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
}

// meddle stores a changed copy of a run's last record behind it.
func meddle(t *testing.T, m *journal.Memory, id string, change func(fields map[string]any)) {
	t.Helper()
	j := m.Open()
	subject := events.LogSubject(record.Run, id)
	last, err := j.Last(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(last.Data, &fields); err != nil {
		t.Fatal(err)
	}
	fields["v"], fields["prev"] = fields["v"].(float64)+1, record.Hash(last.Data)
	change(fields)
	p, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	put(t, m, id, p)
}

// put stores bytes as a record of a run.
func put(t *testing.T, m *journal.Memory, id string, p []byte) {
	t.Helper()
	j := m.Open()
	vp := events.Partition(record.Run, id)
	if err := j.Own(t.Context(), []int{vp}, []byte("meddler")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	j.Append(vp, events.LogSubject(record.Run, id), p, func(_ uint64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestARecordThatIsNotWhatItShouldBeStopsItsPartitionAtATake(t *testing.T) {
	for name, c := range map[string]struct {
		change func(fields map[string]any)
		why    string
	}{
		"of a newer form":            {func(f map[string]any) { f["f"] = record.FormatVersion + 1 }, "run the newer version"},
		"of an unknown aggregate":    {func(f map[string]any) { f["agg"] = "novel" }, ""},
		"of another run":             {func(f map[string]any) { f["id"] = "r9" }, "it is the record of run r9"},
		"with a hole before it":      {func(f map[string]any) { f["v"] = 9 }, "version 9 does not follow version 1"},
		"that follows another":       {func(f map[string]any) { f["prev"] = "00" }, "version 2 does not follow version 1"},
		"that follows none":          {func(f map[string]any) { delete(f, "prev") }, "names the record"},
		"whose state cannot be read": {func(f map[string]any) { f["state"] = "x" }, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			m := journal.NewMemory(nil)
			g := newGroup(t, m)
			a := g.join("a")
			a.take(t, all()...)
			a.Do(t.Context(), record.Run, "r1", startOf("r1"))
			meddle(t, m, "r1", c.change)
			b := g.join("b") // a was killed: its checkpoint may be of before
			b.take(t, all()...)
			b.wantStopped(t, "r1", c.why)
		})
	}
	t.Run("that is no record at all", func(t *testing.T) {
		m := journal.NewMemory(nil)
		g := newGroup(t, m)
		put(t, m, "r1", []byte{0, 1, 2})
		b := g.join("b")
		b.take(t, all()...)
		b.wantStopped(t, "r1", "record")
	})
}

func TestACheckpointThatCannotBeReadStopsItsPartition(t *testing.T) {
	m := journal.NewMemory(nil)
	vp := events.Partition(record.Run, "r1")
	if err := m.Open().Checkpoint(t.Context(), map[int][]byte{vp: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	n := newGroup(t, m).join("a")
	n.take(t, all()...)
	n.wantStopped(t, "r1", "its checkpoint cannot be read")
}

// What only a living owner can see: the record that it has read is gone, and
// no checkpoint has told of it yet.
func TestARecordThatIsOlderThanTheOneThatIsRememberedStopsThePartition(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	a.Do(t.Context(), record.Run, "r1", startOf("r1"))
	a.Do(t.Context(), record.Run, "r1", record.Input{ID: "s", Kind: record.InAttemptStart, By: "worker:w", Attempt: &record.Attempt{Task: g.taskOf("r1"), Worker: "w"}})
	m.LoseTail(1)
	unknownOnce(m, "r1", journal.FaultUnknownLost)
	if x := a.Do(t.Context(), record.Run, "r1", record.Input{ID: "f", Kind: record.InCancel, By: "admin", Admin: true, Cancel: &events.CancelRun{}}); x.Final() {
		t.Errorf("it is decided on what is not there: %+v", x)
	}
	a.wantStopped(t, "r1", "its last record is not the one that was acknowledged last")
}

// What was restored from a backup does nothing until somebody has looked.
func TestARestoredPartitionIsStoppedUntilANewEpoch(t *testing.T) {
	m := journal.NewMemory(nil)
	g := newGroup(t, m)
	a := g.join("a")
	a.take(t, all()...)
	a.Do(t.Context(), record.Run, "r1", startOf("r1"))
	b := g.handOver(a, "b")
	vp := events.Partition(record.Run, "r1")
	own := m.Open()
	if err := own.Own(t.Context(), []int{vp}, []byte("restore")); err != nil {
		t.Fatal(err)
	}
	if err := own.Checkpoint(t.Context(), map[int][]byte{vp: []byte(`{"stop":"restored from a backup"}`)}); err != nil {
		t.Fatal(err)
	}
	b.take(t, all()...)
	b.wantStopped(t, "r1", "restored from a backup")
	meanwhile := func(owner.Epoch) error { // it is stopped as long as the epoch has not begun
		if b.Stopped()[vp] == nil {
			t.Error("it is not said to be stopped any more, and does not go on yet")
		}
		again := b.NewEpoch(t.Context(), vp, func(owner.Epoch) error { return nil })
		if again == nil || !strings.Contains(again.Error(), "begins already") {
			t.Errorf("a second epoch meanwhile: %v", again)
		}
		return nil
	}
	if err := b.NewEpoch(t.Context(), vp, meanwhile); err != nil {
		t.Fatal(err)
	}
	if got := b.Stopped(); len(got) != 0 {
		t.Errorf("still stopped: %v", got)
	}
}
