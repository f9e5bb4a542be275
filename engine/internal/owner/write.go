package owner

import (
	"errors"
	"fmt"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// write is a record on its way into the journal. The lane belongs to it until
// it is known what became of it.
type write struct {
	k      key
	l      *lane
	j      *job
	r      *record.Record
	next   any           // state after it
	answer events.Answer // when it is stored
	ticket Ticket

	subject string
	stored  []byte
	hash    string
	fence   uint64 // under which it was appended
	v       int64  // version of the aggregate before it
	head    string // hash of the record before it
}

// append puts a record on its way. What comes of it is heard in the journal's
// goroutine, for the records of a group one after the other: so what they
// make, tasks above all, comes together again, and nothing has to wake up for
// it. Only where something has to be found out, or waits in the lane's queue,
// a goroutine goes on.
func (p *partition) append(w *write) {
	o := p.o
	w.ticket = o.o.Relay.Begin(p.vp)
	w.fence, _ = o.o.Journal.Fence(p.vp)
	o.trace("record goes to the journal", w.k, w.r.V)
	o.o.Journal.Append(p.vp, w.subject, w.stored, func(seq uint64, err error) {
		if err != nil {
			go p.notAtOnce(w, err)
			return
		}
		p.carryOut(w, seq)
		o.waiting.Add(-1)
		if !p.rest(w.k, w.l) {
			go p.run(w.k, w.l)
		}
	})
	w.ticket.Ahead(w.r)
}

// carryOut goes on after a record was stored.
func (p *partition) carryOut(w *write, seq uint64) {
	o, l := p.o, w.l
	o.applied.Add(1)
	o.trace("record stored", w.k, w.r.V)
	w.ticket.Stored(Mark{seq, w.hash}, w.r)
	l.state, l.v, l.head, l.size = w.next, w.r.V, w.hash, len(w.stored)
	p.stored(w.k, l, seq, w.r)
	w.answer.Record = w.r.V
	o.trace("record carried out within the engine", w.k, w.r.V)
	w.j.reply(w.answer)
}

// notAtOnce goes on after a record that was not simply stored, and with the
// rest of its lane.
func (p *partition) notAtOnce(w *write, err error) {
	seq, err := p.outcome(w, err)
	switch {
	case err == nil:
		p.carryOut(w, seq)
	case errors.Is(err, errAgain), w.smaller(err):
		if p.decide(w.k, w.l, w.j) {
			return
		}
	default:
		w.j.reply(p.notStored(err))
	}
	p.o.waiting.Add(-1)
	p.run(w.k, w.l)
}

// errAgain says that the aggregate was read again and the command is to be decided anew.
var errAgain = errors.New("decide again")

// outcome finds out what became of a record that was not simply stored. Its
// ticket is dropped only when it is certain that nothing was stored: else the
// relay's checkpoint could pass the record.
func (p *partition) outcome(w *write, err error) (seq uint64, _ error) {
	switch {
	case errors.Is(err, journal.ErrUnknown): // also where it is said to be fenced
		seq, err = p.findOut(w)
	case errors.Is(err, journal.ErrFenced):
		if err = p.fenced(); errors.Is(err, errStands) { // and yet it was refused: what is true will be seen
			seq, err = p.findOut(w)
		}
	}
	switch {
	case errors.Is(err, errUnsettled):
		w.l.loaded = false // whatever is stored is read before anything else is decided
		w.ticket.Leave()
	case err != nil:
		w.ticket.Drop()
	}
	return seq, err
}

// smaller makes of a command whose record is too large one that can be
// recorded, where there is such a one.
func (w *write) smaller(err error) bool {
	if !errors.Is(err, journal.ErrTooLarge) {
		return false
	}
	switch in := &w.j.in; {
	case in.Attempt != nil && in.Attempt.Result != nil && in.Attempt.Result.Outputs != nil:
		// a result that cannot be stored is a failure that can
		in.Attempt = &record.Attempt{Task: in.Attempt.Task, Worker: in.Attempt.Worker, Result: &events.Result{Outcome: events.Failed,
			Error: &events.TaskError{Code: "result_too_large", Message: "the result is larger than a record can be; put large things into an artifact"}}}
		return true
	case in.Kind == record.InEvent && in.Bad == "":
		// an event was acknowledged: it gets a record of why it starts nothing
		in.Event, in.Bad = nil, fmt.Sprintf("the event, with the inputs of the runs that it would start, is too large to be recorded: %v", err)
		return true
	}
	return false
}
