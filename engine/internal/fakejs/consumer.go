package fakejs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// consumer is a pull consumer of a stream.
type consumer struct {
	st      *stream
	cfg     jetstream.ConsumerConfig
	created time.Time
	used    time.Time
	list    []uint64 // given before next: the last message of each subject when it was made
	next    uint64   // sequence to go on from
	given   jetstream.SequenceInfo
	floor   jetstream.SequenceInfo
	pending map[uint64]*pending
	again   []uint64 // what was given before and is to be given again
	pulls   []*pull
	moving  bool // a delivery is on its way
	wake    *time.Timer
}

// pending is a message that was given and not acknowledged.
type pending struct {
	cseq  uint64
	until time.Time // when it is given again
	times uint64
}

// pull is a client that waits for messages.
type pull struct {
	client *Client
	left   int // how many it takes
	give   func([]jetstream.Msg)
	close  func(error)
	over   func() bool // it does not wait any more
}

func (s *Server) newConsumer(st *stream, cfg jetstream.ConsumerConfig) *consumer {
	now := s.o.Now()
	c := &consumer{st: st, cfg: cfg, created: now, used: time.Now(), next: max(st.firstSeq(), 1), pending: map[uint64]*pending{}}
	switch cfg.DeliverPolicy {
	case jetstream.DeliverByStartSequencePolicy:
		c.next = max(cfg.OptStartSeq, 1)
	case jetstream.DeliverByStartTimePolicy:
		c.next = st.last + 1
		for _, m := range st.msgs {
			if cfg.OptStartTime != nil && !m.at.Before(*cfg.OptStartTime) {
				c.next = m.seq
				break
			}
		}
	case jetstream.DeliverNewPolicy:
		c.next = st.last + 1
	case jetstream.DeliverLastPolicy, jetstream.DeliverLastPerSubjectPolicy:
		for subject, list := range st.bySubject {
			if c.wants(subject) {
				c.list = append(c.list, list[len(list)-1].seq)
			}
		}
		slices.Sort(c.list)
		if cfg.DeliverPolicy == jetstream.DeliverLastPolicy && len(c.list) > 1 {
			c.list = c.list[len(c.list)-1:]
		}
		c.next = st.last + 1
	}
	return c
}

func (c *consumer) filters() []string {
	if len(c.cfg.FilterSubjects) > 0 {
		return c.cfg.FilterSubjects
	}
	return []string{c.cfg.FilterSubject}
}

func (c *consumer) wants(subject string) bool {
	return slices.ContainsFunc(c.filters(), func(f string) bool { return Matches(f, subject) })
}

func (c *consumer) acks() bool { return c.cfg.AckPolicy == jetstream.AckExplicitPolicy }

// peek gives the next message to be given, if there is one.
func (c *consumer) peek() *message {
	for len(c.again) > 0 {
		if m := c.st.get(c.again[0]); m != nil && c.pending[m.seq] != nil {
			return m
		}
		delete(c.pending, c.again[0]) // removed, or acknowledged meanwhile
		c.again = c.again[1:]
	}
	if most := c.cfg.MaxAckPending; c.acks() && len(c.pending) >= cmp.Or(most, 1000) {
		return nil
	}
	for len(c.list) > 0 {
		if m := c.st.get(c.list[0]); m != nil {
			return m
		}
		c.list = c.list[1:]
	}
	for i := c.st.find(c.next); i < len(c.st.msgs); i++ {
		if c.wants(c.st.msgs[i].subject) {
			return c.st.msgs[i]
		}
	}
	return nil
}

// take gives the next message out.
func (s *Server) take(c *consumer, client *Client) *jsMsg {
	m := c.peek()
	if m == nil {
		return nil
	}
	times := uint64(1)
	switch {
	case len(c.again) > 0 && c.again[0] == m.seq:
		c.again = c.again[1:]
		times = c.pending[m.seq].times + 1
	case len(c.list) > 0 && c.list[0] == m.seq:
		c.list = c.list[1:]
	default:
		c.next = m.seq + 1
	}
	c.given.Consumer++
	c.given.Stream = max(c.given.Stream, m.seq)
	if c.acks() {
		c.pending[m.seq] = &pending{cseq: c.given.Consumer, until: s.now().Add(cmp.Or(c.cfg.AckWait, 30*time.Second)), times: times}
		s.watch(c)
	} else {
		c.floor = c.given
	}
	return &jsMsg{client: client, cons: c, m: m, cseq: c.given.Consumer, times: times, left: c.waiting()}
}

// waiting is how many messages there are to be given for the first time.
func (c *consumer) waiting() (n uint64) {
	n = uint64(len(c.list))
	for i := c.st.find(c.next); i < len(c.st.msgs); i++ {
		if c.wants(c.st.msgs[i].subject) {
			n++
		}
	}
	return n
}

// ack settles a message; wait before it is given again is 0 when it is done.
func (s *Server) ack(c *consumer, seq uint64, again bool, wait time.Duration) {
	p := c.pending[seq]
	switch {
	case p == nil:
		return // it was acknowledged before, by whomever
	case again && wait == 0:
		c.retry(seq)
	case again:
		p.until = s.now().Add(wait)
		s.watch(c)
	default:
		delete(c.pending, seq)
		c.advance()
	}
	s.stir(c)
}

func (c *consumer) retry(seq uint64) {
	if !slices.Contains(c.again, seq) {
		c.again = append(c.again, seq)
	}
}

// advance moves the floor up to before the oldest message that is not acknowledged.
func (c *consumer) advance() {
	c.floor = c.given
	for seq, p := range c.pending {
		c.floor.Stream = min(c.floor.Stream, seq-1)
		c.floor.Consumer = min(c.floor.Consumer, p.cseq-1)
	}
}

// watch sees to it that what is not acknowledged in time is given again.
func (s *Server) watch(c *consumer) {
	var first time.Time
	for seq, p := range c.pending {
		if !slices.Contains(c.again, seq) && (first.IsZero() || p.until.Before(first)) {
			first = p.until
		}
	}
	if c.wake != nil {
		c.wake.Stop()
	}
	if first.IsZero() {
		return
	}
	c.wake = time.AfterFunc(max(first.Sub(s.now()), 0), func() {
		s.mu.Lock()
		defer s.unlock()
		s.expire(c)
	})
}

// expire gives again what is overdue.
func (s *Server) expire(c *consumer) {
	now := s.now()
	for _, seq := range slices.Sorted(maps.Keys(c.pending)) {
		if !c.pending[seq].until.After(now) {
			c.retry(seq)
		}
	}
	s.watch(c)
	s.stir(c)
}

// stirred looks whether a consumer of the stream has something to give.
func (s *Server) stirred(st *stream) {
	for _, name := range slices.Sorted(maps.Keys(st.consumers)) {
		s.stir(st.consumers[name])
	}
	for _, w := range st.watchers {
		s.stir(w.cons)
	}
}

// stir puts a delivery on its way if a client waits for one.
func (s *Server) stir(c *consumer) {
	c.pulls = slices.DeleteFunc(c.pulls, func(p *pull) bool { return p.over() })
	if c.moving || len(c.pulls) == 0 || c.st.frozen || c.peek() == nil {
		return
	}
	c.moving = true
	p := c.pulls[0]
	s.later = append(s.later, &Event{Client: p.client.name, Kind: Delivery, Stream: c.st.cfg.Name, Verb: "deliver",
		What: fmt.Sprint(c.filters(), " ", c.peek().seq), Arrive: func(f Fate) {
			s.mu.Lock()
			defer s.unlock()
			c.moving = false
			if !p.over() {
				s.deliver(c, p, f)
			}
			s.stir(c)
		}})
}

// deliver gives a client what there is.
func (s *Server) deliver(c *consumer, p *pull, f Fate) {
	var msgs []jetstream.Msg
	for p.left > 0 && (f.Most == 0 || len(msgs) < f.Most) {
		m := s.take(c, p.client)
		if m == nil {
			break
		}
		if f.Gap {
			f.Gap = false
			continue
		}
		msgs = append(msgs, m)
		p.left--
	}
	p.give(msgs)
	if p.left == 0 {
		p.close(nil)
		c.pulls = slices.DeleteFunc(c.pulls, func(x *pull) bool { return x == p })
	}
}

func (s *Server) now() time.Time { return time.Now() } // of waiting; the wall clock may step

// info is what the server says of a consumer.
func (s *Server) info(c *consumer) *jetstream.ConsumerInfo {
	return &jetstream.ConsumerInfo{Stream: c.st.cfg.Name, Name: c.cfg.Name, Created: c.created, Config: c.cfg, Delivered: c.given, AckFloor: c.floor,
		NumAckPending: len(c.pending), NumWaiting: len(c.pulls), NumPending: c.waiting(), NumRedelivered: len(c.again)}
}

// handle is a client's view of a consumer.
type handle struct {
	jetstream.Consumer
	client *Client
	stream string
	name   string
	info   *jetstream.ConsumerInfo
}

func (h *handle) CachedInfo() *jetstream.ConsumerInfo { return h.info }

func (h *handle) Info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	return call(ctx, h.client, h.stream, "consumer.info", h.name, func(s *Server, st *stream, _ Fate) (*jetstream.ConsumerInfo, error) {
		c, err := s.consumerOf(st, h.name)
		if err != nil {
			return nil, err
		}
		return s.info(c), nil
	})
}

// consumerOf gives a consumer that is there and has not been idle for too long.
func (s *Server) consumerOf(st *stream, name string) (*consumer, error) {
	c := st.consumers[name]
	if c == nil {
		return nil, jetstream.ErrConsumerNotFound
	}
	if limit := c.cfg.InactiveThreshold; limit > 0 && c.cfg.Durable == "" && len(c.pulls) == 0 && time.Since(c.used) > limit {
		delete(st.consumers, name)
		return nil, jetstream.ErrConsumerNotFound
	}
	c.used = time.Now()
	return c, nil
}

// batch is what a fetch gives.
type batch struct {
	ch     chan jetstream.Msg
	mu     sync.Mutex
	err    error
	closed bool
}

func (b *batch) Messages() <-chan jetstream.Msg { return b.ch }

func (b *batch) Error() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *batch) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *batch) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed, b.err = true, err
	close(b.ch)
}

func (b *batch) give(msgs []jetstream.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range msgs {
		if b.closed {
			return
		}
		b.ch <- m // there is room for all that was asked for
	}
}

// Fetch implements jetstream.Consumer.
func (h *handle) Fetch(n int, opts ...jetstream.FetchOpt) (jetstream.MessageBatch, error) {
	o, err := fetchOptions(opts)
	if err != nil {
		return nil, err
	}
	b := &batch{ch: make(chan jetstream.Msg, n)}
	h.fetch(b, n, o.noWait)
	t := time.AfterFunc(o.expires+moment(h.client.name, h.stream, h.name), func() { b.close(nil) })
	if o.ctx != nil {
		context.AfterFunc(o.ctx, func() {
			t.Stop()
			b.close(o.ctx.Err())
		})
	}
	return b, nil
}

// FetchNoWait implements jetstream.Consumer.
func (h *handle) FetchNoWait(n int) (jetstream.MessageBatch, error) {
	b := &batch{ch: make(chan jetstream.Msg, n)}
	h.fetch(b, n, true)
	time.AfterFunc(30*time.Second, func() { b.close(nil) })
	return b, nil
}

func (h *handle) fetch(b *batch, n int, noWait bool) {
	s, client := h.client.s, h.client
	if err := client.refusing(); err != nil {
		b.close(err)
		return
	}
	s.o.Net.Submit(&Event{Client: client.name, Kind: Request, Stream: h.stream, Verb: "fetch", What: h.info.Config.FilterSubject, Arrive: func(f Fate) {
		s.mu.Lock()
		defer s.unlock()
		st := s.streams[h.stream]
		if st == nil || f.Nobody || f.Refuse != nil {
			b.close(nats.ErrNoResponders)
			return
		}
		c, err := s.consumerOf(st, h.name)
		if err != nil {
			b.close(nats.ErrNoResponders)
			return
		}
		p := &pull{client: client, left: n, give: b.give, close: b.close, over: func() bool { return b.over() || client.refusing() != nil }}
		if noWait {
			s.deliver(c, p, Fate{})
			b.close(nil)
			return
		}
		c.pulls = append(c.pulls, p)
		s.stir(c)
	}})
}

// jsMsg is a message as a consumer gives it.
type jsMsg struct {
	client *Client
	cons   *consumer
	m      *message
	cseq   uint64
	times  uint64
	left   uint64
	over   atomic.Bool // it was acknowledged or given back
}

func (m *jsMsg) Data() []byte         { return slices.Clone(m.m.data) }
func (m *jsMsg) Headers() nats.Header { return m.m.header }
func (m *jsMsg) Subject() string      { return m.m.subject }
func (m *jsMsg) Reply() string {
	return fmt.Sprintf("$JS.ACK.%s.%s.%d.%d.%d.%d.%d", m.cons.st.cfg.Name, m.cons.cfg.Name, m.times, m.m.seq, m.cseq, m.m.at.UnixNano(), m.left)
}

func (m *jsMsg) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Consumer: m.cseq, Stream: m.m.seq}, NumDelivered: m.times,
		NumPending: m.left, Timestamp: m.m.at, Stream: m.cons.st.cfg.Name, Consumer: m.cons.cfg.Name}, nil
}

// send puts an acknowledgement on its way; nobody waits for it.
func (m *jsMsg) send(verb string, do func(*Server)) error {
	s := m.client.s
	if verb != "progress" && m.over.Swap(true) {
		return jetstream.ErrMsgAlreadyAckd
	}
	if err := m.client.refusing(); err != nil {
		return err
	}
	s.o.Net.Submit(&Event{Client: m.client.name, Kind: Request, Stream: m.cons.st.cfg.Name, Verb: verb, What: m.m.subject, Arrive: func(f Fate) {
		if f.Nobody || f.Refuse != nil {
			return
		}
		s.mu.Lock()
		defer s.unlock()
		do(s)
	}})
	return nil
}

func (m *jsMsg) Ack() error {
	return m.send("ack", func(s *Server) { s.ack(m.cons, m.m.seq, false, 0) })
}

func (m *jsMsg) Nak() error {
	return m.send("nak", func(s *Server) { s.ack(m.cons, m.m.seq, true, 0) })
}

func (m *jsMsg) NakWithDelay(d time.Duration) error {
	return m.send("nak", func(s *Server) { s.ack(m.cons, m.m.seq, true, d) })
}

func (m *jsMsg) InProgress() error {
	return m.send("progress", func(s *Server) { s.ack(m.cons, m.m.seq, true, cmp.Or(m.cons.cfg.AckWait, 30*time.Second)) })
}

func (m *jsMsg) Term() error { return m.Ack() }

func (m *jsMsg) TermWithReason(string) error { return m.Ack() }

// DoubleAck is answered whoever has the message by now, as the server does.
func (m *jsMsg) DoubleAck(ctx context.Context) error {
	if m.over.Swap(true) {
		return jetstream.ErrMsgAlreadyAckd
	}
	_, err := call(ctx, m.client, m.cons.st.cfg.Name, "doubleack", m.m.subject, func(s *Server, _ *stream, _ Fate) (struct{}, error) {
		s.ack(m.cons, m.m.seq, false, 0)
		return struct{}{}, nil
	})
	return err
}
