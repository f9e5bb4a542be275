package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/penstock-cd/penstock/events"
)

// Stream is the audit log on JetStream.
type Stream struct{ js jetstream.JetStream }

var _ Store = (*Stream)(nil)

// Open gives the audit log in the account of js.
func Open(js jetstream.JetStream) *Stream { return &Stream{js} }

const (
	requestTimeout = 10 * time.Second
	fetchMessages  = 64
)

// code of the server: the stream's last sequence is another one.
const codeWrongSequence = 10071

// Last implements Store.
func (s *Stream) Last(ctx context.Context) (Raw, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return Raw{}, fmt.Errorf("stream %s: %w", events.StreamAudit, err)
	}
	last := st.CachedInfo().State.LastSeq
	if last == 0 {
		return Raw{}, nil
	}
	m, err := st.GetMsg(ctx, last) // of the leader: the stream allows no direct reads
	if err != nil {
		return Raw{}, fmt.Errorf("stream %s: message %d: %w", events.StreamAudit, last, err)
	}
	return Raw{Seq: m.Sequence, Subject: m.Subject, Time: m.Time, Data: m.Data}, nil
}

// Append implements Store: one message goes by itself, many as an atomic batch.
func (s *Stream) Append(ctx context.Context, after uint64, msgs []Out) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	nc, id := s.js.Conn(), nuid.Next()
	for i, m := range msgs {
		msg := nats.NewMsg(m.Subject)
		msg.Data = m.Data
		if i == 0 {
			msg.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(after, 10))
			msg.Header.Set(jetstream.ExpectedStreamHeader, events.StreamAudit)
		}
		if len(msgs) > 1 {
			msg.Header.Set("Nats-Batch-Id", id)
			msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		}
		if i < len(msgs)-1 {
			if err := nc.PublishMsg(msg); err != nil {
				return fmt.Errorf("stream %s: %w", events.StreamAudit, err)
			}
			continue
		}
		if len(msgs) > 1 {
			msg.Header.Set("Nats-Batch-Commit", "1")
		}
		answer, err := nc.RequestMsgWithContext(ctx, msg)
		if err != nil {
			return fmt.Errorf("stream %s: no answer to what was sent: %w", events.StreamAudit, err)
		}
		return judge(answer.Data, after+uint64(len(msgs)))
	}
	return nil
}

// judge reads the server's answer.
func judge(answer []byte, want uint64) error {
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return fmt.Errorf("stream %s: unreadable answer %q: %w", events.StreamAudit, answer, err)
	}
	switch {
	case ack.Error != nil && ack.Error.ErrorCode == codeWrongSequence:
		return fmt.Errorf("stream %s: %w: %s", events.StreamAudit, ErrBehind, ack.Error.Description)
	case ack.Error != nil:
		return fmt.Errorf("stream %s: %w", events.StreamAudit, ack.Error)
	case ack.Seq != want:
		return fmt.Errorf("stream %s: stored as %d, expected %d: %w", events.StreamAudit, ack.Seq, want, ErrBehind)
	}
	return nil
}

// Read implements Store.
func (s *Stream) Read(ctx context.Context, q Query, fn func(Raw) error) error {
	st, err := s.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamAudit, err)
	}
	end := st.CachedInfo().State.LastSeq
	cfg := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(q.From, 1),
		FilterSubjects: q.Filters, MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	}
	if !q.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &q.Since
	}
	for failures := 0; ; failures++ {
		next, err := session(ctx, st, cfg, end, fn)
		if err == nil || errors.Is(err, ErrEnough) {
			return nil
		}
		if given := new(given); errors.As(err, &given) {
			return given.error
		}
		if failures >= 5 || ctx.Err() != nil {
			return fmt.Errorf("stream %s: reading: %w", events.StreamAudit, err)
		}
		if next > 0 { // behind what was given out, with a new consumer
			cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime, failures = jetstream.DeliverByStartSequencePolicy, next, nil, 0
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// given is an error of whom messages were given to.
type given struct{ error }

// session reads with one consumer up to sequence end. It gives the sequence
// to go on from when it fails, 0 when nothing was given out.
func session(ctx context.Context, st jetstream.Stream, cfg jetstream.ConsumerConfig, end uint64, fn func(Raw) error) (next uint64, err error) {
	one, cancel := context.WithTimeout(ctx, requestTimeout)
	cons, err := st.CreateConsumer(one, cfg)
	cancel()
	if err != nil {
		return 0, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = st.DeleteConsumer(last, cons.CachedInfo().Name) // it ends by itself when this fails
	}()
	pending, count := cons.CachedInfo().NumPending, uint64(0)
	for ctx.Err() == nil && count < pending {
		batch, err := cons.Fetch(int(min(fetchMessages, pending-count)), jetstream.FetchMaxWait(requestTimeout))
		if err != nil {
			return next, err
		}
		n := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return next, err
			}
			n, count = n+1, count+1
			if meta.Sequence.Consumer != count {
				return next, fmt.Errorf("a message before %d was lost on its way", meta.Sequence.Stream)
			}
			if meta.Sequence.Stream > end {
				return next, nil
			}
			if err := fn(Raw{Seq: meta.Sequence.Stream, Subject: m.Subject(), Time: meta.Timestamp, Data: m.Data()}); err != nil {
				if errors.Is(err, ErrEnough) {
					return next, err
				}
				return next, &given{err}
			}
			next = meta.Sequence.Stream + 1
			if next > end || count == pending {
				return next, nil
			}
		}
		if err := batch.Error(); err != nil {
			return next, err
		}
		if n == 0 {
			return next, errors.New("nothing comes any more")
		}
	}
	return next, ctx.Err()
}
