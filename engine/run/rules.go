package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/workflows"
)

// envRule is a rule that must hold before anything enters an environment: one
// of its own, or of a policy that matches it.
type envRule struct {
	env  string
	of   string // "Environment/production", "Policy/two-people"
	path string // where it stands in that document
	*workflows.Rule
}

// asksPeople reports whether people can make the rule hold: it reads what they said.
func (r envRule) asksPeople() bool {
	return slices.ContainsFunc(r.Expression.Program.Refs(), func(ref []string) bool { return ref[0] == "approvals" || ref[0] == "rejections" })
}

// environmentRules gives the rules of environments and of the policies that
// match them, all of which must hold. None are left where the glass was broken.
func (x *step) environmentRules(envs []string) []envRule {
	var rules []envRule
	for _, name := range envs {
		e := x.d.Now.Environments[name]
		if e == nil || x.s.Glass[name] != nil {
			continue
		}
		add := func(of string, list []*workflows.Rule) {
			for i, r := range list {
				rules = append(rules, envRule{name, of, fmt.Sprintf("spec.require[%d]", i), r})
			}
		}
		add("Environment/"+name, e.Spec.Require)
		for _, policy := range sortedKeys(x.d.Now.Policies) {
			if p := x.d.Now.Policies[policy]; p.Matches(e, x.s.Workflow) {
				add("Policy/"+policy, p.Spec.Require)
			}
		}
	}
	return rules
}

// ruleScope is what an environment's rules see of one artifact beside the run.
func (x *step) ruleScope(env, artifact string, said []Decision) map[string]any {
	scope := x.people(said)
	scope["env"] = x.envScope(env)
	scope["artifact"] = map[string]any{"digest": artifact}
	attested := []any{}
	for _, a := range x.s.Attested {
		attested = append(attested, workflows.Normal(a))
	}
	scope["attestations"] = attested
	return scope
}

// judgedBy are the artifacts for which a rule must hold: every one that would
// be deployed, where it reads them.
func (x *step) judgedBy(r envRule) []string {
	artifacts := x.artifactsFor(r.env)
	if len(artifacts) == 0 {
		return []string{""}
	}
	if !slices.ContainsFunc(r.Expression.Program.Refs(), func(ref []string) bool { return ref[0] == "artifact" }) {
		return artifacts[:1]
	}
	return artifacts
}

// environmentRule evaluates one, and says what is missing when it does not hold.
func (x *step) environmentRule(r envRule, said []Decision) (bool, string) {
	for _, artifact := range x.judgedBy(r) {
		if ok, missing := x.holdsFor(r, artifact, said); !ok {
			return false, missing
		}
	}
	return true, ""
}

func (x *step) holdsFor(r envRule, artifact string, said []Decision) (bool, string) {
	scope := x.ruleScope(r.env, artifact, said)
	ok, err := x.evalBool(r.of, r.path, r.Expression, scope)
	if err != nil {
		return false, fmt.Sprintf("%s, rule %q of %s cannot be evaluated: %v", r.env, r.Name, r.owner(), err)
	}
	if ok {
		return true, ""
	}
	missing := x.message(r.Message, scope, r.Name+" ("+r.Expression.Source+")")
	if r.of != "Environment/"+r.env {
		missing += " (" + r.owner() + ")"
	}
	return false, r.env + ": " + missing
}

// owner names whose rule it is, for people.
func (r envRule) owner() string {
	if r.of == "Environment/"+r.env {
		return r.env
	}
	return r.of
}

// unmet tells which rules of an environment do not hold, of those that people
// can make hold or of the others.
func (x *step) unmet(env string, people bool) []string {
	var missing []string
	for _, r := range x.environmentRules([]string{env}) {
		if r.asksPeople() != people {
			continue
		}
		if ok, why := x.environmentRule(r, x.approvalsFor(env)); !ok {
			missing = append(missing, why)
		}
	}
	return missing
}

// maxAttested is how many attestations of a run are kept.
const maxAttested = 100

// attest takes attestations that a worker found: each is a map, as rules see it.
func (x *step) attest(facts map[string]any) {
	list, _ := facts["attestations"].([]any)
	for _, e := range list {
		if a, ok := e.(map[string]any); ok && len(x.s.Attested) < maxAttested {
			x.s.Attested = append(slices.Clone(x.s.Attested), a)
		}
	}
}
