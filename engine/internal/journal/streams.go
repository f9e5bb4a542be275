package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// MaxRecord is the largest record and the largest checkpoint, in bytes. It
// leaves room for the journal's own headers below the server's usual limit
// of 1 MB for a message.
const MaxRecord = maxMessage - headerRoom

const (
	maxMessage = 768 << 10
	headerRoom = 1 << 10
)

// Streams gives the configuration of the streams of the record: LOG and
// CKPT, stored replicas times (1 for an embedded server, 3 in a cluster).
// Nothing in them can be deleted, rolled up or expire; when they are full
// they refuse what is new instead of dropping what is old.
func Streams(replicas int) []jetstream.StreamConfig {
	base := jetstream.StreamConfig{
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		Storage:            jetstream.FileStorage,
		Compression:        jetstream.S2Compression,
		Replicas:           replicas,
		MaxMsgSize:         maxMessage,
		MaxMsgs:            -1,
		MaxBytes:           -1,
		MaxMsgsPerSubject:  -1,
		MaxConsumers:       -1,
		DenyDelete:         true,
		AllowAtomicPublish: true,
	}
	log, ckpt := base, base
	log.Name = events.StreamLog
	log.Description = "What was decided: one message for each transition, under the fence of its partition"
	log.Subjects = []string{AllRecords, "penstock.own.*"}
	ckpt.Name = events.StreamCkpt
	ckpt.Description = "How far each partition has come; apart from the record, so that a lost tail of it is noticed"
	ckpt.Subjects = []string{"penstock.ckpt.*"}
	ckpt.MaxMsgsPerSubject = 1
	// One checkpoint replaces another: DiscardNew concerns the size only.
	return []jetstream.StreamConfig{log, ckpt}
}

// EnsureStreams creates the streams that do not exist and compares the
// others with what is wanted. One that differs in anything that matters is
// an error that lists every difference; nothing is changed then, because a
// stream that somebody has changed may no longer keep what it promised.
func EnsureStreams(ctx context.Context, js jetstream.JetStream, want ...jetstream.StreamConfig) error {
	var problems []error
	for _, cfg := range want {
		if err := ensureStream(ctx, js, cfg); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) error {
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	s, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// Two engines may start at once: creating with the same configuration
		// is no error, and with another one it is.
		if s, err = js.CreateStream(ctx, cfg); err != nil {
			return fmt.Errorf("stream %s cannot be created: %w", cfg.Name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s cannot be looked up: %w", cfg.Name, err)
	}
	if diff := drift(cfg, s.CachedInfo().Config); len(diff) > 0 {
		return fmt.Errorf("stream %s is not configured as Penstock needs it:\n  %s\nset it back, for example with \"nats stream edit\", then start again",
			cfg.Name, strings.Join(diff, "\n  "))
	}
	return nil
}

// drift lists how a stream differs from what is wanted, in what matters for
// correctness or security. Raising or lowering MaxBytes and describing the
// stream is the operator's business.
func drift(want, have jetstream.StreamConfig) []string {
	var diff []string
	check := func(name string, want, have any) {
		if w, h := fmt.Sprint(want), fmt.Sprint(have); w != h {
			diff = append(diff, fmt.Sprintf("%s is %s, want %s", name, h, w))
		}
	}
	check("subjects", want.Subjects, have.Subjects)
	check("retention", want.Retention, have.Retention)
	check("discard", want.Discard, have.Discard)
	check("storage", want.Storage, have.Storage)
	check("compression", want.Compression, have.Compression)
	check("num_replicas", max(want.Replicas, 1), have.Replicas)
	check("max_age", want.MaxAge, have.MaxAge)
	check("max_msg_size", want.MaxMsgSize, have.MaxMsgSize)
	check("max_msgs", unlimited(want.MaxMsgs), unlimited(have.MaxMsgs))
	check("max_msgs_per_subject", unlimited(want.MaxMsgsPerSubject), unlimited(have.MaxMsgsPerSubject))
	check("discard_new_per_subject", want.DiscardNewPerSubject, have.DiscardNewPerSubject)
	check("no_ack", want.NoAck, have.NoAck)
	check("sealed", want.Sealed, have.Sealed)
	check("deny_delete", want.DenyDelete, have.DenyDelete)
	check("deny_purge", want.DenyPurge, have.DenyPurge)
	check("allow_rollup_hdrs", want.AllowRollup, have.AllowRollup)
	check("allow_direct", want.AllowDirect, have.AllowDirect)
	check("allow_msg_ttl", want.AllowMsgTTL, have.AllowMsgTTL)
	check("subject_delete_marker_ttl", want.SubjectDeleteMarkerTTL, have.SubjectDeleteMarkerTTL)
	check("allow_msg_counter", want.AllowMsgCounter, have.AllowMsgCounter)
	check("allow_msg_schedules", want.AllowMsgSchedules, have.AllowMsgSchedules)
	check("allow_atomic", want.AllowAtomicPublish, have.AllowAtomicPublish)
	check("allow_batched", want.AllowBatchPublish, have.AllowBatchPublish)
	check("persist_mode", want.PersistMode, have.PersistMode)
	check("mirror", want.Mirror != nil, have.Mirror != nil)
	check("sources", len(want.Sources), len(have.Sources))
	check("subject_transform", show(want.SubjectTransform), show(have.SubjectTransform))
	check("republish", show(want.RePublish), show(have.RePublish))
	return diff
}

func unlimited(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

func show[T any](p *T) string {
	if p == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *p)
}

// limits of a stream that the sender must know.
type limits struct {
	replicas int
	maxSize  int // of a message with its headers, in bytes
}

func streamLimits(ctx context.Context, t Transport, name string) (limits, error) {
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	s, err := t.Stream(ctx, name)
	if err != nil {
		return limits{}, fmt.Errorf("stream %s cannot be looked up: %w", name, err)
	}
	cfg := s.CachedInfo().Config
	if !cfg.AllowAtomicPublish {
		return limits{}, fmt.Errorf("stream %s does not allow atomic batches: create it with AllowAtomicPublish", name)
	}
	size := int(t.MaxPayload())
	if cfg.MaxMsgSize > 0 {
		size = min(size, int(cfg.MaxMsgSize))
	}
	return limits{replicas: max(cfg.Replicas, 1), maxSize: size}, nil
}

// requestTimeout is how long a single request to the server may take: one
// that was lost, for example while a cluster has no leader, is not answered.
const requestTimeout = 5 * time.Second

func oneRequest(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// unreachable says that err means nobody got the request.
func unreachable(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed)
}
