package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/scale"
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

// counted counts the records that are read of each partition.
type counted struct {
	journal.Journal
	read map[int]int
}

func (c *counted) LastPerSubject(ctx context.Context, filters []string, fn func(journal.Entry) error) error {
	return c.Journal.LastPerSubject(ctx, filters, func(e journal.Entry) error {
		c.read[events.LogPartition(e.Subject)]++
		return fn(e)
	})
}

// waiting is a follower of a log with runs, and what it has told of them.
func waiting(t *testing.T, runs int) (*follower, *counted, map[string]int) {
	log := &counted{journal.NewMemory(nil).Open(), map[int]int{}}
	t.Cleanup(func() { log.Close(context.Background()) })
	if _, err := scale.Fill(t.Context(), log, runs, 1024); err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	f := newFollower(log, func(e owner.Entry) { told[e.ID]++ }, slog.New(slog.DiscardHandler))
	if err := f.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f, log, told
}

func partitionsFrom(first, end int) (vps []int) {
	for vp := first; vp < end; vp++ {
		vps = append(vps, vp)
	}
	return vps
}

// Whoever takes a partition reads it, and that suffices.
func TestWhatIsTakenAtTheStartIsNotReadBefore(t *testing.T) {
	for _, taken := range []int{events.Partitions, events.Partitions - 10, 10} {
		f, log, told := waiting(t, 600)
		if err := f.load(t.Context(), partitionsFrom(0, taken), func() error { return nil }); err != nil || f.owing() {
			t.Fatalf("%v, and something is owed: %v", err, f.owing())
		}
		want := 0
		for vp, n := range log.read {
			if vp >= taken {
				want += n
			} else if events.Partitions-taken < 128 { // where most is read, all is
				t.Errorf("%d records of partition %d are read, which is taken", n, vp)
			}
		}
		if len(told) != want || taken < events.Partitions && want == 0 {
			t.Errorf("%d partitions are taken: %d runs are told, want %d", taken, len(told), want)
		}
		if err := f.caughtUp(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// What could not be taken is told all the same, and nothing is told twice.
func TestWhatCouldNotBeTakenIsStillTold(t *testing.T) {
	const runs = 600
	f, _, told := waiting(t, runs)
	failed := errors.New("not taken")
	if err := f.load(t.Context(), partitionsFrom(0, 100), func() error { return failed }); !errors.Is(err, failed) || !f.owing() {
		t.Fatalf("%v, and something is owed: %v", err, f.owing())
	}
	if len(told) == 0 || len(told) == runs {
		t.Fatalf("%d runs are told", len(told))
	}
	if err := f.load(t.Context(), nil, nil); err != nil || f.owing() {
		t.Fatalf("%v, and something is owed: %v", err, f.owing())
	}
	if len(told) != runs {
		t.Errorf("%d runs are told, of %d", len(told), runs)
	}
	for id, n := range told {
		if n != 1 {
			t.Errorf("%s is told %d times", id, n)
		}
	}
}

// knows fails unless an engine lists exactly so many runs.
func (m *member) knows(t *testing.T, runs int) {
	t.Helper()
	var list events.RunList
	m.asks(t, events.VerbList, events.ListRuns{Limit: 1000}, &list)
	if len(list.Runs) != runs {
		t.Errorf("%s lists %d runs, want %d", m.o.Instance, len(list.Runs), runs)
	}
}

func TestAnEngineKnowsAllRunsWhetherItStartsAloneOrNot(t *testing.T) {
	const runs = 24
	external := natsApart(t)
	a := join(t, external, "a")
	a.asks(t, events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: asking}}}, nil)
	for i := range runs {
		a.asks(t, events.VerbStart, events.StartRun{ID: fmt.Sprint("s", i), Workflow: "asking"}, nil)
	}
	a.stop()
	if err := <-a.ended; err != nil {
		t.Fatal(err)
	}
	first := join(t, external, "first") // takes everything
	first.knows(t, runs)
	second := join(t, external, "second") // takes a share
	second.knows(t, runs)
	until(t, first, second)
	first.knows(t, runs)
}
