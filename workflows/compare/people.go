package compare

import (
	"maps"
	"slices"

	"github.com/penstock-cd/penstock/workflows"
)

// roles compares all Roles documents together, as they count together.
func (d *differ) roles() {
	d.kind, d.name = workflows.KindRoles, ""
	a, b := everybody(d.before), everybody(d.after)
	for _, name := range keysOf(a.Users, b.Users) {
		d.at("user "+name, func() { d.user(a.Users[name], b.Users[name]) })
	}
	for _, name := range keysOf(a.Roles, b.Roles) {
		d.at("role "+name, func() { d.role(a.Roles[name], b.Roles[name]) })
	}
	d.permissions(a.Permissions, b.Permissions)
}

// everybody puts the Roles documents of a catalog together.
func everybody(c *workflows.Catalog) workflows.RolesSpec {
	all := workflows.RolesSpec{Users: map[string]*workflows.User{}, Roles: map[string]*workflows.Role{}}
	for _, doc := range c.Roles {
		for name, u := range doc.Spec.Users {
			if u == nil {
				u = &workflows.User{}
			}
			sum := workflows.User{Identities: slices.Clone(u.Identities)}
			if old := all.Users[name]; old != nil {
				sum.Identities = append(sum.Identities, old.Identities...)
			}
			all.Users[name] = &sum
		}
		for name, r := range doc.Spec.Roles {
			if r == nil {
				r = &workflows.Role{}
			}
			sum := workflows.Role{Users: slices.Clone(r.Users), Groups: slices.Clone(r.Groups)}
			if old := all.Roles[name]; old != nil {
				sum.Users, sum.Groups = append(sum.Users, old.Users...), append(sum.Groups, old.Groups...)
			}
			all.Roles[name] = &sum
		}
		all.Permissions = append(all.Permissions, doc.Spec.Permissions...)
	}
	return all
}

func (d *differ) user(a, b *workflows.User) {
	switch {
	case a == nil:
		d.add("added")
	case b == nil:
		d.add("removed")
	default:
		d.set(a.Identities, b.Identities,
			func(id string) { d.add("is known by %s", id) },
			func(id string) { d.add("is no longer known by %s", id) })
	}
}

func (d *differ) role(a, b *workflows.Role) {
	switch {
	case a == nil:
		d.add("added, held by %s", heldBy(b))
	case b == nil:
		d.add("removed (was held by %s)", heldBy(a))
	default:
		d.set(a.Users, b.Users,
			func(u string) { d.weaker("gained the member %s", u) },
			func(u string) { d.add("lost the member %s", u) })
		d.set(a.Groups, b.Groups,
			func(g string) { d.weaker("gained the group %s", g) },
			func(g string) { d.add("lost the group %s", g) })
	}
}

func heldBy(r *workflows.Role) string {
	all := slices.Clone(r.Users)
	for _, g := range r.Groups {
		all = append(all, "the group "+g)
	}
	if len(all) == 0 {
		return "nobody"
	}
	return list(all)
}

// grant is one thing that one role may do.
type grant struct{ role, action, workflow string } // workflow: a pattern; empty means all

func grants(list []*workflows.Permission) map[grant]bool {
	all := map[grant]bool{}
	for _, p := range list {
		if p == nil {
			continue
		}
		patterns := p.Workflows
		if len(patterns) == 0 {
			patterns = []string{""}
		}
		for _, role := range p.Roles {
			for _, action := range p.Allow {
				for _, w := range patterns {
					all[grant{role, action, w}] = true
				}
			}
		}
	}
	return all
}

// covers reports whether a grant allows everything that another one does.
func (g grant) covers(o grant) bool {
	return g.role == o.role && (g.action == o.action || g.action == workflows.ActEverything) &&
		(g.workflow == "" || g.workflow == "*" || g.workflow == o.workflow || o.workflow != "" && workflows.Match(g.workflow, o.workflow))
}

// permissions tells what a role may newly do or may no longer do: the actions
// of a role and a pattern in one line.
func (d *differ) permissions(before, after []*workflows.Permission) {
	a, b := grants(before), grants(after)
	news := func(from, to map[grant]bool) map[[2]string][]string {
		out := map[[2]string][]string{}
		for g := range to {
			if covered := slices.ContainsFunc(slices.Collect(maps.Keys(from)), func(o grant) bool { return o.covers(g) }); !covered {
				key := [2]string{g.role, g.workflow}
				out[key] = append(out[key], g.action)
			}
		}
		return out
	}
	tell := func(changes map[[2]string][]string, weaker bool, may string) {
		keys := slices.SortedFunc(maps.Keys(changes), func(x, y [2]string) int { return slices.Compare(x[:], y[:]) })
		for _, k := range keys {
			actions := changes[k]
			slices.Sort(actions)
			for i, action := range actions {
				if action == workflows.ActEverything {
					actions[i] = "everything"
				}
			}
			on := ""
			if k[1] != "" {
				on = " on " + k[1]
			}
			d.at("role "+k[0], func() { d.note(weaker, "%s %s%s", may, list(actions), on) })
		}
	}
	tell(news(a, b), true, "permission added: may")
	tell(news(b, a), false, "permission removed: may no longer")
}

func (d *differ) channel(a, b *workflows.Channel) {
	d.field("url", a.Spec.URL, b.Spec.URL, plainly)
	d.datas("template", a.Spec.Templates, b.Spec.Templates)
}

func (d *differ) taskKind(a, b *workflows.TaskKind) {
	if a.Spec.Runs != b.Spec.Runs {
		d.note(b.Spec.Runs == "repeatable", "runs changed from %s to %s", a.Spec.Runs, b.Spec.Runs)
	}
	for _, k := range keysOf(a.Spec.Inputs, b.Spec.Inputs) {
		d.field("input "+k, a.Spec.Inputs[k], b.Spec.Inputs[k], plainly)
	}
	for _, k := range keysOf(a.Spec.Outputs, b.Spec.Outputs) {
		d.field("output "+k, a.Spec.Outputs[k], b.Spec.Outputs[k], plainly)
	}
	if a.Spec.Status != b.Spec.Status {
		d.note(a.Spec.Status, "its worker can be asked what became of a lost attempt: %t, was %t", b.Spec.Status, a.Spec.Status)
	}
}
