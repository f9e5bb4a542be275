package engine

import (
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
