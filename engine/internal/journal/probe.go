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
// tells. Probe writes a message to a subject on which nothing else is. Who reads
// the log in the order of its sequences is given it, so that no sequence seems
// to be missing (see IsProbe); who asks for records is not.

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

// IsProbe reports whether a message of the log is a probe, and no record.
func IsProbe(e Entry) bool { return e.Subject == probeLog || e.Subject == probeCkpt }

// ForgetProbes removes the probes of LOG up to a sequence, all of which the
// audit log has passed. The very last message of the stream stays: it says
// where LOG ends. Of the other streams only the last probe is kept anyway.
func ForgetProbes(ctx context.Context, js jetstream.JetStream, upTo uint64) error {
	s, err := js.Stream(ctx, events.StreamLog)
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamLog, err)
	}
	upTo = min(upTo+1, s.CachedInfo().State.LastSeq)
	if upTo == 0 {
		return nil
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(probeLog), jetstream.WithPurgeSequence(upTo)); err != nil {
		return fmt.Errorf("stream %s: remove the probes below %d: %w", events.StreamLog, upTo, err)
	}
	return nil
}

// records is fn without the probes.
func records(fn func(Entry) error) func(Entry) error {
	return func(e Entry) error {
		if IsProbe(e) {
			return nil
		}
		return fn(e)
	}
}
