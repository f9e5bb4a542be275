// Package fakejs is a JetStream server in memory with faults, for simulations:
// streams, consumers and key-value buckets as Penstock uses them.
//
// A Client implements journal.Transport and, as far as Penstock uses it,
// jetstream.JetStream. What it does not implement panics with a nil pointer:
// a simulation must not go on with something that is not modelled.
//
// Everything that passes between a client and the server is an Event, which is
// given to a Net. A Net decides when it arrives, in which order, and what
// befalls it (Fate); without one everything arrives at once. On top of that
// the server itself can be made to misbehave: Restart, LoseTail, Freeze, CutOff.
//
// What is modelled: limits and DiscardNew, MaxMsgsPerSubject, the dedupe
// window, expectations of the last sequence of a subject, of another subject
// and of the stream, atomic batches with their refusals, pull consumers with
// redelivery and its order, consumers without acknowledgements and their gaps,
// reading by sequence and of the last message of each subject, purges, reads
// that a lagging replica answers, revisions of keys and watching them.
//
// The conformance suite in this package runs the same scripts on a real server
// and compares what is answered, so that the fake stays honest.
package fakejs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Kind says which way an event goes.
type Kind string

// Kinds of events.
const (
	Request  Kind = "request"  // a client wants something of the server
	Answer   Kind = "answer"   // the server's answer to a request
	Delivery Kind = "delivery" // messages of a consumer, or entries of a watched bucket
)

// Event is something on its way.
type Event struct {
	Client string
	Kind   Kind
	Stream string // that it is about
	Verb   string // what is asked for: publish, batch, fetch, last, …
	What   string // the details, in words that are the same whenever the same is done

	// Arrive makes it happen. A Net calls it at most once, from any goroutine.
	// A request or an answer that is lost is dropped without calling it; a
	// delivery always arrives in the end.
	Arrive func(Fate)
}

// Fate is what befalls an event that arrives.
type Fate struct {
	Mute   bool     // of a request: it is carried out, and the answer is lost
	Refuse *Refusal // of a request: it is not carried out, and this is the answer
	Yet    bool     // of a publish that is refused: it comes to another server too, which leads by now and does what is right
	Nobody bool     // of a request: there is nobody who takes it
	Stale  bool     // of a read: a replica answers that lags behind, where that is possible
	Gap    bool     // of a batch: a message of it is lost; of a delivery: its first message is
	Most   int      // of a delivery: so many messages at most; 0 is no limit
}

// Refusal is the server's error.
type Refusal struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (r *Refusal) api() *jetstream.APIError {
	return &jetstream.APIError{Code: r.Status, ErrorCode: jetstream.ErrorCode(r.Code), Description: r.Description}
}

// Refusals that a Net may choose; the server gives others itself.
var (
	RefuseInFlight  = &Refusal{400, 10164, "wrong last sequence"}
	RefuseResources = &Refusal{503, 10023, "insufficient resources"}
	RefuseStorage   = &Refusal{500, 10047, "insufficient storage resources available"}
	RefuseTooMany   = &Refusal{429, 10210, "atomic publish too many inflight"}
	RefuseNoLeader  = &Refusal{503, 10008, "JetStream system temporarily unavailable"}
	RefuseSequence  = &Refusal{400, 10071, "wrong last sequence: 1"}
)

// Net decides when events arrive.
type Net interface{ Submit(*Event) }

type direct struct{}

func (direct) Submit(e *Event) { e.Arrive(Fate{}) }

// Options of a Server.
type Options struct {
	Net          Net              // direct when nil
	Now          func() time.Time // the server's wall clock; time.Now when nil
	BatchTimeout time.Duration    // of batches that are not committed; 10 s when 0
	// Broken lets the server get one of its promises wrong. Tests show with it
	// that a broken promise is noticed.
	Broken Broken
}

// Broken are promises that the server breaks.
type Broken struct {
	Expectations bool // expected sequences are not looked at
	Atomic       bool // of a batch, what is not refused is stored
	Dedupe       bool // every id counts as known
}

// Server is the server. Its methods may be called at any time.
type Server struct {
	o Options

	mu      sync.Mutex
	streams map[string]*stream
	clients []*Client
	ids     int
	later   []*Event // to be submitted when the lock is given back
}

// New makes a server without streams.
func New(o Options) *Server {
	if o.Net == nil {
		o.Net = direct{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.BatchTimeout = cmp.Or(o.BatchTimeout, 10*time.Second)
	return &Server{o: o, streams: map[string]*stream{}}
}

// unlock gives the lock back and submits what has come up meanwhile.
func (s *Server) unlock() {
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, e := range later {
		s.o.Net.Submit(e)
	}
}

// message is a stored message.
type message struct {
	seq     uint64
	subject string
	header  nats.Header
	data    []byte
	at      time.Time
}

func (m *message) size() int64 { return int64(len(m.subject) + size(m.header, m.data)) }

// size is what counts against the limit of a message.
func size(h nats.Header, data []byte) int {
	n := len(data)
	if len(h) > 0 {
		n += len("NATS/1.0\r\n\r\n")
	}
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v) + len(": \r\n")
		}
	}
	return n
}

// stream is a stream. Its messages are in the order of their sequences.
type stream struct {
	cfg       jetstream.StreamConfig
	created   time.Time
	msgs      []*message
	bySubject map[string][]*message
	before    map[string]*message // by subject, the message before the last one: what a lagging replica knows
	last      uint64
	bytes     int64
	seen      map[string]dedupe
	gone      []removal // what was removed, by age: a lost tail brings it back
	consumers map[string]*consumer
	watchers  []*watcher
	frozen    bool
	alone     *alone // not nil: its leader is cut off from the others
}

// removal is a message that was removed. The word of that lies behind the
// message with the sequence before behind, and is lost with the message that has it.
type removal struct {
	m      *message
	behind uint64
}

type dedupe struct {
	seq uint64
	at  time.Time
}

func newStream(cfg jetstream.StreamConfig, now time.Time) *stream {
	return &stream{cfg: cfg, created: now, bySubject: map[string][]*message{}, before: map[string]*message{},
		seen: map[string]dedupe{}, consumers: map[string]*consumer{}}
}

// find gives the index of the first message at or behind a sequence.
func (st *stream) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(st.msgs, seq, func(m *message, seq uint64) int { return cmp.Compare(m.seq, seq) })
	return i
}

func (st *stream) get(seq uint64) *message {
	if i := st.find(seq); i < len(st.msgs) && st.msgs[i].seq == seq {
		return st.msgs[i]
	}
	return nil
}

// lastOf gives the last message of the subjects that match a filter.
func (st *stream) lastOf(filter string) (last *message) {
	if !strings.ContainsAny(filter, "*>") {
		if list := st.bySubject[filter]; len(list) > 0 {
			return list[len(list)-1]
		}
		return nil
	}
	for subject, list := range st.bySubject {
		if Matches(filter, subject) && (last == nil || list[len(list)-1].seq > last.seq) {
			last = list[len(list)-1]
		}
	}
	return last
}

func (st *stream) lastSeqOf(filter string) uint64 {
	if m := st.lastOf(filter); m != nil {
		return m.seq
	}
	return 0
}

// store puts a message at the end and makes room for it where that is the rule.
func (st *stream) store(m *message) {
	st.last++
	m.seq = st.last
	st.msgs = append(st.msgs, m)
	list := st.bySubject[m.subject]
	if len(list) > 0 {
		st.before[m.subject] = list[len(list)-1]
	}
	st.bySubject[m.subject] = append(list, m)
	st.bytes += m.size()
	if most := st.cfg.MaxMsgsPerSubject; most > 0 {
		for int64(len(st.bySubject[m.subject])) > most {
			st.remove(st.bySubject[m.subject][0], st.last)
		}
	}
}

// remove removes a message, of which the word lies behind another one.
func (st *stream) remove(m *message, behind uint64) {
	st.gone = append(st.gone, removal{m, behind})
	st.drop(m)
}

// drop takes a message out.
func (st *stream) drop(m *message) {
	if i := st.find(m.seq); i < len(st.msgs) && st.msgs[i] == m {
		st.msgs = slices.Delete(st.msgs, i, i+1)
	}
	list := st.bySubject[m.subject]
	if i := slices.Index(list, m); i >= 0 {
		list = slices.Delete(slices.Clone(list), i, i+1)
	}
	if st.bySubject[m.subject] = list; len(list) == 0 {
		delete(st.bySubject, m.subject)
	}
	st.bytes -= m.size()
}

func (st *stream) firstSeq() uint64 {
	switch {
	case len(st.msgs) > 0:
		return st.msgs[0].seq
	case st.last == 0:
		return 0
	}
	return st.last + 1
}

// room says why a message cannot be stored for want of room; rest is what a
// batch puts in before it.
func (st *stream) room(m *message, restMsgs, restBytes int64) *Refusal {
	full := func(what string) *Refusal { return &Refusal{503, 10077, "maximum " + what + " exceeded"} }
	if st.cfg.MaxMsgSize > 0 && size(m.header, m.data) > int(st.cfg.MaxMsgSize) {
		return &Refusal{400, 10054, "message size exceeds maximum allowed"}
	}
	if st.cfg.Discard != jetstream.DiscardNew {
		return nil
	}
	replaces := st.cfg.MaxMsgsPerSubject > 0 && int64(len(st.bySubject[m.subject])) >= st.cfg.MaxMsgsPerSubject
	switch {
	case replaces && st.cfg.DiscardNewPerSubject:
		return full("messages per subject")
	case st.cfg.MaxMsgs > 0 && int64(len(st.msgs))+restMsgs >= st.cfg.MaxMsgs && !replaces:
		return full("messages")
	case st.cfg.MaxBytes > 0 && st.bytes+restBytes+m.size() > st.cfg.MaxBytes && !replaces:
		return full("bytes")
	}
	return nil
}

// streamOf gives the stream that takes a subject.
func (s *Server) streamOf(subject string) *stream {
	for _, st := range s.streams {
		for _, filter := range st.cfg.Subjects {
			if Matches(filter, subject) {
				return st
			}
		}
	}
	return nil
}

// ack is the server's answer to a publish.
type ack struct {
	Error     *Refusal `json:"error,omitempty"`
	Stream    string   `json:"stream"`
	Seq       uint64   `json:"seq"`
	Duplicate bool     `json:"duplicate,omitempty"`
	Batch     string   `json:"batch,omitempty"`
	Count     int      `json:"count,omitempty"`
	taken     bool     // not stored yet: there is no answer
}

// publish stores a message. The caller holds the lock.
func (s *Server) publish(st *stream, m *message) ack {
	a := ack{Stream: st.cfg.Name}
	if want := m.header.Get(jetstream.ExpectedStreamHeader); want != "" && want != st.cfg.Name {
		a.Error = &Refusal{400, 10060, "expected stream does not match"}
		return a
	}
	if a.Error = s.expected(st, m, st.end(), nil); a.Error != nil {
		return a
	}
	if st.alone.knows(m) {
		a.Error = &Refusal{409, 10158, "duplicate message id is in process"}
		return a
	}
	if d, known := s.duplicate(st, m); known {
		a.Seq, a.Duplicate = d.seq, true
		return a
	}
	a.Error = st.room(m, 0, 0)
	if a.Error == nil && st.alone != nil {
		st.alone.take(m)
		return ack{taken: true}
	}
	if a.Error == nil {
		s.put(st, m)
		a.Seq = m.seq
		s.stirred(st)
	}
	return a
}

// put stores a message and remembers its id.
func (s *Server) put(st *stream, m *message) {
	m.at = s.o.Now()
	if m.header.Get("Nats-Rollup") == "sub" && st.cfg.AllowRollup {
		for _, old := range slices.Clone(st.bySubject[m.subject]) {
			st.remove(old, st.last+1)
		}
	}
	st.store(m)
	if id := m.header.Get(jetstream.MsgIDHeader); id != "" {
		st.seen[id] = dedupe{m.seq, m.at}
	}
}

// duplicate says whether a message's id was seen within the window.
func (s *Server) duplicate(st *stream, m *message) (dedupe, bool) {
	id := m.header.Get(jetstream.MsgIDHeader)
	if id == "" {
		return dedupe{}, false
	}
	if s.o.Broken.Dedupe {
		return dedupe{seq: st.last}, true
	}
	d, known := st.seen[id]
	window := cmp.Or(st.cfg.Duplicates, 2*time.Minute)
	if known && s.o.Now().Sub(d.at) >= window {
		delete(st.seen, id)
		known = false
	}
	return d, known
}

// expected looks at the sequences that a message expects. last is the
// stream's, as the sender of a batch saw it; written are the subjects of the
// batch before the message.
func (s *Server) expected(st *stream, m *message, last uint64, written map[string]bool) *Refusal {
	if s.o.Broken.Expectations {
		return nil
	}
	wrong := func(seq uint64) *Refusal { return &Refusal{400, 10071, fmt.Sprintf("wrong last sequence: %d", seq)} }
	if want, ok := number(m.header, jetstream.ExpectedLastSubjSeqHeader); ok {
		on := cmp.Or(m.header.Get("Nats-Expected-Last-Subject-Sequence-Subject"), m.subject)
		if written[on] {
			return &Refusal{400, 10071, "wrong last sequence: 0"}
		}
		if st.alone != nil && st.alone.inProcess[on] {
			return RefuseInFlight
		}
		if seq := st.lastSeqOf(on); seq != want {
			return wrong(seq)
		}
	}
	if want, ok := number(m.header, jetstream.ExpectedLastSeqHeader); ok && last != want {
		return wrong(last)
	}
	return nil
}

func number(h nats.Header, name string) (uint64, bool) {
	v := h.Get(name)
	if v == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 10, 64)
	return n, err == nil
}

// The server's limits of batches.
const maxBatch = 1000

// commit stores a batch as a whole, or refuses it. sent are the times at which
// its messages came.
func (s *Server) commit(st *stream, batch []*message, sent []time.Time) ack {
	id := batch[0].header.Get("Nats-Batch-Id")
	a := ack{Stream: st.cfg.Name}
	if a.Error = s.whole(st, batch, sent); a.Error != nil {
		return a
	}
	if a.Error = s.acceptable(st, batch); a.Error != nil {
		if !s.o.Broken.Atomic {
			return a
		}
		a.Error = nil
		batch = slices.DeleteFunc(batch, func(m *message) bool { return s.expected(st, m, st.last, nil) != nil })
	}
	if st.alone != nil {
		st.alone.take(batch...)
		return ack{taken: true}
	}
	for _, m := range batch {
		s.put(st, m)
	}
	s.stirred(st)
	a.Seq, a.Batch, a.Count = st.last, id, len(batch)
	return a
}

// whole says whether all messages of a batch have come, and in time.
func (s *Server) whole(st *stream, batch []*message, sent []time.Time) *Refusal {
	incomplete := &Refusal{400, 10176, "atomic publish batch is incomplete"}
	if !st.cfg.AllowAtomicPublish {
		return &Refusal{400, 10174, "atomic publish is disabled"}
	}
	if len(batch) > maxBatch {
		return &Refusal{400, 10199, fmt.Sprintf("atomic publish batch is too large: %d", maxBatch)}
	}
	for i, m := range batch {
		n, ok := number(m.header, "Nats-Batch-Sequence")
		if !ok {
			return &Refusal{400, 10175, "atomic publish sequence is missing"}
		}
		if n != uint64(i+1) || i > 0 && sent[i].Sub(sent[i-1]) > s.o.BatchTimeout {
			return incomplete
		}
	}
	return nil
}

// acceptable says whether a batch may be stored as a whole.
func (s *Server) acceptable(st *stream, batch []*message) *Refusal {
	written, ids := map[string]bool{}, map[string]bool{}
	var bytes int64
	for i, m := range batch {
		if id := m.header.Get(jetstream.MsgIDHeader); id != "" {
			if _, known := s.duplicate(st, m); known || ids[id] || st.alone.knows(m) {
				return &Refusal{400, 10201, "atomic publish batch contains duplicate message id"}
			}
			ids[id] = true
		}
		if m.header.Get("Nats-Expected-Last-Msg-Id") != "" {
			return &Refusal{400, 10177, "atomic publish unsupported header used: Nats-Expected-Last-Msg-Id"}
		}
		if r := s.expected(st, m, st.end()+uint64(i), written); r != nil {
			return r
		}
		if r := st.room(m, int64(i), bytes); r != nil {
			return r
		}
		bytes += m.size()
		written[m.subject] = true
	}
	return nil
}

// Matches says whether a subject matches a filter with wildcards; an empty one
// is for all.
func Matches(filter, subject string) bool {
	return filter == "" || events.MatchSubject(filter, subject)
}
