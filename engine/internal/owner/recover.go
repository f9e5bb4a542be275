package owner

import (
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
	e := Entry{Aggregate: h.Aggregate, ID: h.ID, V: h.V, Prev: h.Prev, T: h.T, Seq: stored.Seq, Summary: h.Summary}
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

// recover takes up an aggregate as its last record tells of it. Its messages
// are not sent yet. The error says why the partition cannot go on.
func (t *taking) recover(p *partition, stored journal.Entry) error {
	e, err := EntryOf(stored)
	if err != nil {
		return err
	}
	if err := fits(e.Aggregate, e.ID, e.V, e.Prev, stored.Subject); err != nil {
		return err
	}
	o, k := t.o, key{e.Aggregate, e.ID}
	p.floor = max(p.floor, e.T)
	if o.o.Observe != nil {
		o.o.Observe(e)
	}
	p.watch(k, e.Summary, e.State)
	if s, ok := e.State.(*run.State); ok && o.o.Queued != nil {
		for _, q := range s.Queued() {
			o.o.Queued(q[0], q[1])
		}
	}
	t.unanswered(p.vp, k, e.State)
	return nil
}

// unanswered notes the messages of an aggregate that wait for an answer.
func (t *taking) unanswered(vp int, k key, state any) {
	delete(t.outbox[vp], k)
	if len(outboxOf(state)) == 0 {
		return
	}
	if t.outbox[vp] == nil {
		t.outbox[vp] = map[key]any{}
	}
	t.outbox[vp][k] = state
}
