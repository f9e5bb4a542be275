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
		if !knownIn(k, index(at+".environments", i), "environment", name, k.c.Environments) {
			rules++ // it may well have some
			continue
		}
		e := k.c.Environments[name]
		rules += len(e.Spec.Require)
		for _, p := range k.c.Policies {
			if p.Matches(e, w.Metadata.Name) {
				rules += len(p.Spec.Require)
			}
		}
		if slices.Contains(a.Environments[:i], name) {
			k.value(index(at+".environments", i), "repeated-name", "", "%s stands here twice", name)
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
	k.remind(at, a)
	k.quorum(w, at, a)
}

// remind checks that people are told before it is too late.
func (k *check) remind(at string, a *Approval) {
	r := a.Remind
	if r == nil {
		return
	}
	if r.Every == 0 && r.Escalate == nil {
		k.fault(at+".remind", "missing", "give it every: 4h, or escalate: {after: 12h, to: release-lead}", "nobody is reminded")
	}
	if r.Every > 0 && a.Expires > 0 && r.Every >= a.Expires {
		k.value(at+".remind.every", "too-late", "let it be shorter", "the approval expires after %s, so nobody is ever reminded", a.Expires)
	}
	if e := r.Escalate; e != nil {
		k.known(at+".remind.escalate.to", "role", e.To, k.roles())
		if e.After > 0 && a.Expires > 0 && e.After >= a.Expires {
			k.value(at+".remind.escalate.after", "too-late", "let it be shorter", "the approval expires after %s, so nobody else is ever told", a.Expires)
		}
	}
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
func (ck *Checker) roleNames() []string {
	all := map[string]bool{AdministratorR: true}
	for _, doc := range ck.c.Roles {
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

// quorum checks that distinct people can fill the seats: people who hold the
// roles, may approve runs of this workflow, and are not excluded.
func (k *check) quorum(w *Workflow, path string, a *Approval) {
	limited := map[string][]string{} // the people who can fill the seats of a role
	seats := map[string]int{}
	for i, seat := range a.Quorum {
		at := index(path+".quorum", i)
		if seat.Role == "" || !k.known(at+".role", "role", seat.Role, k.roles()) || seat.Role == AdministratorR {
			continue
		}
		if k.groups(seat.Role) {
			if k.c.permissions() && !k.c.Allows([]string{seat.Role}, ActRunApprove, w.Metadata.Name) && len(k.approvers(w, seat.Role)) < seat.Count {
				k.value(at+".role", "may-not-approve", "allow run.approve to it under permissions", "the role %s may not approve runs of %s", seat.Role, w.Metadata.Name)
			}
			continue
		}
		holders := slices.DeleteFunc(k.c.Holders(seat.Role), func(u string) bool { return slices.Contains(a.Exclude, u) })
		people := slices.DeleteFunc(k.approvers(w, seat.Role), func(u string) bool { return slices.Contains(a.Exclude, u) })
		if len(people) < seat.Count {
			if len(holders) >= seat.Count {
				k.value(at+".role", "may-not-approve", "allow run.approve to it under permissions", "the role %s may not approve runs of %s", seat.Role, w.Metadata.Name)
				continue
			}
			k.value(at+".count", "quorum-too-large", "give the role to more people, or ask for fewer",
				"%d people with the role %s must approve, and %s", seat.Count, seat.Role, heldBy(people))
			continue
		}
		limited[seat.Role] = people
		seats[seat.Role] += seat.Count
	}
	all := 0
	for _, seat := range a.Quorum {
		all += seat.Count
	}
	if all > maxSeats {
		k.fault(path+".quorum", "too-many", "ask fewer people", "a quorum has %d seats at most, this one has %d", maxSeats, all)
		return
	}
	need, have := total(seats), matching(limited, seats)
	if have < need {
		k.fault(path+".quorum", "quorum-too-large", "each person fills one seat", "%d people must approve, and only %d can fill the seats", need, have)
		return
	}
	k.spare(path, a, limited, seats)
}

// maxSeats is how many people an approval can ask for.
const maxSeats = 100

// maxHolders is how many people are taken out one by one.
const maxHolders = 200

// spare warns where the quorum cannot be filled when one of those who could is
// left out, for having written or started what is approved.
func (k *check) spare(path string, a *Approval, people map[string][]string, seats map[string]int) {
	why := ""
	switch authors, starter := slices.Contains(a.Exclude, "authors"), slices.Contains(a.Exclude, "starter"); {
	case authors && starter:
		why = "is an author or starts the run"
	case authors:
		why = "is an author"
	case starter:
		why = "starts the run"
	default:
		return
	}
	need, all := total(seats), everyone(people)
	if len(all) > maxHolders {
		return
	}
	var needed []string
	for _, person := range all {
		rest := map[string][]string{}
		for role, all := range people {
			rest[role] = slices.DeleteFunc(slices.Clone(all), func(u string) bool { return u == person })
		}
		if matching(rest, seats) < need {
			needed = append(needed, person)
		}
	}
	if len(needed) > 0 {
		k.warn(path+".quorum", "quorum-without-spare", "give the roles to more people", "when %s %s, nobody can fill the quorum", orWords(needed), why)
	}
}

func everyone(people map[string][]string) []string {
	var all []string
	for _, some := range people {
		all = append(all, some...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func orWords(words []string) string {
	if len(words) > 5 {
		return "one of " + strings.Join(words[:5], ", ") + ", …"
	}
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// permissions reports whether any document says what roles may do. Where none
// does, who may approve is not judged.
func (c *Catalog) permissions() bool {
	return slices.ContainsFunc(c.Roles, func(doc *Roles) bool { return len(doc.Spec.Permissions) > 0 })
}

// approvers gives the users who hold a role by name and may approve runs of a workflow.
func (k *check) approvers(w *Workflow, role string) []string {
	holders := k.c.Holders(role)
	if !k.c.permissions() {
		return holders
	}
	return slices.DeleteFunc(holders, func(u string) bool { return !k.c.Allows(k.c.RolesOf(u), ActRunApprove, w.Metadata.Name) })
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
	b, rest := &s.Body, parts[1:]
	switch s.Kind() {
	case "parallel":
		if len(rest) == 0 {
			return
		}
		branch := s.Parallel[rest[0]]
		if branch == nil {
			k.value(path, "unknown-branch", meant(rest[0], names(s.Parallel)), "%s: the state %s has no branch %s", bound, s.Name, rest[0])
			return
		}
		b, rest = &branch.Body, rest[1:]
	case "forEach":
		if len(rest) < 2 || s.ForEach.Do == nil {
			return
		}
		b, rest = s.ForEach.Do, rest[1:]
	case "wait":
		if len(rest) > 0 && (s.Wait.Event == "" || rest[0] != "event") {
			k.value(path, "unknown-output", "", "%s: the state %s has no output %s", bound, s.Name, rest[0])
		}
		return
	}
	outputs, known := k.c.results(b)
	if len(rest) > 0 && known && outputs[rest[0]] == "" {
		k.value(path, "unknown-output", meant(rest[0], names(outputs)), "%s: %s has no output %s", bound, strings.TrimSuffix(bound, "."+strings.Join(rest, ".")), rest[0])
	}
}

// results gives the outputs of a body with their declared types. known is
// false where what the body does is not known, which is told elsewhere.
func (c *Catalog) results(b *Body) (outputs map[string]string, known bool) {
	if b.Workflow == nil {
		a := b.Doing()
		return c.OutputsOf(a), c.Kinds[a.Task] != nil || a.Task == ""
	}
	child := c.Workflows[b.Workflow.Name]
	if child == nil {
		return nil, false
	}
	outputs = map[string]string{}
	for name, out := range child.Spec.Outputs {
		outputs[name] = out.Type
	}
	return outputs, true
}

// roles checks who people are and what roles may do.
func (k *check) rolesDoc(doc *Roles) {
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
			k.known(index(at+".roles", j), "role", role, k.roles())
		}
		for j, action := range p.Allow {
			k.known(index(at+".allow", j), "action", action, Actions())
		}
	}
}
