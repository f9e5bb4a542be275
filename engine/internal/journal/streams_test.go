package journal_test

import (
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

func TestEnsuringStreamsTwiceChangesNothing(t *testing.T) {
	b := newBroker(t, journal.SyncLazy)
	js := b.jetStream(b.connect(b.server.ClientURL()))
	if err := journal.EnsureStreams(t.Context(), js, journal.Streams(1)...); err != nil {
		t.Fatal(err)
	}
}

func TestAChangedStreamIsRefusedWithEveryDifference(t *testing.T) {
	b := newBroker(t, journal.SyncLazy)
	js := b.jetStream(b.connect(b.server.ClientURL()))
	s, err := js.Stream(t.Context(), events.StreamLog)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.AllowRollup, cfg.AllowDirect, cfg.MaxBytes = true, true, 1<<30
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	err = journal.EnsureStreams(t.Context(), js, journal.Streams(1)...)
	if err == nil {
		t.Fatal("a stream that allows rollup was accepted")
	}
	for _, want := range []string{events.StreamLog, "allow_rollup_hdrs is true, want false", "allow_direct is true, want false"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "max_bytes") || strings.Contains(err.Error(), events.StreamCkpt) {
		t.Errorf("error names what is the operator's business: %v", err)
	}
}

func TestRecordsCannotBeDeleted(t *testing.T) {
	b := newBroker(t, journal.SyncLazy)
	nc := b.connect(b.server.ClientURL())
	j := b.open(t, nc, slow)
	if err := j.Own(t.Context(), []int{1}, []byte("me")); err != nil {
		t.Fatal(err)
	}
	s, err := b.jetStream(nc).Stream(t.Context(), events.StreamLog)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err == nil {
		t.Fatal("a record could be deleted")
	}
}

func TestOpenNeedsTheStreams(t *testing.T) {
	b := newBroker(t, journal.SyncLazy)
	js := b.jetStream(b.connect(b.server.ClientURL()))
	if err := js.DeleteStream(t.Context(), events.StreamLog); err != nil {
		t.Fatal(err)
	}
	_, err := journal.Open(t.Context(), js, journal.Options{})
	if err == nil || !strings.Contains(err.Error(), events.StreamLog) {
		t.Fatalf("error is %v", err)
	}
}
