package fakejs_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

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
