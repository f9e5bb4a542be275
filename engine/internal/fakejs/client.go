package fakejs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Client is a connection to the server.
type Client struct {
	jetstream.JetStream // nil: what is not overridden is not modelled

	s    *Server
	name string
	gone chan struct{} // closed by Close

	mu        sync.Mutex
	closed    bool
	down      bool
	life      int // counts connections: answers to an earlier one are lost
	inboxes   int
	listeners map[string]*listener
	lost      map[chan nats.Status]bool
	open      map[string]*batchOnItsWay
}

type batchOnItsWay struct {
	msgs []*message
	sent []time.Time
}

// Client gives one more connection; its name stands in all its events.
func (s *Server) Client(name string) *Client {
	c := &Client{s: s, name: name, gone: make(chan struct{}), listeners: map[string]*listener{}, lost: map[chan nats.Status]bool{},
		open: map[string]*batchOnItsWay{}}
	s.mu.Lock()
	s.clients = append(s.clients, c)
	s.mu.Unlock()
	return c
}

// Close cuts the connection for ever, as the end of the process does. What the
// client has sent and has not arrived may still arrive.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	close(c.gone)
	for _, l := range c.listeners {
		l.close()
	}
	c.tellLost(nats.CLOSED)
}

// Disconnect interrupts the connection: answers on their way are lost.
// Reconnect mends it.
func (c *Client) Disconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.down {
		return
	}
	c.down = true
	c.life++
	c.open = map[string]*batchOnItsWay{}
	c.tellLost(nats.RECONNECTING)
}

// Reconnect mends an interrupted connection.
func (c *Client) Reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}

func (c *Client) tellLost(s nats.Status) {
	for ch := range c.lost {
		select {
		case ch <- s:
		default:
		}
	}
}

// refusing says why nothing can be sent.
func (c *Client) refusing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nats.ErrConnectionClosed
	case c.down:
		return nats.ErrDisconnected
	}
	return nil
}

func (c *Client) generation() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life
}

// Connected implements journal.Transport.
func (c *Client) Connected() bool { return c.refusing() == nil }

// MaxPayload implements journal.Transport.
func (c *Client) MaxPayload() int64 { return 1 << 20 }

// listener calls a function with what comes, one after the other.
type listener struct {
	mu    sync.Mutex
	more  *sync.Cond
	queue []*nats.Msg
	over  bool
}

func (l *listener) run(fn nats.MsgHandler) {
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.over {
			l.more.Wait()
		}
		if l.over {
			l.mu.Unlock()
			return
		}
		m := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		fn(m)
	}
}

func (l *listener) put(m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, m)
	l.more.Signal()
}

func (l *listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.more.Signal()
}

// Listen implements journal.Transport.
func (c *Client) Listen(fn nats.MsgHandler) (string, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return "", nil, nats.ErrConnectionClosed
	}
	c.inboxes++
	inbox := fmt.Sprintf("_INBOX.%s.%d.", c.name, c.inboxes)
	l := &listener{}
	l.more = sync.NewCond(&l.mu)
	c.listeners[inbox] = l
	go l.run(fn)
	return inbox, func() {
		l.close()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, inbox)
	}, nil
}

// reply gives an answer to whoever listens for it.
func (c *Client) reply(m *nats.Msg) {
	c.mu.Lock()
	l := c.listeners[m.Subject[:strings.LastIndexByte(m.Subject, '.')+1]]
	c.mu.Unlock()
	if l != nil {
		l.put(m)
	}
}

// Interrupted implements journal.Transport.
func (c *Client) Interrupted() (<-chan nats.Status, func()) {
	ch := make(chan nats.Status, 10)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost[ch] = true
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.lost, ch)
	}
}

// Send implements journal.Transport. The messages of a batch travel together
// with the one that commits it.
func (c *Client) Send(m *nats.Msg) error {
	if err := c.refusing(); err != nil {
		return err
	}
	one := &message{subject: m.Subject, header: clone(m.Header), data: append([]byte(nil), m.Data...)}
	id := m.Header.Get("Nats-Batch-Id")
	if id == "" {
		c.submit("publish", m.Reply, []*message{one}, nil)
		return nil
	}
	c.mu.Lock()
	b := c.open[id]
	if b == nil {
		b = &batchOnItsWay{}
		c.open[id] = b
	}
	b.msgs, b.sent = append(b.msgs, one), append(b.sent, time.Now())
	commit := m.Header.Get("Nats-Batch-Commit") != ""
	if commit {
		delete(c.open, id)
	}
	c.mu.Unlock()
	if commit {
		c.submit("batch", m.Reply, b.msgs, b.sent)
	}
	return nil
}

func clone(h nats.Header) nats.Header {
	if len(h) == 0 {
		return nil
	}
	out := make(nats.Header, len(h))
	for k, v := range h {
		out[k] = append([]string(nil), v...)
	}
	return out
}

// describe says what messages are, in the same words for the same ones.
func describe(msgs []*message) string {
	h := fnv.New64a()
	for _, m := range msgs {
		fmt.Fprint(h, m.subject, m.header.Get(jetstream.ExpectedLastSubjSeqHeader), m.header.Get(jetstream.ExpectedLastSeqHeader))
		h.Write(m.data)
	}
	return fmt.Sprintf("%s +%d %x", msgs[0].subject, len(msgs)-1, h.Sum64())
}

// submit puts messages on their way.
func (c *Client) submit(verb, reply string, msgs []*message, sent []time.Time) {
	s := c.s
	s.mu.Lock()
	stream := ""
	if st := s.streamOf(msgs[0].subject); st != nil {
		stream = st.cfg.Name
	}
	s.mu.Unlock()
	life := c.generation()
	what := describe(msgs)
	s.o.Net.Submit(&Event{Client: c.name, Kind: Request, Stream: stream, Verb: verb, What: what, Arrive: func(f Fate) {
		m := s.arrive(verb, msgs, sent, f)
		if f.Refuse != nil && f.Yet {
			s.o.Net.Submit(&Event{Client: c.name, Kind: Request, Stream: stream, Verb: verb, What: what, Arrive: func(f Fate) {
				s.arrive(verb, msgs, sent, f)
			}})
		}
		if m == nil || f.Mute || reply == "" {
			return
		}
		m.Subject = reply
		s.o.Net.Submit(&Event{Client: c.name, Kind: Answer, Stream: stream, Verb: verb, What: what, Arrive: func(Fate) {
			if c.generation() == life {
				c.reply(m)
			}
		}})
	}})
}

// arrive carries out a publish and gives the answer; nil when there is none.
func (s *Server) arrive(verb string, msgs []*message, sent []time.Time, f Fate) *nats.Msg {
	s.mu.Lock()
	defer s.unlock()
	st := s.streamOf(msgs[0].subject)
	switch {
	case st == nil, f.Nobody:
		return &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	case st.frozen:
		return nil
	}
	a := ack{Stream: st.cfg.Name, Error: f.Refuse}
	switch {
	case f.Refuse != nil:
	case verb == "batch":
		if f.Gap && len(msgs) > 1 {
			msgs, sent = append(msgs[:1:1], msgs[2:]...), append(sent[:1:1], sent[2:]...)
		}
		a = s.commit(st, msgs, sent)
	default:
		a = s.publish(st, msgs[0])
	}
	if a.taken {
		return nil
	}
	data, _ := json.Marshal(a) // it always encodes
	return &nats.Msg{Data: data}
}

// defaultWait is how long a request waits for its answer.
const defaultWait = 5 * time.Second

// errUnanswered says that the server does not answer.
var errUnanswered = errors.New("no answer")

// call asks the server something and waits for the answer.
func call[T any](ctx context.Context, c *Client, stream, verb, what string, do func(*Server, *stream, Fate) (T, error)) (T, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultWait)
		defer cancel()
	}
	type result struct {
		v   T
		err error
	}
	var none T
	if err := c.refusing(); err != nil {
		return none, err
	}
	s, life := c.s, c.generation()
	came := make(chan result, 1)
	answer := func(r result) {
		s.o.Net.Submit(&Event{Client: c.name, Kind: Answer, Stream: stream, Verb: verb, What: what, Arrive: func(Fate) {
			if c.generation() == life {
				came <- r
			}
		}})
	}
	arrive := func(f Fate) (r result) {
		s.mu.Lock()
		defer s.unlock()
		st := s.streams[stream]
		switch {
		case st == nil && stream != "":
			r.err = jetstream.ErrStreamNotFound
		case st != nil && st.frozen:
			r.err = errUnanswered
		default:
			r.v, r.err = do(s, st, f)
		}
		return r
	}
	s.o.Net.Submit(&Event{Client: c.name, Kind: Request, Stream: stream, Verb: verb, What: what, Arrive: func(f Fate) {
		r := result{}
		switch {
		case f.Nobody:
			r.err = nats.ErrNoResponders
		case f.Refuse != nil:
			r.err = f.Refuse.api()
			if f.Yet {
				s.o.Net.Submit(&Event{Client: c.name, Kind: Request, Stream: stream, Verb: verb, What: what, Arrive: func(f Fate) {
					if f.Refuse == nil && !f.Nobody {
						arrive(f)
					}
				}})
			}
		default:
			r = arrive(f)
		}
		if !f.Mute && r.err != errUnanswered {
			answer(r)
		}
	}})
	select {
	case r := <-came:
		return r.v, r.err
	case <-ctx.Done():
		time.Sleep(moment(c.name, verb, what))
		return none, ctx.Err()
	case <-c.gone:
		return none, nats.ErrConnectionClosed
	}
}

// moment is the moment that somebody takes to notice that his time is over: it
// differs from one to the other, so that no two notice at the same instant and
// who is first does not depend on the scheduler.
func moment(about ...string) time.Duration {
	h := fnv.New64a()
	for _, a := range about {
		h.Write([]byte(a))
	}
	return time.Duration(1 + h.Sum64()%99_999)
}

// API implements journal.Transport for reading the last message of a subject.
func (c *Client) API(ctx context.Context, name string, body []byte) ([]byte, error) {
	if in, ok := strings.CutPrefix(name, "STREAM.INFO."); ok {
		return c.streamInfo(ctx, in, body)
	}
	in, ok := strings.CutPrefix(name, "STREAM.MSG.GET.")
	if !ok {
		return nil, fmt.Errorf("the fake JetStream does not know %s", name)
	}
	var q struct {
		Last string `json:"last_by_subj"`
		Next string `json:"next_by_subj"`
		Seq  uint64 `json:"seq"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	answer, err := call(ctx, c, in, "last", q.Last, func(_ *Server, st *stream, _ Fate) (any, error) {
		m := st.get(q.Seq)
		switch {
		case q.Next != "":
			m = st.nextOf(q.Next, q.Seq)
		case q.Seq == 0:
			m = st.lastOf(q.Last)
		}
		if m == nil {
			return map[string]any{"error": Refusal{404, 10037, "no message found"}}, nil
		}
		return map[string]any{"message": map[string]any{"subject": m.subject, "seq": m.seq, "time": m.at,
			"data": base64.StdEncoding.EncodeToString(m.data)}}, nil
	})
	if refused := new(jetstream.APIError); errors.As(err, &refused) {
		answer, err = map[string]any{"error": Refusal{refused.Code, int(refused.ErrorCode), refused.Description}}, nil
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// streamInfo answers what a stream is, with the subjects that are asked for.
func (c *Client) streamInfo(ctx context.Context, name string, body []byte) ([]byte, error) {
	var q struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	answer, err := call(ctx, c, name, "stream.info", q.Filter, func(s *Server, st *stream, _ Fate) (any, error) {
		info := s.state(st, q.Filter)
		if q.Offset > 0 { // all were in the first answer
			info.State.Subjects = nil
		}
		return info, nil
	})
	if refused := new(jetstream.APIError); errors.As(err, &refused) {
		answer, err = map[string]any{"error": Refusal{refused.Code, int(refused.ErrorCode), refused.Description}}, nil
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// nextOf gives the first message of matching subjects from a sequence on.
func (st *stream) nextOf(filter string, seq uint64) *message {
	for _, m := range st.msgs {
		if m.seq >= seq && Matches(filter, m.subject) {
			return m
		}
	}
	return nil
}

// Publish implements jetstream.JetStream.
func (c *Client) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return c.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, opts...)
}

// PublishMsg implements jetstream.JetStream.
func (c *Client) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	h := clone(m.Header)
	if h == nil {
		h = nats.Header{}
	}
	if err := publishOptions(h, opts); err != nil {
		return nil, err
	}
	one := &message{subject: m.Subject, header: h, data: append([]byte(nil), m.Data...)}
	a, err := c.request(ctx, "publish", []*message{one}, nil)
	if err != nil {
		return nil, err
	}
	return &jetstream.PubAck{Stream: a.Stream, Sequence: a.Seq, Duplicate: a.Duplicate}, nil
}

// PublishBatch sends messages as one atomic batch, or a single one by itself,
// and gives the sequence of the last.
func (c *Client) PublishBatch(ctx context.Context, msgs ...*nats.Msg) (uint64, error) {
	list, sent := make([]*message, len(msgs)), make([]time.Time, len(msgs))
	for i, m := range msgs {
		h := clone(m.Header)
		if len(msgs) > 1 {
			if h == nil {
				h = nats.Header{}
			}
			h.Set("Nats-Batch-Id", "batch")
			h.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
		}
		list[i], sent[i] = &message{subject: m.Subject, header: h, data: append([]byte(nil), m.Data...)}, time.Now()
	}
	verb := "publish"
	if len(msgs) > 1 {
		verb = "batch"
	}
	a, err := c.request(ctx, verb, list, sent)
	if err != nil {
		return 0, err
	}
	return a.Seq, nil
}

// request publishes and waits for the answer.
func (c *Client) request(ctx context.Context, verb string, msgs []*message, sent []time.Time) (ack, error) {
	name := ""
	c.s.mu.Lock()
	if st := c.s.streamOf(msgs[0].subject); st != nil {
		name = st.cfg.Name
	}
	c.s.mu.Unlock()
	return call(ctx, c, name, verb, describe(msgs), func(s *Server, st *stream, f Fate) (ack, error) {
		if st == nil {
			return ack{}, jetstream.ErrNoStreamResponse
		}
		var a ack
		if verb == "batch" {
			a = s.commit(st, msgs, sent)
		} else {
			a = s.publish(st, msgs[0])
		}
		switch {
		case a.taken:
			return a, errUnanswered
		case a.Error != nil:
			return a, a.Error.api()
		}
		return a, nil
	})
}
