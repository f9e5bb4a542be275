package janitor_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// archive is LOG and the audit log, and whoever makes room in LOG.
type archive struct {
	*world
	js    jetstream.JetStream
	log   *journal.Log
	store *shaky
	r     *janitor.Records
	later time.Duration // that has passed for the janitor
	hash  map[string]string
}

func newArchive(t testing.TB) *archive {
	w := newWorldOf(t, 0)
	a := &archive{world: w, hash: map[string]string{}}
	var err error
	if a.js, err = jetstream.New(w.b.Engine); err != nil {
		t.Fatal(err)
	}
	a.open()
	t.Cleanup(func() { _ = a.log.Close(context.Background()) })
	kv, err := a.js.KeyValue(t.Context(), events.BucketDefs)
	if err != nil {
		t.Fatal(err)
	}
	passed := map[int]uint64{}
	for vp := range events.Partitions {
		passed[vp] = 1 << 60
	}
	a.store = &shaky{Store: audit.Open(a.js)}
	a.r = &janitor.Records{Audit: a.store, Log: a.js, Marks: kv, Passed: func(context.Context) (map[int]uint64, error) { return passed, nil }, Keep: time.Hour,
		Now: func() time.Time { return time.Now().Add(a.later) }}
	return a
}

// open opens LOG, and makes it when it is not there.
func (a *archive) open() {
	a.Helper()
	err := journal.EnsureStreams(a.Context(), a.js, journal.Streams(1)...)
	if err != nil {
		a.Fatal(err)
	}
	if a.log, err = journal.Open(a.Context(), a.js, journal.Options{Sync: journal.SyncLazy}); err != nil {
		a.Fatal(err)
	}
	all := make([]int, events.Partitions)
	for vp := range all {
		all[vp] = vp
	}
	if err := a.log.Own(a.Context(), all, []byte("owner")); err != nil {
		a.Fatal(err)
	}
}

// run stores a run of so many records; its last one ends it when done.
func (a *archive) run(id string, records int, done bool) {
	a.Helper()
	var work sync.WaitGroup
	for v := 1; v <= records; v++ {
		r := &record.Record{Aggregate: record.Run, ID: id, V: int64(v), Prev: a.hash[id], T: time.Now().UnixMilli(),
			Summary: &record.Summary{Status: "running"}, State: []byte(`{"x":"` + strings.Repeat("y", 500) + `"}`)}
		if done && v == records {
			r.Summary.Status = "done"
		}
		data, err := r.Encode()
		if err != nil {
			a.Fatal(err)
		}
		a.hash[id] = record.Hash(data)
		work.Add(1)
		a.log.Append(events.Partition(record.Run, id), events.LogSubject(record.Run, id), data, func(_ uint64, err error) {
			if err != nil {
				a.Error(err)
			}
			work.Done()
		})
	}
	work.Wait()
}

// write brings LOG into the audit log, all but so many probes at its end.
func (a *archive) write(probes ...uint64) {
	a.Helper()
	last, err := a.log.Last(a.Context(), ">")
	if err != nil {
		a.Fatal(err)
	}
	w := audit.NewWriter(audit.Options{Source: a.log, Store: a.store})
	ctx, stop := context.WithCancel(a.Context())
	var work sync.WaitGroup
	work.Go(func() { w.Run(ctx) })
	for deadline := time.Now().Add(time.Minute); w.Confirmed() < last.Seq-slices.Max(append(probes, 0)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.Fatalf("the audit log stays at %d of %d", w.Confirmed(), last.Seq)
		}
	}
	stop()
	work.Wait()
}

func (a *archive) records(id string) int {
	a.Helper()
	list, err := a.log.History(a.Context(), events.LogSubject(record.Run, id))
	if err != nil {
		a.Fatal(err)
	}
	return len(list)
}

func (a *archive) tidy() {
	a.Helper()
	for more := true; more; {
		var err error
		if more, err = a.r.Sweep(a.Context()); err != nil {
			a.Fatal(err)
		}
	}
}

// shaky is an audit log whose writes fail, at random or all of them.
type shaky struct {
	audit.Store
	mu    sync.Mutex
	rng   *rand.Rand
	never bool
}

func (s *shaky) Append(ctx context.Context, after uint64, msgs []audit.Out) error {
	s.mu.Lock()
	lost, unheard := s.never, false
	if s.rng != nil {
		lost, unheard = lost || s.rng.IntN(3) == 0, s.rng.IntN(3) == 0
	}
	s.mu.Unlock()
	if lost {
		return errors.New("it did not arrive")
	}
	if err := s.Store.Append(ctx, after, msgs); err != nil || !unheard {
		return err
	}
	return errors.New("the answer did not arrive")
}

func TestRecordsOfWhatHasEndedAreRemovedAfterAWhile(t *testing.T) {
	a := newArchive(t)
	a.run("done", 20, true)
	a.run("waits", 20, false)
	a.tidy()
	a.later = 2 * time.Hour
	a.tidy()
	if n := a.records("done"); n != 20 {
		t.Fatalf("%d records are left, and the audit log has none of them", n)
	}
	a.write()
	a.later = 0
	a.tidy()
	if n := a.records("done"); n != 20 {
		t.Fatalf("%d records are left of a run that has just ended", n)
	}
	a.later = 2 * time.Hour
	a.r.Passed = func(context.Context) (map[int]uint64, error) { return nil, nil }
	a.tidy()
	if n := a.records("done"); n != 20 {
		t.Fatalf("%d records are left, and the relay has not carried them out", n)
	}
}

func TestTheLastRecordStaysForAMonthAndHistoryForEver(t *testing.T) {
	a := newArchive(t)
	a.run("done", 20, true)
	a.run("waits", 20, false)
	a.write()
	for _, step := range []struct {
		later      time.Duration
		done, kept int
	}{{2 * time.Hour, 1, 20}, {29 * 24 * time.Hour, 1, 20}, {31 * 24 * time.Hour, 0, 20}} {
		a.later = step.later
		a.tidy()
		if d, w := a.records("done"), a.records("waits"); d != step.done || w != step.kept {
			t.Errorf("after %v: %d records of the run that has ended, %d of the one that waits; want %d and %d", step.later, d, w, step.done, step.kept)
		}
		list, err := audit.History(t.Context(), a.log, a.store, record.Run, "done", time.Now())
		if err != nil || len(list) != 20 || record.Hash(list[19].Data) != a.hash["done"] {
			t.Errorf("after %v its history has %d records, %v", step.later, len(list), err)
		}
	}
	a.tidy() // once more does no harm
	// The newest message of LOG stays, whoever it is of: it says where LOG ends.
	a.run("newest", 3, true)
	a.write()
	a.tidy()
	if n := a.records("newest"); n != 1 {
		t.Errorf("%d records are left of the run that LOG ends with, want 1", n)
	}
	a.run("newer", 3, true)
	a.write()
	a.tidy()
	if n := a.records("newest"); n != 0 {
		t.Errorf("%d records are left of the run that LOG ended with, which it does not any more", n)
	}
}

// A partition of which something is not carried out yet, perhaps for days, keeps
// its records, and no other keeps any because of it. They go afterwards.
func TestWhatWasNotCarriedOutInTimeIsRemovedLater(t *testing.T) {
	a := newArchive(t)
	a.run("stays", 4, true)
	slow := events.Partition(record.Run, "stays")
	here := func(from int) string { // a run of the same partition
		for ; events.Partition(record.Run, fmt.Sprint("r", from)) != slow; from++ {
		}
		return fmt.Sprint("r", from)
	}
	second := here(0)
	a.run("goes", 4, true)
	a.run(second, 4, true)
	a.write()
	a.later = 32 * 24 * time.Hour
	passed, err := a.r.Passed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	upTo := func(seq uint64) {
		passed = maps.Clone(passed)
		passed[slow] = seq
	}
	a.r.Passed = func(context.Context) (map[int]uint64, error) { return passed, nil }
	left := func(want ...int) {
		t.Helper()
		a.tidy()
		a.tidy()
		if got := []int{a.records("stays"), a.records("goes"), a.records(second)}; !slices.Equal(got, want) {
			t.Errorf("%v records are left of the runs, want %v", got, want)
		}
	}
	upTo(events.Partitions + 1)
	left(4, 0, 4)
	a.run("newest", 4, true)
	a.write()
	left(4, 0, 4)
	upTo(events.Partitions + 4)
	left(0, 0, 4)
	upTo(1 << 60)
	left(0, 0, 0)
	third := here(1000)
	a.run(third, 4, true)
	a.run("last", 1, false)
	a.write()
	a.tidy()
	if n := a.records(third) + a.records("newest"); n != 0 {
		t.Errorf("%d records are left of runs that have ended after the partition had caught up", n)
	}
}

// lose makes LOG anew, as it is after its end was lost: without what was in it.
func (a *archive) lose() {
	a.Helper()
	if err := a.log.Close(a.Context()); err != nil {
		a.Fatal(err)
	}
	if err := a.js.DeleteStream(a.Context(), events.StreamLog); err != nil {
		a.Fatal(err)
	}
	clear(a.hash)
	a.open()
}

// What the audit log knows to have ended, LOG may have lost the end of. Then
// its older records are what there is of it, whatever is in place of the lost one.
func TestOlderRecordsStayWhenTheLastOneIsLost(t *testing.T) {
	for name, again := range map[string]func(*archive){
		"lost":              func(a *archive) { a.run("done", 19, false) },
		"another's instead": func(a *archive) { a.run("done", 19, false); a.run("other", 1, false) },
		"another instead":   func(a *archive) { a.run("done", 20, false) },
	} {
		a := newArchive(t)
		a.run("done", 20, true)
		a.run("newest", 1, false)
		a.write()
		a.lose()
		again(a)
		before := a.records("done")
		a.later = 32 * 24 * time.Hour
		a.tidy()
		if n := a.records("done"); n != before {
			t.Errorf("%s: %d records are left of %d", name, n, before)
		}
	}
}

// I16: whatever happens to the audit log's writes, and whenever the janitor
// comes, no record is removed from LOG that is not in the audit log.
func TestNothingIsRemovedThatIsNotInTheAuditLog(t *testing.T) {
	for seed := range uint64(3) {
		a := newArchive(t)
		a.later = 2 * time.Hour
		a.store.rng = rand.New(rand.NewPCG(seed, 16))
		w := audit.NewWriter(audit.Options{Source: a.log, Store: a.store})
		ctx, stop := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { w.Run(ctx) })
		const runs = 25
		for i := range runs {
			a.run(fmt.Sprint("r", i), 2+i%7, true)
			if i%5 == 0 {
				a.tidy()
				for j := range i + 1 {
					list, err := audit.History(ctx, a.log, a.store, record.Run, fmt.Sprint("r", j), time.Time{})
					if err != nil || len(list) != 2+j%7 {
						t.Fatalf("seed %d: run %d has %d records, %v", seed, j, len(list), err)
					}
				}
			}
		}
		last, err := a.log.Last(ctx, ">")
		if err != nil {
			t.Fatal(err)
		}
		for w.Confirmed() < last.Seq {
			time.Sleep(5 * time.Millisecond)
		}
		a.tidy()
		for i := range runs {
			if n := a.records(fmt.Sprint("r", i)); n != 1 {
				t.Errorf("seed %d: run %d has %d records left, want 1", seed, i, n)
			}
		}
		stop()
		work.Wait()
	}
}

func (a *archive) probe(n int) {
	a.Helper()
	for range n {
		if err := journal.Probe(a.Context(), a.js, events.StreamLog); err != nil {
			a.Fatal(err)
		}
	}
}

// Where nothing is recorded LOG is probed. That is no loss of records, and does
// not pile up.
func TestProbesAreNoGapInTheAuditLogAndAreRemovedBehindIt(t *testing.T) {
	a := newArchive(t)
	size := func() uint64 {
		t.Helper()
		s, err := a.js.Stream(t.Context(), events.StreamLog)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	a.run("one", 2, false)
	a.probe(3)
	a.run("two", 2, false)
	a.probe(2)
	records := size() - 5
	a.write(2)
	a.tidy()
	if left := size() - records; left < 1 || left > 2 {
		t.Errorf("%d probes are left; want those behind the last record, or the last one", left)
	}
	a.probe(1000)
	a.write(719)
	a.tidy()
	if left := size() - records; left < 1 || left > 719 {
		t.Errorf("%d probes are left of 1000 with no record among them; want those of an hour at most", left)
	}
	a.run("three", 2, false)
	a.write(0)
	report, err := audit.VerifyLog(t.Context(), a.store)
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("the audit log does not verify: %v %v", report.Problems, err)
	}
}

// BenchmarkCompaction is what it costs to remove the records of a run that has
// ended, of 20, from between others.
func BenchmarkCompaction(b *testing.B) {
	a := newArchive(b)
	for i := range b.N {
		a.run(fmt.Sprint("r", i), 20, true)
	}
	a.write()
	a.later = 2 * time.Hour
	b.ResetTimer()
	a.r.Share(1)
	a.tidy()
}
