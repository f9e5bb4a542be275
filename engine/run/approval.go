package run

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// ask opens an approval at the present state.
func (x *step) ask(envs []string, expires time.Duration, implicit bool) {
	a := &Approval{State: x.s.At, Visit: x.s.Visit, Implicit: implicit, Envs: envs, AskedAt: x.now}
	if expires > 0 {
		a.Expires = x.now + expires.Milliseconds()
	}
	a.Content = x.content(a)
	x.s.Open = a
	x.emit(events.ApprovalRequested, events.Happening{State: a.State, Visit: a.Visit, Environments: envs, Missing: x.missing(a),
		Content: a.Content, Deadline: timePtr(a.Expires)})
}

// content is the digest of what an approval approves: the definition, the
// place, the values that are bound or that its rule reads, and the artifacts
// that would be deployed.
func (x *step) content(a *Approval) string {
	bound := record.Values{}
	if st := x.d.Workflow.Spec.States[a.State]; st != nil && st.Approval != nil {
		for _, path := range st.Approval.Binds {
			ref := strings.Split(path, ".")
			cut := record.Cut(x.lookup(nil), [][]string{ref})
			p, _ := json.Marshal(cut) // plain values always encode
			bound[path] = string(p)
		}
		if r := st.Approval.Rule; r != nil {
			bound["rule"] = map[string]any(record.Cut(x.outputsOnly, r.Program.Refs()))
		}
	}
	artifacts := record.Values{}
	for _, env := range a.Envs {
		artifacts[env] = x.artifactFor(env)
	}
	p, _ := json.Marshal(record.Values{"run": x.s.ID, "definition": x.s.Def, "state": a.State, "visit": int64(a.Visit), "binds": bound, "artifacts": artifacts})
	sum := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// outputsOnly finds the outputs of states, and nothing else.
func (x *step) outputsOnly(name string) (any, bool) {
	v, ok := x.s.Values[name]
	return v, ok
}

// artifactFor is the digest of what this run would deploy to an environment,
// as far as it is known; "" before it is built. In a state that deploys there
// it is what that state deploys, else what the first one in the file does: an
// approval that showed one artifact does not let another one in.
func (x *step) artifactFor(env string) string {
	states := x.d.Workflow.Ordered()
	if st := x.state(); st != nil && st.Deploy != nil && st.Deploy.Environment == env {
		states = []*workflows.State{st}
	}
	for _, st := range states {
		if st.Deploy != nil && st.Deploy.Environment == env {
			if v, err := x.data("artifact", st.Deploy.Artifact, map[string]any{"env": x.envScope(env)}); err == nil {
				return record.Text(v)
			}
		}
	}
	return ""
}

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
	if code, reason := x.objection(a, d); reason != "" {
		x.refuse(events.ApprovalRefused, code, reason)
		return
	}
	a.Said = append(a.Said, Decision{ID: d.ID, User: x.in.By, Roles: x.roles(), Decision: d.Decision, Comment: d.Comment, At: x.now, Via: d.Via})
	missing := x.missing(a)
	x.emit(events.ApprovalDecided, events.Happening{State: a.State, Visit: a.Visit, By: x.in.By, Roles: x.roles(), Decision: d.Decision,
		Comment: d.Comment, Missing: missing, Environments: a.Envs})
}

// objection says why a decision does not count, or "".
func (x *step) objection(a *Approval, d *events.Decide) (code, reason string) {
	who := x.in.By
	switch {
	case d.State != "" && d.State != a.State:
		return events.CodeConflict, fmt.Sprintf("the run waits for an approval at %s, not at %s", a.State, d.State)
	case a.Expires > 0 && a.Expires <= x.now:
		return events.CodeConflict, "the decision came too late: the approval expired at " + at(a.Expires).Format(time.RFC3339)
	case !d.NotAfter.IsZero() && d.NotAfter.UnixMilli() < x.now:
		return events.CodeConflict, "the decision came too late: it was not to count after " + d.NotAfter.UTC().Format(time.RFC3339)
	case d.Content == "":
		return events.CodeInvalid, "a decision must name the content it is about; the request for approval and penstock why show it"
	case d.Content != a.Content:
		return events.CodeConflict, "the decision is about something else than what waits now; look again and decide on that"
	}
	if d.Decision != events.Approve && d.Decision != events.Reject {
		return events.CodeInvalid, fmt.Sprintf("there is no decision %q", d.Decision)
	}
	if why := x.cannot(a, who, x.roles()); why != "" {
		return events.CodeDenied, why
	}
	for _, said := range a.Said {
		if said.User == who && said.Decision == d.Decision {
			return events.CodeConflict, fmt.Sprintf("%s has %s this already; a person counts once", who, d.Decision)
		}
	}
	return "", ""
}

// cannot says why a person's decision would not count for an approval, or "".
func (x *step) cannot(a *Approval, who string, roles []string) string {
	if !x.d.Now.Allows(roles, workflows.ActRunApprove, x.s.Workflow) {
		return fmt.Sprintf("%s may not approve runs of %s: no permission for %s", who, x.s.Workflow, rolesText(roles))
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

// inForce gives the decisions of one kind that count: a person's last word.
func inForce(said []Decision, decision string) []Decision {
	var out []Decision
	for i, d := range said {
		last := !slices.ContainsFunc(said[i+1:], func(later Decision) bool { return later.User == d.User })
		if last && d.Decision == decision {
			out = append(out, d)
		}
	}
	return out
}

// assess tells whether an approval is complete, and in words what is missing.
func (x *step) assess(a *Approval) (complete bool, missing []string) {
	yes := inForce(a.Said, events.Approve)
	spec := x.spec(a)
	needsNothing := true
	if spec != nil {
		for i, empty := range seated(spec.Quorum, yes) {
			needsNothing = false
			if empty > 0 {
				missing = append(missing, fmt.Sprintf("%d more %s", empty, spec.Quorum[i].Role))
			}
		}
		if spec.Rule != nil {
			needsNothing = false
			ok, err := x.rule(spec.Rule, "spec.states."+a.State+".approval.rule", x.people(a.Said))
			if err != nil {
				missing = append(missing, "the rule cannot be evaluated: "+err.Error())
			} else if !ok {
				missing = append(missing, x.message(spec.Message, x.people(a.Said), "the rule "+spec.Rule.Source))
			}
		}
	}
	for _, r := range x.environmentRules(a.Envs) {
		needsNothing = false
		said := slices.Concat(x.approvalsFor(r.env), a.Said)
		if ok, why := x.environmentRule(r, said); !ok {
			missing = append(missing, why)
		}
	}
	if needsNothing && len(yes) == 0 && !a.Implicit { // what asked by itself may want nothing any more
		missing = append(missing, "1 approval")
	}
	return len(missing) == 0, missing
}

// missing tells in words what an approval still needs; it decides nothing.
func (x *step) missing(a *Approval) []string {
	defer func(mute bool) { x.mute = mute }(x.mute)
	x.mute = true
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

// envRule is a rule of an environment.
type envRule struct {
	env   string
	index int
	*workflows.Rule
}

func (x *step) environmentRules(envs []string) []envRule {
	var rules []envRule
	for _, name := range envs {
		if e := x.d.Now.Environments[name]; e != nil {
			for i, r := range e.Spec.Require {
				rules = append(rules, envRule{name, i, r})
			}
		}
	}
	return rules
}

// environmentRule evaluates one, and says what is missing when it does not hold.
func (x *step) environmentRule(r envRule, said []Decision) (bool, string) {
	extra := x.people(said)
	extra["env"] = x.envScope(r.env)
	extra["artifact"] = map[string]any{"digest": x.artifactFor(r.env)}
	ok, err := x.evalBool("Environment/"+r.env, fmt.Sprintf("spec.require[%d]", r.index), r.Expression, extra)
	if err != nil {
		return false, fmt.Sprintf("%s, rule %q of %s cannot be evaluated: %v", r.env, r.Name, r.env, err)
	}
	if ok {
		return true, ""
	}
	return false, r.env + ": " + x.message(r.Message, extra, r.Name+" ("+r.Expression.Source+")")
}

// approvalsFor gives the decisions of approvals that this run was given for an
// environment, as long as what they approved is still what would be deployed.
func (x *step) approvalsFor(env string) []Decision {
	var said []Decision
	for _, a := range x.s.Given {
		if slices.Contains(a.Envs, env) && x.content(a) == a.Content {
			said = append(said, a.Said...)
		}
	}
	return said
}

// people is the scope of rules about people.
func (x *step) people(said []Decision) map[string]any {
	list := func(decision string) []any {
		out := []any{}
		for _, d := range inForce(said, decision) {
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
		x.closeApproval(events.Expired)
		return events.Expired, &events.TaskError{Code: "expired", Message: "nobody completed the approval in time"}, true
	}
	if no := inForce(a.Said, events.Reject); len(no) > 0 {
		x.closeApproval(events.Rejected)
		text := no[0].User + " rejected it"
		if no[0].Comment != "" {
			text += ": " + no[0].Comment
		}
		return events.Rejected, &events.TaskError{Code: "rejected", Message: text}, true
	}
	if complete, _ := x.assess(a); !complete {
		return "", nil, false
	}
	x.s.Given = append(x.s.Given, a)
	x.closeApproval(events.Succeeded)
	return events.Succeeded, nil, true
}

func (x *step) closeApproval(outcome string) {
	if a := x.s.Open; a != nil {
		x.s.Open = nil
		x.emit(events.ApprovalClosed, events.Happening{State: a.State, Visit: a.Visit, Outcome: outcome, Environments: a.Envs})
	}
}
