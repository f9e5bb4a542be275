package workflows

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// feasible warns of rules of approvals that cannot hold, whoever approves.
func (k *check) feasible(w *Workflow) {
	for _, s := range w.Ordered() {
		if s.Approval != nil {
			k.reachable(Join("spec.states", s.Name)+".approval.rule", s.Approval.Rule, w.Metadata.Name)
		}
	}
}

// maxPeople is how many people are tried one by one and in pairs.
const maxPeople = 20

// reachable warns of a rule about approvals that holds neither when all
// approve who may, nor when one or two of them do. It is judged only where
// nothing else decides the rule, and where every one of those people is known.
func (k *check) reachable(path string, rule *Expr, workflow string) {
	if rule == nil || rule.Program == nil || !aboutPeople(rule.Program.Refs()) {
		return
	}
	people, open := k.people(workflow)
	if open || len(people) > maxPeople {
		return
	}
	held := func(approving ...any) bool {
		ok, err := rule.Bool(context.Background(), map[string]any{"approvals": append([]any{}, approving...), "rejections": []any{},
			"run": map[string]any{"requestedBy": "event:somebody", "authors": []any{"somebody"}, "workflow": workflow, "labels": map[string]any{}}, "now": someDay})
		return ok || err != nil
	}
	if held(people...) || held() {
		return
	}
	for i := range people {
		if held(people[i]) {
			return
		}
		for j := range people[:i] {
			if held(people[j], people[i]) {
				return
			}
		}
	}
	who := "because nobody may approve"
	switch len(people) {
	case 0:
	case 1:
		who = "not even when the one person who may approve does"
	default:
		who = fmt.Sprintf("not even when all %d people who may approve do", len(people))
	}
	k.value(path, "rule-never-holds", "give the roles to more people, or ask for less", "this never holds, %s", who)
	k.last().Warning = true
}

// aboutPeople reports whether a rule reads nothing but who approved, and who
// asked and wrote.
func aboutPeople(refs [][]string) bool {
	approvals := false
	for _, ref := range refs {
		switch ref[0] {
		case "approvals":
			approvals = true
		case "rejections":
		case "run":
			if len(ref) < 2 || !slices.Contains([]string{"requestedBy", "authors"}, ref[1]) {
				return false
			}
		default:
			return false
		}
	}
	return approvals
}

// people gives everybody who may approve runs of a workflow, as approvals
// name them; of any workflow where it is "". open tells that there may be others.
func (k *check) people(workflow string) (people []any, open bool) {
	seen := map[string]bool{}
	for _, doc := range k.c.Roles {
		for _, name := range names(doc.Spec.Roles) {
			role := doc.Spec.Roles[name]
			open = open || len(role.Groups) > 0
			for _, user := range role.Users {
				seen[user] = true
			}
		}
	}
	for _, user := range names(seen) {
		roles := k.c.RolesOf(user)
		if k.c.permissions() && !k.c.Allows(roles, ActRunApprove, workflow) {
			continue
		}
		held := []any{}
		for _, r := range roles {
			held = append(held, r)
		}
		people = append(people, map[string]any{"user": user, "roles": held, "comment": "", "via": "", "at": someDay.Add(time.Hour)})
	}
	return people, open || len(k.c.Roles) == 0
}
