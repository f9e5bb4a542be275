package env

import (
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Line is what an environment and a concurrency key have in common: one run
// has it, others wait in the order in which they asked, and every grant has a
// number that only grows. What is sent to runs stays until they answer.
type Line struct {
	Last   int64         `json:"last"` // number of the newest grant
	Holder *Holder       `json:"holder,omitempty"`
	Queue  []Holder      `json:"queue,omitempty"` // first in, first out
	Outbox []record.Send `json:"outbox,omitempty"`
	Sent   int64         `json:"sent,omitempty"`
}

// Holder is a run that has the environment or key, or waits for it.
type Holder struct {
	Run   string `json:"run"`
	State string `json:"state,omitempty"`
	Grant int64  `json:"grant,omitempty"`
	Since int64  `json:"since"`           // milliseconds
	Asked int64  `json:"asked,omitempty"` // number of its request for a key
	// Again says that the run asked once more before it answered its grant:
	// if it does not take that one, it still waits.
	Again bool   `json:"again,omitempty"`
	Glass bool   `json:"glass,omitempty"` // a person has broken the glass: it enters although the environment is closed
	Told  string `json:"told,omitempty"`  // what it was told last of whether the environment is open
}

// granted finds the number of the grant that a message is about; ok is false
// for a message about something else.
type granted func(in *record.Input) (grant int64, ok bool)

// copied is a line that a step may change.
func (l Line) copied() Line {
	l.Queue, l.Outbox = slices.Clone(l.Queue), slices.Clone(l.Outbox)
	if l.Holder != nil {
		l.Holder = new(*l.Holder)
	}
	return l
}

// ask puts a run at the end of the queue; false when it is known already.
func (l *Line) ask(run, state string, now int64, of granted) bool {
	if slices.ContainsFunc(l.Queue, func(h Holder) bool { return h.Run == run }) {
		return false
	}
	if h := l.Holder; h != nil && h.Run == run {
		if h.Again || !l.unanswered(h.Grant, of) {
			return false
		}
		l.Holder = new(*h)
		l.Holder.Again = true
		return true
	}
	l.Queue = append(l.Queue, Holder{Run: run, State: state, Since: now})
	return true
}

// unanswered reports whether a run has not said yet that it takes a grant.
func (l *Line) unanswered(grant int64, of granted) bool {
	return slices.ContainsFunc(l.Outbox, func(m record.Send) bool {
		n, ok := of(&m.Input)
		return ok && n == grant
	})
}

// give takes the grant from its holder: held. Without a grant (0) it takes a
// request out of the queue. ok is false when there was neither.
func (l *Line) give(run string, grant int64) (held, ok bool) {
	if l.Holder != nil && l.Holder.Run == run && l.Holder.Grant == grant {
		l.Holder = nil
		return true, true
	}
	n := len(l.Queue)
	l.Queue = slices.DeleteFunc(l.Queue, func(h Holder) bool { return h.Run == run && grant == 0 })
	return false, len(l.Queue) < n
}

// answered takes a run's answer to what was sent to it: one that does not take
// its grant does not hold it. ok is false when nothing waits for that answer.
func (l *Line) answered(sent *record.Sent, now int64, of granted) (ok bool) {
	i := slices.IndexFunc(l.Outbox, func(m record.Send) bool { return m.Input.ID == sent.ID })
	if i < 0 {
		return false
	}
	m := l.Outbox[i]
	l.Outbox = slices.Delete(l.Outbox, i, i+1)
	taken := sent.Status == events.StatusApplied || sent.Status == events.StatusAlready
	grant, about := of(&m.Input)
	if h := l.Holder; !taken && about && h != nil && h.Grant == grant {
		l.Holder = nil
		if h.Again {
			l.Queue = append(l.Queue, Holder{Run: h.Run, State: h.State, Since: now, Glass: h.Glass})
		}
	}
	return true
}

// next makes the run that has waited longest, of those that may, the holder
// when there is none; it gives the new holder, or nil. may is nil for all.
func (l *Line) next(now int64, may func(Holder) bool) *Holder {
	if l.Holder != nil {
		return nil
	}
	i := slices.IndexFunc(l.Queue, func(h Holder) bool { return may == nil || may(h) })
	if i < 0 {
		return nil
	}
	l.Last++
	l.Holder = new(l.Queue[i])
	l.Queue = slices.Delete(l.Queue, i, i+1)
	l.Holder.Grant, l.Holder.Since = l.Last, now
	return l.Holder
}

// send tells a run something, until it answers. what and name are those of the
// sender.
func (l *Line) send(what, name, run string, in record.Input) {
	l.Sent++
	in.ID, in.By = record.Derive("send", what, name, l.Sent), by(what)+":"+name
	l.Outbox = append(l.Outbox, record.Send{To: record.Run, ID: run, Input: in})
}

// by is how the record names a sender of this type.
func by(what string) string {
	if what == record.Environment {
		return "environment"
	}
	return what
}

// Messages are those that wait for an answer.
func (l *Line) Messages() []record.Send { return l.Outbox }

// Place is where a run stands in the queue, 1 for the next one; 0 when it
// does not wait.
func (l *Line) Place(run string) int {
	return 1 + slices.IndexFunc(l.Queue, func(h Holder) bool { return h.Run == run })
}
