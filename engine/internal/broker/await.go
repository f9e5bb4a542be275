package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leaderIn is how long a start waits for a cluster that has no leader: while
// its servers are started one after the other, or when one has just been lost.
const leaderIn = 30 * time.Second

// Codes of the server for what a leader would do: incomplete results,
// temporarily unavailable, cannot handle the request, offline streams.
var leaderless = []jetstream.ErrorCode{10004, 10008, 10009, 10118}

// isLeaderless reports whether an error is that of a cluster without a leader:
// it says so, or does not answer.
func isLeaderless(err error) bool {
	if api := new(jetstream.APIError); errors.As(err, &api) {
		return slices.Contains(leaderless, api.ErrorCode)
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// awaitLeader does something, and does it again as long as an external
// cluster has no leader, until leaderIn has passed.
func (b *Broker) awaitLeader(ctx context.Context, do func(context.Context) error) error {
	if b.opts.External == nil {
		return do(ctx)
	}
	return awaitLeader(ctx, leaderIn, func(err error) { b.log.Warn("waiting for a leader of the NATS cluster", "error", err) }, do)
}

func awaitLeader(ctx context.Context, wait time.Duration, tell func(error), do func(context.Context) error) error {
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; {
		err := do(ctx)
		if err == nil || ctx.Err() != nil || !isLeaderless(err) || time.Now().After(deadline) {
			return err
		}
		if !told {
			tell(err)
			told = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
