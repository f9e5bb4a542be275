package service

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

func TestAStoreWithoutALeaderIsBusyAndNoError(t *testing.T) {
	for code, want := range map[jetstream.ErrorCode]string{
		10008: events.StatusBusy, // temporarily unavailable: an election
		10009: events.StatusBusy,
		10118: events.StatusBusy,  // too few servers with a copy
		10037: events.StatusError, // no message found
		10059: events.StatusError, // stream not found
	} {
		err := fmt.Errorf("records: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: "as the server says it"})
		if got := failure(err); got.Status != want {
			t.Errorf("error %d is answered %+v, want %s", code, got, want)
		}
	}
}
