package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// A stream can take nothing more and still answer every question about itself:
// after an error of the disk, or when its replicas do not agree. Only a write
// tells. Probe writes a message to a subject on which nothing else is; readers
// of the journal are never given it.

const (
	probeLog  = "penstock.own.probe"
	probeCkpt = "penstock.ckpt.probe"
)

// Probed are the streams that Probe can write to.
var Probed = []string{events.StreamLog, events.StreamCkpt}

// Probe stores a message in one of the streams of the record and waits for the
// acknowledgement. It returns an error that wraps ErrFull when a limit is
// reached: the stream works then, and takes no more.
func Probe(ctx context.Context, js jetstream.JetStream, stream string) error {
	subject := map[string]string{events.StreamLog: probeLog, events.StreamCkpt: probeCkpt}[stream]
	if subject == "" {
		return fmt.Errorf("stream %s cannot be probed", stream)
	}
	_, err := js.PublishMsg(ctx, &nats.Msg{Subject: subject}, jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(stream))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return &refusal{Status: api.Code, Code: int(api.ErrorCode), Description: api.Description, stream: stream}
	}
	return err
}

// ForgetProbes removes all probes but the last one, which keeps the stream's
// last sequence from going back.
func ForgetProbes(ctx context.Context, js jetstream.JetStream, stream string) error {
	if stream != events.StreamLog { // of the others only the last one is kept anyway
		return nil
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(probeLog), jetstream.WithPurgeKeep(1))
}

// records is fn without the probes.
func records(fn func(Entry) error) func(Entry) error {
	return func(e Entry) error {
		if e.Subject == probeLog || e.Subject == probeCkpt {
			return nil
		}
		return fn(e)
	}
}
