package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestAStartWaitsForALeaderAndForNothingElse(t *testing.T) {
	noLeader := fmt.Errorf("stream x: %w", &jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "JetStream system temporarily unavailable"})
	other := errors.New("the user belongs to account X")
	for _, c := range []struct {
		name     string
		fails    error
		until    time.Duration // it fails until then
		want     error
		at, last time.Duration // when it is over
	}{
		{"elected late", noLeader, 20 * time.Second, nil, 20 * time.Second, 21 * time.Second},
		{"no answer at first", context.DeadlineExceeded, 10 * time.Second, nil, 10 * time.Second, 11 * time.Second},
		{"never elected", noLeader, time.Hour, noLeader, 30 * time.Second, 31 * time.Second},
		{"something else", other, time.Hour, other, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, told := time.Now(), 0
				err := awaitLeader(t.Context(), leaderIn, func(error) { told++ }, func(context.Context) error {
					if time.Since(began) < c.until {
						return c.fails
					}
					return nil
				})
				if took := time.Since(began); !errors.Is(err, c.want) || took < c.at || took > c.last {
					t.Errorf("after %v: %v, want %v within %v", took, err, c.want, c.last)
				}
				if want := min(1, int(c.last)); told != want {
					t.Errorf("told %d times, want %d", told, want)
				}
			})
		})
	}
}
