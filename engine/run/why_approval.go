package run

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// whyApproval says what an approval still needs, by which rules, and from whom.
func (x *step) whyApproval(a *Approval) events.WaitReason {
	r := events.WaitReason{State: a.State, What: "approval", Since: timePtr(a.AskedAt), Until: timePtr(a.Expires), Content: a.Content}
	r.Missing, r.Rules = x.missing(a), x.approvalRules(a)
	var rules []string
	for _, rule := range r.Rules {
		switch {
		case rule.Of == x.wf() && (rule.Name == "auto" || rule.Name == "reject"):
		case rule.Of == x.wf():
			rules = append(rules, strings.TrimPrefix(rule.Name+" ", "rule ")+rule.Source)
		default:
			rules = append(rules, rule.Of[strings.Index(rule.Of, "/")+1:]+": "+rule.Source)
		}
	}
	if spec := x.spec(a); spec != nil && len(spec.Exclude) > 0 {
		rules = append(rules, "not "+joinWords(spec.Exclude))
	}
	r.Rule, r.Have = strings.Join(rules, "; "), x.said(a)
	x.whoCan(a, &r)
	r.Summary = "waits for approval: " + joinWords(r.Missing)
	if len(a.Envs) > 0 {
		r.Summary = fmt.Sprintf("waits for approval of %s: %s", joinWords(a.Envs), joinWords(r.Missing))
	}
	r.Next = []string{fmt.Sprintf("penstock approve %s %s", x.s.ID, a.State), fmt.Sprintf("penstock reject %s %s", x.s.ID, a.State)}
	return r
}

// wf names the workflow as the owner of a rule.
func (x *step) wf() string { return "Workflow/" + x.s.Workflow }

// approvalRules gives every condition of an approval with how it stands.
func (x *step) approvalRules(a *Approval) []events.RuleReason {
	var rules []events.RuleReason
	if spec := x.spec(a); spec != nil {
		people := x.people(a.Said)
		for i, empty := range seated(spec.Quorum, inForce(a.Said, events.Approve, x.now)) {
			seat := spec.Quorum[i]
			r := events.RuleReason{Name: "quorum", Of: x.wf(), Source: fmt.Sprintf("%d × %s", seat.Count, seat.Role), Value: empty == 0}
			if empty > 0 {
				r.Missing = fmt.Sprintf("%d more %s", empty, seat.Role)
			}
			rules = append(rules, r)
		}
		for _, e := range []struct {
			name string
			expr *workflows.Expr
		}{{"rule", spec.Rule}, {"auto", spec.Auto}, {"reject", spec.Reject}} {
			if e.expr == nil {
				continue
			}
			r := x.explain(e.name, x.wf(), e.expr, people, "approvals", "rejections")
			if e.name == "rule" && r.Value != true && r.Error == "" {
				r.Missing = x.message(spec.Message, people, "")
			}
			rules = append(rules, r)
		}
	}
	for _, env := range a.Envs {
		rules = append(rules, x.explainEnvironment(env, slices.Concat(x.approvalsFor(env), a.Said), func(envRule) bool { return true })...)
	}
	return rules
}

// explainEnvironment explains the rules of an environment, and of policies,
// that are asked for.
func (x *step) explainEnvironment(env string, said []Decision, which func(envRule) bool) []events.RuleReason {
	var rules []events.RuleReason
	for _, er := range x.environmentRules([]string{env}) {
		if !which(er) {
			continue
		}
		for _, artifact := range x.judgedBy(er) {
			scope := x.ruleScope(env, artifact, said)
			r := x.explain(er.Name, er.of, er.Expression, scope, "approvals", "rejections")
			if r.Value != true && r.Error == "" {
				r.Missing = x.message(er.Message, scope, "")
			}
			rules = append(rules, r)
			if r.Value != true {
				break // as it is judged
			}
		}
	}
	return rules
}

// explain tells how a condition comes to its value. open names what may still
// change.
func (x *step) explain(name, of string, e *workflows.Expr, extra map[string]any, open ...string) events.RuleReason {
	return explained(name, of, e, e.Explain(x.ctx, record.Cut(x.lookup(extra), e.Program.Refs()), open...))
}

func explained(name, of string, e *workflows.Expr, how *workflows.Explanation) events.RuleReason {
	r := events.RuleReason{Name: name, Of: of, Source: e.Source}
	if e.Pos.Line > 0 {
		r.At = e.Pos.String()
	}
	if how == nil {
		return r
	}
	r.Value, r.Error, r.Residual = how.Value, how.Error, how.Residual
	r.Parts = Evaluation(how).Parts
	return r
}

// said tells in words what people have said of an approval.
func (x *step) said(a *Approval) []string {
	var have []string
	for i, d := range a.Said {
		later := slices.ContainsFunc(a.Said[i+1:], func(l Decision) bool { return l.User == d.User && l.Decision != events.Escalate })
		when := at(d.At).Format(time.DateTime) + "Z"
		who := fmt.Sprintf("%s (%s)", d.User, rolesText(d.Roles))
		if len(d.For) > 0 {
			who += " in the place of " + joinWords(d.For)
		}
		switch {
		case later || d.Decision == events.Withdraw || d.Decision == events.Escalate:
		case d.Stale:
			have = append(have, fmt.Sprintf("%s %s at %s; that does not count any more, as what it was about has changed", who, d.Decision, when))
		case d.Decision == events.Delegate:
			have = append(have, fmt.Sprintf("%s left it to %s at %s", who, d.To, when))
		case d.Decision == events.Defer:
			have = append(have, fmt.Sprintf("%s approved at %s, counting from %s", who, when, at(d.NotBefore).Format(time.DateTime)+"Z"))
		default:
			have = append(have, fmt.Sprintf("%s %s at %s", who, strings.TrimSuffix(pastTense(d.Decision), " to"), when))
		}
	}
	return have
}

// whoCan names, of all known people, those whose approval would count now and
// those whose would not, with the reason.
func (x *step) whoCan(a *Approval, r *events.WaitReason) {
	for _, who := range sortedKeys(x.knownPeople()) {
		roles, _ := x.decidingRoles(a, who, x.d.Now.RolesOf(who))
		why := x.cannot(a, who, roles)
		if slices.ContainsFunc(inForce(a.Said, events.Approve, x.now), func(d Decision) bool { return d.User == who }) {
			why = who + " has approved already"
		} else if word, _ := lastWord(a.Said, who); why == "" && word.Decision == events.Delegate {
			why = fmt.Sprintf("%s has passed the decision on to %s", who, word.To)
		}
		if why == "" {
			r.Can = append(r.Can, who)
		} else if !slices.Contains(r.Cannot, why) {
			r.Cannot = append(r.Cannot, why)
		}
	}
	for _, doc := range x.d.Now.Roles {
		for _, name := range sortedKeys(doc.Spec.Roles) {
			for _, group := range doc.Spec.Roles[name].Groups {
				if text := "members of " + group; x.cannot(a, "", []string{name}) == "" && !slices.Contains(r.Can, text) {
					r.Can = append(r.Can, text)
				}
			}
		}
	}
}

// heldRules explains the conditions that hold a run where it is.
func (x *step) heldRules(h *Held) []events.RuleReason {
	if h.Of != "" || x.state() == nil {
		return nil
	}
	extra := map[string]any{"outcome": h.Outcome, "error": errorScope(x.lastError())}
	for _, arm := range x.state().Arms() {
		if !arm.Takes(h.Outcome) || arm.When == nil {
			continue
		}
		if r := x.explain("when", x.wf(), arm.When, extra); r.Error != "" {
			return []events.RuleReason{r}
		}
	}
	return nil
}
