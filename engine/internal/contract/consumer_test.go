package contract_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// T6. An acknowledgement that the server confirms is no fence: the holder of
// a task that was given to another is told the same.
func TestConfirmedAcknowledgementIsNoFence(t *testing.T) {
	_, js, s := logServer(t)
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second})
	check(t, err)
	publish(t, js, "log.a", "task")
	first, err := cons.Next(jetstream.FetchMaxWait(patience))
	check(t, err)
	second, err := cons.Next(jetstream.FetchMaxWait(patience)) // comes when AckWait is over
	check(t, err)
	for _, m := range []jetstream.Msg{first, second} {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Errorf("the holder is told %v", err)
		}
	}
}

// Tasks: a Limits stream, a durable consumer, Fetch. An acknowledged task is
// not delivered again and stays in the stream; the floor of a filtered
// consumer moves with its own tasks only.
func TestFetchOnALimitsStreamDeliversUntilAcknowledged(t *testing.T) {
	o := options(t.TempDir())
	server := start(t, o)
	js := jetStream(t, connect(t, server))
	s := stream(t, js, logStream)
	durable := func(name string) jetstream.Consumer {
		c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: name, FilterSubject: "log." + name + ".*", AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: time.Hour, MaxDeliver: -1, MaxAckPending: 2000})
		check(t, err)
		return c
	}
	build, idle := durable("build"), durable("idle")
	for i := range 10 {
		publish(t, js, "log.build.7", fmt.Sprint(i))
	}
	for i, m := range fetch(t, build, 10) {
		if string(m.Data()) != fmt.Sprint(i) {
			t.Errorf("task %d is %q", i, m.Data())
		}
		if i < 6 {
			check(t, m.DoubleAck(t.Context()))
		} else {
			check(t, m.Nak())
		}
	}
	if again := fetch(t, build, 4); string(again[0].Data()) != "6" {
		t.Errorf("delivered again: %q first", again[0].Data())
	}
	info, err := build.Info(t.Context())
	check(t, err)
	other, err := idle.Info(t.Context())
	check(t, err)
	if n := stored(t, s, "log.>"); n != 10 || info.AckFloor.Stream != 6 || info.NumAckPending != 4 || other.AckFloor.Stream != 0 {
		t.Errorf("%d tasks are stored, floor %d with %d pending; the idle one's floor is %d", n, info.AckFloor.Stream, info.NumAckPending, other.AckFloor.Stream)
	}
	// A clean restart keeps what was acknowledged.
	s2, err := jetStream(t, connect(t, restart(t, server, o))).Stream(t.Context(), "LOG")
	check(t, err)
	again, err := s2.Consumer(t.Context(), "build")
	check(t, err)
	if info := again.CachedInfo(); info.AckFloor.Stream != 6 {
		t.Errorf("after a restart the floor is %d", info.AckFloor.Stream)
	}
}

func fetch(t *testing.T, c jetstream.Consumer, n int) (all []jetstream.Msg) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages are delivered", n), func() error {
		b, err := c.Fetch(n-len(all), jetstream.FetchMaxWait(time.Second))
		check(t, err)
		for m := range b.Messages() {
			all = append(all, m)
		}
		if len(all) < n {
			return fmt.Errorf("%d until now: %w", len(all), b.Error())
		}
		return nil
	})
	return all
}

// Fact 14: a loop of Fetch does not stall with thousands of tasks in flight
// (Consume does now and then, which is why nothing here uses it).
func TestFetchDoesNotStallUnderLoad(t *testing.T) {
	nc, js, s := logServer(t)
	const inFlight, total = 1000, 20_000
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 2 * inFlight})
	check(t, err)
	for range inFlight {
		_, err := js.PublishAsync("log.a", nil)
		check(t, err)
	}
	<-js.PublishAsyncComplete()
	done, empty := 0, 0
	for done < total {
		b, err := cons.Fetch(256, jetstream.FetchMaxWait(time.Second))
		check(t, err)
		n := 0
		for m := range b.Messages() {
			n++
			check(t, m.Ack())
			if done+n+inFlight <= total {
				check(t, nc.Publish("log.a", nil))
			}
		}
		if done += n; n > 0 {
			empty = 0
		} else if empty++; empty > 30 {
			info, err := cons.Info(t.Context())
			t.Fatalf("%d of %d tasks were done, then nothing came: %+v, %v", done, total, info, err)
		}
	}
}

// Reading in order: what a consumer without acknowledgements delivers is
// numbered without a gap, and a server that was restarted has forgotten it,
// so a reader notices and begins anew behind what it has.
func TestConsumerOfAReaderIsNumberedAndForgottenAtARestart(t *testing.T) {
	o := options(t.TempDir())
	server := start(t, o)
	js := jetStream(t, connect(t, server))
	s := stream(t, js, logStream)
	for i := range 30 {
		publish(t, js, fmt.Sprintf("log.%d", i%3), fmt.Sprint(i))
	}
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 4,
		FilterSubject: "log.0", MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Hour})
	check(t, err)
	for i, m := range fetch(t, cons, 9) {
		meta, err := m.Metadata()
		check(t, err)
		if meta.Sequence.Consumer != uint64(i+1) || meta.Sequence.Stream != uint64(4+3*i) {
			t.Errorf("message %d of the consumer is number %d, %d in the stream", i+1, meta.Sequence.Consumer, meta.Sequence.Stream)
		}
	}
	s2, err := jetStream(t, connect(t, restart(t, server, o))).Stream(t.Context(), "LOG")
	check(t, err)
	if _, err := s2.Consumer(t.Context(), cons.CachedInfo().Name); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("after the restart: %v", err)
	}
}

// The client's own ordered consumer: a gap in the numbers, as after a restart,
// makes it begin anew behind what it gave out, without a hole or a repeat.
func TestOrderedConsumerGoesOnWithoutAGap(t *testing.T) {
	o := options(t.TempDir())
	o.Port = -1
	server := start(t, o)
	nc := connect(t, server)
	js := jetStream(t, nc)
	stream(t, js, logStream)
	cons, err := js.OrderedConsumer(t.Context(), "LOG", jetstream.OrderedConsumerConfig{})
	check(t, err)
	var got atomic.Uint64
	cc, err := cons.Consume(func(m jetstream.Msg) {
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != got.Load()+1 {
			t.Errorf("after message %d comes %+v, %v", got.Load(), meta, err)
		}
		got.Add(1)
	}, jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(time.Second))
	check(t, err)
	defer cc.Stop()
	for range 20 {
		publish(t, js, "log.a", "")
	}
	until := func(n uint64) {
		eventually(t, fmt.Sprintf("%d messages come", n), func() error {
			if g := got.Load(); g != n {
				return fmt.Errorf("%d", g)
			}
			return nil
		})
	}
	until(20)
	// Its consumer is taken away: the next one begins where it was.
	s, err := js.Stream(t.Context(), "LOG")
	check(t, err)
	for name := range s.ConsumerNames(t.Context()).Name() {
		check(t, s.DeleteConsumer(t.Context(), name))
	}
	for range 20 {
		publish(t, js, "log.a", "")
	}
	until(40)
}

// Loading: the last message of each subject, by rising sequence, is what
// DeliverLastPerSubject gives; a message that replaces one already given
// comes as well.
func TestLastPerSubjectGivesTheLastOfEachInOrder(t *testing.T) {
	_, js, s := logServer(t)
	for i := range 40 {
		publish(t, js, fmt.Sprintf("log.%d.run.%d", i%4, i%10), fmt.Sprint(i))
	}
	publish(t, js, "own.1", "me")
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubject: "log.>", MemoryStorage: true})
	check(t, err)
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("log.>"))
	check(t, err)
	var before uint64
	last := map[string]uint64{}
	for _, m := range fetch(t, cons, len(info.State.Subjects)) {
		meta, err := m.Metadata()
		check(t, err)
		if meta.Sequence.Stream <= before {
			t.Errorf("%d comes after %d", meta.Sequence.Stream, before)
		}
		before = meta.Sequence.Stream
		last[m.Subject()] = before
	}
	for subject := range info.State.Subjects {
		m, err := s.GetLastMsgForSubject(t.Context(), subject)
		check(t, err)
		if last[subject] != m.Sequence {
			t.Errorf("%s: %d was given, the last is %d", subject, last[subject], m.Sequence)
		}
	}
	next := publish(t, js, "log.0.run.0", "newer").Sequence
	if m := fetch(t, cons, 1)[0]; m.Subject() != "log.0.run.0" {
		t.Errorf("after them comes %s, want message %d", m.Subject(), next)
	}
}

// A message of the list that was taken for a request which ends before it is
// given is given to nobody. The journal begins anew when a request was not
// answered in full. When this fails, the server has mended it.
func TestLastPerSubjectPassesOverWhatARequestDidNotGet(t *testing.T) {
	_, js, s := logServer(t)
	for i := range 3 {
		publish(t, js, fmt.Sprintf("log.1.run.%d", i), "large enough")
	}
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubject: "log.>", MemoryStorage: true})
	check(t, err)
	none, err := cons.FetchBytes(1, jetstream.FetchMaxWait(patience))
	check(t, err)
	for m := range none.Messages() {
		t.Errorf("%s was given where one byte was asked for", m.Subject())
	}
	for i, m := range fetch(t, cons, 2) {
		if want := fmt.Sprintf("log.1.run.%d", i+1); m.Subject() != want {
			t.Errorf("%s was given, want %s: the first one is passed over", m.Subject(), want)
		}
	}
}

// RePublish tells what was stored, with its sequence, to who listens.
func TestRepublishCarriesTheSequence(t *testing.T) {
	nc, js, _ := logServer(t)
	stream(t, js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}, RePublish: &jetstream.RePublish{Source: "out.>", Destination: "live.>"}})
	sub, err := nc.SubscribeSync("live.>")
	check(t, err)
	check(t, nc.Flush())
	seq := publish(t, js, "out.a", "x").Sequence
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	check(t, err)
	if m.Subject != "live.a" || m.Header.Get("Nats-Sequence") != fmt.Sprint(seq) || string(m.Data) != "x" {
		t.Errorf("told was %s %v %q", m.Subject, m.Header, m.Data)
	}
}
