package bus

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// send stores tasks as the engine does, signed with key.
func (in *installation) send(t *testing.T, key ed25519.PrivateKey, tasks ...events.Task) {
	t.Helper()
	js, err := jetstream.New(in.work)
	if err != nil {
		t.Fatal(err)
	}
	var bodies [][]byte
	for _, task := range tasks {
		p, _ := json.Marshal(task)
		bodies = append(bodies, p)
	}
	signatures := events.SignGroup(key, bodies)
	for i := range tasks {
		m := nats.NewMsg(events.TaskSubject("default", "build", i))
		m.Data = bodies[i]
		m.Header.Set(events.HeaderSignature, signatures[i])
		if _, err := js.PublishMsg(soon(t), m); err != nil {
			t.Fatal(err)
		}
	}
}

func build(id string) events.Task {
	return events.Task{ID: id, Run: "r", Pool: "default", Kind: "build"}
}

func TestTasksAreFetchedOnceAcknowledged(t *testing.T) {
	in := start(t)
	in.send(t, in.key, build("1"), build("2"), build("3"))
	s := dial(t, in.worker).Tasks("", "build")
	got, err := s.Fetch(soon(t), 2, time.Second)
	if err != nil || len(got) != 2 || got[0].Task.ID != "1" || got[1].Task.ID != "2" || got[0].Delivery != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, m := range got {
		if err := m.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	got, err = s.Fetch(soon(t), 2, 100*time.Millisecond)
	if err != nil || len(got) != 1 || got[0].Task.ID != "3" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := got[0].Nak(0); err != nil {
		t.Fatal(err)
	}
	again, err := s.Fetch(soon(t), 1, 5*time.Second)
	if err != nil || len(again) != 1 || again[0].Task.ID != "3" || again[0].Delivery != 2 {
		t.Fatalf("after it was given back: %+v, %v", again, err)
	}
	if err := again[0].Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Fetch(soon(t), 1, 50*time.Millisecond); err != nil || len(got) != 0 {
		t.Errorf("nothing is left: got %+v, %v", got, err)
	}
}

func TestTaskThatTheEngineDidNotSignIsNeverGiven(t *testing.T) {
	in := start(t)
	_, foreign, _ := ed25519.GenerateKey(nil)
	other := build("other kind")
	other.Kind = "deploy" // signed, but put on another kind's subject
	in.send(t, foreign, build("forged"))
	in.send(t, in.key, other, build("good"))
	conn := dial(t, in.worker)
	s := conn.Tasks("", "build")
	var ids []string
	eventually(t, "the good one comes", func() bool {
		got, err := s.Fetch(soon(t), 10, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			ids = append(ids, m.Task.ID)
			_ = m.Ack(t.Context())
		}
		return len(ids) > 0
	})
	if fmt.Sprint(ids) != "[good]" {
		t.Errorf("got %v", ids)
	}
	js, _ := jetstream.New(in.work)
	eventually(t, "the refused ones are ended, not pending", func() bool {
		c, err := js.Consumer(t.Context(), events.StreamTasks, "default-build")
		return err == nil && c.CachedInfo().NumAckPending == 0
	})
	if err := conn.TrustTaskKeys(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(soon(t), 1, time.Millisecond); err == nil {
		t.Error("tasks are taken without a key to check them")
	}
}

func TestFetchSaysWhyThereCanBeNoTasks(t *testing.T) {
	in := start(t)
	conn := dial(t, in.worker)
	if _, err := conn.Tasks("", "scan").Fetch(soon(t), 1, time.Millisecond); !errors.Is(err, ErrNoTasks) {
		t.Errorf("no consumer: got %v", err)
	}
	var r *Refusal
	if _, err := conn.Tasks("gpu", "build").Fetch(soon(t), 1, time.Millisecond); !errors.As(err, &r) || r.Code != events.CodeDenied {
		t.Errorf("another pool: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := conn.Tasks("", "build").Fetch(ctx, 1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestOutputIsAllStoredWhenCloseReturns(t *testing.T) {
	in := start(t)
	w := dial(t, in.worker).Output("r1", "verify.test", "1")
	const n = 500
	for i := range n {
		if err := w.Write(events.Chunk{Seq: int64(i + 1), Stream: "stdout", Text: "line\n", End: i == n-1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(in.work)
	s, err := js.Stream(t.Context(), events.StreamOutput)
	if err != nil || s.CachedInfo().State.Msgs != n {
		t.Fatalf("%d chunks are stored (%v), want %d", s.CachedInfo().State.Msgs, err, n)
	}
	if m := lastOf(t, in.work, events.StreamOutput, "penstock.output.r1.verify=2Etest.1"); len(m.Data) == 0 {
		t.Error("nothing on the attempt's subject")
	}
	if err := w.Write(events.Chunk{}); err == nil {
		t.Error("a closed writer takes more")
	}
}

func TestOutputSurvivesARestartOfTheServer(t *testing.T) {
	in := start(t)
	w := dial(t, in.worker).Output("r1", "build", "1")
	if err := w.Write(events.Chunk{Seq: 1}); err != nil {
		t.Fatal(err)
	}
	in.down()
	for i := range 10 {
		if err := w.Write(events.Chunk{Seq: int64(i + 2)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.up(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(in.work)
	s, err := js.Stream(soon(t), events.StreamOutput)
	if err != nil || s.CachedInfo().State.Msgs < 11 {
		t.Fatalf("%v, %+v", err, s)
	}
}

func TestOutputThatIsNotAllowedIsReported(t *testing.T) {
	in := start(t)
	w := dial(t, in.bot).Output("r1", "build", "1")
	_ = w.Write(events.Chunk{Seq: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Close(ctx); err == nil {
		t.Error("lost output is not reported")
	}
}
