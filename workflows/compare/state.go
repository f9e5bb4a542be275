package compare

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// state compares two states of one kind.
func (d *differ) state(a, b *workflows.State) {
	d.body(&a.Body, &b.Body)
	d.parallel(a, b)
	d.gate(a.Gate, b.Gate)
	if a.ForEach != nil && b.ForEach != nil {
		d.forEach(a.ForEach, b.ForEach)
	}
	if a.Approval != nil && b.Approval != nil {
		d.approval(a.Approval, b.Approval)
	}
	if a.Wait != nil && b.Wait != nil {
		d.wait(a.Wait, b.Wait)
	}
	d.set(a.Compensate, b.Compensate,
		func(s string) { d.add("undoes %s, too", s) },
		func(s string) { d.weaker("no longer undoes %s", s) })
	d.field("final", a.Final, b.Final, plainly)
	d.field("page", a.Page, b.Page, guard)
	d.arms(a, b)
}

// body compares what is done: two bodies of one kind, or of different ones.
func (d *differ) body(a, b *workflows.Body) {
	if a.Kind() != b.Kind() {
		d.add("was %s, is %s", strings.Join(a.Words(), ", "), strings.Join(b.Words(), ", "))
		return
	}
	d.activity(&a.Activity, &b.Activity)
	d.outputs(a.Doing(), b.Doing())
	switch {
	case a.Deploy != nil:
		d.deploy(a.Deploy, b.Deploy)
	case a.Workflow != nil:
		d.field("child workflow", a.Workflow.Name, b.Workflow.Name, plainly)
		d.datas("input", a.Workflow.Inputs, b.Workflow.Inputs)
	}
}

func (d *differ) activity(a, b *workflows.Activity) {
	d.field("task", a.Task, b.Task, plainly)
	d.datas("with", a.With, b.With)
	d.field("environment", a.Environment, b.Environment, guard)
	d.set(a.Secrets, b.Secrets,
		func(s string) { d.weaker("is given the secret %s", s) },
		func(s string) { d.add("is no longer given the secret %s", s) })
	d.field("pool", cmp.Or(a.Pool, "default"), cmp.Or(b.Pool, "default"), plainly)
	span(d, "startTimeout", a.StartTimeout, b.StartTimeout, true, false, false)
	span(d, "timeout", a.Timeout, b.Timeout, true, false, false)
	d.retry(a.Retry, b.Retry)
	d.undo(a.Undo, b.Undo)
}

// outputs compares what counts of a task's results: what is listed, or else
// all that its kind gives. Where neither lists any the kind says it.
func (d *differ) outputs(a, b *workflows.Activity) {
	if a.Outputs == nil && b.Outputs == nil {
		return
	}
	x, y := d.before.OutputsOf(a), d.after.OutputsOf(b)
	for _, k := range keysOf(x, y) {
		d.field("output "+k, x[k], y[k], plainly)
	}
}

// tries gives a retry with its defaults; nil where nothing is tried again.
func tries(r *workflows.Retry) *workflows.Retry {
	if r == nil || r.Attempts < 2 {
		return nil
	}
	full := *r
	full.Backoff = cmp.Or(full.Backoff, workflows.Duration(2*time.Second))
	full.Max = cmp.Or(full.Max, workflows.Duration(5*time.Minute))
	return &full
}

func (d *differ) retry(a, b *workflows.Retry) {
	a, b = tries(a), tries(b)
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.add("is tried up to %d times", b.Attempts)
	case b == nil:
		d.add("is no longer tried up to %d times", a.Attempts)
	default:
		span(d, "attempts", a.Attempts, b.Attempts, false, false, false)
		span(d, "backoff", a.Backoff, b.Backoff, false, false, false)
		span(d, "longest backoff", a.Max, b.Max, false, false, false)
		d.field("retry when", a.When, b.When, plainly)
	}
}

func (d *differ) undo(a, b *workflows.Undo) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.add("is undone by %s", b.Task)
	case b == nil:
		d.weaker("undo removed: %s no longer takes it back", a.Task)
	default:
		d.field("undo task", a.Task, b.Task, plainly)
		d.datas("undo with", a.With, b.With)
		span(d, "timeout of the undo", a.Timeout, b.Timeout, true, false, false)
	}
}

func (d *differ) parallel(a, b *workflows.State) {
	for _, name := range keysOf(a.Parallel, b.Parallel) {
		x, y := a.Parallel[name], b.Parallel[name]
		switch {
		case x == nil:
			d.add("branch %s added: %s", name, strings.Join(y.Words(), ", "))
		case y == nil:
			d.weaker("branch %s removed (was %s)", name, strings.Join(x.Words(), ", "))
		default:
			d.at(d.place+"."+name, func() { d.body(&x.Body, &y.Body) })
		}
	}
	join := func(s *workflows.State) string {
		if s.Join == "" && s.Parallel != nil {
			return "all"
		}
		return s.Join
	}
	d.field("join", join(a), join(b), effect{changed: join(a) == "all"})
}

func (d *differ) gate(a, b []*workflows.Requirement) {
	key := func(r *workflows.Requirement) string { return r.Name }
	matched(a, b, key, func(x, y *workflows.Requirement) {
		d.field("gate "+x.Name, x.Require, y.Require, guard)
		d.field("warning of gate "+x.Name, x.Warn, y.Warn, plainly)
	}, func(r *workflows.Requirement) { d.add("gate %s added: %s", r.Name, requirement(r)) },
		func(r *workflows.Requirement) {
			d.note(r.Require != nil, "gate %s removed (was %s)", r.Name, requirement(r))
		})
}

func requirement(r *workflows.Requirement) string {
	if r.Require == nil {
		return "warns of " + text(r.Warn)
	}
	return text(r.Require)
}

func (d *differ) forEach(a, b *workflows.ForEach) {
	d.field("members", overWords(a), overWords(b), plainly)
	d.field("name of the member", a.As, b.As, plainly)
	if a.Do != nil && b.Do != nil {
		d.body(a.Do, b.Do)
	}
	span(d, "members at a time", a.MaxParallel, b.MaxParallel, true, true, false)
	d.field("waves", waves(a.Waves), waves(b.Waves), guard)
	var x, y workflows.Duration
	if a.Between != nil {
		x = a.Between.Wait
	}
	if b.Between != nil {
		y = b.Between.Wait
	}
	span(d, "wait between waves", x, y, true, false, true)
	hold := func(f *workflows.ForEach) string {
		if f.OnHold == "" {
			return "wait"
		}
		return f.OnHold
	}
	d.field("onHold", hold(a), hold(b), plainly)
	span(d, "failures that stop it", max(a.StopAfterFailures, 1), max(b.StopAfterFailures, 1), false, true, false)
}

func overWords(f *workflows.ForEach) string {
	if f.Environments == nil {
		return text(f.In)
	}
	var labels []string
	for _, k := range keysOf(f.Environments.Labels, nil) {
		labels = append(labels, k+"="+f.Environments.Labels[k])
	}
	return "environments with " + strings.Join(labels, ", ")
}

func waves(w []any) string {
	var parts []string
	if len(w) == 1 && w[0] == "rest" {
		return "" // one wave, as without any
	}
	for _, v := range w {
		parts = append(parts, fmt.Sprint(v))
	}
	return strings.Join(parts, ", ")
}

func (d *differ) wait(a, b *workflows.Wait) {
	span(d, "wait", a.For, b.For, true, false, true)
	d.field("wait until", a.Until, b.Until, plainly)
	d.field("event waited for", a.Event, b.Event, plainly)
	d.field("when of the event", a.When, b.When, guard)
	span(d, "timeout", a.Timeout, b.Timeout, true, false, false)
}

func (d *differ) deploy(a, b *workflows.Deploy) {
	d.field("environment", a.Environment, b.Environment, plainly)
	d.field("strategy", a.Strategy, b.Strategy, plainly)
	d.field("artifact", a.Artifact, b.Artifact, plainly)
	d.datas("with", a.With, b.With)
	d.field("goes on with", a.Resume, b.Resume, plainly)
	if x, y := a.Expanded(), b.Expanded(); steps(x) != steps(y) {
		d.field("steps", steps(x), steps(y), effect{removed: true, changed: lessCareful(x, y)})
	}
	key := func(m *workflows.Metric) string { return m.Name }
	matched(a.Analysis, b.Analysis, key, d.metric,
		func(m *workflows.Metric) { d.add("metric %s added: passes when %s", m.Name, text(m.Pass)) },
		func(m *workflows.Metric) { d.weaker("metric %s removed (passed when %s)", m.Name, text(m.Pass)) })
}

func steps(list []*workflows.Step) string {
	var parts []string
	for _, s := range list {
		parts = append(parts, s.Words())
	}
	return strings.Join(parts, " → ")
}

// lessCareful reports whether steps begin with more traffic than before, or
// look or wait for less time in all.
func lessCareful(a, b []*workflows.Step) bool {
	first := func(list []*workflows.Step) int {
		for _, s := range list {
			if s.Weight > 0 {
				return s.Weight
			}
		}
		return 0
	}
	sum := func(list []*workflows.Step, of func(*workflows.Step) workflows.Duration) (n workflows.Duration) {
		for _, s := range list {
			n += of(s)
		}
		return n
	}
	analyze := func(s *workflows.Step) workflows.Duration { return s.Analyze }
	pause := func(s *workflows.Step) workflows.Duration { return s.Pause }
	return first(b) > first(a) || sum(b, analyze) < sum(a, analyze) || sum(b, pause) < sum(a, pause)
}

func (d *differ) metric(a, b *workflows.Metric) {
	d.at(d.place+", metric "+a.Name, func() {
		d.field("query", queryWords(a.Query), queryWords(b.Query), plainly)
		span(d, "time between samples", a.Every, b.Every, false, false, false)
		d.field("pass", a.Pass, b.Pass, guard)
		d.field("fail", a.Fail, b.Fail, opening) // without it what does not pass fails
		if a.Failures != b.Failures {
			d.note(b.Failures > a.Failures, "samples that may fail: %d, was %d", b.Failures, a.Failures)
		}
	})
}

func queryWords(q map[string]string) string {
	var parts []string
	for _, k := range keysOf(q, nil) {
		parts = append(parts, k+" "+q[k])
	}
	return strings.Join(parts, ", ")
}

func (d *differ) approval(a, b *workflows.Approval) {
	d.quorum(a, b)
	d.set(a.Exclude, b.Exclude,
		func(who string) { d.add("%s may not decide", excluded(who)) },
		func(who string) { d.weaker("exclude removed: %s may decide", excluded(who)) })
	d.field("rule", a.Rule, b.Rule, guard)
	d.field("reject", a.Reject, b.Reject, opening)
	d.field("auto", a.Auto, b.Auto, opening)
	d.set(a.Environments, b.Environments,
		func(e string) { d.add("asks what %s requires, too", e) },
		func(e string) { d.add("no longer asks what %s requires", e) })
	d.set(a.Binds, b.Binds,
		func(v string) { d.add("%s is part of what is approved", v) },
		func(v string) { d.weaker("%s is no longer part of what is approved", v) })
	span(d, "expires", a.Expires, b.Expires, true, false, false)
	d.remind(a.Remind, b.Remind)
}

func excluded(who string) string {
	switch who {
	case "authors":
		return "authors of the change"
	case "starter":
		return "who started the run"
	}
	return who
}

func (d *differ) remind(a, b *workflows.Remind) {
	var x, y workflows.Remind
	if a != nil {
		x = *a
	}
	if b != nil {
		y = *b
	}
	span(d, "time between reminders", x.Every, y.Every, false, false, false)
	words := func(e *workflows.Escalate) string {
		if e == nil {
			return ""
		}
		return e.To + " after " + e.After.String()
	}
	d.field("escalation", words(x.Escalate), words(y.Escalate), plainly)
}

// quorum compares the seats of two approvals, exactly.
func (d *differ) quorum(a, b *workflows.Approval) {
	before, after := seats(a.Quorum), seats(b.Quorum)
	x, y := quorumWords(a.Quorum), quorumWords(b.Quorum)
	if x == y {
		return
	}
	weaker := admits(d.after, after, before)
	roles := keysOf(before, after)
	switch {
	case len(after) == 0:
		d.weaker("quorum removed (was %s)", x)
	case len(before) == 0:
		d.add("quorum added: %s", y)
	case len(roles) == 1 && before[roles[0]] > after[roles[0]]:
		d.note(weaker, "quorum lowered from %d to %d × %s", before[roles[0]], after[roles[0]], roles[0])
	case len(roles) == 1:
		d.note(weaker, "quorum raised from %d to %d × %s", before[roles[0]], after[roles[0]], roles[0])
	default:
		d.note(weaker, "quorum changed from %s to %s", x, y)
	}
}

func quorumWords(list []*workflows.Seat) string {
	n := seats(list)
	var parts []string
	for _, role := range keysOf(n, nil) {
		parts = append(parts, fmt.Sprintf("%d × %s", n[role], role))
	}
	return strings.Join(parts, " and ")
}

// seats counts the seats of each role.
func seats(list []*workflows.Seat) map[string]int {
	n := map[string]int{}
	for _, s := range list {
		n[s.Role] += s.Count
	}
	return n
}

// admits reports whether some people can fill the seats of one quorum and not
// those of the other. People count by the roles that they hold, as the Roles
// documents say; a role with groups may be held by anybody, and one that no
// document has too.
func admits(c *workflows.Catalog, fill, other map[string]int) bool {
	kinds := peopleKinds(c, keysOf(fill, other))
	var wanted []string
	for _, role := range keysOf(fill, nil) {
		for range fill[role] {
			wanted = append(wanted, role)
		}
	}
	if len(wanted) > 12 { // more than anybody asks for: each role for itself
		return slices.ContainsFunc(keysOf(other, nil), func(r string) bool { return fill[r] < other[r] })
	}
	chosen := make([]int, len(kinds))
	var choose func(seat, from int) bool
	choose = func(seat, from int) bool {
		if seat == len(wanted) {
			return !fits(kinds, chosen, other)
		}
		if seat > 0 && wanted[seat] != wanted[seat-1] {
			from = 0
		}
		for i := from; i < len(kinds); i++ {
			if !slices.Contains(kinds[i].roles, wanted[seat]) || chosen[i] >= kinds[i].people {
				continue
			}
			chosen[i]++
			if choose(seat+1, i) {
				return true
			}
			chosen[i]--
		}
		return false
	}
	return choose(0, 0)
}

// peopleKind is so many people who hold the same roles.
type peopleKind struct {
	roles  []string
	people int
}

// peopleKinds sorts people by which of some roles they hold.
func peopleKinds(c *workflows.Catalog, roles []string) []peopleKind {
	const many = 1000
	held := map[string][]string{} // user → roles
	var open []string             // held by people whom nobody can count
	for _, role := range roles {
		known := false
		for _, doc := range c.Roles {
			r := doc.Spec.Roles[role]
			if r == nil {
				continue
			}
			known = true
			if len(r.Groups) > 0 {
				open = append(open, role)
			}
			for _, u := range r.Users {
				held[u] = append(held[u], role)
			}
		}
		if !known {
			open = append(open, role)
		}
	}
	counts := map[string]int{}
	byKey := map[string][]string{}
	count := func(roles []string, n int) {
		slices.Sort(roles)
		roles = slices.Compact(roles)
		key := strings.Join(roles, "\x00")
		byKey[key], counts[key] = roles, counts[key]+n
	}
	for _, user := range keysOf(held, nil) {
		count(slices.Clone(held[user]), 1)
	}
	for _, role := range open {
		count([]string{role}, many)
	}
	var kinds []peopleKind
	for _, key := range keysOf(counts, nil) {
		kinds = append(kinds, peopleKind{byKey[key], counts[key]})
	}
	return kinds
}

// fits reports whether the chosen people can fill the seats, each at most one:
// the largest matching, by augmenting paths.
func fits(kinds []peopleKind, chosen []int, seats map[string]int) bool {
	var people []peopleKind
	for i, n := range chosen {
		for range n {
			people = append(people, kinds[i])
		}
	}
	var wanted []string
	for _, role := range keysOf(seats, nil) {
		for range seats[role] {
			wanted = append(wanted, role)
		}
	}
	sits := map[int]int{} // person → seat
	var place func(seat int, tried map[int]bool) bool
	place = func(seat int, tried map[int]bool) bool {
		for p, kind := range people {
			if tried[p] || !slices.Contains(kind.roles, wanted[seat]) {
				continue
			}
			tried[p] = true
			if old, taken := sits[p]; !taken || place(old, tried) {
				sits[p] = seat
				return true
			}
		}
		return false
	}
	for seat := range wanted {
		if !place(seat, map[int]bool{}) {
			return false
		}
	}
	return true
}
