package janitor_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/events"
)

type world struct {
	testing.TB
	b         *broker.Broker
	work, ext jetstream.JetStream
	mark      uint64
}

func newWorld(t *testing.T, maxStore int64) *world { return newWorldOf(t, maxStore) }

func newWorldOf(t testing.TB, maxStore int64) *world {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Dir: t.TempDir(), Listen: broker.ListenNot, Sync: broker.SyncLazy, MaxStore: maxStore})
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
	w := &world{TB: t, b: b}
	if w.work, err = jetstream.New(b.Work); err != nil {
		t.Fatal(err)
	}
	if w.ext, err = jetstream.New(b.Ext); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) sweep() {
	w.Helper()
	o := janitor.Options{Work: w.work, Ext: w.ext, Mark: func(context.Context) (uint64, error) { return w.mark, nil }}
	if err := janitor.Sweep(w.Context(), o); err != nil {
		w.Fatal(err)
	}
}

func (w *world) publish(js jetstream.JetStream, subject string, body []byte) error {
	_, err := js.Publish(w.Context(), subject, body)
	return err
}

// task stores n tasks of a kind.
func (w *world) task(pool, kind string, n int) {
	w.Helper()
	if err := w.b.EnsureTaskConsumer(w.Context(), pool, kind); err != nil {
		w.Fatal(err)
	}
	for i := range n {
		if err := w.publish(w.work, events.TaskSubject(pool, kind, i%events.Partitions), []byte("{}")); err != nil {
			w.Fatal(err)
		}
	}
}

// take gives the next n tasks of a kind.
func (w *world) take(pool, kind string, n int) (got []jetstream.Msg) {
	w.Helper()
	c, err := w.work.Consumer(w.Context(), events.StreamTasks, events.TaskConsumer(pool, kind))
	if err != nil {
		w.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(10*time.Second))
	if err != nil {
		w.Fatal(err)
	}
	for m := range batch.Messages() {
		got = append(got, m)
	}
	if len(got) != n {
		w.Fatalf("took %d of %d tasks: %v", len(got), n, batch.Error())
	}
	return got
}

func (w *world) ack(list ...jetstream.Msg) {
	w.Helper()
	for _, m := range list {
		if err := m.DoubleAck(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) state(js jetstream.JetStream, stream string) jetstream.StreamState {
	w.Helper()
	s, err := js.Stream(w.Context(), stream)
	if err != nil {
		w.Fatal(err)
	}
	return s.CachedInfo().State
}

func TestTasksThatWereTakenAreRemovedAndNoOthers(t *testing.T) {
	w := newWorld(t, 0)
	w.task("default", "build", 3) // 1–3
	w.task("default", "test", 3)  // 4–6
	w.task("default", "build", 3) // 7–9
	w.sweep()
	if st := w.state(w.work, events.StreamTasks); st.Msgs != 9 {
		t.Fatalf("%d of 9 tasks are left, and nobody took one", st.Msgs)
	}
	first := w.take("default", "build", 3)
	w.ack(first[1:]...)
	w.sweep()
	if st := w.state(w.work, events.StreamTasks); st.FirstSeq != 1 {
		t.Fatalf("the first task was taken and not acknowledged, and the stream begins at %d", st.FirstSeq)
	}
	w.ack(first[0])
	w.sweep()
	if st := w.state(w.work, events.StreamTasks); st.FirstSeq != 4 || st.Msgs != 6 {
		t.Fatalf("the stream begins at %d with %d tasks", st.FirstSeq, st.Msgs)
	}
	w.ack(w.take("default", "build", 3)...)
	w.ack(w.take("default", "test", 3)...)
	w.sweep()
	if st := w.state(w.work, events.StreamTasks); st.Msgs != 0 || st.LastSeq != 9 {
		t.Errorf("%d tasks are left, the last was %d", st.Msgs, st.LastSeq)
	}
	w.task("default", "build", 1)
	w.ack(w.take("default", "build", 1)...)
}

func TestTasksWithoutAConsumerAreKept(t *testing.T) {
	w := newWorld(t, 0)
	if err := w.publish(w.work, events.TaskSubject("later", "build", 1), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	w.task("default", "build", 2)
	w.ack(w.take("default", "build", 2)...)
	w.sweep()
	if st := w.state(w.work, events.StreamTasks); st.FirstSeq != 1 {
		t.Errorf("a task that waits for its consumer was removed: the stream begins at %d", st.FirstSeq)
	}
}

func TestAFullStreamOfTasksTakesMoreAfterASweep(t *testing.T) {
	w := newWorld(t, 40<<20) // a tenth is for tasks
	w.task("away", "build", 1)
	w.task("default", "test", 0)
	body := make([]byte, 100<<10)
	n := 0
	for err := error(nil); err == nil; n++ {
		if n > 1000 {
			t.Fatal("the stream is never full")
		}
		err = w.publish(w.work, events.TaskSubject("default", "test", n%events.Partitions), body)
	}
	w.ack(w.take("default", "test", n-1)...)
	w.sweep()
	if err := w.publish(w.work, events.TaskSubject("default", "test", 1), body); err != nil {
		t.Errorf("after %d tasks were taken: %v", n-1, err)
	}
	if st := w.state(w.work, events.StreamTasks); st.FirstSeq != 1 || st.Msgs != 2 {
		t.Errorf("%d tasks from %d: the one of the pool that is away must be there", st.Msgs, st.FirstSeq)
	}
}

func TestEventsThatAreRecordedAreRemovedAndNoOthers(t *testing.T) {
	w := newWorld(t, 0)
	for i := range 5 {
		if err := w.publish(w.ext, events.IngressSubject("default", "ci", "", fmt.Sprint(i)), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ mark, first, left uint64 }{{0, 1, 5}, {3, 4, 2}, {9, 4, 2}, {5, 6, 0}} {
		w.mark = c.mark
		w.sweep()
		if st := w.state(w.ext, events.StreamIngress); st.FirstSeq != c.first || st.Msgs != c.left {
			t.Errorf("mark %d: %d events from %d, want %d from %d", c.mark, st.Msgs, st.FirstSeq, c.left, c.first)
		}
	}
}
