package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

const (
	day = 24 * time.Hour

	outAge     = 7 * day
	taskAge    = 7 * day
	ingressAge = 14 * day
	outputAge  = 14 * day

	// headerRoom is what an event's message may have beside the event itself.
	headerRoom = 8 << 10
	// dupeWindow is how long the server drops repeated ids. It only saves
	// work: repeats are recognised by their content.
	dupeWindow = 2 * time.Minute
)

// wanted is a stream as it has to be, and the account that it is in. share is
// the part of the store, in percent, that it may fill; what all leave over is
// for the record. A bucket is a stream as well.
type wanted struct {
	account string
	share   int64
	config  jetstream.StreamConfig
	// former are configurations that earlier versions made. A stream of the
	// embedded server that has one of them is changed; it is nobody else's.
	former []jetstream.StreamConfig
}

// layout is all that Penstock stores in: the streams and buckets, in the
// order in which they are made.
func layout(replicas int, maxStore int64) []wanted {
	audit := jetstream.StreamConfig{
		Name: events.StreamAudit, Description: "the audit log",
		Subjects: []string{"penstock.audit.>"},
		Discard:  jetstream.DiscardNew, AllowAtomicPublish: true, DenyDelete: true, DenyPurge: true, Compression: jetstream.S2Compression,
	}
	reserved := audit // when nobody wrote it yet
	reserved.Subjects, reserved.AllowAtomicPublish = []string{"penstock.audit.*"}, false
	list := []wanted{
		{account: events.AccountExt, share: 10, config: jetstream.StreamConfig{
			Name: events.StreamIngress, Description: "events of other services, until they are recorded",
			Subjects: []string{"penstock.ev." + events.DefaultTenant + ".>"},
			Discard:  jetstream.DiscardNew, MaxAge: ingressAge, Duplicates: dupeWindow, DenyDelete: true,
			MaxMsgSize: events.MaxEventSize + headerRoom,
		}},
		{account: events.AccountWork, share: 10, config: jetstream.StreamConfig{
			Name: events.StreamTasks, Description: "tasks for workers",
			Subjects: []string{"penstock.task.>"},
			Discard:  jetstream.DiscardNew, MaxAge: taskAge, AllowAtomicPublish: true, DenyDelete: true,
		}},
		{account: events.AccountWork, share: 15, config: jetstream.StreamConfig{
			Name: events.StreamOutput, Description: "what tasks print",
			Subjects: []string{"penstock.output.>"},
			Discard:  jetstream.DiscardOld, MaxAge: outputAge, DenyDelete: true, Compression: jetstream.S2Compression,
		}},
		{account: events.AccountWork, share: 25, config: jetstream.StreamConfig{
			// An object store without roll-up: with it, one message of any
			// worker could wipe the whole store. Objects are named by their
			// digest, so nothing ever needs to be replaced.
			Name: artifactStream, Description: "artifacts by digest",
			Subjects: []string{"$O." + events.BucketBlobs + ".C.>", "$O." + events.BucketBlobs + ".M.>"},
			Discard:  jetstream.DiscardNew, DenyDelete: true,
		}},
		{account: events.AccountNotify, share: 10, config: jetstream.StreamConfig{
			Name: events.StreamOut, Description: "what Penstock reports",
			Subjects: []string{"penstock.out.>"},
			Discard:  jetstream.DiscardOld, MaxAge: outAge, AllowAtomicPublish: true, DenyDelete: true,
			RePublish: &jetstream.RePublish{Source: "penstock.out.>", Destination: "penstock.live.>"},
		}},
		{account: events.AccountEngine, config: audit, former: []jetstream.StreamConfig{reserved}},
	}
	for _, config := range journal.Streams(replicas) {
		list = append(list, wanted{account: events.AccountEngine, config: config})
	}
	list = append(list,
		bucket(events.BucketDefs, "definitions by digest, and what is in force", definitionHistory),
		bucket(events.BucketAuth, "who has a token for HTTP, with hashes of the secrets", 1),
		bucket(events.BucketLive, "which engines are alive, and what each has", 1))
	for i := range list {
		c := &list[i].config
		c.Retention, c.Storage, c.Replicas = jetstream.LimitsPolicy, jetstream.FileStorage, max(replicas, 1)
		if list[i].share > 0 && maxStore > 0 {
			c.MaxBytes = maxStore / 100 * list[i].share
		}
		for j := range list[i].former {
			f := &list[i].former[j]
			f.Retention, f.Storage, f.Replicas = c.Retention, c.Storage, c.Replicas
		}
	}
	return list
}

// bucket is the stream under a key-value bucket, as the client makes it.
func bucket(name, description string, history int64) wanted {
	return wanted{account: events.AccountEngine, config: jetstream.StreamConfig{
		Name: bucketStream(name), Description: description,
		Subjects: []string{"$KV." + name + ".>"},
		Discard:  jetstream.DiscardNew, Duplicates: dupeWindow,
		MaxMsgsPerSubject: history, AllowRollup: true, DenyDelete: true, AllowDirect: true,
	}}
}

func bucketStream(name string) string { return "KV_" + name }

// definitionHistory is how many values of a key are kept for people to look back.
const definitionHistory = 16

// Stream is a stream as it has to be, and how that of a server compares.
type Stream struct {
	Account string
	Config  jetstream.StreamConfig
	Missing bool
	Drift   []string // how it differs from what it must be
}

// Streams are all streams and buckets that Penstock stores in.
func Streams(replicas int) []Stream {
	var list []Stream
	for _, w := range layout(replicas, 0) {
		list = append(list, Stream{Account: w.account, Config: w.config})
	}
	return list
}

// Consumers are those of the tasks of a pool's kinds.
func Consumers(pool string, kinds ...string) []jetstream.ConsumerConfig {
	var list []jetstream.ConsumerConfig
	for _, kind := range kinds {
		list = append(list, taskConsumer(pool, kind))
	}
	return list
}

// Look compares the streams of the server with what they have to be. It
// changes nothing.
func (b *Broker) Look(ctx context.Context) ([]Stream, error) {
	var list []Stream
	for _, w := range layout(b.opts.Replicas, b.maxStore) {
		s := Stream{Account: w.account, Config: w.config}
		js, err := jetstream.New(*b.conns()[w.account])
		if err != nil {
			return nil, err
		}
		switch have, err := js.Stream(ctx, w.config.Name); {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			s.Missing = true
		case err != nil:
			return nil, fmt.Errorf("stream %s: %w", w.config.Name, err)
		default:
			s.Drift = drift(have.CachedInfo().Config, w.config)
		}
		list = append(list, s)
	}
	return list, nil
}

// EnsureStreams makes the streams and buckets that do not exist. One that
// exists with other properties than those that Penstock relies on is left as
// it is, and all differences of all of them are in the error; only what an
// earlier version has made in the embedded server is brought up to date. With an external
// server the principals are in one of the buckets from then on.
func (b *Broker) EnsureStreams(ctx context.Context) error {
	if err := b.MakeStreams(ctx); err != nil || b.opts.External == nil {
		return err
	}
	return b.awaitLeader(ctx, b.share)
}

// MakeStreams is EnsureStreams, and leaves the principals where they are.
func (b *Broker) MakeStreams(ctx context.Context) error {
	var errs []error
	for _, w := range layout(b.opts.Replicas, b.maxStore) {
		errs = append(errs, b.awaitLeader(ctx, func(ctx context.Context) error {
			return ensureStream(ctx, *b.conns()[w.account], w, b.opts.External == nil)
		}))
	}
	return errors.Join(errs...)
}

// ensureStream makes a stream where there is none. One that exists is changed
// only when it is ours: where it has a configuration of an earlier version, and
// when it is to have more space. It never gets less: that could drop what is
// in it.
func ensureStream(ctx context.Context, nc *nats.Conn, w wanted, ours bool) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	want := w.config
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	have := s.CachedInfo().Config
	wasMade := func(former jetstream.StreamConfig) bool { return len(drift(have, former)) == 0 }
	if ours && slices.ContainsFunc(w.former, wasMade) {
		want.MaxBytes = have.MaxBytes
		if s, err = js.UpdateStream(ctx, want); err != nil {
			return fmt.Errorf("stream %s, made by an earlier version, cannot be changed: %w", want.Name, err)
		}
		want.MaxBytes, have = w.config.MaxBytes, s.CachedInfo().Config
	}
	if list := drift(have, want); len(list) > 0 {
		return fmt.Errorf("stream %s is not as it must be:\n  %s\nchange it back with nats stream edit, or restore it", want.Name, strings.Join(list, "\n  "))
	}
	if ours && have.MaxBytes > 0 && have.MaxBytes < want.MaxBytes {
		have.MaxBytes = want.MaxBytes
		if _, err := js.UpdateStream(ctx, have); err != nil {
			return fmt.Errorf("stream %s: more space for it: %w", want.Name, err)
		}
	}
	return nil
}

// drift lists the properties of a stream in which it differs from what is
// relied upon. MaxBytes is the operator's to change.
func drift(got, want jetstream.StreamConfig) []string {
	var list []string
	differ := func(name string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			list = append(list, fmt.Sprintf("%s is %v, must be %v", name, got, want))
		}
	}
	differ("subjects", sorted(got.Subjects), sorted(want.Subjects))
	differ("retention", got.Retention, want.Retention)
	differ("storage", got.Storage, want.Storage)
	differ("compression", got.Compression, want.Compression)
	differ("replicas", got.Replicas, want.Replicas)
	differ("discard policy", got.Discard, want.Discard)
	differ("discard policy for each subject", got.DiscardNewPerSubject, want.DiscardNewPerSubject)
	differ("maximum age", got.MaxAge, want.MaxAge)
	differ("maximum message size", max(got.MaxMsgSize, 0), max(want.MaxMsgSize, 0))
	differ("maximum messages", max(got.MaxMsgs, 0), max(want.MaxMsgs, 0))
	differ("maximum messages per subject", max(got.MaxMsgsPerSubject, 0), max(want.MaxMsgsPerSubject, 0))
	differ("deny delete", got.DenyDelete, want.DenyDelete)
	differ("deny purge", got.DenyPurge, want.DenyPurge)
	differ("roll-up headers allowed", got.AllowRollup, want.AllowRollup)
	differ("message schedules allowed", got.AllowMsgSchedules, want.AllowMsgSchedules)
	differ("message time to live allowed", got.AllowMsgTTL, want.AllowMsgTTL)
	differ("time to live of delete markers", got.SubjectDeleteMarkerTTL, want.SubjectDeleteMarkerTTL)
	differ("direct get allowed", got.AllowDirect, want.AllowDirect)
	differ("atomic batches allowed", got.AllowAtomicPublish, want.AllowAtomicPublish)
	differ("fast batches allowed", got.AllowBatchPublish, want.AllowBatchPublish)
	differ("counters allowed", got.AllowMsgCounter, want.AllowMsgCounter)
	differ("acknowledgements off", got.NoAck, want.NoAck)
	differ("sealed", got.Sealed, want.Sealed)
	differ("persist mode", got.PersistMode, want.PersistMode)
	if want.Duplicates > 0 {
		differ("duplicate window", got.Duplicates, want.Duplicates)
	}
	differ("republishing", republishing(got.RePublish), republishing(want.RePublish))
	differ("a mirror", got.Mirror != nil, false)
	differ("sources", len(got.Sources), 0)
	differ("a subject transform", got.SubjectTransform != nil, false)
	return list
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func republishing(r *jetstream.RePublish) string {
	if r == nil {
		return "off"
	}
	return fmt.Sprintf("from %s to %s, headers only %t", r.Source, r.Destination, r.HeadersOnly)
}

const (
	ackWait       = 30 * time.Second
	maxAckPending = 2000
)

func taskConsumer(pool, kind string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       events.TaskConsumer(pool, kind),
		Description:   fmt.Sprintf("tasks of kind %q for pool %q", kind, pool),
		FilterSubject: "penstock.task." + events.Token(pool) + "." + events.Token(kind) + ".*",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	}
}

// EnsureTaskConsumer makes the durable consumer that a pool's workers of one
// kind share, and lets the pool's workers take from it. It has to be called
// before the first task of the kind is published for the pool.
func (b *Broker) EnsureTaskConsumer(ctx context.Context, pool, kind string) error {
	js, err := jetstream.New(b.Work)
	if err != nil {
		return err
	}
	want := taskConsumer(pool, kind)
	_, err = js.CreateConsumer(ctx, events.StreamTasks, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("consumer %s of stream %s is not as it must be:\n  %s\nremove it with nats consumer rm, it is made anew at the next start", want.Durable, events.StreamTasks,
			strings.Join(consumerDrift(ctx, js, want), "\n  "))
	}
	if err != nil {
		return fmt.Errorf("consumer %s of stream %s: %w", want.Durable, events.StreamTasks, err)
	}
	if b.auth != nil {
		return b.auth.learn(pool, kind)
	}
	return nil
}

// consumerDrift lists the properties in which a consumer of tasks differs.
func consumerDrift(ctx context.Context, js jetstream.JetStream, want jetstream.ConsumerConfig) []string {
	c, err := js.Consumer(ctx, events.StreamTasks, want.Durable)
	if err != nil {
		return []string{"it cannot be looked up: " + err.Error()}
	}
	got := c.CachedInfo().Config
	var list []string
	differ := func(name string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			list = append(list, fmt.Sprintf("%s is %v, must be %v", name, got, want))
		}
	}
	differ("filter", append(got.FilterSubjects, got.FilterSubject), []string{want.FilterSubject})
	differ("delivery policy", got.DeliverPolicy, want.DeliverPolicy)
	differ("acknowledgement policy", got.AckPolicy, want.AckPolicy)
	differ("acknowledgement wait", got.AckWait, want.AckWait)
	differ("maximum deliveries", got.MaxDeliver, want.MaxDeliver)
	differ("maximum unacknowledged", got.MaxAckPending, want.MaxAckPending)
	if len(list) == 0 {
		list = append(list, fmt.Sprintf("it is %+v", got))
	}
	return list
}
