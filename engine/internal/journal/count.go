package journal

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Count counts what the stream of the record holds, without probes.
func Count(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	s, err := js.Stream(ctx, events.StreamLog)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", events.StreamLog, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(probeLog))
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", events.StreamLog, err)
	}
	return info.State.Msgs - info.State.Subjects[probeLog], nil
}
