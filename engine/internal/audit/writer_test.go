package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// logged is a LOG in memory, with a writer's tools beside it.
type logged struct {
	*testing.T
	mem   *journal.Memory
	log   journal.Journal
	store *Memory
	audit Store // store, or another one
	heads map[string]*record.Record
	hash  map[string]string

	mu      sync.Mutex
	stopped map[int]string
}

func newLogged(t *testing.T) *logged {
	l := &logged{T: t, mem: journal.NewMemory(nil), store: NewMemory(nil), heads: map[string]*record.Record{}, hash: map[string]string{}, stopped: map[int]string{}}
	l.audit = l.store
	l.open()
	return l
}

func (l *logged) open() {
	l.log = l.mem.Open()
	l.Cleanup(func() { _ = l.log.Close(context.Background()) })
	all := make([]int, events.Partitions)
	for vp := range all {
		all[vp] = vp
	}
	if err := l.log.Own(l.Context(), all, []byte("owner")); err != nil {
		l.Fatal(err)
	}
}

// add stores the next record of a run.
func (l *logged) add(id string) *record.Record {
	l.Helper()
	r := &record.Record{Aggregate: record.Run, ID: id, V: 1, State: []byte(`{"x":1}`)}
	if before := l.heads[id]; before != nil {
		r.V, r.Prev = before.V+1, l.hash[id]
	}
	l.put(r)
	return r
}

// put stores a record as it is.
func (l *logged) put(r *record.Record) {
	l.Helper()
	data, err := r.Encode()
	if err != nil {
		l.Fatal(err)
	}
	l.heads[r.ID], l.hash[r.ID] = r, record.Hash(data)
	l.bytes(r.Aggregate, r.ID, string(data))
}

// bytes stores what need not be a record.
func (l *logged) bytes(aggregate, id, data string) {
	l.Helper()
	done := make(chan error, 1)
	l.log.Append(events.Partition(aggregate, id), events.LogSubject(aggregate, id), []byte(data), func(_ uint64, err error) { done <- err })
	if err := <-done; err != nil {
		l.Fatal(err)
	}
}

func (l *logged) writer(name string) *Writer {
	w := NewWriter(Options{Source: l.log, Store: l.audit, Instance: name, Stop: func(vp int, err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stopped[vp] = err.Error()
	}})
	w.every, w.looks = 5*time.Millisecond, 20*time.Millisecond
	return w
}

// run runs writers until all that is in LOG is in the audit log.
func (l *logged) run(writers ...*Writer) {
	l.Helper()
	ctx, stop := context.WithCancel(l.Context())
	var work sync.WaitGroup
	for _, w := range writers {
		work.Go(func() { w.Run(ctx) })
	}
	l.await(func() bool { return l.position() >= l.end() })
	stop()
	work.Wait()
}

func (l *logged) await(done func() bool) {
	l.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatal("it does not come about")
		}
	}
}

func (l *logged) position() uint64 {
	p, err := find(l.Context(), l.audit)
	if err != nil {
		l.Fatal(err)
	}
	if p.open() {
		return 0
	}
	return p.pos
}

func (l *logged) end() (end uint64) {
	err := l.log.From(l.Context(), 1, func(e journal.Entry) error { end = e.Seq; return nil })
	if err != nil {
		l.Fatal(err)
	}
	return end
}

// same fails unless the audit log holds exactly what LOG does, in order.
func (l *logged) same() {
	l.Helper()
	var all []journal.Entry
	if err := l.log.From(l.Context(), 1, func(e journal.Entry) error { all = append(all, e); return nil }); err != nil {
		l.Fatal(err)
	}
	got := map[uint64]Entry{}
	byVP := map[int]uint64{}
	err := l.audit.Read(l.Context(), Query{}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		for _, e := range m.Entries() {
			if _, twice := got[e.Seq]; twice {
				l.Errorf("sequence %d is in the audit log twice", e.Seq)
			}
			got[e.Seq] = e
			if e.Seq <= byVP[e.VP] {
				l.Errorf("partition %d: sequence %d comes after %d", e.VP, e.Seq, byVP[e.VP])
			}
			byVP[e.VP] = e.Seq
		}
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	if len(got) != len(all) {
		l.Errorf("LOG has %d entries, the audit log %d", len(all), len(got))
	}
	for _, e := range all {
		if a, ok := got[e.Seq]; !ok || a.Subject() != e.Subject || !bytes.Equal(a.Data, e.Data) || a.Time != e.Time.UnixMilli() {
			l.Errorf("sequence %d: LOG has %s %s, the audit log %s %s", e.Seq, e.Subject, e.Data, a.Subject(), a.Data)
		}
	}
	if problems := l.whole(); len(problems) > 0 {
		l.Errorf("the audit log does not verify: %v", problems)
	}
}

func (l *logged) whole() []string {
	l.Helper()
	r, err := VerifyLog(l.Context(), l.audit)
	if err != nil {
		l.Fatal(err)
	}
	return r.Problems
}

func TestEveryRecordIsInTheAuditLogOnce(t *testing.T) {
	l := newLogged(t)
	for i := range 500 {
		l.add(fmt.Sprint("r", i%70))
	}
	l.run(l.writer("a"))
	l.same()
	for range 20 {
		l.add("r1")
	}
	l.open() // another engine: owner records are entries too
	l.run(l.writer("a"))
	l.same()
	if len(l.stopped) > 0 {
		t.Errorf("partitions were stopped: %v", l.stopped)
	}
}

// Two writers at once, one of which may have slept for long, store everything
// once and in order; so does one whose writes fail, are torn or have an
// unknown outcome.
func TestWritersThatFailOrAreTwoStoreEverythingOnce(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l := newLogged(t)
		for i := range 300 {
			l.add(fmt.Sprint("r", i%50))
		}
		faults := 20
		l.store.Inject(func(n int) Fault {
			if faults--; faults < 0 || rng.IntN(2) == 0 {
				return Fault{Stored: -1}
			}
			return Fault{Stored: rng.IntN(n + 1), Err: errors.New("no answer")}
		})
		writers := []*Writer{l.writer("a"), l.writer("b")}
		ctx, stop := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for _, w := range writers {
			work.Go(func() {
				for ctx.Err() == nil {
					_ = w.session(ctx) // without the pauses
				}
			})
		}
		for i := range 200 {
			l.add(fmt.Sprint("r", i%30))
			if i%50 == 0 {
				if err := put(ctx, l.store, Header{Kind: KindNote, VP: noteVP, Notes: []Note{{Verb: "auth.add", By: "marta"}}}, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.await(func() bool { return l.position() >= l.end() })
		stop()
		work.Wait()
		l.same()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestABreakOfTheChainIsRecordedAndStopsThePartition(t *testing.T) {
	for name, spoil := range map[string]func(r *record.Record){
		"a version is missing":  func(r *record.Record) { r.V++ },
		"a version comes twice": func(r *record.Record) { r.V-- },
		"another record before": func(r *record.Record) { r.Prev = strings.Repeat("0", 64) },
		"no record before":      func(r *record.Record) { r.Prev = "" },
		"it is no record":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLogged(t)
			l.add("x")
			r := *l.add("x")
			l.add("other")
			r.V, r.Prev = 3, l.hash["x"]
			if spoil != nil {
				spoil(&r)
				l.put(&r)
			} else {
				l.bytes(record.Run, "x", `{"f":1,"agg":`)
			}
			l.add("other")
			l.run(l.writer("a"))
			l.same()
			vp := events.Partition(record.Run, "x")
			if len(l.stopped) != 1 || l.stopped[vp] == "" {
				t.Errorf("stopped: %v, want partition %d only", l.stopped, vp)
			}
			found := 0
			_ = l.store.Read(t.Context(), Query{Filters: []string{filterOf(vp)}}, func(raw Raw) error {
				m, err := decode(raw)
				if err != nil {
					t.Fatal(err)
				}
				found += len(m.Breaks)
				return nil
			})
			if found != 1 {
				t.Errorf("%d breaks are in the audit log, want 1", found)
			}
		})
	}
}

// While two versions run side by side the older one may keep the audit log, and
// see records of a form that it does not know: these are no break, and stop
// nobody. What else it sees, it checks as ever.
func TestARecordOfANewerFormIsInTheAuditLogAndIsNoBreak(t *testing.T) {
	l := newLogged(t)
	first := *l.add("x")
	l.bytes(record.Run, "x", fmt.Sprintf(`{"f":%d,"agg":"run","id":"x","v":2}`, record.FormatVersion+1))
	first.V, first.Prev = 3, strings.Repeat("1", 64) // as nobody knows here
	l.put(&first)
	l.add("other")
	l.run(l.writer("a"))
	l.same()
	if len(l.stopped) != 0 {
		t.Errorf("stopped: %v", l.stopped)
	}
	_ = l.store.Read(t.Context(), Query{Filters: []string{filterOf(events.Partition(record.Run, "x"))}}, func(raw Raw) error {
		if m, err := decode(raw); err != nil || len(m.Breaks) > 0 {
			t.Errorf("the audit log has %v, %v", m.Breaks, err)
		}
		return nil
	})
}

// A power cut takes the tail of LOG: what the audit log has of it is not
// forgotten, the partitions stop, and what is stored under the same sequences
// afterwards is in the audit log too.
func TestALostTailIsFoundAndWrittenDown(t *testing.T) {
	for _, more := range []int{0, 2, 40} {
		t.Run(fmt.Sprint(more, " records after it"), func(t *testing.T) {
			l := newLogged(t)
			for i := range 30 {
				l.add(fmt.Sprint("r", i))
			}
			l.add("lost")
			l.run(l.writer("a"))
			end := l.end()
			l.mem.LoseTail(1)
			delete(l.heads, "lost")
			for i := range more {
				l.add(fmt.Sprint("r", i%30))
			}
			w := l.writer("b")
			ctx, stop := context.WithCancel(t.Context())
			var work sync.WaitGroup
			work.Go(func() { w.Run(ctx) })
			var losses []*Loss
			l.await(func() bool {
				losses = nil
				_ = l.store.Read(t.Context(), Query{}, func(raw Raw) error {
					m, err := decode(raw)
					if err == nil && m.Loss != nil {
						losses = append(losses, m.Loss)
					}
					return err
				})
				return len(losses) > 0 && l.position() == l.end()
			})
			stop()
			work.Wait()
			vp := events.Partition(record.Run, "lost")
			if len(losses) != 1 || losses[0].From != end || losses[0].To != end || len(losses[0].Partitions) != 1 || losses[0].Partitions[0] != vp {
				t.Fatalf("losses: %+v; want sequence %d of partition %d", losses, end, vp)
			}
			if len(l.stopped) != 1 || l.stopped[vp] == "" {
				t.Errorf("stopped: %v, want partition %d", l.stopped, vp)
			}
			if problems := l.whole(); len(problems) > 0 {
				t.Errorf("the audit log does not verify: %v", problems)
			}
		})
	}
}

// A power cut takes the end of the audit log, while its writer lives on and
// nothing is recorded any more: what was there is stored again.
func TestTheEndOfTheAuditLogThatIsLostIsStoredAgain(t *testing.T) {
	l := newLogged(t)
	for i := range 20 {
		l.add(fmt.Sprint("r", i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	w := l.writer("a")
	work.Go(func() { w.Run(ctx) })
	l.await(func() bool { return l.position() == l.end() })
	l.store.Change(func(msgs []Raw) []Raw { return msgs[:len(msgs)-1] })
	l.await(func() bool { return l.position() == l.end() })
	stop()
	work.Wait()
	l.same()
}

func TestNotesAreKeptInOrderAndNoneIsLostOnACleanStop(t *testing.T) {
	l := newLogged(t)
	n := NewNotes(l.store, "a", nil)
	const many = 3000
	for i := range many {
		if err := n.Add(t.Context(), Note{Verb: "auth.add", What: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := l.store.Read(t.Context(), Query{Filters: []string{"penstock.audit.*.api"}}, func(raw Raw) error {
		m, err := decode(raw)
		for _, note := range m.Notes {
			got = append(got, note.What)
		}
		return err
	})
	if err != nil || len(got) != many {
		t.Fatalf("%d notes of %d, %v", len(got), many, err)
	}
	for i, what := range got {
		if what != fmt.Sprint(i) {
			t.Fatalf("note %d is %s", i, what)
		}
	}
	if err := n.Add(t.Context(), Note{}); err == nil {
		t.Error("a note is taken after the end")
	}
}

// A storm of refusals is counted where it cannot be noted.
func TestRefusalsAreNotedOrCounted(t *testing.T) {
	l := newLogged(t)
	hold := make(chan struct{})
	l.store.Inject(func(int) Fault { <-hold; return Fault{Stored: -1} })
	n := NewNotes(l.store, "a", nil)
	const many = 5000
	for range many {
		n.Refused(Note{Verb: "run.cancel", Status: events.StatusError, Code: events.CodeDenied})
	}
	close(hold)
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sum := 0
	err := l.store.Read(t.Context(), Query{}, func(raw Raw) error {
		m, err := decode(raw)
		for _, note := range m.Notes {
			sum += max(1, note.Count)
		}
		return err
	})
	if err != nil || sum != many {
		t.Errorf("%d refusals are noted or counted, want %d, %v", sum, many, err)
	}
}

func TestHistoryGoesOnInTheAuditLog(t *testing.T) {
	l := newLogged(t)
	for i := range 60 {
		l.add(fmt.Sprint("r", i%3))
	}
	l.run(l.writer("a"))
	full, err := History(t.Context(), l.log, l.store, record.Run, "r1", time.Time{})
	if err != nil || len(full) != 20 {
		t.Fatalf("%d records, %v", len(full), err)
	}
	for _, keep := range []int{1, 7, 0} {
		got, err := History(t.Context(), purged{l.log, keep}, l.store, record.Run, "r1", time.Now().Add(-time.Minute))
		if err != nil || len(got) != 20 {
			t.Fatalf("with %d records in LOG: %d records, %v", keep, len(got), err)
		}
		for i := range got {
			if got[i].Seq != full[i].Seq || got[i].Subject != full[i].Subject || !bytes.Equal(got[i].Data, full[i].Data) {
				t.Errorf("with %d records in LOG, record %d is another", keep, i+1)
			}
		}
	}
	// A beginning that is not known, or wrong, costs time and nothing else.
	if got, err := History(t.Context(), purged{l.log, 1}, l.store, record.Run, "r2", time.Now().Add(time.Hour)); err != nil || len(got) != 20 {
		t.Errorf("with a wrong beginning: %d records, %v", len(got), err)
	}
}

// purged is a LOG in which only the last records of a subject are left.
type purged struct {
	journal.Journal
	keep int
}

func (p purged) History(ctx context.Context, subject string) ([]journal.Entry, error) {
	all, err := p.Journal.History(ctx, subject)
	return all[len(all)-p.keep:], err
}

// A loss that was written down is not forgotten when the engine starts again:
// until somebody has confirmed it, whoever takes the partition is told.
func TestALossIsKnownUntilItIsConfirmed(t *testing.T) {
	l := newLogged(t)
	for i := range 30 {
		l.add(fmt.Sprint("r", i))
	}
	l.add("lost")
	l.run(l.writer("a"))
	l.mem.LoseTail(1)
	vp := events.Partition(record.Run, "lost")
	for _, when := range []string{"found by whoever takes the partition", "written down by the writer"} {
		lost, err := Lost(t.Context(), l.store, l.log)
		if err != nil || len(lost) != 1 || lost[vp] == nil {
			t.Errorf("%s: lost %v, %v; want partition %d", when, lost, err, vp)
		}
		if when == "found by whoever takes the partition" {
			l.writeLoss()
		}
	}
	if err := PutEpoch(t.Context(), l.store, "b", Epoch{Partition: vp, By: "admin", Reason: "it was looked at"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if lost, err := Lost(t.Context(), l.store, l.log); err != nil || len(lost) != 0 {
		t.Errorf("after an epoch: lost %v, %v", lost, err)
	}
}

// writeLoss runs a writer until it has written down a loss.
func (l *logged) writeLoss() {
	ctx, stop := context.WithCancel(l.Context())
	var work sync.WaitGroup
	work.Go(func() { l.writer("b").Run(ctx) })
	l.await(func() (written bool) {
		_ = l.store.Read(ctx, Query{}, func(raw Raw) error {
			m, err := decode(raw)
			written = written || err == nil && m.Loss != nil
			return err
		})
		return written
	})
	stop()
	work.Wait()
}
