package scenario

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// Mutant is a small change to the rules of a workflow, or of an environment or
// a policy that it meets. A scenario that fails with it has noticed it.
type Mutant struct {
	Pos     workflows.Pos
	What    string // "approve.approval.quorum[0].count: 2 → 1"
	catalog func() *workflows.Catalog
}

// Catalog gives the definitions with the change.
func (m *Mutant) Catalog() *workflows.Catalog { return m.catalog() }

// Noticed reports whether one of the scenarios fails with the change.
func (m *Mutant) Noticed(list []*workflows.Scenario) bool {
	c := m.Catalog()
	return slices.ContainsFunc(list, func(s *workflows.Scenario) bool { return !Play(c, s).Passed() })
}

// Mutants lists changes to what decides in a workflow: a number in a rule a
// little larger or smaller, another comparison, a clause of a rule left out, a
// rule, a seat of a quorum, an exclusion, a window, an end of one or a freeze
// taken away. What makes only a warning is left alone, and what an approval
// binds: only a content that changes while people decide could tell.
func Mutants(c *workflows.Catalog, name string) []*Mutant {
	wf := c.Workflows[name]
	if wf == nil {
		return nil
	}
	out := mutate(wf, &wf.Origin, "", func(changed *workflows.Workflow) *workflows.Catalog {
		with := *c
		with.Workflows = withEntry(c.Workflows, name, changed)
		return &with
	})
	for _, env := range environmentsOf(c, wf) {
		e := c.Environments[env]
		out = append(out, mutate(e, &e.Origin, env+" ", func(changed *workflows.Environment) *workflows.Catalog {
			with := *c
			with.Environments = withEntry(c.Environments, env, changed)
			return &with
		})...)
	}
	for _, policy := range sortedKeys(c.Policies) {
		p := c.Policies[policy]
		if !slices.ContainsFunc(environmentsOf(c, wf), func(env string) bool { return p.Matches(c.Environments[env], name) }) {
			continue
		}
		out = append(out, mutate(p, &p.Origin, policy+" ", func(changed *workflows.Policy) *workflows.Catalog {
			with := *c
			with.Policies = withEntry(c.Policies, policy, changed)
			return &with
		})...)
	}
	return out
}

func withEntry[V any](m map[string]V, key string, v V) map[string]V {
	out := make(map[string]V, len(m))
	for k, x := range m {
		out[k] = x
	}
	out[key] = v
	return out
}

// mutate lists the changes to one document.
func mutate[T any](doc *T, origin *workflows.Origin, prefix string, catalog func(*T) *workflows.Catalog) []*Mutant {
	var out []*Mutant
	add := func(pos workflows.Pos, path, what string, change func(reflect.Value)) {
		out = append(out, &Mutant{Pos: pos, What: prefix + shortPath(path) + ": " + what, catalog: func() *workflows.Catalog {
			changed := clone(reflect.ValueOf(doc))
			change(changed.Elem())
			return catalog(changed.Interface().(*T))
		}})
	}
	eachExpr(reflect.ValueOf(doc).Elem(), "", func(path string, e *workflows.Expr) {
		compiler, ok := e.Program.(workflows.Compiler)
		if !ok || strings.HasSuffix(path, ".warn") {
			return
		}
		for _, v := range variants(e.Source) {
			program, err := compiler.Compile(v.source)
			if err != nil {
				continue
			}
			pos := e.Pos
			add(pos, path, v.what+" in "+oneLine(e.Source), func(root reflect.Value) {
				eachExpr(root, "", func(p string, e *workflows.Expr) {
					if p == path {
						e.Source, e.Program = v.source, program
					}
				})
			})
		}
	})
	eachPart(reflect.ValueOf(doc).Elem(), "", func(path string, part reflect.Value) {
		for _, c := range partChanges(part) {
			place := path
			if c.key != "" {
				place += "." + c.key
			}
			add(origin.Place(place), place, c.what, func(root reflect.Value) {
				eachPart(root, "", func(p string, v reflect.Value) {
					if p == path && v.Type() == part.Type() {
						c.change(v)
					}
				})
			})
		}
	})
	return out
}

// partChange is a change to a part of a definition that is no expression.
type partChange struct {
	key, what string
	change    func(reflect.Value)
}

// partChanges lists those of one part.
func partChanges(v reflect.Value) []partChange {
	switch part := v.Addr().Interface().(type) {
	case *workflows.Seat:
		out := []partChange{{"count", counted(part.Count, part.Count+1), func(v reflect.Value) { part := v.Addr().Interface().(*workflows.Seat); part.Count++ }}}
		if part.Count > 1 {
			out = append(out, partChange{"count", counted(part.Count, part.Count-1), func(v reflect.Value) { part := v.Addr().Interface().(*workflows.Seat); part.Count-- }})
		}
		return out
	case *workflows.Retry:
		if part.Attempts > 1 {
			return []partChange{{"attempts", counted(part.Attempts, part.Attempts-1), func(v reflect.Value) { v.Addr().Interface().(*workflows.Retry).Attempts-- }}}
		}
	case *workflows.Metric:
		out := []partChange{{"failures", counted(part.Failures, part.Failures+1), func(v reflect.Value) { v.Addr().Interface().(*workflows.Metric).Failures++ }}}
		if part.Failures > 0 {
			out = append(out, partChange{"failures", counted(part.Failures, part.Failures-1), func(v reflect.Value) { v.Addr().Interface().(*workflows.Metric).Failures-- }})
		}
		return out
	case *workflows.Approval:
		return approvalChanges(part)
	case *workflows.State:
		return without("gate", part.Gate, func(v reflect.Value) *[]*workflows.Requirement { return &v.Addr().Interface().(*workflows.State).Gate })
	case *workflows.EnvironmentSpec:
		out := without("require", part.Require, func(v reflect.Value) *[]*workflows.Rule {
			return &v.Addr().Interface().(*workflows.EnvironmentSpec).Require
		})
		if part.PromotesFrom != "" {
			out = append(out, partChange{"promotesFrom", part.PromotesFrom + " taken away", func(v reflect.Value) { v.Addr().Interface().(*workflows.EnvironmentSpec).PromotesFrom = "" }})
		}
		return out
	case *workflows.Windows:
		of := func(v reflect.Value) *workflows.Windows { return v.Addr().Interface().(*workflows.Windows) }
		out := without("allow", part.Allow, func(v reflect.Value) *[]*workflows.AllowWindow { return &of(v).Allow })
		return append(out, without("freeze", part.Freeze, func(v reflect.Value) *[]*workflows.FreezeWindow { return &of(v).Freeze })...)
	case *workflows.AllowWindow:
		return widened(part)
	case *workflows.PolicySpec:
		return without("require", part.Require, func(v reflect.Value) *[]*workflows.Rule { return &v.Addr().Interface().(*workflows.PolicySpec).Require })
	}
	return nil
}

// widened lists what makes a window larger: all days, or one that begins or ends
// with the day.
func widened(w *workflows.AllowWindow) []partChange {
	of := func(v reflect.Value) *workflows.AllowWindow { return v.Addr().Interface().(*workflows.AllowWindow) }
	var out []partChange
	if len(w.Days) > 0 {
		out = append(out, partChange{"days", "taken away", func(v reflect.Value) { of(v).Days = nil }})
	}
	if w.From != "" {
		out = append(out, partChange{"from", w.From + " taken away", func(v reflect.Value) { of(v).From = "" }})
	}
	if w.To != "" {
		out = append(out, partChange{"to", w.To + " taken away", func(v reflect.Value) { of(v).To = "" }})
	}
	return out
}

func approvalChanges(a *workflows.Approval) []partChange {
	of := func(v reflect.Value) *workflows.Approval { return v.Addr().Interface().(*workflows.Approval) }
	out := without("quorum", a.Quorum, func(v reflect.Value) *[]*workflows.Seat { return &of(v).Quorum })
	out = append(out, without("exclude", a.Exclude, func(v reflect.Value) *[]string { return &of(v).Exclude })...)
	for _, rule := range []struct {
		key  string
		expr *workflows.Expr
		take func(*workflows.Approval)
	}{{"rule", a.Rule, func(a *workflows.Approval) { a.Rule = nil }}, {"reject", a.Reject, func(a *workflows.Approval) { a.Reject = nil }},
		{"auto", a.Auto, func(a *workflows.Approval) { a.Auto = nil }}} {
		if rule.expr != nil {
			out = append(out, partChange{rule.key, "taken away", func(v reflect.Value) { rule.take(of(v)) }})
		}
	}
	return out
}

// without lists the changes that take one element of a list away.
func without[T any](key string, list []T, in func(reflect.Value) *[]T) []partChange {
	var out []partChange
	for i := range list {
		out = append(out, partChange{index(key, i), nameOf(list[i]) + "taken away", func(v reflect.Value) {
			l := in(v)
			*l = slices.Delete(slices.Clone(*l), i, i+1)
		}})
	}
	return out
}

// nameOf is the name of an element, and a space.
func nameOf(v any) string {
	switch x := v.(type) {
	case string:
		return x + " "
	case *workflows.Seat:
		return x.Role + " "
	case *workflows.Rule:
		return strconv.Quote(x.Name) + " "
	case *workflows.Requirement:
		return strconv.Quote(x.Name) + " "
	}
	return ""
}

func counted(from, to int) string { return fmt.Sprintf("%d → %d", from, to) }

// variant is a changed expression.
type variant struct{ source, what string }

// others are what a word of an expression is changed to.
var others = map[string]string{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}

// variants lists the small changes of an expression.
func variants(source string) []variant {
	e := readExpression(source)
	var out []variant
	put := func(from, to int, text, what string) {
		out = append(out, variant{source[:from] + text + source[to:], what})
	}
	for i, t := range e.words {
		end := t.at + len(t.text)
		switch {
		case t.kind == 'n':
			for _, other := range numbersBeside(t.text) {
				put(t.at, end, other, t.text+" → "+other)
			}
		case t.kind == 'o' && others[t.text] != "":
			put(t.at, end, others[t.text], t.text+" → "+others[t.text])
		case t.is("!") && (i+1 == len(e.words) || !e.words[i+1].is("=")):
			put(t.at, end, "", "! left out")
		case t.is("&&"), t.is("||"):
			left, right := e.clauses(i)
			put(e.words[left].at, e.words[i+1].at, "", e.part(left, i).text()+" "+t.text+" left out")
			last := e.words[right-1]
			put(e.words[i-1].at+len(e.words[i-1].text), last.at+len(last.text), "", t.text+" "+e.part(i+1, right).text()+" left out")
		}
	}
	return out
}

// numbersBeside are numbers a little smaller and larger: one for whole ones,
// half and double for fractions.
func numbersBeside(text string) []string {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n > 0 {
			return []string{strconv.FormatInt(n-1, 10), strconv.FormatInt(n+1, 10)}
		}
		return []string{strconv.FormatInt(n+1, 10)}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil
	}
	write := func(f float64) string {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	if f == 0 {
		return []string{"0.5"}
	}
	return []string{write(f / 2), write(f * 2)}
}

// clauses gives where the operands of the && or || at i begin and end.
func (e expression) clauses(i int) (left, right int) {
	ends := func(t token) bool {
		return t.is("?") || t.is(":") || t.is(",") || t.is("||") || t.is("&&")
	}
	level := 0
	for left = i; left > 0; left-- {
		t := e.words[left-1]
		if level -= t.depth(); level < 0 || level == 0 && ends(t) {
			break
		}
	}
	level = 0
	for right = i + 1; right < len(e.words); right++ {
		t := e.words[right]
		if level += t.depth(); level < 0 || level == 0 && ends(t) {
			break
		}
	}
	return left, right
}

// clone copies a definition so deep that its parts and expressions may be
// changed; what stays as it is, is shared.
func clone(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if _, shared := v.Interface().(*workflows.Data); v.IsNil() || shared {
			return v
		}
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(clone(v.Elem()))
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			if k := v.Field(i).Kind(); k == reflect.Pointer || k == reflect.Struct || k == reflect.Slice || k == reflect.Map {
				out.Field(i).Set(clone(v.Field(i)))
			}
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(clone(v.Index(i)))
		}
		return out
	case reflect.Map:
		if k := v.Type().Elem().Kind(); v.IsNil() || k != reflect.Pointer {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(it.Key(), clone(it.Value()))
		}
		return out
	}
	return v
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
