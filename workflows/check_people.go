package workflows

import (
	"maps"
	"slices"
	"strings"
)

// approval checks that people can decide, and that it does not wait for ever.
func (k *check) approval(w *Workflow, path string, a *Approval) {
	at := path + ".approval"
	rules := 0
	for i, name := range a.Environments {
		if k.known(index(at+".environments", i), "environment", name, names(k.c.Environments)) {
			rules += len(k.c.Environments[name].Spec.Require)
		} else {
			rules++ // it may well have some
		}
	}
	if len(a.Quorum) == 0 && a.Rule == nil && rules == 0 {
		k.fault(at, "asks-nobody", "give it a quorum or a rule", "the approval asks for nothing")
	}
	if a.Expires == 0 {
		k.warn(at, "never-expires", "give it expires: 24h, say", "the approval waits for ever")
	}
	for i, name := range a.Exclude {
		if name != "authors" && name != "starter" && !k.isUser(name) {
			k.value(index(at+".exclude", i), "unknown-user", "authors, starter, or a user of a Roles document", "there is no user %s", name)
		}
	}
	for i, bound := range a.Binds {
		k.binds(w, index(at+".binds", i), bound)
	}
	k.quorum(at, a)
}

// isUser reports whether a Roles document names the user.
func (k *check) isUser(name string) bool {
	return slices.ContainsFunc(k.c.Roles, func(doc *Roles) bool {
		if doc.Spec.Users[name] != nil {
			return true
		}
		for _, role := range doc.Spec.Roles {
			if slices.Contains(role.Users, name) {
				return true
			}
		}
		return false
	})
}

// roleNames gives the roles that are defined, sorted.
func (k *check) roleNames() []string {
	all := map[string]bool{AdministratorR: true}
	for _, doc := range k.c.Roles {
		for name := range doc.Spec.Roles {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// groups reports whether a role is also held by members of groups, of whom
// nobody knows how many there are.
func (k *check) groups(role string) bool {
	return slices.ContainsFunc(k.c.Roles, func(doc *Roles) bool {
		r := doc.Spec.Roles[role]
		return r != nil && len(r.Groups) > 0
	})
}

// quorum checks that distinct people can fill the seats.
func (k *check) quorum(path string, a *Approval) {
	limited := map[string][]string{} // the people who can fill the seats of a role
	seats := map[string]int{}
	for i, seat := range a.Quorum {
		at := index(path+".quorum", i)
		if seat.Role == "" || !k.known(at+".role", "role", seat.Role, k.roleNames()) || seat.Role == AdministratorR || k.groups(seat.Role) {
			continue
		}
		people := slices.DeleteFunc(k.c.Holders(seat.Role), func(u string) bool { return slices.Contains(a.Exclude, u) })
		if len(people) < seat.Count {
			k.value(at+".count", "quorum-too-large", "give the role to more people, or ask for fewer",
				"%d people with the role %s must approve, and %s", seat.Count, seat.Role, heldBy(people))
			continue
		}
		limited[seat.Role] = people
		seats[seat.Role] += seat.Count
	}
	if need, have := total(seats), matching(limited, seats); have < need && len(a.Quorum) > 1 {
		k.fault(path+".quorum", "quorum-too-large", "each person fills one seat", "%d people must approve, and only %d can fill the seats", need, have)
	}
}

func heldBy(people []string) string {
	switch len(people) {
	case 0:
		return "nobody who may has it"
	case 1:
		return "only " + people[0] + " has it"
	}
	return "only " + strings.Join(people, " and ") + " have it"
}

func total(seats map[string]int) int {
	sum := 0
	for _, n := range seats {
		sum += n
	}
	return sum
}

// matching gives how many seats distinct people can fill: the largest matching
// of seats and people, by augmenting paths.
func matching(people map[string][]string, seats map[string]int) int {
	var roles []string // one entry a seat
	for _, role := range slices.Sorted(maps.Keys(seats)) {
		for range seats[role] {
			roles = append(roles, role)
		}
	}
	sits := map[string]int{} // person → seat
	var place func(seat int, tried map[string]bool) bool
	place = func(seat int, tried map[string]bool) bool {
		for _, person := range people[roles[seat]] {
			if tried[person] {
				continue
			}
			tried[person] = true
			if other, taken := sits[person]; !taken || place(other, tried) {
				sits[person] = seat
				return true
			}
		}
		return false
	}
	filled := 0
	for seat := range roles {
		if place(seat, map[string]bool{}) {
			filled++
		}
	}
	return filled
}

// binds checks a path of values: a state, an input or an output of a state.
func (k *check) binds(w *Workflow, path, bound string) {
	parts := strings.Split(bound, ".")
	switch parts[0] {
	case "run":
		return
	case "inputs":
		if len(parts) > 1 && w.Spec.Inputs[parts[1]] == nil {
			k.value(path, "unknown-input", meant(parts[1], names(w.Spec.Inputs)), "the workflow has no input %s", parts[1])
		}
		return
	}
	s := w.Spec.States[parts[0]]
	if s == nil {
		k.value(path, "unknown-state", meant(parts[0], names(w.Spec.States)), "%s: there is no state %s", bound, parts[0])
		return
	}
	a, rest := s.Doing(), parts[1:]
	if s.Kind() == "parallel" && len(rest) > 0 {
		b := s.Parallel[rest[0]]
		if b == nil {
			k.value(path, "unknown-branch", meant(rest[0], names(s.Parallel)), "%s: the state %s has no branch %s", bound, s.Name, rest[0])
			return
		}
		a, rest = &b.Activity, rest[1:]
	}
	if len(rest) == 0 || k.c.Kinds[a.Task] == nil && a.Task != "" {
		return
	}
	if outputs := k.c.OutputsOf(a); outputs[rest[0]] == "" {
		k.value(path, "unknown-output", meant(rest[0], names(outputs)), "%s: %s has no output %s", bound, strings.TrimSuffix(bound, "."+strings.Join(rest, ".")), rest[0])
	}
}

// roles checks who people are and what roles may do.
func (k *check) roles(doc *Roles) {
	owners := map[string]string{}
	for _, other := range k.c.Roles {
		if other == doc {
			continue
		}
		for name, u := range other.Spec.Users {
			for _, id := range u.Identities {
				owners[id] = name
			}
		}
	}
	for _, name := range names(doc.Spec.Users) {
		for i, id := range doc.Spec.Users[name].Identities {
			at := index(Join("spec.users", name)+".identities", i)
			if !strings.Contains(strings.Trim(id, ":"), ":") {
				k.value(at, "bad-identity", `write where it counts: "git:ana@acme.example"`, "%q is not an identity", id)
			}
			if owner, taken := owners[id]; taken && owner != name {
				k.value(at, "identity-of-two", "an identity belongs to one user", "%s is also an identity of %s", id, owner)
			}
			owners[id] = name
		}
	}
	for i, p := range doc.Spec.Permissions {
		at := index("spec.permissions", i)
		for j, role := range p.Roles {
			k.known(index(at+".roles", j), "role", role, k.roleNames())
		}
		for j, action := range p.Allow {
			k.known(index(at+".allow", j), "action", action, Actions())
		}
	}
}
