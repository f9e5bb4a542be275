package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// meddling does something before a consumer is made.
type meddling struct {
	journal.Transport
	before func()
	fetch  func(jetstream.Consumer, int) (jetstream.MessageBatch, error) // of the next consumer; may be nil
}

func (m *meddling) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := m.Transport.Stream(ctx, name)
	return &meddled{s, m}, err
}

type meddled struct {
	jetstream.Stream
	m *meddling
}

func (s *meddled) CreateConsumer(ctx context.Context, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	if before := s.m.before; before != nil {
		s.m.before = nil
		before()
	}
	cons, err := s.Stream.CreateConsumer(ctx, cfg)
	if fetch := s.m.fetch; fetch != nil && err == nil {
		s.m.fetch = nil
		return &passing{cons, fetch}, nil
	}
	return cons, err
}

// passing is a consumer of which others do the fetching.
type passing struct {
	jetstream.Consumer
	fetch func(jetstream.Consumer, int) (jetstream.MessageBatch, error)
}

func (p *passing) Fetch(n int, _ ...jetstream.FetchOpt) (jetstream.MessageBatch, error) {
	return p.fetch(p.Consumer, n)
}

// meddledLog is a journal that owns partition 1, below which somebody meddles.
func meddledLog(t *testing.T) (*journal.Log, *meddling) {
	b := newBroker(t, journal.SyncLazy)
	m := &meddling{Transport: journal.On(b.jetStream(b.connect(b.server.ClientURL())))}
	l, err := journal.OpenOn(t.Context(), m, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeJournal(t, l) })
	own(t, l, 1)
	return l, m
}

func store(t *testing.T, l *journal.Log, id string, data []byte) {
	stored := make(chan error, 1)
	l.Append(1, "penstock.log.1.run."+id, data, func(_ uint64, err error) { stored <- err })
	if err := <-stored; err != nil {
		t.Errorf("%s is not stored: %v", id, err)
	}
}

// What is recorded when the reading has begun, and the server has not looked
// yet what there is, moves behind everything else.
func TestNoSubjectIsMissedThatIsRecordedWhileTheReadingBegins(t *testing.T) {
	l, m := meddledLog(t)
	store(t, l, "a", []byte("1"))
	store(t, l, "b", []byte("1"))
	m.before = func() { store(t, l, "a", []byte("2")) }
	got := map[string]string{}
	err := l.LastPerSubject(t.Context(), []string{"penstock.log.>"}, func(e journal.Entry) error {
		got[e.Subject] = string(e.Data)
		return nil
	})
	if err != nil || len(got) != 2 || got["penstock.log.1.run.a"] != "2" {
		t.Errorf("read %v, %v", got, err)
	}
}

// The server is asked for more at a time where there is more, and for less
// where records are large; what is given is the same.
func TestManyRecordsAndLargeOnesAreReadInOrder(t *testing.T) {
	l, _ := meddledLog(t)
	var want []string
	for i := range 3000 {
		want = append(want, fmt.Sprintf("penstock.log.1.run.r%04d", i))
	}
	done := make(chan error, len(want))
	for i, subject := range want {
		size := 1
		if i >= 1000 && i < 1040 {
			size = journal.MaxRecord / 2
		}
		l.Append(1, subject, make([]byte, size), func(_ uint64, err error) { done <- err })
	}
	for range want {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for name, read := range map[string]func(func(journal.Entry) error) error{
		"the last of each": func(fn func(journal.Entry) error) error {
			return l.LastPerSubject(t.Context(), []string{"penstock.log.>"}, fn)
		},
		"all": func(fn func(journal.Entry) error) error { return l.Select(t.Context(), "penstock.log.>", 1, fn) },
	} {
		var got []string
		err := read(func(e journal.Entry) error {
			got = append(got, e.Subject)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d records, %v", name, len(got), err)
		}
	}
}

// The server gives a record to nobody when the request for which it has taken
// it off its list ends just then. It is given all the same.
func TestNoSubjectIsMissedThatTheServerPassesOver(t *testing.T) {
	// A request that may have less than a record has bytes ends in that way.
	passOver := func(c jetstream.Consumer) error {
		b, err := c.FetchBytes(1, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		for range b.Messages() {
			return errors.New("a record has no bytes")
		}
		return nil
	}
	const records = 10
	for name, before := range map[string]int{"when a request runs out": 3, "unnoticed": 0, "the last of all": records - 1} {
		t.Run(name, func(t *testing.T) {
			l, m := meddledLog(t)
			at := min(before, 1)
			for i := range records {
				store(t, l, fmt.Sprint("r", i), []byte("x"))
			}
			fetches := 0
			m.fetch = func(c jetstream.Consumer, n int) (jetstream.MessageBatch, error) {
				if fetches++; fetches <= at {
					return c.Fetch(before) // less than is asked for
				}
				if fetches == at+1 {
					if err := passOver(c); err != nil {
						return nil, err
					}
				}
				return c.Fetch(n, jetstream.FetchMaxWait(time.Second))
			}
			got := map[string]int{}
			ctx, cancel := context.WithTimeout(t.Context(), slow)
			defer cancel()
			err := l.LastPerSubject(ctx, []string{"penstock.log.>"}, func(e journal.Entry) error {
				got[e.Subject]++
				return nil
			})
			if err != nil || len(got) != records {
				t.Errorf("%d subjects of %d: %v, %v", len(got), records, got, err)
			}
		})
	}
}
