package engine

import (
	"log/slog"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// What is no record may be the newest message of the log for long, and some
// of it, as probes, is given to no reader.
func TestWhoWaitsForTheLogWaitsForItsLastRecord(t *testing.T) {
	log := journal.NewMemory(nil).Open()
	defer log.Close(t.Context())
	vp := events.Partition(record.Run, "one")
	if err := log.Own(t.Context(), []int{vp}, []byte("first")); err != nil {
		t.Fatal(err)
	}
	stored := make(chan uint64, 1)
	log.Append(vp, events.LogSubject(record.Run, "one"), []byte("{}"), func(seq uint64, err error) {
		if err != nil {
			t.Error(err)
		}
		stored <- seq
	})
	want := <-stored
	if err := log.Own(t.Context(), []int{vp}, []byte("second")); err != nil {
		t.Fatal(err)
	}
	f := newFollower(log, func(owner.Entry) {}, slog.New(slog.DiscardHandler))
	if got, err := f.end(t.Context()); err != nil || got != want {
		t.Errorf("the last record is %d, %v; want %d", got, err, want)
	}
}
