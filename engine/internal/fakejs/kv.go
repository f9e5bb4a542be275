package fakejs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket is a key-value bucket: a stream with a subject for each key.
type bucket struct {
	jetstream.KeyValue
	client *Client
	name   string
}

// CreateKeyValue implements jetstream.JetStream.
func (c *Client) CreateKeyValue(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	_, err := c.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_" + cfg.Bucket, Subjects: []string{"$KV." + cfg.Bucket + ".>"},
		MaxMsgsPerSubject: int64(max(cfg.History, 1)), Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowDirect: true,
		Replicas: cfg.Replicas, Storage: cfg.Storage})
	if err != nil {
		return nil, err
	}
	return &bucket{client: c, name: cfg.Bucket}, nil
}

// KeyValue implements jetstream.JetStream.
func (c *Client) KeyValue(ctx context.Context, name string) (jetstream.KeyValue, error) {
	if _, err := c.Stream(ctx, "KV_"+name); errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, jetstream.ErrBucketNotFound
	} else if err != nil {
		return nil, err
	}
	return &bucket{client: c, name: name}, nil
}

func (b *bucket) Bucket() string { return b.name }

func (b *bucket) subject(key string) string { return "$KV." + b.name + "." + key }

// entry is a revision of a key.
type entry struct {
	bucket, key string
	m           *message
	op          jetstream.KeyValueOp
}

func (e *entry) Bucket() string                  { return e.bucket }
func (e *entry) Key() string                     { return e.key }
func (e *entry) Value() []byte                   { return slices.Clone(e.m.data) }
func (e *entry) Revision() uint64                { return e.m.seq }
func (e *entry) Created() time.Time              { return e.m.at }
func (e *entry) Delta() uint64                   { return 0 }
func (e *entry) Operation() jetstream.KeyValueOp { return e.op }

func (b *bucket) entry(m *message) *entry {
	e := &entry{bucket: b.name, key: strings.TrimPrefix(m.subject, b.subject("")), m: m, op: jetstream.KeyValuePut}
	switch m.header.Get("KV-Operation") {
	case "DEL":
		e.op = jetstream.KeyValueDelete
	case "PURGE":
		e.op = jetstream.KeyValuePurge
	}
	return e
}

// Get implements jetstream.KeyValue.
func (b *bucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	return call(ctx, b.client, "KV_"+b.name, "kv.get", key, func(_ *Server, st *stream, f Fate) (jetstream.KeyValueEntry, error) {
		m := st.read(b.subject(key), f)
		if m == nil {
			return nil, jetstream.ErrKeyNotFound
		}
		if e := b.entry(m); e.op == jetstream.KeyValuePut {
			return e, nil
		}
		return nil, jetstream.ErrKeyNotFound
	})
}

// Put implements jetstream.KeyValue.
func (b *bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, "kv.put", key, value, nats.Header{})
}

// PutString implements jetstream.KeyValue.
func (b *bucket) PutString(ctx context.Context, key, value string) (uint64, error) {
	return b.Put(ctx, key, []byte(value))
}

// Update implements jetstream.KeyValue.
func (b *bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	seq, err := b.write(ctx, "kv.update", key, value, expecting(revision))
	return seq, mismatch(err)
}

// Create implements jetstream.KeyValue.
func (b *bucket) Create(ctx context.Context, key string, value []byte, _ ...jetstream.KVCreateOpt) (uint64, error) {
	seq, err := b.write(ctx, "kv.create", key, value, expecting(0))
	if !wrongSequence(err) {
		return seq, err
	}
	last, looked := call(ctx, b.client, "KV_"+b.name, "kv.get", key, func(_ *Server, st *stream, f Fate) (jetstream.KeyValueEntry, error) {
		m := st.read(b.subject(key), f)
		if m == nil {
			return nil, jetstream.ErrKeyNotFound
		}
		return b.entry(m), nil
	})
	if looked == nil && last.Operation() != jetstream.KeyValuePut {
		return b.write(ctx, "kv.create", key, value, expecting(last.Revision()))
	}
	return 0, fmt.Errorf("%w: %w", err, jetstream.ErrKeyExists)
}

// Delete implements jetstream.KeyValue.
func (b *bucket) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	h := nats.Header{"KV-Operation": {"DEL"}}
	if revision := deleteRevision(opts); revision != 0 {
		h.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(revision))
	}
	_, err := b.write(ctx, "kv.delete", key, nil, h)
	return mismatch(err)
}

// Purge implements jetstream.KeyValue.
func (b *bucket) Purge(ctx context.Context, key string, _ ...jetstream.KVDeleteOpt) error {
	_, err := b.write(ctx, "kv.purge", key, nil, nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}})
	return err
}

func (b *bucket) write(ctx context.Context, verb, key string, value []byte, h nats.Header) (uint64, error) {
	m := &message{subject: b.subject(key), header: h, data: slices.Clone(value)}
	a, err := b.client.request(ctx, verb, []*message{m}, nil)
	return a.Seq, err
}

func expecting(revision uint64) nats.Header {
	return nats.Header{jetstream.ExpectedLastSubjSeqHeader: {fmt.Sprint(revision)}}
}

func wrongSequence(err error) bool {
	refused := new(jetstream.APIError)
	return errors.As(err, &refused) && (refused.ErrorCode == 10071 || refused.ErrorCode == 10164)
}

func mismatch(err error) error {
	if wrongSequence(err) {
		return fmt.Errorf("%w: %w", err, jetstream.ErrKeyRevisionMismatch)
	}
	return err
}

// Keys implements jetstream.KeyValue.
func (b *bucket) Keys(ctx context.Context, _ ...jetstream.WatchOpt) ([]string, error) {
	keys, err := call(ctx, b.client, "KV_"+b.name, "kv.keys", "", func(_ *Server, st *stream, _ Fate) (keys []string, _ error) {
		for _, list := range st.bySubject {
			if e := b.entry(list[len(list)-1]); e.op == jetstream.KeyValuePut {
				keys = append(keys, e.key)
			}
		}
		slices.Sort(keys)
		return keys, nil
	})
	if err == nil && len(keys) == 0 {
		err = jetstream.ErrNoKeysFound
	}
	return keys, err
}

// watcher gives the entries of a bucket as they change.
type watcher struct {
	b       *bucket
	cons    *consumer
	updates chan jetstream.KeyValueEntry
	initial uint64 // entries before all that there were have been given
	over    bool
}

// WatchAll implements jetstream.KeyValue.
func (b *bucket) WatchAll(ctx context.Context, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	return b.Watch(ctx, ">", opts...)
}

// most is how many entries may wait for a watcher.
const most = 10000

// Watch implements jetstream.KeyValue.
func (b *bucket) Watch(ctx context.Context, keys string, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	o := watchOptions(opts)
	cfg := jetstream.ConsumerConfig{FilterSubject: b.subject(keys), AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy}
	switch {
	case o.history:
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	case o.updatesOnly:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	w := &watcher{b: b, updates: make(chan jetstream.KeyValueEntry, most)}
	_, err := call(ctx, b.client, "KV_"+b.name, "kv.watch", keys, func(s *Server, st *stream, _ Fate) (struct{}, error) {
		w.cons = s.newConsumer(st, cfg)
		st.watchers = append(st.watchers, w)
		if w.initial = w.cons.waiting(); w.initial == 0 && !o.updatesOnly {
			w.updates <- nil
		}
		w.cons.pulls = []*pull{{client: b.client, left: 1 << 60, give: w.give, close: func(error) {}, over: func() bool { return w.over }}}
		s.stir(w.cons)
		return struct{}{}, nil
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = w.Stop() })
	return w, nil
}

// give is called with the server locked.
func (w *watcher) give(msgs []jetstream.Msg) {
	for _, m := range msgs {
		w.updates <- w.b.entry(m.(*jsMsg).m)
		if w.initial > 0 {
			if w.initial--; w.initial == 0 {
				w.updates <- nil
			}
		}
	}
}

func (w *watcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

// Stop implements jetstream.KeyWatcher.
func (w *watcher) Stop() error {
	s := w.b.client.s
	s.mu.Lock()
	defer s.unlock()
	if w.over {
		return nil
	}
	w.over = true
	close(w.updates)
	if st := s.streams["KV_"+w.b.name]; st != nil {
		st.watchers = slices.DeleteFunc(st.watchers, func(x *watcher) bool { return x == w })
	}
	return nil
}
