package contract_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	wrongLastSequence = 10071
	stillInFlight     = 10164
)

// logServer is a server with a stream as the record has it: LOG on log.> and own.*.
func logServer(t *testing.T) (*nats.Conn, jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	nc := connect(t, start(t, options(t.TempDir())))
	js := jetStream(t, nc)
	return nc, js, stream(t, js, logStream)
}

var logStream = jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log.>", "own.*"}, AllowAtomicPublish: true, DenyDelete: true, Discard: jetstream.DiscardNew}

// fenced is a message under the fence of a partition, the owner record at seq.
func fenced(subject string, vp int, seq uint64) *nats.Msg {
	return message(subject, subject, "Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(seq, 10), "Nats-Expected-Last-Subject-Sequence-Subject", fmt.Sprintf("own.%d", vp))
}

// expects is a message that is stored only when its own subject ends at seq.
func expects(subject string, seq uint64) *nats.Msg {
	return message(subject, subject, "Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(seq, 10))
}

// The fence: a condition on another subject, the owner record. Any number of
// messages may be on their way under one, and none gets in under a stale one.
func TestFenceRefusesEverySingleOfAFormerOwner(t *testing.T) {
	nc, js, s := logServer(t)
	mine := publish(t, js, "own.7", "me").Sequence
	send := func(n int) (codes map[int]int) {
		inbox := nc.NewRespInbox()
		sub, err := nc.SubscribeSync(inbox)
		check(t, err)
		for i := range n {
			m := fenced(fmt.Sprintf("log.7.run.%d", i), 7, mine)
			m.Reply = inbox
			check(t, nc.PublishMsg(m))
		}
		codes = map[int]int{}
		for range n {
			m, err := sub.NextMsg(patience)
			check(t, err)
			codes[parse(t, m.Data).code()]++
		}
		return codes
	}
	if got := send(50); got[0] != 50 {
		t.Fatalf("under its own fence: %v", got)
	}
	publish(t, js, "own.7", "another")
	if got := send(50); got[wrongLastSequence] != 50 {
		t.Errorf("under a stale fence: %v", got)
	}
	if n := stored(t, s, "log.>"); n != 50 {
		t.Errorf("%d messages are stored, want 50", n)
	}
}

// In a batch the fence may stand on every message. One stale fence refuses
// the batch as a whole.
func TestFenceRefusesTheWholeBatchOfAFormerOwner(t *testing.T) {
	nc, js, s := logServer(t)
	one, two := publish(t, js, "own.1", "me").Sequence, publish(t, js, "own.2", "me").Sequence
	both := func(run string) []*nats.Msg {
		return []*nats.Msg{fenced("log.1.run."+run, 1, one), fenced("log.2.run."+run, 2, two), fenced("log.1.run."+run, 1, one), fenced("log.2.run."+run, 2, two)}
	}
	if a := batch(t, nc, "b1", both("a")...); a.code() != 0 || a.Count != 4 {
		t.Fatalf("under both fences: %+v", a)
	}
	publish(t, js, "own.2", "another")
	if a := batch(t, nc, "b2", both("b")...); a.code() != wrongLastSequence {
		t.Errorf("with one stale fence: %+v", a)
	}
	if a := batch(t, nc, "b3", fenced("log.1.run.c", 1, one), fenced("log.1.run.d", 1, one)); a.code() != 0 {
		t.Errorf("the partition that is still owned: %+v", a)
	}
	if n := stored(t, s, "log.*.run.b"); n != 0 {
		t.Errorf("%d messages of a batch are stored that was refused", n)
	}
}

// T8. Atomic batches are all or nothing, and what they take as conditions.
func TestBatchIsStoredAsAWholeOrNotAtAll(t *testing.T) {
	nc, js, s := logServer(t)
	a := publish(t, js, "log.a", "1").Sequence
	b := publish(t, js, "log.b", "1").Sequence
	for i, c := range []struct {
		what string
		msgs []*nats.Msg
		want int
	}{
		{"a new subject, expected to be empty", []*nats.Msg{expects("log.new", 0), message("log.x1", "")}, 0},
		{"a stale condition", []*nats.Msg{expects("log.a", a+100), message("log.x2", "")}, wrongLastSequence},
		{"a condition, then a second message on the subject", []*nats.Msg{expects("log.c", 0), message("log.c", "")}, 0},
		{"conditions on two subjects", []*nats.Msg{expects("log.a", a), expects("log.b", b)}, 0},
		{"conditions on two subjects, one stale", []*nats.Msg{expects("log.d", 0), expects("log.b", b)}, wrongLastSequence},
		{"a condition on a wildcard", []*nats.Msg{message("log.e", "", "Nats-Expected-Last-Subject-Sequence", "0", "Nats-Expected-Last-Subject-Sequence-Subject", "log.none.*"), message("log.x3", "")}, 0},
	} {
		info, err := s.Info(t.Context())
		check(t, err)
		ack := batch(t, nc, fmt.Sprint("t8-", i), c.msgs...)
		after, err := s.Info(t.Context())
		check(t, err)
		n := 0
		if c.want == 0 {
			n = len(c.msgs)
		}
		if ack.code() != c.want || after.State.Msgs-info.State.Msgs != uint64(n) {
			t.Errorf("%s: the answer is %d, want %d; %d messages were stored, want %d", c.what, ack.code(), c.want, after.State.Msgs-info.State.Msgs, n)
		}
		if c.want == 0 && (ack.Count != n || ack.Seq != after.State.LastSeq) {
			t.Errorf("%s: the answer is %+v, the stream ends at %d", c.what, ack, after.State.LastSeq)
		}
	}
	publish(t, js, "log.dup", "1", jetstream.WithMsgID("once"))
	if ack := batch(t, nc, "t8-dup", message("log.f", ""), message("log.f", "", "Nats-Msg-Id", "once")); ack.code() != 10201 || stored(t, s, "log.f") != 0 {
		t.Errorf("an id that the stream holds: %+v", ack)
	}
}

// A batch that was never committed leaves nothing.
func TestBatchWithoutItsEndLeavesNothing(t *testing.T) {
	nc, _, s := logServer(t)
	for i := range 3 {
		check(t, nc.PublishMsg(message("log.torn", "", "Nats-Batch-Id", "torn", "Nats-Batch-Sequence", strconv.Itoa(i+1))))
	}
	ask(t, nc, message("log.after", ""))
	if n := stored(t, s, "log.torn"); n != 0 {
		t.Errorf("%d messages are stored", n)
	}
	// The last of a batch whose middle is missing.
	a := ask(t, nc, message("log.torn", "", "Nats-Batch-Id", "other", "Nats-Batch-Sequence", "3", "Nats-Batch-Commit", "1"))
	if a.code() != 10176 || stored(t, s, "log.torn") != 0 {
		t.Errorf("a batch of which only the end came: %+v", a)
	}
}

// The audit log's order: one condition on the whole stream.
func TestExpectedLastSequenceMakesATotalOrder(t *testing.T) {
	_, js, _ := logServer(t)
	one := publish(t, js, "log.a", "1", jetstream.WithExpectLastSequence(0)).Sequence
	publish(t, js, "log.b", "2", jetstream.WithExpectLastSequence(one))
	_, err := js.Publish(t.Context(), "log.c", nil, jetstream.WithExpectLastSequence(one))
	if apiCode(err) != wrongLastSequence {
		t.Errorf("a second writer is told %v", err)
	}
}

// A purge keeps the last record, with its sequence. After a purge of all, the
// subject is as new: an expected sequence of 0 succeeds again.
func TestPurgeKeepsTheLastRecordAndForgetsAWholeSubject(t *testing.T) {
	nc, js, s := logServer(t)
	for range 5 {
		publish(t, js, "log.a", "x")
	}
	last := publish(t, js, "log.a", "last").Sequence
	publish(t, js, "log.b", "y")
	check(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("log.a"), jetstream.WithPurgeKeep(1)))
	m, err := s.GetLastMsgForSubject(t.Context(), "log.a")
	check(t, err)
	if n := stored(t, s, "log.a"); n != 1 || m.Sequence != last || string(m.Data) != "last" {
		t.Errorf("%d records are left, the last is %d %q", n, m.Sequence, m.Data)
	}
	if a := ask(t, nc, expects("log.a", 0)); a.code() != wrongLastSequence {
		t.Errorf("the subject is taken for new: %+v", a)
	}
	check(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("log.a")))
	if a := ask(t, nc, expects("log.a", 0)); a.code() != 0 || a.Seq != last+2 {
		t.Errorf("after a purge of the subject: %+v", a)
	}
	if err := s.DeleteMsg(t.Context(), last+1); err == nil {
		t.Error("a message of a stream with deny_delete was deleted")
	}
}

// DenyPurge holds for every purge, and cannot be taken back.
func TestDenyPurgeCannotBeTakenBack(t *testing.T) {
	_, js, _ := logServer(t)
	cfg := jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"audit.*"}, DenyDelete: true, DenyPurge: true}
	s := stream(t, js, cfg)
	publish(t, js, "audit.1", "x")
	if s.Purge(t.Context()) == nil || s.Purge(t.Context(), jetstream.WithPurgeSubject("audit.1")) == nil || s.DeleteMsg(t.Context(), 1) == nil {
		t.Error("the audit log was purged")
	}
	cfg.DenyPurge = false
	if _, err := js.UpdateStream(t.Context(), cfg); err == nil {
		t.Error("deny_purge was taken back")
	}
	if n := stored(t, s, ">"); n != 1 {
		t.Errorf("%d messages are left", n)
	}
}

// Leases: a value is replaced only by who knows the present one.
func TestKeyIsReplacedByWhoKnowsItOnly(t *testing.T) {
	_, js, _ := logServer(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "LIVE", History: 1})
	check(t, err)
	one, err := kv.Create(t.Context(), "engine.a", []byte("1"))
	check(t, err)
	if _, err := kv.Create(t.Context(), "engine.a", nil); apiCode(err) != wrongLastSequence {
		t.Errorf("a second create: %v", err)
	}
	two, err := kv.Update(t.Context(), "engine.a", []byte("2"), one)
	check(t, err)
	if _, err := kv.Update(t.Context(), "engine.a", []byte("3"), one); apiCode(err) != wrongLastSequence {
		t.Errorf("an update of what is no longer there: %v", err)
	}
	check(t, kv.Delete(t.Context(), "engine.a", jetstream.LastRevision(two)))
	if _, err := kv.Create(t.Context(), "engine.a", []byte("4")); err != nil {
		t.Errorf("a create after the delete: %v", err)
	}
}

// T5. What has been acknowledged and removed is forgotten by the duplicate
// window at a restart.
func TestDuplicateWindowForgetsAcknowledgedMessagesAtARestart(t *testing.T) {
	o := options(t.TempDir())
	s := start(t, o)
	js := jetStream(t, connect(t, s))
	queue := stream(t, js, jetstream.StreamConfig{Name: "WORK", Subjects: []string{"work.>"}, Retention: jetstream.WorkQueuePolicy, Duplicates: 1 << 42})
	publish(t, js, "work.1", "x", jetstream.WithMsgID("id1"))
	cons, err := queue.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	check(t, err)
	m, err := cons.Next(jetstream.FetchMaxWait(patience))
	check(t, err)
	check(t, m.DoubleAck(t.Context()))
	if ack := publish(t, js, "work.1", "x", jetstream.WithMsgID("id1")); !ack.Duplicate {
		t.Errorf("the second publish: %+v", ack)
	}
	s = restart(t, s, o)
	if ack := publish(t, jetStream(t, connect(t, s)), "work.1", "x", jetstream.WithMsgID("id1")); ack.Duplicate {
		t.Errorf("the publish after the restart: %+v", ack)
	}
}

// What the server answers when it takes no more: each code means that nothing
// was stored, and that it may be tried again.
func TestLimitsRefuseWithACodeAndStoreNothing(t *testing.T) {
	o := options(t.TempDir())
	o.JetStreamMaxStore = 1 << 20
	nc := connect(t, start(t, o))
	js := jetStream(t, nc)
	few := stream(t, js, jetstream.StreamConfig{Name: "FEW", Subjects: []string{"few.>"}, MaxMsgs: 1, Discard: jetstream.DiscardNew})
	small := stream(t, js, jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small.>"}, MaxBytes: 4 << 10, MaxMsgSize: 2 << 10, Discard: jetstream.DiscardNew})
	open := stream(t, js, jetstream.StreamConfig{Name: "OPEN", Subjects: []string{"open.>"}, Discard: jetstream.DiscardNew})
	for _, c := range []struct {
		what, fill, subject string
		size, want          int
		description         string
	}{
		{"the size of a message", "", "small.b", 3000, 10054, "message size exceeds maximum allowed"},
		{"the number of messages", "few.a", "few.b", 10, 10077, "maximum messages exceeded"},
		{"the bytes of the stream", "small.a", "small.b", 1000, 10077, "maximum bytes exceeded"},
		{"the store", "open.a", "open.b", 100 << 10, 10023, "insufficient resources"},
	} {
		if c.fill != "" {
			check(t, fill(nc, c.fill, c.size))
		}
		a := ask(t, nc, message(c.subject, string(make([]byte, c.size))))
		if a.code() != c.want || a.Error.Description != c.description {
			t.Errorf("%s: the answer is %+v, want %d %s", c.what, a.Error, c.want, c.description)
		}
		for _, s := range []jetstream.Stream{few, small, open} {
			if n := stored(t, s, c.subject); n != 0 {
				t.Errorf("%s: %d messages were stored", c.what, n)
			}
		}
	}
}

// fill publishes to a subject until that is refused.
func fill(nc *nats.Conn, subject string, size int) error {
	for range 10_000 {
		reply, err := nc.Request(subject, make([]byte, size), patience)
		if err != nil {
			return err
		}
		if len(reply.Data) > 0 && string(reply.Data[:9]) == `{"error":` {
			return nil
		}
	}
	return fmt.Errorf("%s never became full", subject)
}

// T7. A server that does not listen cannot be asked to leave gently: it stays.
func TestLameDuckModeOfAServerThatDoesNotListenDoesNothing(t *testing.T) {
	o := options(t.TempDir())
	o.DontListen = true
	s, err := server.NewServer(o)
	check(t, err)
	go s.Start()
	defer stop(s)
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not get ready")
	}
	js := jetStream(t, connect(t, s))
	s.LameDuckShutdown()
	if _, err := js.AccountInfo(t.Context()); err != nil || !s.Running() {
		t.Errorf("after LameDuckShutdown: %v, running %t", err, s.Running())
	}
}
