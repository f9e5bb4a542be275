package bus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
)

// FollowOptions select events. An event must fit all that are set.
type FollowOptions struct {
	Types       []string // as for events.MatchType; none means all
	Run         string
	Environment string
	Workflow    string
	// After is the cursor to go on from: every later event comes first. 0
	// begins with what happens from now on.
	After uint64
	// OnCursor is told the cursor to go on from after a restart, each time
	// that an event has been handled or passed over. It may be nil.
	OnCursor func(cursor uint64)
}

const (
	followBuffer = 4096             // live events that may wait for the callback
	followIdle   = 30 * time.Second // silence after which the engine is asked whether something was missed
	followPage   = 500
	seenEvents   = 8192 // events that are remembered to drop repeats
)

// Follow calls fn with what Penstock reports, one event after the other in
// the order in which they were stored, until ctx ends (whose cause it returns)
// or fn returns an error (which it returns). After a lost connection, or when
// fn was too slow for the live stream, it first fetches what was missed. The
// same event comes twice only if the program itself was restarted with an
// older cursor.
func (c *Conn) Follow(ctx context.Context, o FollowOptions, fn func(context.Context, *events.Event) error) error {
	if c.cred.Kind == KindWorker || c.cred.Kind == KindPublisher {
		return denied("follow: the credential of %s %q is not for following events; use one of a user", c.cred.Kind, c.cred.Name)
	}
	f := &follower{conn: c, o: o, fn: fn, cursor: o.After, live: make(chan *nats.Msg, followBuffer)}
	resync, done := c.resyncs.on()
	defer done()
	sub, err := c.nc.ChanSubscribe("penstock.live.>", f.live)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer sub.Unsubscribe()
	if err := f.begin(ctx); err != nil {
		return err
	}
	idle := time.NewTicker(followIdle)
	defer idle.Stop()
	for quiet := false; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-f.live:
			quiet = false
			err = f.message(ctx, m)
		case <-resync:
			err = f.catchUp(ctx, 0)
		case <-idle.C:
			if quiet { // nothing since the tick before
				err = f.catchUp(ctx, 0)
			}
			quiet = true
		}
		if err != nil {
			return err
		}
	}
}

type follower struct {
	conn   *Conn
	o      FollowOptions
	fn     func(context.Context, *events.Event) error
	cursor uint64 // of the last event that was handled
	live   chan *nats.Msg

	seen  map[string]bool
	order []string // of seen, oldest first
}

// begin catches up, or learns where the present is.
func (f *follower) begin(ctx context.Context) error {
	if f.cursor > 0 {
		return f.catchUp(ctx, 0)
	}
	var page events.EventPage
	if _, err := f.conn.Request(ctx, events.VerbEvents, events.ReadEvents{End: true}, &page); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	f.moveTo(page.Next)
	return nil
}

// message handles a live event, after those before it that did not arrive.
func (f *follower) message(ctx context.Context, m *nats.Msg) error {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil // not from the stream of events
	}
	if seq > f.cursor+1 {
		if err := f.catchUp(ctx, seq-1); err != nil {
			return err
		}
	}
	if seq <= f.cursor {
		return nil
	}
	e, err := events.Parse(m.Header, m.Data)
	if err != nil {
		f.conn.log.Warn("passed over an event that cannot be read", "subject", m.Subject, "error", err)
	} else if err := f.handle(ctx, e); err != nil {
		return err
	}
	f.moveTo(seq)
	return nil
}

// catchUp asks the engine for everything after the cursor, at least up to the
// sequence that is known to exist.
func (f *follower) catchUp(ctx context.Context, known uint64) error {
	for empty := 0; ; {
		ask := events.ReadEvents{After: f.cursor, Run: f.o.Run, Types: f.o.Types, Limit: followPage}
		if f.cursor < known {
			ask.Wait = 500 // the engine's view of the stream may be a moment behind
		}
		var page events.EventPage
		if _, err := f.conn.Request(ctx, events.VerbEvents, ask, &page); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		for i := range page.Events {
			if err := f.handle(ctx, &page.Events[i]); err != nil {
				return err
			}
		}
		if page.Next > f.cursor {
			f.moveTo(page.Next)
			empty = 0
			continue
		}
		if empty++; f.cursor >= known || empty == 10 {
			return nil // behind known there is a hole: those events have gone for good
		}
	}
}

func (f *follower) moveTo(cursor uint64) {
	if cursor <= f.cursor {
		return
	}
	f.cursor = cursor
	if f.o.OnCursor != nil {
		f.o.OnCursor(cursor)
	}
}

// handle calls fn with an event that fits and was not handled before.
func (f *follower) handle(ctx context.Context, e *events.Event) error {
	if !f.fits(e) {
		return nil
	}
	key := e.Source + "\x00" + e.ID
	if f.seen[key] {
		return nil
	}
	if err := f.fn(ctx, e); err != nil {
		return err
	}
	if f.seen == nil {
		f.seen = map[string]bool{}
	}
	f.seen[key] = true
	if f.order = append(f.order, key); len(f.order) > seenEvents {
		delete(f.seen, f.order[0])
		f.order = f.order[1:]
	}
	return nil
}

func (f *follower) fits(e *events.Event) bool {
	if !events.MatchTypes(f.o.Types, e.Type) {
		return false
	}
	if cmp.Or(f.o.Run, f.o.Environment, f.o.Workflow) == "" {
		return true
	}
	h, err := events.DecodeHappening(e)
	if err != nil {
		return false
	}
	return (f.o.Run == "" || h.Run == f.o.Run || slices.Contains(h.Runs, f.o.Run)) &&
		(f.o.Environment == "" || h.Environment == f.o.Environment || slices.Contains(h.Environments, f.o.Environment)) &&
		(f.o.Workflow == "" || h.Workflow == f.o.Workflow)
}
