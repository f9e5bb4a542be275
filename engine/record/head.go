package record

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/penstock-cd/penstock/events"
)

// Head is what stands at the front of a record: enough to know an aggregate
// that nothing is to be done for, without reading its state.
type Head struct {
	Aggregate string
	ID        string
	V         int64
	Prev      string
	T         int64
	// Old says that the record was written before there were summaries: what
	// Summary would say must be found out from the state.
	Old bool
	Summary
}

// Summary is what a start and an index of aggregates want to know of a state.
// It is derived from the state, with which it is written.
type Summary struct {
	// Due is the next time at which the aggregate wants a timer input, in
	// milliseconds, 0 for none.
	Due int64 `json:"due,omitempty"`
	// Busy says that whoever takes the aggregate over needs its state: it has
	// messages to send or attempts to watch, or others look at all of it.
	Busy bool `json:"busy,omitempty"`

	// The following are of a run only.

	Workflow string   `json:"wf,omitempty"`
	Status   string   `json:"s,omitempty"`  // as for people: running, waiting or done
	Outcome  string   `json:"o,omitempty"`  // of one that is done
	Started  int64    `json:"t0,omitempty"` // milliseconds
	Parent   string   `json:"up,omitempty"` // the run that waits for this one
	Listen   []string `json:"l,omitempty"`  // types of events that it listens for
}

// DecodeHead reads the front of a stored record. What stands behind it is not
// looked at, but for its very end.
func DecodeHead(p []byte) (Head, error) {
	if len(p) == 0 || p[len(p)-1] != '}' {
		return Head{}, errors.New("record: its end is missing")
	}
	s := scan{p: p, ok: true}
	var h Head
	format := s.head(&h)
	if !s.ok {
		return decodeHead(p)
	}
	if format != FormatVersion {
		return Head{}, &FormatError{Aggregate: h.Aggregate, ID: h.ID, Format: int(format)}
	}
	return h, nil
}

// decodeHead reads a head that is not written as Encode writes it.
func decodeHead(p []byte) (Head, error) {
	r, err := Decode(p)
	if err != nil {
		return Head{}, err
	}
	return r.Head(), nil
}

// Head gives what DecodeHead gives of the stored record.
func (r *Record) Head() Head {
	h := Head{Aggregate: r.Aggregate, ID: r.ID, V: r.V, Prev: r.Prev, T: r.T, Old: r.Summary == nil}
	if r.Summary != nil {
		h.Summary = *r.Summary
	}
	return h
}

// scan reads the JSON that Encode writes, key by key in the order of the
// fields. It is ok until something is written otherwise.
type scan struct {
	p  []byte
	ok bool
}

// head reads up to the summary and gives the format.
func (s *scan) head(h *Head) int64 {
	s.must(`{"f":`)
	format := s.number()
	s.must(`,"agg":`)
	h.Aggregate = common(s.text())
	s.must(`,"id":`)
	h.ID = string(s.text())
	s.must(`,"v":`)
	h.V = s.number()
	if s.may(`,"prev":`) {
		h.Prev = string(s.text())
	}
	s.must(`,"t":`)
	h.T = s.number()
	s.must(`,"h":{`) // a record without it takes the long way
	s.summary(&h.Summary)
	s.must(`,"`) // there is always more
	return format
}

// summary reads the fields of a Summary.
func (s *scan) summary(h *Summary) {
	if s.key(`"due":`) {
		h.Due = s.number()
	}
	if s.key(`"busy":`) {
		s.must("true")
		h.Busy = true
	}
	if s.key(`"wf":`) {
		h.Workflow = string(s.text())
	}
	if s.key(`"s":`) {
		h.Status = common(s.text())
	}
	if s.key(`"o":`) {
		h.Outcome = common(s.text())
	}
	if s.key(`"t0":`) {
		h.Started = s.number()
	}
	if s.key(`"up":`) {
		h.Parent = string(s.text())
	}
	if s.key(`"l":[`) {
		for more := true; more && s.ok; more = s.may(",") {
			h.Listen = append(h.Listen, string(s.text()))
		}
		s.must("]")
	}
	s.must("}")
}

// key reads the key of a field that may be missing, and the comma before it.
func (s *scan) key(key string) bool {
	rest, _ := bytes.CutPrefix(s.p, []byte{','})
	rest, found := bytes.CutPrefix(rest, []byte(key))
	if found {
		s.p = rest
	}
	return found
}

func (s *scan) may(text string) bool {
	if len(s.p) < len(text) || string(s.p[:len(text)]) != text {
		return false
	}
	s.p = s.p[len(text):]
	return true
}

func (s *scan) must(text string) { s.ok = s.may(text) && s.ok }

// text reads a string in which nothing is escaped, of bytes that JSON leaves
// as they are.
func (s *scan) text() []byte {
	s.must(`"`)
	for i, c := range s.p {
		switch {
		case c == '"':
			text := s.p[:i]
			s.p = s.p[i+1:]
			return text
		case c < ' ', c == '\\', c >= 0x7f:
			s.ok = false
			return nil
		}
	}
	s.ok = false
	return nil
}

func (s *scan) number() int64 {
	i := 0
	for i < len(s.p) && (s.p[i] == '-' || s.p[i] >= '0' && s.p[i] <= '9') {
		i++
	}
	n, err := strconv.ParseInt(string(s.p[:i]), 10, 64)
	s.ok = s.ok && err == nil
	s.p = s.p[i:]
	return n
}

// words stand in many heads.
var words = []string{Run, Environment, Event, Key, Schedule, "running", "waiting", "done", events.Succeeded, events.Failed, events.TimedOut,
	events.Cancelled, events.Rejected, events.Expired, events.Superseded}

// common makes a string, of one of words without a copy.
func common(text []byte) string {
	for _, w := range words {
		if string(text) == w {
			return w
		}
	}
	return string(text)
}
