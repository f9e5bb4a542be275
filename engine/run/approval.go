package run

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// ask opens an approval at the present state. Where nobody needs to say
// anything, nobody is asked: it closes at once.
func (x *step) ask(envs []string, expires time.Duration, implicit bool) {
	a := &Approval{State: x.s.At, Visit: x.s.Visit, Implicit: implicit, Envs: envs, AskedAt: x.now}
	if expires > 0 {
		a.Expires = x.now + expires.Milliseconds()
	}
	x.remindLater(a)
	a.Content, a.Bound = x.content(a)
	x.s.Open = a
	if missing := x.missing(a); len(missing) > 0 {
		x.request(a, missing)
	}
}

// request tells people that an approval waits for them, and for what.
func (x *step) request(a *Approval, missing []string) {
	x.emit(events.ApprovalRequested, events.Happening{State: a.State, Visit: a.Visit, Environments: a.Envs, Missing: missing,
		Content: a.Content, Deadline: timePtr(a.Expires)})
}

// cannot says why a person's decision would not count for an approval, or "".
func (x *step) cannot(a *Approval, who string, roles []string) string {
	if !x.d.Now.Allows(roles, workflows.ActRunApprove, x.s.Workflow) {
		return deniedText(who, roles, "approve runs of "+x.s.Workflow)
	}
	spec := x.spec(a)
	if spec == nil {
		return ""
	}
	for _, ex := range spec.Exclude {
		switch {
		case ex == "authors" && !x.s.AuthorsSet:
			return "nobody has said yet who wrote this change, and its authors may not approve it"
		case ex == "authors" && slices.Contains(x.authors(), who):
			return fmt.Sprintf("%s wrote this change, and its authors may not approve it", who)
		case ex == "starter" && who == x.s.RequestedBy:
			return fmt.Sprintf("%s started this run, and its starter may not approve it", who)
		case ex == who:
			return fmt.Sprintf("%s is excluded from this approval by the workflow", who)
		}
	}
	seats := slices.ContainsFunc(spec.Quorum, func(q *workflows.Seat) bool { return slices.Contains(roles, q.Role) })
	if len(spec.Quorum) > 0 && !seats && spec.Rule == nil && len(x.environmentRules(a.Envs)) == 0 {
		return fmt.Sprintf("%s holds %s, and this needs %s", who, rolesText(roles), quorumText(spec.Quorum))
	}
	return ""
}

func rolesText(roles []string) string {
	if len(roles) == 0 {
		return "no role"
	}
	return joinWords(roles)
}

// spec is the approval's definition; nil for one that an environment asks for.
func (x *step) spec(a *Approval) *workflows.Approval {
	if st := x.d.Workflow.Spec.States[a.State]; st != nil && !a.Implicit {
		return st.Approval
	}
	return nil
}

// assess tells whether an approval is complete, and in words what is missing.
func (x *step) assess(a *Approval) (complete bool, missing []string) {
	yes := inForce(a.Said, events.Approve, x.now)
	spec := x.spec(a)
	wants := false // anything at all
	if spec != nil && !x.automatic(a) {
		for i, empty := range seated(spec.Quorum, yes) {
			wants = true
			if empty > 0 {
				missing = append(missing, fmt.Sprintf("%d more %s", empty, spec.Quorum[i].Role))
			}
		}
		if spec.Rule != nil {
			wants = true
			ok, err := x.rule(spec.Rule, approvalPath(a, "rule"), x.people(a.Said))
			if err != nil {
				missing = append(missing, "the rule cannot be evaluated: "+err.Error())
			} else if !ok {
				missing = append(missing, x.message(spec.Message, x.people(a.Said), "the rule "+spec.Rule.Source))
			}
		}
		if !wants && len(x.environmentRules(a.Envs)) == 0 && len(yes) == 0 {
			missing = append(missing, "1 approval")
		}
	}
	for _, r := range x.environmentRules(a.Envs) {
		said := slices.Concat(x.approvalsFor(r.env), a.Said)
		if ok, why := x.environmentRule(r, said); !ok {
			missing = append(missing, why)
		}
	}
	for _, d := range inForce(a.Said, events.RequestChanges, x.now) {
		missing = append(missing, cmp.Or(prefixed(d.User+" asked for changes: ", d.Comment), d.User+" asked for changes"))
	}
	if err := x.rejectError; err != nil && spec != nil {
		missing = append(missing, "the rule for rejecting cannot be evaluated: "+err.Error())
	}
	return len(missing) == 0, missing
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func approvalPath(a *Approval, key string) string {
	return "spec.states." + a.State + ".approval." + key
}

// automatic reports whether the workflow's own quorum and rule are not needed.
// A condition that errs asks people.
func (x *step) automatic(a *Approval) bool {
	spec := x.spec(a)
	if spec == nil || spec.Auto == nil {
		return false
	}
	ok, err := x.rule(spec.Auto, approvalPath(a, "auto"), x.people(a.Said))
	return ok && err == nil
}

// rejected tells whether what people said ends the approval, and whose word it is.
func (x *step) rejected(a *Approval) (Decision, bool) {
	no := inForce(a.Said, events.Reject, x.now)
	x.rejectError = nil
	if len(no) == 0 {
		return Decision{}, false
	}
	if spec := x.spec(a); spec != nil && spec.Reject != nil {
		ok, err := x.rule(spec.Reject, approvalPath(a, "reject"), x.people(a.Said))
		x.rejectError = err
		return no[len(no)-1], ok && err == nil
	}
	return no[0], true
}

// missing tells in words what an approval still needs; it decides nothing.
func (x *step) missing(a *Approval) []string {
	defer func(mute bool) { x.mute = mute }(x.mute)
	x.mute = true
	x.rejected(a)
	_, missing := x.assess(a)
	return missing
}

// authors are those who wrote the change, by the names that are known now.
func (x *step) authors() []string {
	names := make([]string, len(x.s.Authors))
	for i, a := range x.s.Authors {
		names[i] = cmp.Or(x.d.Now.UserByIdentity(a), a)
	}
	return names
}

// approvalsFor gives the words in force of approvals that this run was given
// for an environment, as long as what they approved is still what would be
// deployed.
func (x *step) approvalsFor(env string) []Decision {
	var said []Decision
	for _, a := range x.s.Given {
		if !slices.Contains(a.Envs, env) {
			continue
		}
		if content, _ := x.content(a); content == a.Content {
			said = slices.Concat(said, inForce(a.Said, events.Approve, x.now), inForce(a.Said, events.Reject, x.now))
		}
	}
	return said
}

// people is the scope of rules about people.
func (x *step) people(said []Decision) map[string]any {
	list := func(decision string) []any {
		out := []any{}
		for _, d := range inForce(said, decision, x.now) {
			out = append(out, map[string]any{"user": d.User, "roles": workflows.Normal(append([]string{}, d.Roles...)),
				"comment": d.Comment, "at": at(d.At), "via": d.Via})
		}
		return out
	}
	return map[string]any{"approvals": list(events.Approve), "rejections": list(events.Reject)}
}

// approvalOutcome tells whether the open approval is over.
func (x *step) approvalOutcome() (string, *events.TaskError, bool) {
	a := x.s.Open
	if a == nil {
		return "", nil, false
	}
	if a.Expires > 0 && a.Expires <= x.now {
		x.closeApproval(events.Expired, "")
		return events.Expired, &events.TaskError{Code: "expired", Message: "nobody completed the approval in time"}, true
	}
	x.refresh(a)
	if no, over := x.rejected(a); over {
		x.closeApproval(events.Rejected, "")
		text := no.User + " rejected it"
		if no.Comment != "" {
			text += ": " + no.Comment
		}
		return events.Rejected, &events.TaskError{Code: "rejected", Message: text}, true
	}
	if complete, _ := x.assess(a); !complete {
		return "", nil, false
	}
	reason := ""
	if len(inForce(a.Said, events.Approve, x.now)) == 0 {
		reason = "nobody needs to approve it"
		if spec := x.spec(a); spec != nil && spec.Auto != nil {
			reason += ": " + spec.Auto.Source
		}
	}
	x.keepGiven(a)
	x.closeApproval(events.Succeeded, reason)
	return events.Succeeded, nil, true
}

// keepGiven keeps an approval that was given. Of a state in which a run is
// again and again the oldest ones are dropped: they are in the records.
func (x *step) keepGiven(a *Approval) {
	x.s.Given = append(x.s.Given, a)
	same := func(o *Approval) bool { return o.State == a.State && o.Implicit == a.Implicit }
	n := 0
	for _, o := range x.s.Given {
		if same(o) {
			n++
		}
	}
	if n > maxGiven {
		i := slices.IndexFunc(x.s.Given, same)
		x.s.Given = slices.Delete(x.s.Given, i, i+1)
	}
}

func (x *step) closeApproval(outcome, reason string) {
	if a := x.s.Open; a != nil {
		x.s.Open = nil
		x.emit(events.ApprovalClosed, events.Happening{State: a.State, Visit: a.Visit, Outcome: outcome, Reason: reason, Environments: a.Envs})
	}
}

// refresh looks whether what is approved is still what people were shown. If
// not, what they said of it does not count any more, and they are asked anew.
func (x *step) refresh(a *Approval) {
	content, bound := x.content(a)
	if content == a.Content {
		return
	}
	changed := changes(a.Bound, bound)
	a.Content, a.Bound = content, bound
	for i, d := range a.Said {
		if perishes(d) && !d.Stale {
			a.Said[i].Stale = true
			x.wordStale(a, d, changed)
		}
	}
	x.request(a, x.missing(a))
}

// perishes reports whether a word is about the content that was shown.
func perishes(d Decision) bool {
	return d.Decision == events.Approve || d.Decision == events.Reject || d.Decision == events.Defer
}

// noteStale tells, once, of approvals that this run was given for an
// environment and that are about something else than what would enter it now.
func (x *step) noteStale(env string) {
	for i, a := range x.s.Given {
		if a.Stale || !slices.Contains(a.Envs, env) {
			continue
		}
		content, bound := x.content(a)
		if content == a.Content {
			continue
		}
		x.s.Given[i] = new(*a)
		x.s.Given[i].Stale = true
		for _, d := range inForce(a.Said, events.Approve, x.now) {
			x.wordStale(a, d, changes(a.Bound, bound))
		}
	}
}

// wordStale tells that a person's word does not count any more.
func (x *step) wordStale(a *Approval, d Decision, changed []string) {
	x.emit(events.ApprovalStale, events.Happening{State: a.State, Visit: a.Visit, By: d.User, Decision: d.Decision, Reasons: changed,
		Environments: a.Envs, Content: a.Content})
}

// content is the digest of what an approval approves: the definition, the
// place, the values that are bound or that its rule reads, and the artifacts
// that would be deployed. bound has those values in short, by their paths.
func (x *step) content(a *Approval) (digest string, bound map[string]string) {
	binds, artifacts := record.Values{}, record.Values{}
	bound = map[string]string{}
	if st := x.d.Workflow.Spec.States[a.State]; st != nil && st.Approval != nil {
		for _, path := range st.Approval.Binds {
			cut := record.Cut(x.lookup(nil), [][]string{chain(path)})
			binds[path] = map[string]any(cut)
			flatten(bound, "", map[string]any(cut))
		}
		if r := st.Approval.Rule; r != nil {
			cut := record.Cut(x.changeable, r.Program.Refs())
			binds["rule"] = map[string]any(cut)
			flatten(bound, "", map[string]any(cut))
		}
	}
	for _, env := range a.Envs {
		goes := x.artifactsFor(env)
		artifacts[env] = workflows.Normal(goes)
		bound["what goes to "+env] = artifactsText(goes)
	}
	return digestOf(record.Values{"run": x.s.ID, "definition": x.s.Def, "state": a.State, "visit": int64(a.Visit), "binds": binds, "artifacts": artifacts}), bound
}
