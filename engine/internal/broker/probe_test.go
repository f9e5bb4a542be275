package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// A stream that is written to is not probed; one that is not is, and what
// comes of it is told once.
func TestProberTellsOnceAndGivesUpWhenItStaysFrozen(t *testing.T) {
	var last uint64
	var fails, lost error
	writes := 0
	var told []string
	broken := map[string]error{}
	p := &prober{stream: "S", giveUp: func(err error) { lost = err },
		last:   func(context.Context) (uint64, error) { return last, nil },
		write:  func(context.Context) error { writes++; return fails },
		tell:   func(f Frozen) { told = append(told, fmt.Sprint(f.Stream, ": ", f.Err)) },
		broken: func(stream string, err error) { broken[stream] = err }}
	look := func(want int) {
		t.Helper()
		if p.look(t.Context()); writes != want {
			t.Fatalf("%d probes were written, want %d", writes, want)
		}
	}
	last = 7
	look(0) // somebody wrote
	look(1) // nobody did
	last = 8
	look(2) // what was written is the probe itself
	last = 10
	look(2) // somebody else wrote
	fails = fmt.Errorf("limit: %w", journal.ErrFull)
	look(3)
	if len(told) != 0 || broken["S"] != nil {
		t.Fatalf("a full stream is taken for a frozen one: %v, %v", told, broken)
	}
	fails = errors.New("no answer")
	look(4)
	if len(told) != 0 || broken["S"] == nil {
		t.Fatalf("after one failure: told %v, broken %v; want it not ready and not yet told", told, broken)
	}
	look(5)
	look(6)
	if len(told) != 1 || told[0] != "S: stream S takes no writes: no answer" || lost != nil {
		t.Fatalf("after three failures: told %v, given up %v", told, lost)
	}
	look(7)
	if !errors.Is(lost, ErrFrozen) {
		t.Fatalf("after four failures: given up with %v", lost)
	}
	fails = nil
	look(8)
	if len(told) != 2 || told[1] != "S: <nil>" || broken["S"] != nil {
		t.Errorf("when it takes writes again: told %v, broken %v", told, broken)
	}
}

// What probes leave in a stream stays small, its last sequence never goes
// back, and who reads the log is given them: no sequence seems to be missing.
func TestProbesLeaveNothingBehind(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(b.Engine)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, stream := range journal.Probed {
			if err := journal.Probe(t.Context(), js, stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	j, err := journal.Open(t.Context(), js, journal.Options{Sync: SyncLazy})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(t.Context())
	given := 0
	if err := j.From(t.Context(), 0, func(e journal.Entry) error { given++; return nil }); err != nil || given != 5 {
		t.Errorf("a reader was given %d messages and %v", given, err)
	}
	for range 2 { // again, it changes nothing
		if err := journal.ForgetProbes(t.Context(), js, 5); err != nil {
			t.Fatal(err)
		}
	}
	for _, stream := range journal.Probed {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if st := s.CachedInfo().State; st.Msgs != 1 || st.LastSeq != 5 {
			t.Errorf("%s has %d messages and ends at %d, want one at 5", stream, st.Msgs, st.LastSeq)
		}
	}
	if m, err := j.LoadCheckpoints(t.Context()); err != nil || len(m) != 0 {
		t.Errorf("there are checkpoints %v, %v", m, err)
	}
}

// A server that could not write a stream says so, and is given up at once.
func TestServerThatCannotWriteIsGivenUp(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What an error of the disk makes the server write to its log.
	b.server.Errorf("Filestore [%s] Critical write error: %v", events.StreamLog, "input/output error")
	select {
	case <-b.Lost().Done():
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
	if err := context.Cause(b.Lost()); !errors.Is(err, ErrFrozen) {
		t.Errorf("the cause is %v", err)
	}
}
