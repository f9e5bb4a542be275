package relay_test

import (
	"crypto/ed25519"
	"sync"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/relay"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// taker takes all messages at once.
type taker struct {
	journal.Publisher
	took *sync.WaitGroup
}

func (t taker) Publish(msgs ...journal.Message) {
	go func() {
		for _, m := range msgs {
			m.Done(1, nil)
			t.took.Done()
		}
	}()
}

// BenchmarkCarryOut carries out the records of 256 tasks that have ended: the
// next task of each, signed, and three events.
func BenchmarkCarryOut(b *testing.B) {
	const n = 256
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	var took sync.WaitGroup
	r := relay.New(relay.Options{Journal: journal.NewMemory(nil).Open(), Tasks: taker{took: &took}, Out: taker{took: &took}, Key: key})
	if _, err := r.Take(b.Context(), map[int]owner.Taken{7: {}}); err != nil {
		b.Fatal(err)
	}
	recs := make([]*record.Record, n)
	for i := range recs {
		id := record.Derive("bench", i)
		recs[i] = &record.Record{Aggregate: record.Run, ID: id, V: 3, T: 1_700_000_000_000,
			Tasks: []*events.Task{{ID: id, Run: id, Workflow: "bench", State: "two", Attempt: 1, Pool: "default", Kind: "bench", Runs: events.RunsRepeatable, AtOnce: true}}}
		for _, kind := range []string{events.TaskFinished, events.StateEntered, events.TaskQueued} {
			recs[i].Events = append(recs[i].Events, record.Emitted{Type: kind, Data: events.Happening{Run: id, Workflow: "bench", State: "two", Record: 3}})
		}
	}
	seq := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		took.Add(4 * n)
		for _, rec := range recs {
			seq++
			r.Begin(7).Stored(owner.Mark{Seq: seq}, rec)
		}
		took.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
}
