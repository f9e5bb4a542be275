package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// maxProblems ends the list of what is wrong; the rest is counted.
const maxProblems = 50

// Report is what a verification found.
type Report struct {
	Messages   int
	Records    int
	Aggregates int
	Decisions  int      // rules evaluated again
	Problems   []string // what is wrong
	Known      []string // what was wrong and was let go on, by whom and why
	Lost       []Affected
	more       int
	grave      string
}

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.more++
		return
	}
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// end says how many problems are not listed.
func (r *Report) end() {
	if r.more > 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("and %d more problems", r.more))
	}
}

// VerifyLog reads the audit log from its beginning and checks it by itself:
// the messages follow each other, each names the one before as it is, and
// every sequence of LOG is in it once, or is said to have been missing.
func VerifyLog(ctx context.Context, s Store) (*Report, error) {
	r := &Report{}
	var before Message
	var seen []uint64              // sequences behind before.Pos
	var missing, empty [][2]uint64 // sequences that had no record; empty: all of these
	err := s.Read(ctx, Query{}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			r.problem("%v", err)
			before = Message{Raw: raw, Header: before.Header} // its digest is not known
			r.Messages++
			return nil
		}
		r.Messages++
		if m.Seq() != before.Raw.Seq+1 {
			r.problem("message %d follows message %d: messages were taken out", m.Seq(), before.Raw.Seq)
		}
		if m.Prev != before.digest && (before.digest != "" || before.Raw.Seq == 0) {
			r.problem("message %d names another message before it than the one that is there: one of them was changed", m.Seq())
		}
		if m.Pos < before.Pos && m.Loss == nil {
			r.problem("message %d goes back from sequence %d to %d", m.Seq(), before.Pos, m.Pos)
		}
		missing = append(missing, m.Missing...)
		empty = append(append(empty, m.Missing...), m.Probes...)
		for _, e := range m.Header.Records {
			seen = append(seen, e.Seq)
			r.Records++
		}
		if l := m.Loss; l != nil {
			seen = slices.DeleteFunc(seen, func(seq uint64) bool { return seq >= l.From })
			missing, empty = nil, nil
			r.Known = append(r.Known, fmt.Sprintf("message %d: the store had lost its records from sequence %d to %d; they are in the audit log only", m.Seq(), l.From, l.To))
			before.Pos = min(before.Pos, m.Pos)
		}
		if m.Pos > before.Pos {
			covered(r, m.Seq(), before.Pos+1, m.Pos, seen, empty)
			for _, gap := range missing {
				r.problem("message %d: the records with the sequences %d to %d were not in the store when it was read", m.Seq(), gap[0], gap[1])
			}
			seen = slices.DeleteFunc(seen, func(seq uint64) bool { return seq <= m.Pos })
			missing, empty = nil, nil
		}
		before = Message{Raw: Raw{Seq: m.Seq()}, Header: Header{Pos: m.Pos}, digest: m.digest}
		return nil
	})
	r.end()
	return r, err
}

// Seq is the message's sequence in the audit log.
func (m *Message) Seq() uint64 { return m.Raw.Seq }

// covered checks that every sequence from from to to was seen once, or is among
// those that had no record.
func covered(r *Report, message, from, to uint64, seen []uint64, missing [][2]uint64) {
	slices.Sort(seen)
	slices.SortFunc(missing, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	next := from
	step := func(first, last uint64) {
		switch {
		case first < next:
			r.problem("message %d: the record with sequence %d is there a second time", message, first)
		case first > next:
			r.problem("message %d: the records with the sequences %d to %d are missing", message, next, first-1)
		}
		next = max(next, last+1)
	}
	for _, seq := range seen {
		if seq > to {
			break
		}
		for len(missing) > 0 && missing[0][0] < seq {
			step(max(missing[0][0], next), missing[0][1])
			missing = missing[1:]
		}
		step(seq, seq)
	}
	for _, gap := range missing {
		step(max(gap[0], next), gap[1])
	}
	if next <= to {
		r.problem("message %d: the records with the sequences %d to %d are missing", message, next, to)
	}
}
