package fakejs_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/journal/journaltest"
	"github.com/penstock-cd/penstock/events"
)

// muted is a net in which a client's answers can be lost.
type muted struct{ client atomic.Value }

func (n *muted) Submit(e *fakejs.Event) { e.Arrive(fakejs.Fate{Mute: e.Client == n.client.Load()}) }

// The journal itself, not a twin of it, keeps its promises on the fake server.
func TestTheJournalKeepsItsPromisesOnTheFakeServer(t *testing.T) {
	for _, sync := range []string{journal.SyncAlways, journal.SyncLazy} {
		t.Run(sync, func(t *testing.T) {
			journaltest.Run(t, func(t *testing.T) journaltest.Harness { return harness(t, sync) })
		})
	}
}

func harness(t *testing.T, sync string) journaltest.Harness {
	net := &muted{}
	s := fakejs.New(fakejs.Options{Net: net})
	admin := s.Client("admin")
	for _, cfg := range journal.Streams(1) {
		if _, err := admin.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	open := func(t *testing.T, name string, timeout time.Duration) journal.Journal {
		j, err := journal.OpenOn(t.Context(), s.Client(name), journal.Options{Sync: sync, AckTimeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := j.Close(ctx); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return j
	}
	return journaltest.Harness{
		Open: func(t *testing.T) journal.Journal { return open(t, "engine", 30*time.Second) },
		OpenShaky: func(t *testing.T) (journal.Journal, func(), func()) {
			j := open(t, "shaky", time.Second)
			return j, func() { net.client.Store("shaky") }, func() { net.client.Store("") }
		},
		Restart: func(*testing.T) {
			s.Restart(0)
			s.Reconnect()
		},
		Fill: func(*testing.T) func() {
			s.Limit(events.StreamLog, 1)
			return func() { s.Limit(events.StreamLog, -1) }
		},
	}
}

// gap loses the next message that a consumer gives.
type gap struct{ next atomic.Bool }

func (g *gap) Submit(e *fakejs.Event) {
	e.Arrive(fakejs.Fate{Gap: e.Kind == fakejs.Delivery && g.next.Swap(false)})
}

// A record that is lost on its way to a reader is given all the same, also
// when none comes after it.
func TestTheLastRecordIsGivenWhenItIsLostOnItsWay(t *testing.T) {
	net := &gap{}
	s := fakejs.New(fakejs.Options{Net: net})
	admin := s.Client("admin")
	for _, cfg := range journal.Streams(1) {
		if _, err := admin.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.Publish(t.Context(), "penstock.log.1.run.a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	j, err := journal.OpenOn(t.Context(), s.Client("engine"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(t.Context())
	net.next.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n := 0
	err = j.From(ctx, 1, func(journal.Entry) error { n++; return nil })
	if err != nil || n != 1 {
		t.Errorf("%d records were given, want 1: %v", n, err)
	}
}

// A leader that is cut off from the others does what package contract says of
// real ones; what it has taken is stored when they are back, or lost.
func TestCutOffLeaderTakesAMessageAndRefusesTheNextUnderItsFence(t *testing.T) {
	for _, lost := range []bool{false, true} {
		s := fakejs.New(fakejs.Options{})
		c := s.Client("c")
		for _, cfg := range journal.Streams(3) {
			if _, err := c.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		publish := func(subject string, opts ...jetstream.PublishOpt) (code int, answered bool) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := c.Publish(ctx, subject, []byte("x"), opts...)
			if refused := new(jetstream.APIError); errors.As(err, &refused) {
				code = int(refused.ErrorCode)
			}
			return code, !errors.Is(err, context.DeadlineExceeded)
		}
		publish("penstock.own.1")
		fence := jetstream.WithExpectLastSequenceForSubject(1, "penstock.own.1")
		s.CutOff(events.StreamLog)
		if _, answered := publish("penstock.log.1.run.a", fence); answered {
			t.Error("the first is answered")
		}
		for _, subject := range []string{"penstock.log.1.run.a", "penstock.log.1.run.b"} {
			if code, _ := publish(subject, fence); code != 10164 {
				t.Errorf("then %s: %d", subject, code)
			}
		}
		if code, _ := publish("penstock.own.1", jetstream.WithExpectLastSequencePerSubject(1)); code != 10164 {
			t.Errorf("an owner record instead of it: %d", code)
		}
		for range 2 {
			if _, answered := publish("penstock.own.1"); answered {
				t.Error("an owner record without a condition is answered")
			}
		}
		want := uint64(4)
		if lost {
			want = 1
		}
		if n := s.Rejoin(events.StreamLog, lost); n != 3 || s.Last(events.StreamLog) != want {
			t.Errorf("lost %t: %d were taken, LOG ends at %d, want %d", lost, n, s.Last(events.StreamLog), want)
		}
	}
}

// twoLeaders is a net in which a stream has two leaders: the former one refuses
// what fits, and the present one stores it.
type twoLeaders struct {
	refusal atomic.Pointer[fakejs.Refusal]
}

func (n *twoLeaders) Submit(e *fakejs.Event) {
	f := fakejs.Fate{}
	if e.Kind == fakejs.Request && e.Stream == events.StreamLog && (e.Verb == "publish" || e.Verb == "batch") {
		f = fakejs.Fate{Refuse: n.refusal.Swap(nil), Yet: true}
	}
	e.Arrive(f)
}

// What a server refuses that leads no longer, the one that leads may have stored:
// its outcome is unknown, and it is not sent again.
func TestWhatOneServerRefusesAndAnotherStoresIsSentOnce(t *testing.T) {
	for what, refusal := range map[string]*fakejs.Refusal{"in process": fakejs.RefuseInFlight, "wrong sequence": fakejs.RefuseSequence} {
		for _, many := range []int{1, 20} {
			t.Run(fmt.Sprint(what, " ", many), func(t *testing.T) {
				net := &twoLeaders{}
				s := fakejs.New(fakejs.Options{Net: net})
				for _, cfg := range journal.Streams(3) {
					if _, err := s.Client("admin").CreateStream(t.Context(), cfg); err != nil {
						t.Fatal(err)
					}
				}
				j, err := journal.OpenOn(t.Context(), s.Client("engine"), journal.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer j.Close(t.Context())
				if err := j.Own(t.Context(), []int{1, 2}, []byte("me")); err != nil {
					t.Fatal(err)
				}
				net.refusal.Store(refusal)
				over := make(chan error, many)
				for i := range many {
					vp := 1 + i%2
					j.Append(vp, fmt.Sprintf("penstock.log.%d.run.%d", vp, i), []byte("x"), func(_ uint64, err error) { over <- err })
				}
				unknown := 0
				for range many {
					if err := <-over; errors.Is(err, journal.ErrUnknown) {
						unknown++
					} else if err != nil {
						t.Errorf("an outcome that is not known is told as %v", err)
					}
				}
				if unknown == 0 {
					t.Error("nothing was refused")
				}
				seen := map[string]int{}
				for _, m := range s.Messages(events.StreamLog, 3) {
					seen[m.Subject]++
				}
				if len(seen) != many {
					t.Errorf("%d records are stored of %d", len(seen), many)
				}
				for subject, n := range seen {
					if n > 1 {
						t.Errorf("%s is stored %d times", subject, n)
					}
				}
			})
		}
	}
}

// What has no answer when the connection is lost fails in the order in which it
// was sent, so that who sends it again sends it in that order.
func TestWhatIsOnItsWayFailsInItsOrder(t *testing.T) {
	net := &muted{}
	s := fakejs.New(fakejs.Options{Net: net})
	admin := s.Client("admin")
	for _, cfg := range journal.Streams(1) {
		if _, err := admin.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	c := s.Client("engine")
	p, err := journal.NewPublisherOn(t.Context(), c, events.StreamLog, journal.Options{Sync: journal.SyncLazy})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	net.client.Store("engine")
	const n = 20
	over := make(chan int, n)
	var msgs []journal.Message
	for i := range n {
		msgs = append(msgs, journal.Message{Subject: fmt.Sprintf("penstock.log.1.run.%d", i), Data: []byte("x"), Done: func(uint64, error) { over <- i }})
	}
	p.Publish(msgs...)
	for s.Last(events.StreamLog) < n {
		runtime.Gosched()
	}
	c.Disconnect()
	for i := range n {
		if got := <-over; got != i {
			t.Fatalf("message %d fails as number %d", got, i)
		}
	}
}

// Who reads on after a power cut is told that what was read is not there any
// more, also when the stream is as long again by then.
func TestWhoReadsOnIsToldOfASequenceThatWasUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakejs.New(fakejs.Options{})
		admin, c := s.Client("admin"), s.Client("engine")
		for _, cfg := range journal.Streams(1) {
			if _, err := admin.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		publish := func(data string) {
			if _, err := admin.Publish(t.Context(), "penstock.log.1.run.a", []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		publish("first")
		publish("second")
		j, err := journal.OpenOn(t.Context(), c, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		read, over := make(chan string, 10), make(chan error, 1)
		go func() {
			over <- j.Tail(t.Context(), 1, func(e journal.Entry) error { read <- string(e.Data); return nil })
		}()
		<-read
		<-read
		s.LoseTail(events.StreamLog, 1)
		s.Restart(0)
		s.Reconnect()
		publish("another")
		publish("third")
		if err := <-over; !errors.Is(err, journal.ErrLost) {
			t.Errorf("the reading ends with %v", err)
		}
		if len(read) > 0 {
			t.Errorf("%q was given", <-read)
		}
		if err := j.Close(t.Context()); err != nil {
			t.Error(err)
		}
		admin.Close()
		c.Close()
		time.Sleep(time.Minute) // of the time in here: who waits on a connection waits for less
	})
}

// An owner that lives through a power cut of its server, in which its newest
// checkpoint is lost, stores the next ones. One that has been replaced does not.
func TestCheckpointsGoOnAfterTheLastOneIsLost(t *testing.T) {
	s := fakejs.New(fakejs.Options{Net: &muted{}})
	for _, cfg := range journal.Streams(1) {
		if _, err := s.Client("admin").CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) journal.Journal {
		j, err := journal.OpenOn(t.Context(), s.Client(name), journal.Options{Sync: journal.SyncLazy})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = j.Close(context.Background()) })
		if err := j.Own(t.Context(), []int{7, 8}, []byte(name)); err != nil {
			t.Fatal(err)
		}
		return j
	}
	store := func(j journal.Journal, what string) error {
		return j.Checkpoint(t.Context(), map[int][]byte{7: []byte(what), 8: []byte(what)})
	}
	first := open("first")
	for _, what := range []string{"1", "2"} {
		if err := store(first, what); err != nil {
			t.Fatal(err)
		}
	}
	s.LoseTail(events.StreamCkpt, 2)
	_ = store(first, "3") // may be refused once
	if err := store(first, "4"); err != nil {
		t.Fatalf("after the loss: %v", err)
	}
	second := open("second")
	if err := store(second, "5"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := store(first, "6"); err == nil {
			t.Fatal("a former owner stores checkpoints")
		}
	}
	all, err := second.LoadCheckpoints(t.Context())
	if err != nil || string(all[7]) != "5" {
		t.Errorf("stored is %s, %v", all[7], err)
	}
}
