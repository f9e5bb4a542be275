package audit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// server is an embedded server with LOG and the audit log in it.
type server struct {
	testing.TB
	dir string
	b   *broker.Broker
	js  jetstream.JetStream
	log *journal.Log
}

func startServer(t testing.TB, dir string) *server {
	t.Helper()
	s := &server{TB: t, dir: dir}
	var err error
	if s.b, err = broker.Start(t.Context(), broker.Options{Dir: dir, Listen: "127.0.0.1:0", Sync: broker.SyncLazy}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	if err := s.b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.js, err = jetstream.New(s.b.Engine); err != nil {
		t.Fatal(err)
	}
	if err := journal.EnsureStreams(t.Context(), s.js, journal.Streams(1)...); err != nil {
		t.Fatal(err)
	}
	if s.log, err = journal.Open(t.Context(), s.js, journal.Options{Sync: journal.SyncLazy}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) stop() {
	if s.b == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.log.Close(ctx); err != nil {
		s.Error(err)
	}
	if err := s.b.Close(ctx); err != nil {
		s.Error(err)
	}
	s.b = nil
}

// onServer is a logged whose streams are real ones.
func onServer(t *testing.T, dir string) (*logged, *server) {
	s := startServer(t, dir)
	l := &logged{T: t, log: s.log, audit: Open(s.js), heads: map[string]*record.Record{}, hash: map[string]string{}, stopped: map[int]string{}}
	own(t, s.log)
	return l, s
}

func own(t testing.TB, log journal.Journal) {
	t.Helper()
	all := make([]int, events.Partitions)
	for vp := range all {
		all[vp] = vp
	}
	if err := log.Own(t.Context(), all, []byte("owner")); err != nil {
		t.Fatal(err)
	}
}

func TestTheAuditLogOnAServer(t *testing.T) {
	dir := t.TempDir()
	l, s := onServer(t, dir)
	for i := range 600 {
		l.add(fmt.Sprint("r", i%70))
	}
	large := &record.Record{Aggregate: record.Run, ID: "large", V: 1, State: []byte(`"` + strings.Repeat("x", 600<<10) + `"`)}
	l.put(large)
	l.run(l.writer("a"), l.writer("b"))
	l.same()
	if err := put(t.Context(), l.audit, Header{Kind: KindNote, VP: noteVP, Notes: []Note{{Verb: "auth.add", By: "marta"}}}, time.Now()); err != nil {
		t.Fatal(err)
	}

	s.stop()
	s = startServer(t, dir)
	own(t, s.log)
	l.log, l.audit = s.log, Open(s.js)
	for i := range 300 {
		l.add(fmt.Sprint("r", i%70))
	}
	l.run(l.writer("c"))
	l.same()
	if len(l.stopped) > 0 {
		t.Errorf("partitions were stopped: %v", l.stopped)
	}

	// Compacted to its last record, the history of a run is the same.
	want, err := History(t.Context(), s.log, l.audit, record.Run, "r1", time.Time{})
	if err != nil || len(want) != 14 {
		t.Fatalf("%d records, %v", len(want), err)
	}
	stream, err := s.js.Stream(t.Context(), events.StreamLog)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.LogSubject(record.Run, "r1")), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	got, err := History(t.Context(), s.log, l.audit, record.Run, "r1", time.Now().Add(-time.Minute))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d records after the purge, want %d, %v", len(got), len(want), err)
	}
	for i := range got {
		if got[i].Seq != want[i].Seq || record.Hash(got[i].Data) != record.Hash(want[i].Data) {
			t.Errorf("record %d is another after the purge", i+1)
		}
	}
}

// A writer that another one has overtaken while it slept stores nothing.
func TestAWriterThatSleptIsRefused(t *testing.T) {
	l, _ := onServer(t, t.TempDir())
	l.add("x")
	before, err := find(t.Context(), l.audit)
	if err != nil {
		t.Fatal(err)
	}
	l.run(l.writer("awake"))
	msgs := make([]Out, 5)
	for i := range msgs {
		msgs[i] = Out{Subject: subject(i, time.Now()), Data: []byte("{}")}
	}
	for _, n := range []int{1, 5} {
		if err := l.audit.Append(t.Context(), before.seq, msgs[:n]); err == nil {
			t.Errorf("%d messages of a writer that slept were stored", n)
		}
	}
	l.same()
}

// BenchmarkWriter is what it costs to bring a record into the audit log.
func BenchmarkWriter(b *testing.B) {
	s := startServer(b, b.TempDir())
	own(b, s.log)
	state := []byte(`{"x":"` + strings.Repeat("state ", 150) + `"}`)
	var work sync.WaitGroup
	for i := range b.N {
		id := fmt.Sprintf("run%d", i)
		r := &record.Record{Aggregate: record.Run, ID: id, V: 1, Summary: &record.Summary{}, State: state}
		data, err := r.Encode()
		if err != nil {
			b.Fatal(err)
		}
		work.Add(1)
		s.log.Append(events.Partition(record.Run, id), events.LogSubject(record.Run, id), data, func(_ uint64, err error) {
			if err != nil {
				b.Error(err)
			}
			work.Done()
		})
		if i%1000 == 999 {
			work.Wait()
		}
	}
	work.Wait()
	last, err := s.log.Last(b.Context(), ">")
	if err != nil {
		b.Fatal(err)
	}
	w := NewWriter(Options{Source: s.log, Store: Open(s.js)})
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	b.ReportAllocs()
	b.ResetTimer()
	var run sync.WaitGroup
	run.Go(func() { w.Run(ctx) })
	for w.Confirmed() < last.Seq {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	stop()
	run.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
