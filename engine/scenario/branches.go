package scenario

import "strings"

// branch is a part of a rule that decides, and an expression that tells of an
// evaluation of the rule whether it did.
type branch struct {
	clause string
	value  bool // what it is when it decides
	probe  string
}

// branches gives those of a rule. Of a && b, each clause decides where those
// before it hold and it does not; of a || b, where those before it do not and
// it does; of a ? b : c, a decides both ways. What stands within one of these,
// or within the body of a quantifier, decides where it is looked at.
func branches(source string) []branch {
	var out []branch
	walkBranches(readExpression(source), nil, func(s string) string { return s }, &out)
	return out
}

// walkBranches collects branches. path are the conditions under which e is
// looked at; within makes a probe of the whole out of one of this place.
func walkBranches(e expression, path []string, within func(string) string, out *[]branch) {
	e = e.bare()
	also := func(more ...string) []string { return append(path[:len(path):len(path)], more...) }
	add := func(clause expression, value bool, conditions []string) {
		*out = append(*out, branch{clause.bare().text(), value, within(strings.Join(conditions, " && "))})
	}
	yes := func(e expression) string { return "(" + e.text() + ")" }
	no := func(e expression) string { return "!(" + e.text() + ")" }
	if condition, one, other, ok := e.choice(); ok {
		add(condition, true, also(yes(condition)))
		add(condition, false, also(no(condition)))
		walkBranches(condition, path, within, out)
		walkBranches(one, also(yes(condition)), within, out)
		walkBranches(other, also(no(condition)), within, out)
		return
	}
	for _, operator := range []string{"||", "&&"} {
		parts := e.split(operator)
		if len(parts) == 1 {
			continue
		}
		decides, passes := yes, no
		if operator == "&&" {
			decides, passes = no, yes
		}
		before := path
		for _, p := range parts {
			add(p, operator == "||", append(before[:len(before):len(before)], decides(p)))
			walkBranches(p, before, within, out)
			before = append(before[:len(before):len(before)], passes(p))
		}
		return
	}
	if len(e.words) > 1 && e.words[0].is("!") {
		walkBranches(e.part(1, len(e.words)), path, within, out)
		return
	}
	for _, q := range e.quantified() {
		inner := func(probe string) string {
			return within(strings.Join(also(q.list.text()+".exists("+q.names.text()+", "+probe+")"), " && "))
		}
		walkBranches(q.body, nil, inner, out)
	}
}
