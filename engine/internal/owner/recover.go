package owner

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
)

// summarized is the state of any aggregate.
type summarized interface{ Summary() record.Summary }

// known are the types of aggregates.
var known = []string{record.Run, record.Environment, record.Event, record.Key, record.Schedule}

// EntryOf reads a stored record. The state of an aggregate that nothing is to
// be done for stays unread: a million of them wait at little cost.
func EntryOf(stored journal.Entry) (Entry, error) {
	h, err := record.DecodeHead(stored.Data)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Aggregate: h.Aggregate, ID: h.ID, V: h.V, T: h.T, Seq: stored.Seq, Summary: h.Summary}
	if !h.Busy && !h.Old && slices.Contains(known, h.Aggregate) {
		return e, nil
	}
	if _, e.State, err = decode(stored.Data); err != nil {
		return Entry{}, err
	}
	if s, ok := e.State.(summarized); ok && h.Old {
		e.Summary = s.Summary()
	}
	return e, nil
}

// recovered takes up an aggregate as its last record tells of it. Its
// messages are not sent yet.
func (o *Owner) recovered(e Entry) {
	o.clock.atLeast(e.T)
	if o.o.Observe != nil {
		o.o.Observe(e)
	}
	o.watch(key{e.Aggregate, e.ID}, e.Summary, e.State)
	if s, ok := e.State.(*run.State); ok && o.o.Queued != nil {
		for _, q := range s.Queued() {
			o.o.Queued(q[0], q[1])
		}
	}
}

// unreadable is why a partition is stopped at a start.
func unreadable(e journal.Entry, err error) error {
	return fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, err)
}
