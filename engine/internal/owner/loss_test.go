package owner_test

import (
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// A power cut of the server takes the newest record while its owner lives on:
// the owner sees it when the server is there again, and stops nothing else.
func TestALivingOwnerStopsWhatHasLostItsTail(t *testing.T) {
	for name, since := range map[string]string{"nothing was stored since": "", "the sequence was used again": "r3"} {
		t.Run(name, func(t *testing.T) {
			m := journal.NewMemory(nil)
			g := newGroup(t, m)
			n := g.join("a")
			n.take(t, all()...)
			n.Do(t.Context(), record.Run, "r1", startOf("r1"))
			n.Do(t.Context(), record.Run, "r2", startOf("r2"))
			m.LoseTail(1)
			if since != "" {
				n.Do(t.Context(), record.Run, since, startOf(since))
			}
			vp := events.Partition(record.Run, "r2")
			n.await(t, "the partition is stopped", func() bool { return n.stopped[vp] != nil })
			n.note(func() {
				if len(n.stopped) != 1 {
					t.Errorf("stopped: %v, want partition %d", n.stopped, vp)
				}
			})
			if x := n.Do(t.Context(), record.Run, "r1", startOf("r1")); x.Status != events.StatusAlready {
				t.Errorf("another partition: %+v", x)
			}
			if x := n.Do(t.Context(), record.Run, "r2", startOf("r2")); x.Code != events.CodeStopped {
				t.Errorf("the partition that has lost a record: %+v", x)
			}
		})
	}
}

// await waits until ok holds; ok is called with the notes locked.
func (n *node) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		held := false
		n.note(func() { held = ok() })
		if held {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
