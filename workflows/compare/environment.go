package compare

import (
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

func (d *differ) environment(a, b *workflows.Environment) {
	d.labels(a.Metadata.Labels, b.Metadata.Labels)
	d.values("target", a.Spec.Target, b.Spec.Target)
	d.values("config", a.Spec.Config, b.Spec.Config)
	for _, k := range keysOf(a.Spec.Secrets, b.Spec.Secrets) {
		d.field("secret "+k, a.Spec.Secrets[k], b.Spec.Secrets[k], plainly)
	}
	d.rules(a.Spec.Require, b.Spec.Require)
	d.field("promotesFrom", a.Spec.PromotesFrom, b.Spec.PromotesFrom, guard)
	d.windows(a.Spec.Windows, b.Spec.Windows)
	d.breakGlass(a.Spec.BreakGlass, b.Spec.BreakGlass)
}

func (d *differ) values(what string, a, b map[string]any) {
	for _, k := range keysOf(a, b) {
		x, inA := a[k]
		y, inB := b[k]
		switch {
		case !inA:
			d.add("%s %s added: %s", what, k, text(y))
		case !inB:
			d.add("%s %s removed (was %s)", what, k, text(x))
		case !same(x, y):
			d.add("%s %s changed from %s to %s", what, k, text(x), text(y))
		}
	}
}

func (d *differ) rules(a, b []*workflows.Rule) {
	matched(a, b, func(r *workflows.Rule) string { return r.Name },
		func(x, y *workflows.Rule) { d.field("rule "+x.Name, x.Expression, y.Expression, plainly) },
		func(r *workflows.Rule) { d.add("rule %s added: %s", r.Name, text(r.Expression)) },
		func(r *workflows.Rule) { d.weaker("rule %s removed (was %s)", r.Name, text(r.Expression)) })
}

func (d *differ) windows(a, b *workflows.Windows) {
	var x, y workflows.Windows
	if a != nil {
		x = *a
	}
	if b != nil {
		y = *b
	}
	zone := func(w workflows.Windows) string {
		if w.Timezone == "" && (len(w.Allow) > 0 || len(w.Freeze) > 0) {
			return "UTC"
		}
		return w.Timezone
	}
	if zone(x) != "" && zone(y) != "" {
		d.field("time zone of the windows", zone(x), zone(y), plainly)
	}
	d.allow(x.Allow, y.Allow)
	matched(x.Freeze, y.Freeze, freezeKey, func(f, g *workflows.FreezeWindow) {
		if freezeWords(f) != freezeWords(g) {
			d.note(shorter(f, g), "freeze changed from %s to %s", freezeWords(f), freezeWords(g))
		}
	}, func(f *workflows.FreezeWindow) { d.add("freeze added: %s", freezeWords(f)) },
		func(f *workflows.FreezeWindow) { d.weaker("freeze removed (was %s)", freezeWords(f)) })
	end := func(w workflows.Windows) string {
		if w.AtEnd == "" {
			return "finish"
		}
		return w.AtEnd
	}
	d.field("what an ending window does", end(x), end(y), plainly)
}

// freezeKey tells which freezes of two definitions are the same one: by their
// reason, or else by when they begin.
func freezeKey(f *workflows.FreezeWindow) string {
	if f.Reason != "" {
		return f.Reason
	}
	return f.From + f.RRule
}

func freezeWords(f *workflows.FreezeWindow) string {
	words := f.From + " to " + f.To
	if f.RRule != "" {
		words = f.RRule + " for " + f.For.String()
	}
	if f.Reason != "" {
		words += " (" + f.Reason + ")"
	}
	return words
}

// shorter reports whether a freeze leaves out time that it had. Of two rules
// that repeat only the length is compared.
func shorter(a, b *workflows.FreezeWindow) bool {
	if a.RRule != "" || b.RRule != "" {
		return a.RRule != b.RRule || b.For < a.For
	}
	return b.From > a.From || b.To < a.To
}

const minutesOfWeek = 7 * 24 * 60

// allow compares the times of the week in which something may enter, minute
// by minute. Without a window that is always.
func (d *differ) allow(a, b []*workflows.AllowWindow) {
	x, y := week(a), week(b)
	wider, narrower := 0, 0
	for i := range x {
		if y[i] && !x[i] {
			wider++
		} else if x[i] && !y[i] {
			narrower++
		}
	}
	before, after := allowWords(a), allowWords(b)
	switch {
	case wider == 0 && narrower == 0:
	case narrower == 0:
		d.weaker("window widened from %s to %s", before, after)
	case wider == 0:
		d.add("window narrowed from %s to %s", before, after)
	default:
		d.weaker("window moved from %s to %s", before, after)
	}
}

var days = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

func week(windows []*workflows.AllowWindow) (open [minutesOfWeek]bool) {
	if len(windows) == 0 {
		for i := range open {
			open[i] = true
		}
	}
	for _, w := range windows {
		from, to := minuteOf(w.From, 0), minuteOf(w.To, 24*60)
		if to <= from {
			to += 24 * 60 // ends on the next day
		}
		for i, day := range days {
			if len(w.Days) > 0 && !slices.Contains(w.Days, day) {
				continue
			}
			for m := from; m < to; m++ {
				open[(i*24*60+m)%minutesOfWeek] = true
			}
		}
	}
	return open
}

// minuteOf reads "09:30"; what is none is missing.
func minuteOf(s string, missing int) int {
	if len(s) != 5 || s[2] != ':' {
		return missing
	}
	n := 0
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return missing
		}
	}
	n = (int(s[0]-'0')*10+int(s[1]-'0'))*60 + int(s[3]-'0')*10 + int(s[4]-'0')
	return min(n, 24*60)
}

func allowWords(windows []*workflows.AllowWindow) string {
	if len(windows) == 0 {
		return "always"
	}
	var parts []string
	for _, w := range windows {
		on := "every day"
		if len(w.Days) > 0 {
			on = strings.Join(w.Days, ", ")
		}
		from, to := w.From, w.To
		if from == "" {
			from = "00:00"
		}
		if to == "" {
			to = "24:00"
		}
		parts = append(parts, on+" "+from+"–"+to)
	}
	return strings.Join(parts, "; ")
}

func (d *differ) breakGlass(a, b *workflows.BreakGlass) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.weaker("break glass added: %s may pass its rules and windows", list(b.Roles))
	case b == nil:
		d.add("break glass removed (was for %s)", list(a.Roles))
	default:
		d.set(a.Roles, b.Roles,
			func(r string) { d.weaker("%s may break the glass, too", r) },
			func(r string) { d.add("%s may no longer break the glass", r) })
		span(d, "time until break glass is reviewed", a.ReviewWithin, b.ReviewWithin, true, true, false)
	}
}

func (d *differ) policy(a, b *workflows.Policy) {
	d.rules(a.Spec.Require, b.Spec.Require)
	var lost, won []string
	for _, env := range keysOf(d.after.Environments, nil) {
		x, y := d.before.Environments[env], d.after.Environments[env]
		if x == nil {
			x = y
		}
		for _, w := range keysOf(d.after.Workflows, nil) {
			switch was, is := a.Matches(x, w), b.Matches(y, w); {
			case was && !is:
				lost = append(lost, w+" in "+env)
			case is && !was:
				won = append(won, w+" in "+env)
			}
		}
	}
	if len(lost) > 0 {
		d.weaker("narrowed: it no longer holds for %s", list(lost))
	}
	if len(won) > 0 {
		d.add("widened: it holds for %s, too", list(won))
	}
	if len(lost)+len(won) > 0 {
		return
	}
	// What is selected is written otherwise, and nothing that is defined shows
	// a difference: a selector with less in it may still match more later.
	d.set(a.Spec.Environments, b.Spec.Environments,
		func(p string) { d.note(len(a.Spec.Environments) == 0, "selects environments %s", p) },
		func(p string) { d.note(len(b.Spec.Environments) > 0, "no longer selects environments %s", p) })
	d.set(a.Spec.Workflows, b.Spec.Workflows,
		func(p string) { d.note(len(a.Spec.Workflows) == 0, "selects workflows %s", p) },
		func(p string) { d.note(len(b.Spec.Workflows) > 0, "no longer selects workflows %s", p) })
	for _, k := range keysOf(a.Spec.Labels, b.Spec.Labels) {
		d.field("selected label "+k, a.Spec.Labels[k], b.Spec.Labels[k], effect{added: true, changed: true})
	}
}
