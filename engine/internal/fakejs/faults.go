package fakejs

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stored is a message as it lies in a stream.
type Stored struct {
	Seq     uint64
	Subject string
	Data    []byte
	At      time.Time
}

// Messages gives what lies in a stream from a sequence on. The data must not
// be changed.
func (s *Server) Messages(name string, from uint64) []Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[name]
	if st == nil {
		return nil
	}
	var out []Stored
	for _, m := range st.msgs[st.find(from):] {
		out = append(out, Stored{m.seq, m.subject, m.data, m.at})
	}
	return out
}

// Last is the last sequence of a stream.
func (s *Server) Last(name string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[name]; st != nil {
		return st.last
	}
	return 0
}

// Removed is how many messages of a stream have been removed.
func (s *Server) Removed(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[name]; st != nil {
		return len(st.gone)
	}
	return 0
}

// Limit sets a stream's MaxBytes; -1 is none.
func (s *Server) Limit(name string, bytes int64) {
	s.mu.Lock()
	defer s.unlock()
	if st := s.streams[name]; st != nil {
		st.cfg.MaxBytes = bytes
	}
}

// Fill makes a stream full, as it is now.
func (s *Server) Fill(name string) {
	s.mu.Lock()
	defer s.unlock()
	if st := s.streams[name]; st != nil {
		st.cfg.MaxBytes = max(st.bytes, 1)
	}
}

// Freeze makes a stream take requests and answer nothing, as after a write
// error, until Restart.
func (s *Server) Freeze(name string) {
	s.mu.Lock()
	defer s.unlock()
	if st := s.streams[name]; st != nil {
		st.frozen = true
	}
}

// alone is what the leader of a stream does while it is cut off from the
// others: it takes what is published and answers nothing; what names a subject
// that something in process names, it refuses.
type alone struct {
	taken     []*message
	inProcess map[string]bool // subjects
	ids       map[string]bool
}

// knows says whether something in process has the id of a message.
func (a *alone) knows(m *message) bool {
	return a != nil && a.ids[m.header.Get(jetstream.MsgIDHeader)]
}

// end is the last sequence of a stream once all in process is stored.
func (st *stream) end() uint64 {
	if st.alone == nil {
		return st.last
	}
	return st.last + uint64(len(st.alone.taken))
}

func (a *alone) take(msgs ...*message) {
	a.taken = append(a.taken, msgs...)
	for _, m := range msgs {
		a.inProcess[m.subject] = true
		if id := m.header.Get(jetstream.MsgIDHeader); id != "" {
			a.ids[id] = true
		}
		if m.header.Get(jetstream.ExpectedLastSubjSeqHeader) != "" {
			a.inProcess[cmp.Or(m.header.Get("Nats-Expected-Last-Subject-Sequence-Subject"), m.subject)] = true
		}
	}
}

// CutOff cuts the leader of a stream off from the others, until Rejoin.
func (s *Server) CutOff(name string) {
	s.mu.Lock()
	defer s.unlock()
	if st := s.streams[name]; st != nil && st.alone == nil {
		st.alone = &alone{inProcess: map[string]bool{}, ids: map[string]bool{}}
	}
}

// Rejoin ends CutOff, and gives how many messages had been taken: they are
// stored now, or lost when another server has become the leader without them.
func (s *Server) Rejoin(name string, lost bool) int {
	s.mu.Lock()
	defer s.unlock()
	st := s.streams[name]
	if st == nil || st.alone == nil {
		return 0
	}
	taken := st.alone.taken
	st.alone = nil
	if !lost {
		for _, m := range taken {
			s.put(st, m)
		}
		s.stirred(st)
	}
	return len(taken)
}

// Restart is that of the server. What is only in memory is forgotten:
// consumers kept in memory, and the ids of messages that are no longer stored.
// Of each durable consumer, the last rollback acknowledgements are forgotten
// too. Every connection is interrupted; who called has to Reconnect.
func (s *Server) Restart(rollback int) {
	for _, c := range s.connections() {
		c.Disconnect()
	}
	s.mu.Lock()
	defer s.unlock()
	for _, st := range s.streams {
		st.frozen = false
		st.seen = map[string]dedupe{}
		for _, m := range st.msgs {
			if id := m.header.Get(jetstream.MsgIDHeader); id != "" {
				st.seen[id] = dedupe{m.seq, m.at}
			}
		}
		for name, c := range st.consumers {
			if c.cfg.MemoryStorage || c.cfg.Durable == "" {
				delete(st.consumers, name)
				continue
			}
			s.forget(c, rollback)
		}
	}
}

// forget undoes the last acknowledgements of a consumer: what they
// acknowledged will be given again.
func (s *Server) forget(c *consumer, rollback int) {
	c.pulls = nil
	first := c.given.Stream
	for seq := range c.pending {
		first = min(first, seq-1)
	}
	floor := c.floor.Stream
	for i := c.st.find(floor+1) - 1; i >= 0 && rollback > 0; i-- {
		if c.wants(c.st.msgs[i].subject) {
			floor = c.st.msgs[i].seq - 1
			rollback--
		}
	}
	// Pending messages come again when their time has come; those whose
	// acknowledgement was forgotten come at once, before newer ones.
	for i := c.st.find(floor + 1); i < len(c.st.msgs) && c.st.msgs[i].seq <= c.given.Stream; i++ {
		if m := c.st.msgs[i]; c.wants(m.subject) && c.pending[m.seq] == nil {
			c.pending[m.seq] = &pending{cseq: c.given.Consumer, until: s.now(), times: 1}
		}
	}
	c.advance()
	s.watch(c)
}

// LoseTail drops the last n messages of a stream, as a power cut does when the
// server syncs now and then: their sequences are used again, and what was
// removed behind them is there again. It goes with a Restart.
func (s *Server) LoseTail(name string, n int) {
	s.mu.Lock()
	defer s.unlock()
	st := s.streams[name]
	if st == nil {
		return
	}
	for ; n > 0 && len(st.msgs) > 0; n-- {
		st.last = st.msgs[len(st.msgs)-1].seq - 1
		st.drop(st.msgs[len(st.msgs)-1])
	}
	st.revive()
	for _, c := range st.consumers {
		c.next = min(c.next, st.last+1)
		c.given.Stream, c.floor.Stream = min(c.given.Stream, st.last), min(c.floor.Stream, st.last)
		for seq := range c.pending {
			if seq > st.last {
				delete(c.pending, seq)
			}
		}
	}
}

// revive puts back what was removed behind the last message.
func (st *stream) revive() {
	var back []*message
	st.gone = slices.DeleteFunc(st.gone, func(r removal) bool {
		if r.behind > st.last && r.m.seq <= st.last {
			back = append(back, r.m)
		}
		return r.behind > st.last
	})
	for _, m := range back {
		st.msgs = append(st.msgs, m)
		st.bySubject[m.subject] = append(st.bySubject[m.subject], m)
		st.bytes += m.size()
	}
	bySeq := func(a, b *message) int { return cmp.Compare(a.seq, b.seq) }
	slices.SortFunc(st.msgs, bySeq)
	for _, list := range st.bySubject {
		slices.SortFunc(list, bySeq)
	}
}

// connections are the clients that are not closed, in their order.
func (s *Server) connections() []*Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = slices.DeleteFunc(s.clients, func(c *Client) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.closed
	})
	return slices.Clone(s.clients)
}

// Reconnect mends all interrupted connections.
func (s *Server) Reconnect() {
	for _, c := range s.connections() {
		c.Reconnect()
	}
}

// Consumers names the consumers of a stream, in order.
func (s *Server) Consumers(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[name]
	if st == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(st.consumers))
}

// Thaw ends Freeze without a Restart.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.unlock()
	for _, st := range s.streams {
		st.frozen = false
		s.stirred(st)
	}
}
