package fakejs_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// world is a server, real or fake, that a script is run on. What the script
// sees is written down; both worlds must write the same.
type world struct {
	t       *testing.T
	js      jetstream.JetStream
	wire    journal.Transport
	restart func()
	cut     func(stream string, last uint64) // power: what was stored behind a sequence is lost
	lines   []string

	inbox   string
	answers chan *nats.Msg
}

const (
	batchTimeout = 400 * time.Millisecond
	patience     = 20 * time.Second
)

func (w *world) say(format string, args ...any) {
	for i, a := range args {
		if err, ok := a.(error); ok {
			args[i] = name(err)
		}
	}
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// name says which error it is, in words that both worlds share.
func name(err error) string {
	refused := new(jetstream.APIError)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &refused):
		return fmt.Sprintf("error %d", refused.ErrorCode)
	}
	for _, known := range []error{jetstream.ErrKeyNotFound, jetstream.ErrKeyExists, jetstream.ErrNoKeysFound, jetstream.ErrMsgNotFound,
		jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound, jetstream.ErrNoStreamResponse, jetstream.ErrBucketNotFound, nats.ErrNoResponders} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return err.Error()
}

func (w *world) stream(cfg jetstream.StreamConfig) jetstream.Stream {
	w.t.Helper()
	s, err := w.js.CreateStream(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// listen begins to take answers to what send sends.
func (w *world) listen() {
	w.t.Helper()
	w.answers = make(chan *nats.Msg, 100)
	inbox, stop, err := w.wire.Listen(func(m *nats.Msg) { w.answers <- m })
	if err != nil {
		w.t.Fatal(err)
	}
	w.inbox = inbox
	w.t.Cleanup(stop)
}

// msg is a message with headers in pairs.
func msg(subject, data string, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(data)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

const (
	expect   = "Nats-Expected-Last-Subject-Sequence"
	expectOn = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// send sends a message as the journal does and says what is answered.
func (w *world) send(m *nats.Msg) {
	w.t.Helper()
	w.sendAll("", m)
}

var batches int

// batch sends messages as an atomic batch and says what is answered.
func (w *world) batch(msgs ...*nats.Msg) {
	w.t.Helper()
	batches++
	for i, m := range msgs {
		m.Header.Set("Nats-Batch-Id", fmt.Sprintf("b%d", batches))
		m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
	}
	msgs[len(msgs)-1].Header.Set("Nats-Batch-Commit", "1")
	w.sendAll("batch of ", msgs...)
}

func (w *world) sendAll(what string, msgs ...*nats.Msg) {
	w.t.Helper()
	last := msgs[len(msgs)-1]
	last.Reply = w.inbox + "x"
	for _, m := range msgs {
		if err := w.wire.Send(m); err != nil {
			w.t.Fatal(err)
		}
	}
	select {
	case a := <-w.answers:
		w.say("%s%d to %s: %s", what, len(msgs), last.Subject, answered(a))
	case <-time.After(patience):
		w.say("%s%d to %s: no answer", what, len(msgs), last.Subject)
	}
}

func answered(m *nats.Msg) string {
	if s := m.Header.Get("Status"); s != "" {
		return "status " + s
	}
	var a struct {
		Seq       uint64
		Count     int
		Duplicate bool
		Error     *struct {
			Code int    `json:"code"`
			Err  int    `json:"err_code"`
			Text string `json:"description"`
		}
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return err.Error()
	}
	if a.Error != nil {
		return fmt.Sprintf("refused %d %d %s", a.Error.Code, a.Error.Err, a.Error.Text)
	}
	return fmt.Sprintf("seq %d count %d duplicate %v", a.Seq, a.Count, a.Duplicate)
}

// lies says what lies in a stream.
func (w *world) lies(s jetstream.Stream) {
	w.t.Helper()
	info, err := s.Info(w.t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		w.t.Fatal(err)
	}
	st := info.State
	w.say("%d messages from %d to %d, subjects %v", st.Msgs, st.FirstSeq, st.LastSeq, st.Subjects)
}

// fetch says what a consumer gives; it waits for n messages.
func (w *world) fetch(c jetstream.Consumer, n int) (msgs []jetstream.Msg) {
	w.t.Helper()
	b, err := c.Fetch(n, jetstream.FetchMaxWait(patience))
	if err != nil {
		w.t.Fatal(err)
	}
	for m := range b.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			w.t.Fatal(err)
		}
		// How many are left is not compared: a consumer hears of a message after
		// its publisher does, and the real server's count is too low until then.
		w.say("given %s %q: stream %d, consumer %d, time %d", m.Subject(), m.Data(), meta.Sequence.Stream, meta.Sequence.Consumer, meta.NumDelivered)
		msgs = append(msgs, m)
	}
	w.say("fetched: %v", b.Error())
	return msgs
}

// nothing says what a consumer gives at once.
func (w *world) nothing(c jetstream.Consumer) {
	b, err := c.FetchNoWait(10)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for range b.Messages() {
		n++
	}
	w.say("at once: %d", n)
}

func (w *world) is(c jetstream.Consumer) {
	w.t.Helper()
	info, err := c.Info(w.t.Context())
	if err != nil {
		w.say("consumer: %v", err)
		return
	}
	w.say("consumer: delivered %d, floor %d, to be acknowledged %d, to come %d", info.Delivered.Stream, info.AckFloor.Stream, info.NumAckPending, info.NumPending)
}

// settle waits until the server has taken what nobody answers.
func (w *world) settle(c jetstream.Consumer, pending int) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		info, err := c.Info(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if info.NumAckPending == pending {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d messages are to be acknowledged, want %d", info.NumAckPending, pending)
		}
	}
}

func real(t *testing.T) *world {
	dir := t.TempDir()
	start := func() *server.Server {
		s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true, SyncAlways: true,
			JetStreamLimits: server.JSLimitOpts{MaxBatchTimeout: batchTimeout}})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(patience) {
			t.Fatal("the server did not start")
		}
		return s
	}
	var s *server.Server
	w := &world{t: t}
	var nc *nats.Conn
	open := func() {
		s = start()
		var err error
		if nc, err = nats.Connect("", nats.InProcessServer(s)); err != nil {
			t.Fatal(err)
		}
		if w.js, err = jetstream.New(nc); err != nil {
			t.Fatal(err)
		}
		w.wire = journal.On(w.js)
		w.listen()
	}
	shut := func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
	open()
	t.Cleanup(func() { shut() })
	w.restart = func() {
		shut()
		open()
	}
	w.cut = func(stream string, last uint64) {
		copied := t.TempDir() // of what is on disk while the server runs: it ends no file in good order
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		shut()
		dir = copied
		cutBehind(t, filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", "1.blk"), last)
		open()
	}
	return w
}

// cutBehind ends a block of messages behind the message with a sequence. A
// record in it begins with its length, of which a bit says that headers
// follow, and its sequence.
func cutBehind(t *testing.T, block string, last uint64) {
	t.Helper()
	p, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	for end := 0; end < len(p); {
		seq := binary.LittleEndian.Uint64(p[end+4:])
		end += int(binary.LittleEndian.Uint32(p[end:]) &^ (1 << 31))
		if seq == last {
			if err := os.Truncate(block, int64(end)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no record in %s has the sequence %d", block, last)
}

func fake(t *testing.T) *world {
	s := fakejs.New(fakejs.Options{BatchTimeout: batchTimeout})
	c := s.Client("script")
	t.Cleanup(c.Close)
	w := &world{t: t, js: c, wire: c}
	w.restart = func() {
		s.Restart(0)
		s.Reconnect()
	}
	w.cut = func(stream string, last uint64) {
		s.LoseTail(stream, int(s.Last(stream)-last))
		w.restart()
	}
	w.listen()
	return w
}

// Whatever a script sees on the real server, it sees on the fake one.
func TestTheFakeServerDoesWhatTheRealOneDoes(t *testing.T) {
	for _, script := range scripts {
		t.Run(script.name, func(t *testing.T) {
			t.Parallel()
			want, got := real(t), fake(t)
			script.run(want)
			script.run(got)
			if len(want.lines) < 3 {
				t.Fatalf("the script has seen next to nothing: %v", want.lines)
			}
			if diff := cmp.Diff(want.lines, got.lines); diff != "" {
				t.Errorf("the fake server answers otherwise (-real +fake):\n%s\nall of it:\n%s", diff, strings.Join(want.lines, "\n"))
			}
		})
	}
}

// A difference between the two servers is noticed.
func TestADifferenceFromTheRealServerIsNoticed(t *testing.T) {
	for name, broken := range map[string]fakejs.Broken{"expectations": {Expectations: true}, "atomic": {Atomic: true}, "dedupe": {Dedupe: true}} {
		t.Run(name, func(t *testing.T) {
			good := fake(t)
			s := fakejs.New(fakejs.Options{BatchTimeout: batchTimeout, Broken: broken})
			c := s.Client("script")
			t.Cleanup(c.Close)
			bad := &world{t: t, js: c, wire: c}
			bad.listen()
			differ := false
			for _, script := range scripts {
				if script.name != "Expectations" && script.name != "Batches" && script.name != "Dedupe" {
					continue
				}
				good.lines, bad.lines = nil, nil
				script.run(good)
				script.run(bad)
				differ = differ || !cmp.Equal(good.lines, bad.lines)
			}
			if !differ {
				t.Error("the scripts see no difference")
			}
		})
	}
}

var scripts = []struct {
	name string
	run  func(*world)
}{
	{"Expectations", expectations},
	{"Batches", batchesCommit},
	{"BatchesRefused", batchesRefused},
	{"BatchesAbandoned", batchAbandoned},
	{"Dedupe", dedupe},
	{"DedupeAcrossARestart", dedupeRestart},
	{"Limits", limits},
	{"Reading", reading},
	{"Acknowledging", acknowledging},
	{"DoubleAckOfAFormerHolder", doubleAck},
	{"RedeliveryOrder", redeliveryOrder},
	{"Purges", purges},
	{"Restart", restart},
	{"LostTail", lostTail},
	{"LostTailOfWhatIsReplaced", lostReplacement},
	{"LostTailBehindAPurge", lostPurge},
	{"Configuration", configuration},
	{"Buckets", buckets},
	{"Watching", watching},
}

func plain(name string, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: name, Subjects: subjects, AllowAtomicPublish: true, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew}
}

func expectations(w *world) {
	s := w.stream(plain("E", "e.>"))
	w.send(msg("e.a", "1", expect, "0"))
	w.send(msg("e.a", "2", expect, "0"))
	w.send(msg("e.a", "2", expect, "1"))
	w.send(msg("e.b", "3", expect, "2", expectOn, "e.a"))
	w.send(msg("e.b", "4", expect, "1", expectOn, "e.a"))
	w.send(msg("e.b", "5", expect, "0", expectOn, "e.none"))
	w.send(msg("e.b", "6", expect, "4", expectOn, "e.*"))
	w.send(msg("e.b", "7", expect, "4", expectOn, "e.*"))
	w.send(msg("e.c", "8", "Nats-Expected-Last-Sequence", "5"))
	w.send(msg("e.c", "9", "Nats-Expected-Last-Sequence", "5"))
	w.send(msg("e.c", "10", "Nats-Expected-Stream", "E"))
	w.send(msg("e.c", "11", "Nats-Expected-Stream", "F"))
	w.send(msg("nobody.takes.it", "12"))
	w.lies(s)
	for _, err := range []error{
		second(w.js.Publish(w.t.Context(), "e.a", nil, jetstream.WithExpectLastSequencePerSubject(2))),
		second(w.js.Publish(w.t.Context(), "e.a", nil, jetstream.WithExpectLastSequencePerSubject(2))),
		second(w.js.Publish(w.t.Context(), "e.z", nil, jetstream.WithExpectLastSequenceForSubject(8, "e.a"))),
		second(w.js.Publish(w.t.Context(), "e.z", nil, jetstream.WithExpectLastSequenceForSubject(2, "e.a"))),
		second(w.js.Publish(w.t.Context(), "e.z", nil, jetstream.WithExpectLastSequence(3))),
	} {
		w.say("published: %v", err)
	}
	w.lies(s)
}

func second[A, B any](_ A, b B) B { return b }

func batchesCommit(w *world) {
	s := w.stream(plain("B", "b.>"))
	w.batch(msg("b.a", "1", expect, "0"), msg("b.b", "2", expect, "0"))
	w.batch(msg("b.a", "3", expect, "0"), msg("b.c", "4"))
	w.batch(msg("b.a", "5", expect, "1"), msg("b.a", "6"), msg("b.b", "7", expect, "2"))
	w.batch(msg("b.a", "8", expect, "4"), msg("b.b", "9", expect, "2"))
	w.batch(msg("b.c", "10", expect, "5", expectOn, "b.b"), msg("b.d", "11", expect, "5", expectOn, "b.b"), msg("b.c", "12", expect, "5", expectOn, "b.b"))
	w.batch(msg("b.c", "13", expect, "4", expectOn, "b.b"), msg("b.d", "14", expect, "5", expectOn, "b.b"))
	w.batch(msg("b.x", "15", "Nats-Expected-Last-Sequence", "8"), msg("b.y", "16"))
	w.batch(msg("b.x", "17", "Nats-Expected-Last-Sequence", "8"), msg("b.y", "18"))
	w.batch(msg("b.w", "19", expect, "10", expectOn, "b.*"), msg("b.w", "20"))
	w.batch(msg("b.n", "21", expect, "0", expectOn, "b.never"), msg("b.m", "22", expect, "0"))
	w.batch(msg("b.one", "23"))
	w.lies(s)
	w.send(msg("b.a", "24", expect, "4"))
	w.lies(s)
}

func batchesRefused(w *world) {
	s := w.stream(plain("R", "r.>"))
	w.send(msg("r.old", "0", "Nats-Msg-Id", "known"))
	w.batch(msg("r.a", "1", "Nats-Msg-Id", "new"), msg("r.b", "2", "Nats-Msg-Id", "known"))
	w.batch(msg("r.a", "3", "Nats-Msg-Id", "twice"), msg("r.b", "4", "Nats-Msg-Id", "twice"))
	w.batch(msg("r.a", "5", "Nats-Msg-Id", "new"), msg("r.b", "6"))
	w.batch(msg("r.a", "7"), msg("r.b", "8", "Nats-Expected-Last-Msg-Id", "known"))
	w.sendAll("without a sequence ", msg("r.a", "9", "Nats-Batch-Id", "nosequence", "Nats-Batch-Commit", "1"))
	w.sendAll("with a gap ", msg("r.a", "10", "Nats-Batch-Id", "gap", "Nats-Batch-Sequence", "1"),
		msg("r.a", "11", "Nats-Batch-Id", "gap", "Nats-Batch-Sequence", "3", "Nats-Batch-Commit", "1"))
	w.sendAll("from the middle ", msg("r.a", "12", "Nats-Batch-Id", "middle", "Nats-Batch-Sequence", "2", "Nats-Batch-Commit", "1"))
	large := make([]*nats.Msg, 1001)
	for i := range large {
		large[i] = msg("r.large", "x")
	}
	w.batch(large...)
	w.lies(s)
	cfg := plain("N", "n.>")
	cfg.AllowAtomicPublish = false
	n := w.stream(cfg)
	w.batch(msg("n.a", "1"), msg("n.b", "2"))
	w.lies(n)
	cfg = plain("L", "l.>")
	cfg.MaxMsgs, cfg.MaxMsgSize = 3, 100
	l := w.stream(cfg)
	w.batch(msg("l.a", "1"), msg("l.b", strings.Repeat("x", 200)))
	w.batch(msg("l.a", "1"), msg("l.b", "2"))
	w.batch(msg("l.a", "3"), msg("l.b", "4"))
	w.lies(l)
}

func batchAbandoned(w *world) {
	s := w.stream(plain("A", "a.>"))
	head := func(n int) []string { return []string{"Nats-Batch-Id", "slow", "Nats-Batch-Sequence", fmt.Sprint(n)} }
	for n := 1; n <= 2; n++ {
		if err := w.wire.Send(msg("a.x", "1", head(n)...)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.lies(s)
	time.Sleep(4 * batchTimeout) // the server's own clock is what this is about
	w.sendAll("too late ", msg("a.x", "3", append(head(3), "Nats-Batch-Commit", "1")...))
	w.lies(s)
	w.send(msg("a.x", "4"))
	w.lies(s)
}

func dedupe(w *world) {
	s := w.stream(plain("D", "d.>"))
	w.send(msg("d.mallory", "forged", "Nats-Msg-Id", "approve-1"))
	w.send(msg("d.bob", "approved", "Nats-Msg-Id", "approve-1"))
	w.send(msg("d.bob", "approved", "Nats-Msg-Id", "approve-2", expect, "7"))
	w.send(msg("d.bob", "approved", "Nats-Msg-Id", "approve-2", expect, "0"))
	w.send(msg("d.bob", "approved", "Nats-Msg-Id", "approve-2", expect, "0"))
	w.send(msg("d.bob", "other", "Nats-Msg-Id", "approve-3"))
	w.lies(s)
	if err := s.Purge(w.t.Context(), jetstream.WithPurgeSubject("d.bob")); err != nil {
		w.t.Fatal(err)
	}
	w.send(msg("d.bob", "approved", "Nats-Msg-Id", "approve-2"))
	a, err := w.js.Publish(w.t.Context(), "d.bob", nil, jetstream.WithMsgID("approve-3"))
	w.say("published: %v, %+v", err, a)
	w.lies(s)
}

func dedupeRestart(w *world) {
	s := w.stream(plain("D", "d.>"))
	w.send(msg("d.a", "1", "Nats-Msg-Id", "kept"))
	w.send(msg("d.b", "2", "Nats-Msg-Id", "purged"))
	if err := s.Purge(w.t.Context(), jetstream.WithPurgeSubject("d.b")); err != nil {
		w.t.Fatal(err)
	}
	w.send(msg("d.b", "3", "Nats-Msg-Id", "purged"))
	w.restart()
	w.send(msg("d.a", "4", "Nats-Msg-Id", "kept"))
	w.send(msg("d.b", "5", "Nats-Msg-Id", "purged"))
	s, err := w.js.Stream(w.t.Context(), "D")
	if err != nil {
		w.t.Fatal(err)
	}
	w.lies(s)
}

func limits(w *world) {
	cfg := plain("M", "m.>")
	cfg.MaxMsgs = 2
	m := w.stream(cfg)
	for range 3 {
		w.send(msg("m.a", "x"))
	}
	w.lies(m)
	cfg = plain("S", "s.>")
	cfg.MaxMsgSize = 50
	s := w.stream(cfg)
	w.send(msg("s.a", strings.Repeat("x", 50)))
	w.send(msg("s.a", strings.Repeat("x", 51)))
	w.send(msg("s.a", strings.Repeat("x", 40), "Some", "header"))
	w.lies(s)
	cfg = plain("P", "p.>")
	cfg.MaxMsgsPerSubject = 1
	p := w.stream(cfg)
	w.send(msg("p.a", "1"))
	w.send(msg("p.a", "2", expect, "1"))
	w.send(msg("p.b", "3"))
	w.send(msg("p.a", "4", expect, "1"))
	w.lies(p)
	cfg = plain("F", "f.>")
	cfg.MaxMsgsPerSubject, cfg.DiscardNewPerSubject = 1, true
	f := w.stream(cfg)
	w.send(msg("f.a", "1"))
	w.send(msg("f.a", "2"))
	w.send(msg("f.b", "3"))
	w.lies(f)
	cfg = plain("Y", "y.>")
	cfg.MaxBytes = 1000
	y := w.stream(cfg)
	w.send(msg("y.a", strings.Repeat("x", 600)))
	w.send(msg("y.a", strings.Repeat("x", 600)))
	cfg.MaxBytes = 5000
	if _, err := w.js.UpdateStream(w.t.Context(), cfg); err != nil {
		w.t.Fatal(err)
	}
	w.send(msg("y.a", strings.Repeat("x", 600)))
	w.lies(y)
}

func reading(w *world) {
	s := w.stream(plain("G", "g.>"))
	for i := range 6 {
		w.send(msg(fmt.Sprintf("g.%d", i%3), fmt.Sprint(i)))
	}
	ctx := w.t.Context()
	consumer := func(cfg jetstream.ConsumerConfig) jetstream.Consumer {
		cfg.AckPolicy, cfg.MemoryStorage, cfg.InactiveThreshold = jetstream.AckNonePolicy, true, time.Minute
		c, err := s.CreateConsumer(ctx, cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		return c
	}
	c := consumer(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 2})
	w.fetch(c, 3)
	w.is(c)
	w.fetch(c, 2)
	w.nothing(c)
	w.is(c)
	c = consumer(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 2, FilterSubject: "g.0"})
	w.fetch(c, 1)
	w.nothing(c)
	c = consumer(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubject: "g.*"})
	w.fetch(c, 1)
	w.send(msg("g.2", "6"))
	w.send(msg("g.1", "7"))
	w.fetch(c, 4)
	w.is(c)
	c = consumer(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: []string{"g.1", "g.2"}})
	w.fetch(c, 2)
	w.nothing(c)
	c = consumer(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	w.nothing(c)
	for _, q := range []string{`{"last_by_subj":"g.1"}`, `{"last_by_subj":"g.*"}`, `{"last_by_subj":"g.none"}`, `{"last_by_subj":">"}`} {
		w.say("last %s: %s", q, w.last("G", q))
	}
	w.say("last of no stream: %s", w.last("NONE", `{"last_by_subj":"x"}`))
	for _, seq := range []uint64{1, 8, 9} {
		m, err := s.GetMsg(ctx, seq)
		w.say("message %d: %v %s", seq, err, text(m))
		m, err = s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("g.2"))
		w.say("of g.2 from %d: %v %s", seq, err, text(m))
	}
	m, err := s.GetLastMsgForSubject(ctx, "g.1")
	w.say("last of g.1: %v %s", err, text(m))
	w.say("no consumer: %v", second(s.Consumer(ctx, "none")))
	w.say("no stream: %v", second(w.js.Stream(ctx, "NONE")))
	w.say("deleted: %v", s.DeleteConsumer(ctx, c.CachedInfo().Name))
	w.say("deleted again: %v", s.DeleteConsumer(ctx, c.CachedInfo().Name))
	w.is(c)
}

func text(m *jetstream.RawStreamMsg) string {
	if m == nil {
		return "-"
	}
	return fmt.Sprintf("%s %d %q", m.Subject, m.Sequence, m.Data)
}

// last asks the leader as the journal does.
func (w *world) last(stream, q string) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	p, err := w.wire.API(ctx, "STREAM.MSG.GET."+stream, []byte(q))
	if err != nil {
		return name(err)
	}
	var a struct {
		Error *struct {
			Code int `json:"err_code"`
		}
		Message *struct {
			Subject string
			Seq     uint64
			Data    []byte
		}
	}
	if err := json.Unmarshal(p, &a); err != nil {
		return err.Error()
	}
	if a.Error != nil {
		return fmt.Sprintf("error %d", a.Error.Code)
	}
	return fmt.Sprintf("%s %d %q", a.Message.Subject, a.Message.Seq, a.Message.Data)
}

// workers makes a stream of tasks with a durable consumer.
func (w *world) workers(cfg jetstream.ConsumerConfig, n int) (jetstream.Stream, jetstream.Consumer) {
	s := w.stream(plain("T", "t.>"))
	cfg.Durable, cfg.AckPolicy = "workers", jetstream.AckExplicitPolicy
	c, err := s.CreateConsumer(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		w.send(msg("t.a", fmt.Sprint(i)))
	}
	return s, c
}

func acknowledging(w *world) {
	_, c := w.workers(jetstream.ConsumerConfig{AckWait: time.Minute, MaxAckPending: 3}, 5)
	msgs := w.fetch(c, 3)
	w.nothing(c) // no more than may be out
	w.is(c)
	w.say("ack: %v", msgs[1].DoubleAck(w.t.Context()))
	w.is(c) // the floor stays below the first
	w.say("ack: %v", msgs[0].DoubleAck(w.t.Context()))
	w.is(c)
	w.say("ack again: %v", msgs[0].DoubleAck(w.t.Context()))
	more := w.fetch(c, 2)
	w.nothing(c)
	w.say("nak: %v", more[0].Nak())
	again := w.fetch(c, 1)
	w.say("nak: %v", more[1].NakWithDelay(50*time.Millisecond))
	again = append(again, w.fetch(c, 1)...)
	w.say("ack of what was given back: %v", more[0].Ack())
	for _, m := range append(again, msgs[2]) {
		if err := m.Ack(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.settle(c, 0)
	w.nothing(c)
	w.is(c)
}

func doubleAck(w *world) {
	_, c := w.workers(jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond}, 1)
	first := w.fetch(c, 1)
	then := w.fetch(c, 1) // when the first holder's time is over
	w.say("first holder: %v", first[0].DoubleAck(w.t.Context()))
	w.say("second holder: %v", then[0].DoubleAck(w.t.Context()))
	w.is(c)
	w.nothing(c)
}

// What was given before comes again after newer ones, which breaks their order.
func redeliveryOrder(w *world) {
	_, c := w.workers(jetstream.ConsumerConfig{AckWait: 500 * time.Millisecond}, 2)
	w.fetch(c, 2)
	w.send(msg("t.a", "newer"))
	newer := w.fetch(c, 1)
	w.say("ack: %v", newer[0].DoubleAck(w.t.Context()))
	again := w.fetch(c, 2)
	for _, m := range again {
		w.say("ack: %v", m.DoubleAck(w.t.Context()))
	}
	w.is(c)
}

func purges(w *world) {
	s := w.stream(plain("U", "u.>"))
	for i := range 9 {
		w.send(msg(fmt.Sprintf("u.%d", i%3), fmt.Sprint(i)))
	}
	ctx := w.t.Context()
	w.say("keep one: %v", s.Purge(ctx, jetstream.WithPurgeSubject("u.0"), jetstream.WithPurgeKeep(1)))
	w.lies(s)
	w.say("below: %v", s.Purge(ctx, jetstream.WithPurgeSequence(3)))
	w.lies(s)
	w.say("of a subject, below: %v", s.Purge(ctx, jetstream.WithPurgeSubject("u.1"), jetstream.WithPurgeSequence(8)))
	w.lies(s)
	w.send(msg("u.1", "9", expect, "8"))
	w.say("of a subject: %v", s.Purge(ctx, jetstream.WithPurgeSubject("u.1")))
	w.send(msg("u.1", "10", expect, "0"))
	w.lies(s)
	w.say("last: %s", w.last("U", `{"last_by_subj":"u.0"}`))
	w.say("all: %v", s.Purge(ctx))
	w.lies(s)
	w.send(msg("u.1", "11", expect, "0"))
	w.lies(s)
	cfg := plain("V", "v.>")
	cfg.DenyPurge = true
	v := w.stream(cfg)
	w.send(msg("v.a", "1"))
	w.say("denied: %v", v.Purge(ctx))
	w.lies(v)
}

func restart(w *world) {
	_, c := w.workers(jetstream.ConsumerConfig{AckWait: time.Minute}, 4)
	msgs := w.fetch(c, 3)
	w.say("ack: %v", msgs[0].DoubleAck(w.t.Context()))
	w.batch(msg("t.b", "1", expect, "0"), msg("t.c", "2"))
	s, err := w.js.Stream(w.t.Context(), "T")
	if err != nil {
		w.t.Fatal(err)
	}
	memory, err := s.CreateConsumer(w.t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	w.fetch(memory, 1)
	name := memory.CachedInfo().Name
	w.restart()
	if s, err = w.js.Stream(w.t.Context(), "T"); err != nil {
		w.t.Fatal(err)
	}
	w.lies(s)
	_, err = s.Consumer(w.t.Context(), name)
	w.say("the consumer in memory: %v", err)
	if c, err = s.Consumer(w.t.Context(), "workers"); err != nil {
		w.t.Fatal(err)
	}
	w.is(c)
	w.fetch(c, 3) // new ones at once; those that were out, when their time is over
	w.send(msg("t.b", "3", expect, "5"))
	w.lies(s)
}

// A power cut takes the end of a stream, and with it a part of a batch.
func lostTail(w *world) {
	_, c := w.workers(jetstream.ConsumerConfig{AckWait: time.Minute}, 2)
	w.batch(msg("t.b", "1", expect, "0"), msg("t.c", "2", "Nats-Msg-Id", "kept"), msg("t.d", "3", "Nats-Msg-Id", "lost"))
	w.cut("T", 4)
	s, err := w.js.Stream(w.t.Context(), "T")
	if err != nil {
		w.t.Fatal(err)
	}
	w.lies(s)
	w.send(msg("t.c", "4", expect, "5"))
	w.send(msg("t.d", "4", expect, "0", "Nats-Msg-Id", "lost")) // the sequence is used again
	w.send(msg("t.c", "4", "Nats-Msg-Id", "kept"))
	w.lies(s)
	if c, err = s.Consumer(w.t.Context(), c.CachedInfo().Name); err != nil {
		w.t.Fatal(err)
	}
	w.fetch(c, 5)
	w.is(c)
}

// What a lost message has replaced is there again.
func lostReplacement(w *world) {
	cfg := plain("P", "p.>")
	cfg.MaxMsgsPerSubject = 1
	w.stream(cfg)
	w.send(msg("p.a", "1"))
	w.send(msg("p.b", "2"))
	w.send(msg("p.a", "3", expect, "1"))
	w.send(msg("p.b", "4", expect, "2"))
	w.send(msg("p.c", "5"))
	w.cut("P", 3)
	s, err := w.js.Stream(w.t.Context(), "P")
	if err != nil {
		w.t.Fatal(err)
	}
	w.lies(s)
	w.say("last: %s", w.last("P", `{"last_by_subj":"p.a"}`))
	w.say("last: %s", w.last("P", `{"last_by_subj":"p.b"}`))
	w.send(msg("p.b", "6", expect, "4"))
	w.send(msg("p.b", "7", expect, "2"))
	w.lies(s)
}

// What was purged before the loss is there again, as far as the word of that
// was lost as well.
func lostPurge(w *world) {
	s := w.stream(plain("Q", "q.>"))
	for i := range 8 {
		w.send(msg(fmt.Sprintf("q.%d", i%2), fmt.Sprint(i)))
	}
	w.say("of a subject, below: %v", s.Purge(w.t.Context(), jetstream.WithPurgeSubject("q.0"), jetstream.WithPurgeSequence(4)))
	w.send(msg("q.0", "8"))
	w.send(msg("q.0", "9"))
	w.say("of a subject, below: %v", s.Purge(w.t.Context(), jetstream.WithPurgeSubject("q.1"), jetstream.WithPurgeSequence(7)))
	w.send(msg("q.0", "10"))
	w.lies(s)
	w.cut("Q", 9)
	s, err := w.js.Stream(w.t.Context(), "Q")
	if err != nil {
		w.t.Fatal(err)
	}
	w.lies(s)
	w.send(msg("q.1", "11"))
	w.lies(s)
}

func configuration(w *world) {
	ctx := w.t.Context()
	cfg := plain("C", "c.>")
	w.stream(cfg)
	_, err := w.js.CreateStream(ctx, cfg)
	w.say("the same again: %v", err)
	cfg.MaxMsgs = 7
	_, err = w.js.CreateStream(ctx, cfg)
	w.say("another one: %v", err)
	s, err := w.js.UpdateStream(ctx, cfg)
	w.say("changed: %v", err)
	got := s.CachedInfo().Config
	w.say("%v %v %v %v %v %v %v", got.MaxMsgs, got.MaxBytes, got.MaxMsgsPerSubject, got.MaxMsgSize, got.MaxConsumers, got.Replicas, got.Duplicates)
	c := jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "c.a"}
	_, err = s.CreateConsumer(ctx, c)
	w.say("consumer: %v", err)
	_, err = s.CreateConsumer(ctx, c)
	w.say("the same again: %v", err)
	c.FilterSubject = "c.b"
	_, err = s.CreateConsumer(ctx, c)
	w.say("another one: %v", err)
	_, err = s.CreateOrUpdateConsumer(ctx, c)
	w.say("changed: %v", err)
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		w.say("there is %s of %s", info.Name, info.Config.FilterSubject)
	}
	w.say("listed: %v", list.Err())
}

func buckets(w *world) {
	ctx := w.t.Context()
	_, err := w.js.KeyValue(ctx, "none")
	w.say("no bucket: %v", err)
	kv, err := w.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "K", History: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	get := func(key string) {
		e, err := kv.Get(ctx, key)
		if err != nil {
			w.say("get %s: %v", key, err)
			return
		}
		w.say("get %s: %q at %d", key, e.Value(), e.Revision())
	}
	put := func(what string) func(uint64, error) {
		return func(rev uint64, err error) { w.say("%s: %d, %v", what, rev, err) }
	}
	get("a")
	_, err = kv.Keys(ctx)
	w.say("keys: %v", err)
	put("create")(kv.Create(ctx, "a", []byte("1")))
	put("create again")(kv.Create(ctx, "a", []byte("2")))
	put("put")(kv.Put(ctx, "a", []byte("3")))
	put("update stale")(kv.Update(ctx, "a", []byte("4"), 1))
	put("update")(kv.Update(ctx, "a", []byte("5"), 2))
	put("update new")(kv.Update(ctx, "b", []byte("6"), 0))
	put("put")(kv.Put(ctx, "c.d", []byte("7")))
	get("a")
	get("b")
	w.say("delete stale: %v", kv.Delete(ctx, "a", jetstream.LastRevision(1)))
	w.say("delete: %v", kv.Delete(ctx, "a", jetstream.LastRevision(3)))
	get("a")
	put("update new")(kv.Update(ctx, "a", []byte("8"), 0))
	put("create")(kv.Create(ctx, "a", []byte("9")))
	get("a")
	keys, err := kv.Keys(ctx)
	w.say("%v, keys: %d", err, len(keys))
	w.say("purge: %v", kv.Purge(ctx, "a"))
	get("a")
}

func watching(w *world) {
	ctx := w.t.Context()
	kv, err := w.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "W", History: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	put := func(key, value string) {
		if _, err := kv.Put(ctx, key, []byte(value)); err != nil {
			w.t.Fatal(err)
		}
	}
	next := func(kw jetstream.KeyWatcher, n int) {
		for range n {
			select {
			case e, open := <-kw.Updates():
				switch {
				case !open:
					w.say("closed")
				case e == nil:
					w.say("that is all for now")
				default:
					w.say("%s is %q at %d, %v", e.Key(), e.Value(), e.Revision(), e.Operation())
				}
			case <-time.After(patience):
				w.t.Fatalf("nothing came; before it:\n%s", strings.Join(w.lines, "\n"))
			}
		}
	}
	empty, err := kv.WatchAll(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	next(empty, 1)
	put("a", "1")
	put("b", "2")
	put("a", "3")
	next(empty, 3)
	full, err := kv.WatchAll(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	next(full, 3)
	if err := kv.Delete(ctx, "a"); err != nil {
		w.t.Fatal(err)
	}
	next(full, 1)
	news, err := kv.Watch(ctx, "b", jetstream.UpdatesOnly())
	if err != nil {
		w.t.Fatal(err)
	}
	put("a", "4")
	put("b", "5")
	next(news, 1)
	w.say("stop: %v", full.Stop())
}
