package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

func stream(t *testing.T, n int) (jetstream.JetStream, page) {
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
	js, err := jetstream.New(b.Notify, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := js.PublishAsync("penstock.out.x", fmt.Append(nil, i+1), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("not all was stored")
	}
	return js, page{js: js, stream: events.StreamOut, filter: "penstock.out.>", limit: 100}
}

func consumers(t *testing.T, js jetstream.JetStream) int {
	t.Helper()
	s, err := js.Stream(t.Context(), events.StreamOut)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Consumers
}

func TestALookThatFindsNothingEndsAndARepeatGoesOn(t *testing.T) {
	const n = scanMessages + 500
	js, p := stream(t, n)
	var looks []uint64
	for p.after < n {
		next, end, err := p.read(t.Context(), func(jetstream.Msg, uint64) (bool, error) { return false, nil })
		if err != nil {
			t.Fatal(err)
		}
		if next <= p.after {
			t.Fatalf("it does not go on behind %d", next)
		}
		if end != (next == n) {
			t.Errorf("at %d of %d it says end %v", next, n, end)
		}
		looks, p.after = append(looks, next), next
	}
	if len(looks) < 2 {
		t.Errorf("one look read all %d messages", n)
	}
	if left := consumers(t, js); left != 0 {
		t.Errorf("%d consumers are left", left)
	}
}

func TestAPageHasEveryMessageOnceWithItsCursor(t *testing.T) {
	_, p := stream(t, 950)
	var got []uint64
	for {
		next, _, err := p.read(t.Context(), func(m jetstream.Msg, seq uint64) (bool, error) {
			if string(m.Data()) != fmt.Sprint(seq) {
				t.Errorf("message %s has the cursor %d", m.Data(), seq)
			}
			got = append(got, seq)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next == p.after {
			break
		}
		if uint64(len(got)) != next {
			t.Fatalf("%d messages up to %d", len(got), next)
		}
		p.after = next
	}
	if len(got) != 950 || !slices.IsSorted(got) {
		t.Errorf("got %d", len(got))
	}
}

func TestAReaderGetsWhatComesWhileItWaits(t *testing.T) {
	js, p := stream(t, 3)
	p.after, p.wait = 3, 20*time.Second
	got := make(chan string, 1)
	go func() {
		_, _, err := p.read(t.Context(), func(m jetstream.Msg, _ uint64) (bool, error) { got <- string(m.Data()); return true, nil })
		if err != nil {
			got <- err.Error()
		}
	}()
	for consumers(t, js) == 0 {
		select {
		case <-t.Context().Done():
			return
		default:
		}
	}
	if _, err := js.Publish(t.Context(), "penstock.out.x", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m != "new" {
		t.Errorf("got %q", m)
	}
}

func TestALongRecordComesInPages(t *testing.T) {
	var list []journal.Entry
	for i := range 10 {
		list = append(list, journal.Entry{Seq: uint64(10 * (i + 1)), Data: []byte(strings.Repeat("x", 100*(i+1)))})
	}
	var got []uint64
	for after := uint64(0); ; {
		page := recordsPage(list, after, 500)
		size := 0
		for _, r := range page.Records {
			got, size = append(got, r.Seq), size+len(r.Record)
		}
		if size > 500 && len(page.Records) > 1 {
			t.Errorf("a page of %d bytes", size)
		}
		if page.Next == 0 {
			break
		}
		after = page.Next
	}
	if len(got) != 10 || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
}

func TestAnAnswerThatIsTooLargeIsAnAnswerAllTheSame(t *testing.T) {
	p := encode(events.Answer{Status: events.StatusApplied, Result: []byte(`"` + strings.Repeat("x", 2000) + `"`)}, 1000)
	if !strings.Contains(string(p), `"code":"invalid"`) || !strings.Contains(string(p), "ask for less") || len(p) > 1000 {
		t.Errorf("%s", p)
	}
}

func TestARequestNeverWaitsForAPlace(t *testing.T) {
	s := newSlots()
	reads := events.UserSubject("ana", events.VerbEvents)
	n := 0
	for s.take(reads) != nil {
		n++
	}
	if n != readersAtOnce {
		t.Errorf("%d readers", n)
	}
	heartbeat, starts := events.WorkerSubject("default", "default", "w", events.VerbAttemptHeartbeat), events.UserSubject("ana", events.VerbStart)
	for _, subject := range []string{heartbeat, starts} {
		if release := s.take(subject); release == nil {
			t.Errorf("readers keep %s from being answered", subject)
		} else {
			release()
		}
	}
}

func TestAResultThatIsTooLargeIsAFailureThatSaysSo(t *testing.T) {
	big := map[string]any{"log": strings.Repeat("é", maxOutputs)}
	for name, c := range map[string]struct {
		give    events.Result
		outcome string
		code    string
	}{
		"outputs":          {events.Result{Outcome: events.Succeeded, Outputs: big}, events.Failed, "result_too_large"},
		"facts":            {events.Result{Outcome: events.Succeeded, Facts: map[string]any{"a": strings.Repeat("x", maxResult)}}, events.Failed, "result_too_large"},
		"nobody knows":     {events.Result{Outcome: events.Inconclusive, Outputs: big}, events.Inconclusive, "result_too_large"},
		"an error message": {events.Result{Outcome: events.TimedOut, Error: &events.TaskError{Code: "x", Message: strings.Repeat("é", maxResult)}}, events.TimedOut, "x"},
	} {
		got, err := bounded(c.give)
		if err != nil {
			t.Fatal(err)
		}
		if got.Outcome != c.outcome || got.Error.Code != c.code || got.Outputs != nil || got.Facts != nil || len(got.Error.Message) > maxMessage {
			t.Errorf("%s: %s %+v", name, got.Outcome, got.Error.Code)
		}
	}
	if got, err := bounded(events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"a": 1}}); err != nil || got.Outputs["a"] != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOnlyALimitOfTheStoreIsCalledFull(t *testing.T) {
	for description, want := range map[string]bool{"maximum bytes exceeded": true, "maximum messages exceeded": true, "write error: input/output": false} {
		if got := isFull(&jetstream.APIError{ErrorCode: codeStoreFailed, Description: description}); got != want {
			t.Errorf("%s: %v", description, got)
		}
	}
	if isFull(&jetstream.APIError{ErrorCode: 10008}) || !isFull(&jetstream.APIError{ErrorCode: 10047}) {
		t.Error("the codes are mixed up")
	}
}
