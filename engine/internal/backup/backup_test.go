package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
)

func started(t *testing.T) (*broker.Broker, Conns) {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Dir: t.TempDir(), Listen: broker.ListenNot, Sync: broker.SyncLazy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b, Conns{events.AccountEngine: b.Engine, events.AccountWork: b.Work, events.AccountNotify: b.Notify, events.AccountExt: b.Ext}
}

func streamsOf(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// messages gives all messages of a stream by sequence.
func messages(t *testing.T, nc *nats.Conn, stream string) map[uint64]string {
	t.Helper()
	s, err := streamsOf(t, nc).Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	all := map[uint64]string{}
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			continue // a gap
		}
		all[seq] = fmt.Sprint(m.Subject, m.Header, string(m.Data), m.Time.UnixNano())
	}
	return all
}

// A copy that is made while everything is written to has every record up to a
// point, with sequences, times and gaps; and no checkpoint of it is ahead.
func TestCopyUnderLoadIsWholeAndStopped(t *testing.T) {
	b, conns := started(t)
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, work := streamsOf(t, b.Engine), streamsOf(t, b.Work)
	publish := func(js jetstream.JetStream, subject, text string) uint64 {
		ack, err := js.Publish(context.Background(), subject, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", subject, err)
			return 0
		}
		return ack.Sequence
	}
	for i := range 50 {
		publish(js, fmt.Sprintf("penstock.log.7.run.r%d", i%5), fmt.Sprint("early ", i))
	}
	log, err := js.Stream(t.Context(), events.StreamLog)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Purge(t.Context(), jetstream.WithPurgeSubject("penstock.log.7.run.r3"), jetstream.WithPurgeKeep(1)); err != nil { // gaps
		t.Fatal(err)
	}
	if err := b.EnsureTaskConsumer(t.Context(), events.DefaultPool, "build"); err != nil {
		t.Fatal(err)
	}
	publish(work, "penstock.task.default.build.1", "done")
	publish(work, "penstock.task.default.build.1", "not done")
	consumer, err := work.Consumer(t.Context(), events.StreamTasks, events.TaskConsumer(events.DefaultPool, "build"))
	if err != nil {
		t.Fatal(err)
	}
	task, err := consumer.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := task.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}

	var stop atomic.Bool
	ended := make(chan struct{})
	go func() { // a record, and then the checkpoint that knows of it
		defer close(ended)
		for i := 0; !stop.Load(); i++ {
			seq := publish(js, fmt.Sprintf("penstock.log.7.run.r%d", i%50), strings.Repeat("x", 500))
			publish(js, "penstock.ckpt.7", fmt.Sprintf(`{"seq":%d,"hash":"h"}`, seq))
		}
	}()
	var file bytes.Buffer
	m, err := Write(t.Context(), conns, Options{Version: "v1", Principals: []byte("[]")}, &file)
	stop.Store(true)
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	if m.Version != "v1" || len(m.Streams) != len(parts) {
		t.Errorf("the manifest is %+v", m)
	}

	other, into := started(t)
	var principals string
	to := Into{Conns: into, Replicas: 1, Principals: func(p []byte) error { principals = string(p); return nil }}
	if _, err := Read(t.Context(), bytes.NewReader(file.Bytes()), to); err != nil {
		t.Fatal(err)
	}
	if principals != "[]" {
		t.Errorf("the principals are %q", principals)
	}
	if err := other.EnsureStreams(t.Context()); err != nil {
		t.Errorf("the streams are not as they have to be: %v", err)
	}
	have, was := messages(t, other.Engine, events.StreamLog), messages(t, b.Engine, events.StreamLog)
	var last uint64
	for seq, text := range have {
		if was[seq] != text {
			t.Fatalf("record %d is %q, was %q", seq, text, was[seq])
		}
		last = max(last, seq)
	}
	for seq := range was {
		if seq <= last && have[seq] == "" {
			t.Fatalf("record %d is missing, the copy ends at %d", seq, last)
		}
	}
	checkMarks(t, other, last)
	info, err := streamsOf(t, other.Work).Consumer(t.Context(), events.StreamTasks, events.TaskConsumer(events.DefaultPool, "build"))
	if err != nil {
		t.Fatal(err)
	}
	if i := info.CachedInfo(); i.AckFloor.Stream != 1 || i.NumPending != 1 {
		t.Errorf("of the tasks %d are done and %d wait, want one each", i.AckFloor.Stream, i.NumPending)
	}
	if next := publish(streamsOf(t, other.Engine), "penstock.log.7.run.r1", "new"); next != last+1 {
		t.Errorf("the next record is %d, want %d", next, last+1)
	}
	if _, err := Read(t.Context(), bytes.NewReader(file.Bytes()), to); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("restored again over what is there: %v", err)
	}
}

// checkMarks looks whether every partition is stopped, and what its checkpoint
// said before is kept.
func checkMarks(t *testing.T, b *broker.Broker, last uint64) {
	t.Helper()
	s, err := streamsOf(t, b.Engine).Stream(t.Context(), events.StreamCkpt)
	if err != nil {
		t.Fatal(err)
	}
	for vp := range events.Partitions {
		m, err := s.GetLastMsgForSubject(t.Context(), fmt.Sprintf("penstock.ckpt.%d", vp))
		if err != nil {
			t.Fatalf("partition %d: %v", vp, err)
		}
		var c struct {
			Seq  uint64
			Hash string
			Stop string
		}
		if err := json.Unmarshal(m.Data, &c); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Stop, "restored from a backup of ") || c.Seq > last || vp == 7 && c.Hash != "h" && c.Seq > 0 {
			t.Errorf("the checkpoint of partition %d is %s, the record ends at %d", vp, m.Data, last)
		}
	}
}

func TestDamagedBackupIsRefusedBeforeAnythingIsRestored(t *testing.T) {
	b, conns := started(t)
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := streamsOf(t, b.Engine).Publish(t.Context(), "penstock.log.7.run.r", []byte("record")); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := Write(t.Context(), conns, Options{}, &file); err != nil {
		t.Fatal(err)
	}
	good := file.Bytes()
	if _, err := Verify(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	_, into := started(t)
	at := bytes.Index(good, []byte(pieceName(events.StreamLog, 1))) + 600 // behind its header
	flipped := bytes.Clone(good)
	flipped[at] ^= 1
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"a bit":       {flipped, events.StreamLog},
		"the end":     {good[:len(good)/2], "not whole"},
		"no manifest": {good[:bytes.LastIndex(good, []byte(manifestName))], "not whole"},
		"nothing":     {nil, "no manifest"},
		"no backup":   {[]byte(strings.Repeat("hello ", 1000)), "damaged"},
	} {
		_, err := Read(t.Context(), bytes.NewReader(c.file), Into{Conns: into, Replicas: 1})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		}
	}
	for range streamsOf(t, into[events.AccountEngine]).StreamNames(t.Context()).Name() {
		t.Error("a stream was restored")
	}
}
