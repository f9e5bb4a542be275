package broker

import (
	"log/slog"
	"testing"
)

func TestWritingStopsBeforeTheDiskIsFullAndGoesOnWithSomeToSpare(t *testing.T) {
	var free int64
	closed := false
	s := &space{dir: "d", reserve: 100 << 20, log: slog.New(slog.DiscardHandler),
		free:  func(string) (int64, error) { return free, nil },
		limit: func(c bool) error { closed = c; return nil }}
	for _, step := range []struct {
		free   int64 // MiB
		closed bool
	}{{500, false}, {100, false}, {99, true}, {0, true}, {110, true}, {125, false}, {110, false}, {50, true}} {
		free = step.free << 20
		s.look()
		if closed != step.closed || (s.why() != nil) != step.closed {
			t.Errorf("with %d MiB free writing is stopped: %v (%v), want %v", step.free, closed, s.why(), step.closed)
		}
	}
}

func TestReserveFitsTheDisk(t *testing.T) {
	for total, want := range map[int64]int64{100 << 20: 32 << 20, 5 << 30: 5 << 30 / 50, 1 << 40: 256 << 20} {
		if got := reserveOf(total); got != want {
			t.Errorf("of %d bytes %d are kept, want %d", total, got, want)
		}
	}
}
