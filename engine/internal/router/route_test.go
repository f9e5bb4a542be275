package router_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/router"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// doer records what it is given, as answer says.
type doer struct {
	mu     sync.Mutex
	got    []record.Input
	answer func(in record.Input) events.Answer
	enough func(got []record.Input) bool
	done   chan struct{} // closed when it got enough
	once   sync.Once
}

func (d *doer) Do(_ context.Context, _, _ string, in record.Input) events.Answer {
	a := events.Answer{Status: events.StatusApplied}
	if d.answer != nil {
		a = d.answer(in)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.got = append(d.got, in); d.enough(d.got) {
		d.once.Do(func() { close(d.done) })
	}
	return a
}

type world struct {
	*testing.T
	ext   jetstream.JetStream
	marks jetstream.KeyValue
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Dir: t.TempDir(), Listen: broker.ListenNot, Sync: broker.SyncLazy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t}
	js, err := jetstream.New(b.Engine)
	if err != nil {
		t.Fatal(err)
	}
	if w.marks, err = js.KeyValue(t.Context(), events.BucketDefs); err != nil {
		t.Fatal(err)
	}
	if w.ext, err = jetstream.New(b.Ext); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) publish(ids ...int) {
	w.Helper()
	for _, id := range ids {
		body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"git","type":"t"}`, id)
		if _, err := w.ext.Publish(w.Context(), events.IngressSubject("default", "git", "", "t"), []byte(body)); err != nil {
			w.Fatal(err)
		}
	}
}

// run routes until the doer was asked n times, then ends it. It gives what the
// doer got, and what was said of lost events.
func (w *world) run(n int, answer func(record.Input) events.Answer) (got []record.Input, lost []uint64) {
	w.Helper()
	return w.runUntil(func(got []record.Input) bool { return len(got) >= n }, answer)
}

// runUntil does so until what the doer got is enough.
func (w *world) runUntil(enough func(got []record.Input) bool, answer func(record.Input) events.Answer) (got []record.Input, lost []uint64) {
	w.Helper()
	d := &doer{answer: answer, enough: enough, done: make(chan struct{})}
	ctx, stop := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- router.Run(ctx, router.Options{Ingress: w.ext, Marks: w.marks, Owner: d, Listening: listeners, Log: slog.New(slog.DiscardHandler), Retry: 50 * time.Millisecond,
			Lost: func(recorded, last uint64) { lost = append(lost, recorded, last) }})
	}()
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.mu.Lock()
		defer d.mu.Unlock()
		w.Fatalf("asked for %d events only: %+v", len(d.got), d.got)
	}
	stop()
	if err := <-ended; err != nil {
		w.Fatal(err)
	}
	return d.got, lost
}

func (w *world) mark() uint64 {
	w.Helper()
	m, err := router.Mark(w.Context(), w.marks, w.ext)
	if err != nil {
		w.Fatal(err)
	}
	return m
}

func TestEventsAreReadOnceAndInOrder(t *testing.T) {
	w := newWorld(t)
	w.publish(1, 2, 3)
	got, lost := w.run(3, nil)
	w.publish(4, 5)
	more, _ := w.run(2, nil)
	var ids []string
	for _, in := range slices.Concat(got, more) {
		ids = append(ids, in.ID)
	}
	var want []string
	for i := range 5 {
		want = append(want, record.Derive("event", "git", "git", i+1))
	}
	if !slices.Equal(ids, want) || lost != nil || w.mark() != 5 {
		t.Errorf("read %v, want %v; mark %d, lost %v", ids, want, w.mark(), lost)
	}
}

// anew makes the stream anew, without what was in it.
func (w *world) anew() {
	w.Helper()
	s, err := w.ext.Stream(w.Context(), events.StreamIngress)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.ext.DeleteStream(w.Context(), events.StreamIngress); err != nil {
		w.Fatal(err)
	}
	// The server may still be removing the files of the one before.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := w.ext.CreateStream(w.Context(), s.CachedInfo().Config)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatal(err)
		}
	}
}

// A stream that has lost its end, and is as long again or longer before anybody
// looks, has none of its events passed over.
func TestEventsInPlaceOfLostOnesAreNotPassedOver(t *testing.T) {
	w := newWorld(t)
	w.publish(1, 2)
	w.run(2, nil)
	w.anew()
	w.publish(3, 4, 5)
	if m := w.mark(); m != 0 { // nor are they removed
		t.Errorf("before they are read, the mark stands at %d", m)
	}
	got, lost := w.run(3, nil)
	if len(got) != 3 || !slices.Equal(lost, []uint64{2, 3}) || w.mark() != 3 {
		t.Errorf("read %d of 3 events, told %v, mark %d", len(got), lost, w.mark())
	}
}

func TestAStreamThatWasMadeAnewIsReadFromItsBeginningAndToldOf(t *testing.T) {
	w := newWorld(t)
	w.publish(1, 2, 3, 4, 5)
	w.run(5, nil)
	w.anew()
	w.publish(6, 7)
	got, lost := w.run(2, nil)
	if len(got) != 2 || !slices.Equal(lost, []uint64{5, 2}) || w.mark() != 2 {
		t.Errorf("read %d of 2 events, told %v, mark %d", len(got), lost, w.mark())
	}
}

func TestAnEventThatCannotBeRecordedAsItIsIsRecordedWithTheReason(t *testing.T) {
	w := newWorld(t)
	w.publish(1, 2)
	got, _ := w.run(3, func(in record.Input) events.Answer {
		if len(in.Event) > 0 && strings.Contains(string(in.Event), `"1"`) {
			return events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: "too large with its decisions"}
		}
		return events.Answer{Status: events.StatusApplied}
	})
	if in := got[1]; in.ID != got[0].ID || in.Event != nil || !strings.Contains(in.Bad, "too large with its decisions") {
		t.Errorf("then it is recorded as %+v", in)
	}
	if w.mark() != 2 {
		t.Errorf("the mark is %d", w.mark())
	}
}

// A partition may be stopped for days. Its events wait for it, and no others.
func TestAnEventOfAStoppedPartitionIsTriedAgainAndKeepsNoOtherWaiting(t *testing.T) {
	for name, refusal := range map[string]events.Answer{
		"stopped":    {Status: events.StatusBusy, Code: events.CodeStopped, Reason: "the partition is stopped"},
		"unreadable": {Status: events.StatusError, Code: events.CodeInternal, Reason: "it cannot be read"},
	} {
		w := newWorld(t)
		w.publish(1, 2, 3)
		id := func(n int) string { return record.Derive("event", "git", "git", n) }
		// answers refuses event 2 until the last one is asked for, or for ever.
		answers := func(last int, ever bool) func(record.Input) events.Answer {
			there := false
			return func(in record.Input) events.Answer {
				there = there || in.ID == id(last)
				if in.ID == id(2) && (ever || !there) {
					return refusal
				}
				return events.Answer{Status: events.StatusApplied}
			}
		}
		w.runUntil(func(got []record.Input) bool {
			third := slices.IndexFunc(got, func(in record.Input) bool { return in.ID == id(3) })
			return third >= 0 && got[len(got)-1].ID == id(2)
		}, answers(3, true))
		if w.mark() != 1 {
			t.Errorf("%s: the mark is %d, behind an event that has no record", name, w.mark())
		}
		w.publish(4)
		got, _ := w.runUntil(func(got []record.Input) bool { // after a start
			fourth := slices.IndexFunc(got, func(in record.Input) bool { return in.ID == id(4) })
			return fourth >= 0 && got[len(got)-1].ID == id(2)
		}, answers(4, false))
		if got[0].ID != id(2) {
			t.Errorf("%s: after a start, the first is %+v", name, got[0])
		}
		if w.mark() != 4 {
			t.Errorf("%s: the mark is %d, and everything has a record", name, w.mark())
		}
	}
}

// listeners are the runs that listen in these tests.
func listeners(context.Context, []byte) ([]string, error) { return []string{}, nil }
