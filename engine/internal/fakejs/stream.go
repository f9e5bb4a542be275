package fakejs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// view is a client's view of a stream.
type view struct {
	jetstream.Stream
	client *Client
	info   *jetstream.StreamInfo
}

func (v *view) name() string { return v.info.Config.Name }

// state is what the server says of a stream; subjects are listed that match filter.
func (s *Server) state(st *stream, filter string) *jetstream.StreamInfo {
	info := &jetstream.StreamInfo{Config: st.cfg, Created: st.created, TimeStamp: s.o.Now(), State: jetstream.StreamState{
		Msgs: uint64(len(st.msgs)), Bytes: uint64(st.bytes), FirstSeq: st.firstSeq(), LastSeq: st.last, Consumers: len(st.consumers),
		NumSubjects: uint64(len(st.bySubject))}}
	if len(st.msgs) > 0 {
		info.State.FirstTime, info.State.LastTime = st.msgs[0].at, st.msgs[len(st.msgs)-1].at
	}
	if filter != "" {
		info.State.Subjects = map[string]uint64{}
		for subject, list := range st.bySubject {
			if Matches(filter, subject) {
				info.State.Subjects[subject] = uint64(len(list))
			}
		}
	}
	return info
}

// Stream implements jetstream.JetStream and journal.Transport.
func (c *Client) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	return call(ctx, c, name, "stream.info", "", func(s *Server, st *stream, _ Fate) (jetstream.Stream, error) {
		return &view{client: c, info: s.state(st, "")}, nil
	})
}

// withDefaults fills in what the server fills in.
func withDefaults(cfg jetstream.StreamConfig) jetstream.StreamConfig {
	cfg.Replicas = max(cfg.Replicas, 1)
	for _, limit := range []*int64{&cfg.MaxMsgs, &cfg.MaxBytes, &cfg.MaxMsgsPerSubject} {
		if *limit == 0 {
			*limit = -1
		}
	}
	if cfg.MaxMsgSize == 0 {
		cfg.MaxMsgSize = -1
	}
	if cfg.MaxConsumers == 0 {
		cfg.MaxConsumers = -1
	}
	if cfg.Duplicates == 0 {
		cfg.Duplicates = 2 * time.Minute
		if cfg.MaxAge > 0 {
			cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
		}
	}
	if len(cfg.Subjects) == 0 {
		cfg.Subjects = []string{cfg.Name}
	}
	return cfg
}

// CreateStream implements jetstream.JetStream.
func (c *Client) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	cfg = withDefaults(cfg)
	return call(ctx, c, "", "stream.create", cfg.Name, func(s *Server, _ *stream, _ Fate) (jetstream.Stream, error) {
		st := s.streams[cfg.Name]
		switch {
		case st == nil:
			st = newStream(cfg, s.o.Now())
			s.streams[cfg.Name] = st
		case fmt.Sprintf("%+v", st.cfg) != fmt.Sprintf("%+v", cfg):
			return nil, jetstream.ErrStreamNameAlreadyInUse
		}
		return &view{client: c, info: s.state(st, "")}, nil
	})
}

// UpdateStream implements jetstream.JetStream.
func (c *Client) UpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	cfg = withDefaults(cfg)
	return call(ctx, c, cfg.Name, "stream.update", "", func(s *Server, st *stream, _ Fate) (jetstream.Stream, error) {
		st.cfg = cfg
		return &view{client: c, info: s.state(st, "")}, nil
	})
}

// CreateOrUpdateStream implements jetstream.JetStream.
func (c *Client) CreateOrUpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	if v, err := c.UpdateStream(ctx, cfg); err == nil {
		return v, nil
	}
	return c.CreateStream(ctx, cfg)
}

func (v *view) CachedInfo() *jetstream.StreamInfo { return v.info }

// Info implements jetstream.Stream.
func (v *view) Info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	var o struct {
		Filter string `json:"subjects_filter"`
	}
	if err := optionsJSON(opts, &o); err != nil {
		return nil, err
	}
	info, err := call(ctx, v.client, v.name(), "stream.info", o.Filter, func(s *Server, st *stream, _ Fate) (*jetstream.StreamInfo, error) {
		return s.state(st, o.Filter), nil
	})
	if err == nil {
		v.info = info
	}
	return info, err
}

// Purge implements jetstream.Stream.
func (v *view) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	var o jetstream.StreamPurgeRequest
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return err
		}
	}
	_, err := call(ctx, v.client, v.name(), "purge", fmt.Sprintf("%s below %d keep %d", o.Subject, o.Sequence, o.Keep), func(s *Server, st *stream, _ Fate) (struct{}, error) {
		if st.cfg.DenyPurge {
			return struct{}{}, &jetstream.APIError{Code: 500, ErrorCode: 10110, Description: "stream purge not permitted"}
		}
		s.purge(st, o)
		return struct{}{}, nil
	})
	return err
}

func (s *Server) purge(st *stream, o jetstream.StreamPurgeRequest) {
	var match []*message
	for _, m := range st.msgs {
		if Matches(cmp.Or(o.Subject, ">"), m.subject) && (o.Sequence == 0 || m.seq < o.Sequence) {
			match = append(match, m)
		}
	}
	if o.Sequence == 0 {
		match = match[:max(0, len(match)-int(o.Keep))]
	}
	for _, m := range match {
		st.remove(m, st.last+1)
	}
	if o.Subject == "" && len(st.msgs) == 0 && o.Sequence > st.last+1 {
		st.last = o.Sequence - 1
	}
	for _, c := range st.consumers {
		for seq := range c.pending {
			if st.get(seq) == nil {
				delete(c.pending, seq)
			}
		}
		c.advance()
	}
}

// GetMsg implements jetstream.Stream.
func (v *view) GetMsg(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	var o struct {
		Next string `json:"next_by_subj"`
	}
	if err := optionsJSON(opts, &o); err != nil {
		return nil, err
	}
	return call(ctx, v.client, v.name(), "get", fmt.Sprint(seq, " ", o.Next), func(_ *Server, st *stream, _ Fate) (*jetstream.RawStreamMsg, error) {
		if o.Next == "" {
			return raw(st.get(seq))
		}
		for i := st.find(seq); i < len(st.msgs); i++ {
			if Matches(o.Next, st.msgs[i].subject) {
				return raw(st.msgs[i])
			}
		}
		return raw(nil)
	})
}

// GetLastMsgForSubject implements jetstream.Stream. With AllowDirect a replica
// answers, which may lag behind.
func (v *view) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return call(ctx, v.client, v.name(), "get.last", subject, func(_ *Server, st *stream, f Fate) (*jetstream.RawStreamMsg, error) {
		return raw(st.read(subject, f))
	})
}

// read gives the last message of a subject as a replica has it.
func (st *stream) read(subject string, f Fate) *message {
	m := st.lastOf(subject)
	if f.Stale && st.cfg.AllowDirect && m != nil {
		return st.before[m.subject]
	}
	return m
}

func raw(m *message) (*jetstream.RawStreamMsg, error) {
	if m == nil {
		return nil, jetstream.ErrMsgNotFound
	}
	return &jetstream.RawStreamMsg{Subject: m.subject, Sequence: m.seq, Header: clone(m.header), Data: slices.Clone(m.data), Time: m.at}, nil
}

// CreateConsumer implements jetstream.Stream.
func (v *view) CreateConsumer(ctx context.Context, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return v.client.consumer(ctx, v.name(), cfg, false)
}

// CreateOrUpdateConsumer implements jetstream.Stream.
func (v *view) CreateOrUpdateConsumer(ctx context.Context, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return v.client.consumer(ctx, v.name(), cfg, true)
}

// Consumer implements jetstream.Stream.
func (v *view) Consumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	return v.client.Consumer(ctx, v.name(), name)
}

// DeleteConsumer implements jetstream.Stream.
func (v *view) DeleteConsumer(ctx context.Context, name string) error {
	return v.client.DeleteConsumer(ctx, v.name(), name)
}

// ListConsumers implements jetstream.Stream.
func (v *view) ListConsumers(ctx context.Context) jetstream.ConsumerInfoLister {
	list, err := call(ctx, v.client, v.name(), "consumer.list", "", func(s *Server, st *stream, _ Fate) ([]*jetstream.ConsumerInfo, error) {
		var all []*jetstream.ConsumerInfo
		for _, name := range slices.Sorted(maps.Keys(st.consumers)) {
			all = append(all, s.info(st.consumers[name]))
		}
		return all, nil
	})
	l := &lister{ch: make(chan *jetstream.ConsumerInfo, len(list)), err: err}
	for _, info := range list {
		l.ch <- info
	}
	close(l.ch)
	return l
}

type lister struct {
	ch  chan *jetstream.ConsumerInfo
	err error
}

func (l *lister) Info() <-chan *jetstream.ConsumerInfo { return l.ch }
func (l *lister) Err() error                           { return l.err }

// CreateConsumer implements jetstream.JetStream.
func (c *Client) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return c.consumer(ctx, stream, cfg, false)
}

// CreateOrUpdateConsumer implements jetstream.JetStream.
func (c *Client) CreateOrUpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return c.consumer(ctx, stream, cfg, true)
}

func (c *Client) consumer(ctx context.Context, name string, cfg jetstream.ConsumerConfig, update bool) (jetstream.Consumer, error) {
	what := strings.Join(append(cfg.FilterSubjects, cfg.Durable, cfg.FilterSubject), " ")
	return call(ctx, c, name, "consumer.create", what, func(s *Server, st *stream, _ Fate) (jetstream.Consumer, error) {
		if cfg.Name = cmp.Or(cfg.Durable, cfg.Name); cfg.Name == "" {
			s.ids++
			cfg.Name = fmt.Sprintf("ephemeral-%d", s.ids)
		}
		if cfg.Durable == "" && cfg.InactiveThreshold == 0 {
			cfg.InactiveThreshold = 5 * time.Second
		}
		if cfg.MaxAckPending == 0 && cfg.AckPolicy == jetstream.AckExplicitPolicy {
			cfg.MaxAckPending = 1000
		}
		k := st.consumers[cfg.Name]
		switch {
		case k == nil:
			k = s.newConsumer(st, cfg)
			st.consumers[cfg.Name] = k
		case update:
			k.cfg = cfg
		case fmt.Sprintf("%+v", k.cfg) != fmt.Sprintf("%+v", cfg):
			return nil, jetstream.ErrConsumerExists
		}
		k.used = time.Now()
		return &handle{client: c, stream: name, name: cfg.Name, info: s.info(k)}, nil
	})
}

// Consumer implements jetstream.JetStream.
func (c *Client) Consumer(ctx context.Context, in, name string) (jetstream.Consumer, error) {
	return call(ctx, c, in, "consumer.info", name, func(s *Server, st *stream, _ Fate) (jetstream.Consumer, error) {
		k, err := s.consumerOf(st, name)
		if err != nil {
			return nil, err
		}
		return &handle{client: c, stream: in, name: name, info: s.info(k)}, nil
	})
}

// DeleteConsumer implements jetstream.JetStream and journal.Transport.
func (c *Client) DeleteConsumer(ctx context.Context, in, name string) error {
	_, err := call(ctx, c, in, "consumer.delete", "", func(_ *Server, st *stream, _ Fate) (struct{}, error) {
		k := st.consumers[name]
		if k == nil {
			return struct{}{}, jetstream.ErrConsumerNotFound
		}
		for _, p := range k.pulls {
			p.close(nil)
		}
		delete(st.consumers, name)
		return struct{}{}, nil
	})
	return err
}
