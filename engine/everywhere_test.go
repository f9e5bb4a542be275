package engine

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

// TestTheClocksOfAllEnginesAreAcceptedWhicheverIsAsked has the clock of one
// engine step, and tells another one that it is right.
func TestTheClocksOfAllEnginesAreAcceptedWhicheverIsAsked(t *testing.T) {
	external := natsApart(t)
	begun := time.Now()
	var step atomic.Int64
	a := join(t, external, "a")
	b := join(t, external, "b", func(e *Engine) {
		e.mono = func() time.Duration { return time.Since(begun) }
		e.wall = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
	})
	until(t, a, b)
	step.Store(int64(2 * time.Hour))
	if why := b.owner.ClockHeld(); !strings.Contains(why, "penstock admin clock accept") {
		t.Fatalf("of a clock that has stepped it says %q", why)
	}
	refused := a.svc.Handle(t.Context(), service.Principal{Kind: "user", Name: "marta"}, events.VerbClockAccept, []byte(`{"reason":"it is"}`))
	if refused.Code != events.CodeDenied || b.owner.ClockHeld() == "" {
		t.Errorf("somebody who is no administrator is answered %+v", refused)
	}
	var done events.ClockAccepted
	a.asks(t, events.VerbClockAccept, events.AcceptClock{Reason: "NTP has set it"}, &done)
	if len(done.Engines) != 2 || done.Engines[0].Held != "" || done.Engines[1].Instance != "b" || !strings.Contains(done.Engines[1].Held, "2h0m") {
		t.Errorf("told %+v", done.Engines)
	}
	if why := b.owner.ClockHeld(); why != "" {
		t.Errorf("after it was accepted: %q", why)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var page events.AuditPage
		b.asks(t, events.VerbAuditLog, events.ReadAudit{}, &page)
		if slices.ContainsFunc(page.Entries, func(e events.AuditEntry) bool {
			return e.Verb == events.VerbClockAccept && e.By == "admin" && strings.Contains(e.What, "NTP has set it")
		}) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the audit log does not tell of it: %+v", page.Entries)
		}
	}
}

// TestAStoppedPartitionGoesOnWhicheverEngineIsAsked stops a partition of each
// of two engines, and asks a third one.
func TestAStoppedPartitionGoesOnWhicheverEngineIsAsked(t *testing.T) {
	external := natsApart(t)
	a, b, c := join(t, external, "a"), join(t, external, "b"), join(t, external, "c")
	until(t, a, b, c)
	of := map[int]*member{}
	for _, m := range []*member{a, b} {
		vp := m.keeper.Held().Partitions.List()[0]
		m.owner.Stop(vp, errors.New("its record is not what it was"))
		of[vp] = m
	}
	var list events.Epochs
	c.asks(t, events.VerbNewEpoch, events.NewEpoch{}, &list)
	if len(list.Epochs) != 2 || of[list.Epochs[0].Partition] == nil || of[list.Epochs[1].Partition] == nil ||
		!strings.Contains(list.Epochs[0].Stopped, "its record is not what it was") {
		t.Errorf("stopped are %+v, want those of %v", list.Epochs, of)
	}
	for vp, m := range of {
		var done events.Epochs
		c.asks(t, events.VerbNewEpoch, events.NewEpoch{Partition: &vp, Reason: "it was looked at", Confirm: true}, &done)
		if len(done.Epochs) != 1 || !done.Epochs[0].Resumed || len(m.owner.Stopped()) != 0 || !m.owner.Owns(vp) {
			t.Errorf("partition %d of %s: %+v; stopped there: %v", vp, m.o.Instance, done.Epochs, m.owner.Stopped())
		}
		body, err := json.Marshal(events.NewEpoch{Partition: &vp, Reason: "again", Confirm: true})
		if err != nil {
			t.Fatal(err)
		}
		again := c.svc.Handle(t.Context(), service.Principal{Kind: "admin", Name: "admin"}, events.VerbNewEpoch, body)
		if again.Code != events.CodeConflict || !strings.Contains(again.Reason, "none of the engines") {
			t.Errorf("of a partition that goes on it says %+v", again)
		}
	}
	var page events.AuditPage
	a.asks(t, events.VerbAuditLog, events.ReadAudit{}, &page)
	noted := 0
	for _, e := range page.Entries {
		if e.Kind == "epoch" && e.By == "admin" && e.Reason == "it was looked at" {
			noted++
		}
	}
	if noted != 2 {
		t.Errorf("%d epochs are in the audit log, want 2: %+v", noted, page.Entries)
	}
}
