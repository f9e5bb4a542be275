package run

import (
	"github.com/penstock-cd/penstock/events"
)

// remindLater sets when people are told again of an approval, and when others are.
func (x *step) remindLater(a *Approval) {
	spec := x.spec(a)
	if spec == nil || spec.Remind == nil {
		return
	}
	if every := spec.Remind.Every; every > 0 {
		a.RemindAt = x.now + every.D().Milliseconds()
	}
	if e := spec.Remind.Escalate; e != nil {
		a.EscalateAt = x.now + e.After.D().Milliseconds()
	}
}

// deadlines are the times that matter to an approval.
func (a *Approval) deadlines(see func(int64)) {
	see(a.Expires)
	see(a.RemindAt)
	see(a.EscalateAt)
	for _, d := range a.Said {
		if d.Decision == events.Defer {
			see(d.NotBefore)
		}
	}
}

// approvalDue does what an approval's deadlines that have passed ask for; false
// when there is none.
func (x *step) approvalDue(a *Approval) bool {
	past := func(t int64) bool { return t > 0 && t <= x.now }
	due := past(a.Expires) // approvalOutcome sees it
	for i, d := range a.Said {
		if d.Decision == events.Defer && past(d.NotBefore) {
			a.Said[i].Decision, due = events.Approve, true
		}
	}
	if past(a.Expires) {
		return due
	}
	escalates := past(a.EscalateAt)
	if escalates {
		due = true
		x.escalate(a, "")
	}
	if past(a.RemindAt) {
		due = true
		x.remind(a)
		if !escalates { // channels have just been told
			x.tellAgain(events.Reminder)
		}
	}
	return due
}

// remind tells people again that an approval waits for them.
func (x *step) remind(a *Approval) {
	every := x.spec(a).Remind.Every.D().Milliseconds()
	a.RemindAt += (x.now-a.RemindAt)/every*every + every // those that were missed come once
	x.emit(events.ApprovalReminded, x.waiting(a))
}

// escalate tells others that an approval waits; by is the person who wanted it.
func (x *step) escalate(a *Approval, by string) {
	a.EscalateAt = 0
	h := x.waiting(a)
	h.By, h.Roles = by, []string{x.escalatesTo(a)}
	x.emit(events.ApprovalEscalated, h)
	x.tellAgain("escalated to " + x.escalatesTo(a))
}

// escalatesTo is the role that is told when an approval waits too long, or "".
func (x *step) escalatesTo(a *Approval) string {
	if spec := x.spec(a); spec != nil && spec.Remind != nil && spec.Remind.Escalate != nil {
		return spec.Remind.Escalate.To
	}
	return ""
}

// waiting is what is told of an approval that waits.
func (x *step) waiting(a *Approval) events.Happening {
	return events.Happening{State: a.State, Visit: a.Visit, Environments: a.Envs, Missing: x.missing(a), Content: a.Content, Deadline: timePtr(a.Expires)}
}
