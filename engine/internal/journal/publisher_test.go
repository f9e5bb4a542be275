package journal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

const relayed = "RELAYED"

func newRelayed(t *testing.T, sync string, maxMsgs int64) (*broker, jetstream.JetStream) {
	b := newBroker(t, sync)
	js := b.jetStream(b.connect(b.server.ClientURL()))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: relayed, Subjects: []string{"relayed.>"}, AllowAtomicPublish: true,
		Discard: jetstream.DiscardNew, MaxMsgs: maxMsgs, MaxMsgSize: 64 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, js
}

func newPublisher(t *testing.T, js jetstream.JetStream, sync string) journal.Publisher {
	p, err := journal.NewPublisher(t.Context(), js, relayed, journal.Options{Sync: sync, AckTimeout: slow})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePublisher(t, p) })
	return p
}

func closePublisher(t *testing.T, p journal.Publisher) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// publish publishes all at once and gives what each done was told.
func publish(p journal.Publisher, msgs []journal.Message) (seqs []uint64, errs []error) {
	seqs, errs = make([]uint64, len(msgs)), make([]error, len(msgs))
	var wg sync.WaitGroup
	wg.Add(len(msgs))
	for i := range msgs {
		msgs[i].Done = func(seq uint64, err error) {
			seqs[i], errs[i] = seq, err
			wg.Done()
		}
	}
	p.Publish(msgs...)
	wg.Wait()
	return seqs, errs
}

func TestPublisherStoresEachMessageWhereItSays(t *testing.T) {
	for _, sync := range []string{journal.SyncAlways, journal.SyncLazy} {
		for _, n := range []int{1, 15, 1700} {
			t.Run(fmt.Sprint(sync, n), func(t *testing.T) {
				_, js := newRelayed(t, sync, -1)
				msgs := make([]journal.Message, n)
				for i := range msgs {
					msgs[i] = journal.Message{
						Subject: fmt.Sprintf("relayed.%d", i%3),
						Header:  map[string][]string{"Number": {fmt.Sprint(i)}},
						Data:    fmt.Append(nil, i),
					}
				}
				seqs, errs := publish(newPublisher(t, js, sync), msgs)
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				s, err := js.Stream(t.Context(), relayed)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.CachedInfo().State.Msgs; got != uint64(n) {
					t.Fatalf("%d messages are stored, want %d", got, n)
				}
				for i, seq := range seqs {
					m, err := s.GetMsg(t.Context(), seq)
					if err != nil {
						t.Fatal(err)
					}
					if seq != uint64(i+1) || string(m.Data) != fmt.Sprint(i) || m.Header.Get("Number") != fmt.Sprint(i) || m.Subject != msgs[i].Subject {
						t.Fatalf("message %d is at %d: %q %v on %s", i, seq, m.Data, m.Header, m.Subject)
					}
				}
			})
		}
	}
}

func TestPublisherSaysFullAndStoresWhatFits(t *testing.T) {
	_, js := newRelayed(t, journal.SyncAlways, 10)
	p := newPublisher(t, js, journal.SyncAlways)
	msgs := make([]journal.Message, 10)
	for i := range msgs {
		msgs[i].Subject = "relayed.a"
	}
	if _, errs := publish(p, msgs); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	_, errs := publish(p, make40("relayed.b"))
	for _, err := range errs {
		if !errors.Is(err, journal.ErrFull) {
			t.Fatalf("error is %v, want %v", err, journal.ErrFull)
		}
	}
}

func make40(subject string) []journal.Message {
	msgs := make([]journal.Message, 40)
	for i := range msgs {
		msgs[i] = journal.Message{Subject: subject, Data: fmt.Append(nil, i)}
	}
	return msgs
}

func TestOneBadMessageDoesNotHoldBackTheOthers(t *testing.T) {
	_, js := newRelayed(t, journal.SyncAlways, -1)
	p := newPublisher(t, js, journal.SyncAlways)
	msgs := make40("relayed.a")
	msgs[5].Data = make([]byte, 65<<10)
	msgs[7].Header = map[string][]string{"Nats-Expected-Stream": {"ANOTHER"}} // which only the server can know
	_, errs := publish(p, msgs)
	for i, err := range errs {
		switch i {
		case 5:
			if !errors.Is(err, journal.ErrTooLarge) {
				t.Errorf("message 5: %v", err)
			}
		case 7:
			if err == nil {
				t.Error("message 7 was stored")
			}
		default:
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		}
	}
}

func TestPublishingToNoStreamIsUnavailable(t *testing.T) {
	_, js := newRelayed(t, journal.SyncAlways, -1)
	p := newPublisher(t, js, journal.SyncAlways)
	if err := js.DeleteStream(t.Context(), relayed); err != nil {
		t.Fatal(err)
	}
	_, errs := publish(p, make40("relayed.a"))
	for _, err := range errs {
		if !errors.Is(err, journal.ErrUnavailable) {
			t.Fatalf("error is %v, want %v", err, journal.ErrUnavailable)
		}
	}
}

func TestClosingAPublisherSendsWhatWaits(t *testing.T) {
	_, js := newRelayed(t, journal.SyncAlways, -1)
	p, err := journal.NewPublisher(t.Context(), js, relayed, journal.Options{AckTimeout: slow})
	if err != nil {
		t.Fatal(err)
	}
	p.Publish(make40("relayed.a")...)
	closePublisher(t, p)
	s, err := js.Stream(t.Context(), relayed)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != 40 {
		t.Fatalf("%d messages are stored, want 40", got)
	}
	_, errs := publish(p, make40("relayed.a"))
	if !errors.Is(errs[0], journal.ErrClosed) {
		t.Fatalf("error is %v, want %v", errs[0], journal.ErrClosed)
	}
}
