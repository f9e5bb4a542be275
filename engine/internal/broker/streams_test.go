package broker

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// A server that is started with a larger store gives it to the streams, so
// that one that is full takes something again.
func TestALargerStoreIsForTheStreamsToo(t *testing.T) {
	dir := t.TempDir()
	limit := func(store int64) int64 {
		t.Helper()
		b, err := Start(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Sync: SyncLazy, MaxStore: store})
		if err != nil {
			t.Fatal(err)
		}
		defer stop(t, b)
		if err := b.EnsureStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(b.Ext)
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), events.StreamIngress)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config.MaxBytes
	}
	for _, step := range []struct{ store, want int64 }{{40 << 20, 4 << 20}, {400 << 20, 40 << 20}} {
		want := step.want / 100 * 100
		if got := limit(step.store); got < want-100 || got > step.want {
			t.Errorf("with a store of %d bytes events may fill %d, want %d", step.store, got, step.want)
		}
	}
}

// An installation whose audit stream was made when nobody wrote it goes on.
func TestAStreamOfAnEarlierVersionIsBroughtUpToDate(t *testing.T) {
	b := startIn(t, Options{Dir: t.TempDir()})
	js, err := jetstream.New(b.Engine)
	if err != nil {
		t.Fatal(err)
	}
	former := jetstream.StreamConfig{Name: events.StreamAudit, Description: "the audit log", Subjects: []string{"penstock.audit.*"},
		Discard: jetstream.DiscardNew, DenyDelete: true, DenyPurge: true, Compression: jetstream.S2Compression, Replicas: 1}
	if _, err := js.CreateStream(t.Context(), former); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, b.Engine, "penstock.audit.202601.7", "record")
	// What somebody has changed by hand is refused as before.
	s, err := js.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	changed := s.CachedInfo().Config
	changed.Subjects, changed.MaxAge = []string{"penstock.audit.*"}, time.Hour
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureStreams(t.Context()); err == nil {
		t.Error("a stream that somebody has changed is taken for one of an earlier version")
	}
}
