package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// happened is an event that Penstock sent.
type happened struct {
	event *events.Event
	events.Happening
}

// feed is the chat bot: it follows what Penstock reports, with a credential
// of its own, and remembers it.
type feed struct {
	tell func(happened) // told of each event, one after the other

	mu   sync.Mutex
	all  []happened
	more chan struct{} // closed when something came
}

func newFeed(tell func(happened)) *feed { return &feed{tell: tell, more: make(chan struct{})} }

// follow collects events until ctx ends. The first event of the bus, that the
// definitions are in force, is behind it: what comes after is never missed.
func (f *feed) follow(ctx context.Context, conn *bus.Conn) error {
	return conn.Follow(ctx, bus.FollowOptions{After: 1}, func(_ context.Context, e *events.Event) error {
		h, err := events.DecodeHappening(e)
		if err != nil {
			return nil // an event of somebody else
		}
		one := happened{e, *h}
		f.tell(one)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.all = append(f.all, one)
		close(f.more)
		f.more = make(chan struct{})
		return nil
	})
}

// seen gives what came until now that match takes, and a channel that is
// closed when more has come.
func (f *feed) seen(match func(happened) bool) ([]happened, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []happened
	for _, h := range f.all {
		if match(h) {
			found = append(found, h)
		}
	}
	return found, f.more
}

// patience is how long the story waits for one thing.
const patience = 3 * time.Minute

// await gives the first event that match takes, whether it came already or is
// to come.
func (f *feed) await(ctx context.Context, what string, match func(happened) bool) (happened, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		found, more := f.seen(match)
		if len(found) > 0 {
			return found[0], nil
		}
		select {
		case <-ctx.Done():
			return happened{}, context.Cause(ctx)
		case <-late.C:
			return happened{}, fmt.Errorf("%s did not happen within %s", what, patience)
		case <-more:
		}
	}
}

// of selects events of a run by type and, unless it is empty, state.
func of(run, state string, types ...string) func(happened) bool {
	return func(h happened) bool {
		return h.Run == run && (state == "" || h.State == state) && slices.Contains(types, h.event.Type)
	}
}
