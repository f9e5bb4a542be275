package run

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// decide takes a person's decision.
func (x *step) decide(d *events.Decide) {
	a := x.s.Open
	if a == nil {
		reason := "nothing waits for an approval now"
		if x.s.Phase != phaseRunning {
			reason = "the run has ended: " + x.s.Outcome
		}
		x.refuse(events.ApprovalRefused, events.CodeConflict, reason)
		return
	}
	x.refresh(a)
	roles, instead := x.decidingRoles(a, x.in.By, x.roles())
	if d.Decision == events.Delegate { // what was passed on to somebody is not passed on by them
		roles, instead = x.roles(), nil
	}
	code, reason := x.untimely(a, d)
	if reason == "" {
		code, reason = x.objection(a, d, roles, instead)
	}
	if reason != "" {
		x.refuse(events.ApprovalRefused, code, reason)
		return
	}
	word := Decision{ID: d.ID, User: x.in.By, Roles: roles, Decision: d.Decision, Comment: d.Comment, At: x.now, Via: d.Via, Content: a.Content}
	switch d.Decision {
	case events.Delegate:
		word.To = d.To
	case events.Defer:
		word.NotBefore = d.NotBefore.UnixMilli()
	}
	if perishes(word) {
		word.For = instead
	}
	a.Said = shortened(append(a.Said, word))
	h := events.Happening{State: a.State, Visit: a.Visit, By: x.in.By, Roles: roles, Decision: d.Decision, Comment: d.Comment,
		Missing: x.missing(a), Environments: a.Envs, At: timePtr(word.NotBefore), To: word.To}
	x.emit(events.ApprovalDecided, h)
	if d.Decision == events.Escalate {
		x.escalate(a, x.in.By)
	}
}

// decidingRoles are the roles with which a person decides: their own, and
// those of everybody who has passed the decision on to them.
func (x *step) decidingRoles(a *Approval, who string, own []string) (roles, instead []string) {
	roles = slices.Clone(own)
	for _, d := range inForce(a.Said, events.Delegate, x.now) {
		if d.To == who {
			roles, instead = append(roles, d.Roles...), append(instead, d.User)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles), instead
}

// untimely says why a decision is not about what waits now, or "".
func (x *step) untimely(a *Approval, d *events.Decide) (code, reason string) {
	aboutContent := !slices.Contains([]string{events.Withdraw, events.Escalate, events.Delegate}, d.Decision)
	switch {
	case d.State != "" && d.State != a.State:
		return events.CodeConflict, fmt.Sprintf("the run waits for an approval at %s, not at %s", a.State, d.State)
	case a.Expires > 0 && a.Expires <= x.now:
		return events.CodeConflict, "the decision came too late: the approval expired at " + at(a.Expires).Format(time.RFC3339)
	case !d.NotAfter.IsZero() && d.NotAfter.UnixMilli() < x.now:
		return events.CodeConflict, "the decision came too late: it was not to count after " + d.NotAfter.UTC().Format(time.RFC3339)
	case d.Content == "" && aboutContent:
		return events.CodeInvalid, "a decision must name the content it is about; the request for approval and penstock why show it"
	case d.Content != "" && d.Content != a.Content:
		return events.CodeConflict, "the decision is about something else than what waits now; look again and decide on that"
	}
	return "", ""
}

// objection says why a decision of these roles does not count, or "".
func (x *step) objection(a *Approval, d *events.Decide, roles, instead []string) (code, reason string) {
	who := x.in.By
	mine, said := lastWord(a.Said, who)
	switch d.Decision {
	case events.Withdraw:
		if !said || mine.Decision == events.Withdraw {
			return events.CodeConflict, who + " has said nothing here that could be taken back"
		}
		return "", ""
	case events.Escalate:
		return x.noEscalation(a, roles)
	case events.Approve, events.Reject, events.RequestChanges, events.Delegate, events.Defer:
	default:
		return events.CodeInvalid, fmt.Sprintf("there is no decision %q", d.Decision)
	}
	if said && mine.Decision == events.Delegate {
		return events.CodeConflict, fmt.Sprintf("%s has passed the decision on to %s; who takes that back can decide again", who, mine.To)
	}
	if why := x.cannot(a, who, roles); why != "" {
		return events.CodeDenied, why
	}
	switch d.Decision {
	case events.Delegate:
		return x.noDelegation(a, d, roles)
	case events.Defer:
		return x.noDeferral(a, d)
	}
	if said && mine.Decision == d.Decision && !mine.Stale && slices.Equal(mine.For, instead) {
		return events.CodeConflict, fmt.Sprintf("%s has %s this already; a person counts once", who, pastTense(d.Decision))
	}
	return "", ""
}

func pastTense(decision string) string {
	if decision == events.RequestChanges {
		return "asked for changes to"
	}
	return decision
}

// noEscalation says why others are not told, or "".
func (x *step) noEscalation(a *Approval, roles []string) (code, reason string) {
	wf := x.s.Workflow
	if !x.d.Now.Allows(roles, workflows.ActRunApprove, wf) && !x.d.Now.Allows(roles, workflows.ActRunStart, wf) {
		return events.CodeDenied, deniedText(x.in.By, roles, "escalate approvals of "+wf)
	}
	if x.escalatesTo(a) == "" {
		return events.CodeConflict, "the workflow does not say who is told when this approval is escalated (remind.escalate.to)"
	}
	return "", ""
}

// noDelegation says why somebody else may not decide instead, or "".
func (x *step) noDelegation(a *Approval, d *events.Decide, roles []string) (code, reason string) {
	other, passed := lastWord(a.Said, d.To)
	switch {
	case d.To == "":
		return events.CodeInvalid, "passing the decision on needs the name of who decides instead"
	case d.To == x.in.By:
		return events.CodeInvalid, "nobody passes the decision on to themselves"
	case !x.knownPeople()[d.To]:
		return events.CodeNotFound, fmt.Sprintf("no roles name a user %q", d.To)
	case passed && other.Decision == events.Delegate:
		return events.CodeConflict, fmt.Sprintf("%s has passed the decision on to %s", d.To, other.To)
	}
	if why := x.cannot(a, d.To, slices.Concat(x.d.Now.RolesOf(d.To), roles)); why != "" {
		return events.CodeDenied, "it cannot be passed on: " + why
	}
	return "", ""
}

// noDeferral says why an approval may not begin to count later, or "".
func (x *step) noDeferral(a *Approval, d *events.Decide) (code, reason string) {
	from := d.NotBefore.UnixMilli()
	switch {
	case d.NotBefore.IsZero():
		return events.CodeInvalid, "an approval that counts later needs the time from which it counts"
	case from <= x.now:
		return events.CodeInvalid, fmt.Sprintf("the approval would count from %s, which is over; approve it without a time", at(from).Format(time.RFC3339))
	case a.Expires > 0 && from >= a.Expires:
		return events.CodeConflict, fmt.Sprintf("the approval expires at %s, before this would count", at(a.Expires).Format(time.RFC3339))
	}
	return "", ""
}

// shortened drops the oldest words, where there are too many, that count for
// nothing any more: a person's last word stays. All are in the records.
func shortened(said []Decision) []Decision {
	for len(said) > maxSaid {
		over := -1
		for i, d := range said {
			_, again := lastWord(said[i+1:], d.User)
			if over < 0 && (again || d.Decision == events.Escalate) {
				over = i
			}
		}
		if over < 0 {
			break
		}
		said = slices.Delete(said, over, over+1)
	}
	return said
}

// lastWord is what a person said last, leaving aside that others be told.
func lastWord(said []Decision, who string) (Decision, bool) {
	for _, d := range slices.Backward(said) {
		if d.User == who && d.Decision != events.Escalate {
			return d, true
		}
	}
	return Decision{}, false
}

// inForce gives the decisions of one kind that count: a person's last word,
// about what there is now. An approval that was deferred counts from its time
// on; one in somebody's place, as long as that one leaves it to them.
func inForce(said []Decision, decision string, now int64) []Decision {
	var out []Decision
	for i, d := range said {
		later := slices.ContainsFunc(said[i+1:], func(l Decision) bool { return l.User == d.User && l.Decision != events.Escalate })
		deferred := decision == events.Approve && d.Decision == events.Defer && d.NotBefore <= now
		if later || d.Stale || d.Decision != decision && !deferred {
			continue
		}
		left := !slices.ContainsFunc(d.For, func(who string) bool {
			word, _ := lastWord(said, who)
			return word.Decision != events.Delegate || word.To != d.User
		})
		if left {
			out = append(out, d)
		}
	}
	return out
}

// knownPeople are all whom the roles in force name.
func (x *step) knownPeople() map[string]bool {
	known := map[string]bool{}
	for _, doc := range x.d.Now.Roles {
		for name := range doc.Spec.Users {
			known[name] = true
		}
		for _, role := range doc.Spec.Roles {
			for _, u := range role.Users {
				known[u] = true
			}
		}
	}
	return known
}
