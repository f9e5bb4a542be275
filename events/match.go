package events

import "strings"

// MatchType reports whether an event's type is one that pattern selects: the
// full type, the short one ("run.started"), or either with a final * that
// stands for any rest ("run.*").
func MatchType(pattern, typ string) bool {
	for _, t := range []string{typ, ShortType(typ)} {
		if start, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(t, start) || t == pattern {
			return true
		}
	}
	return false
}

// MatchTypes reports whether one of patterns selects typ; no pattern at all
// selects every type.
func MatchTypes(patterns []string, typ string) bool {
	for _, p := range patterns {
		if MatchType(p, typ) {
			return true
		}
	}
	return len(patterns) == 0
}

// SourceOf reports whether the publisher of that name may say source: it is
// the name itself, or the name, "/" and more.
func SourceOf(publisher, source string) bool {
	return source == publisher || strings.HasPrefix(source, strings.TrimSuffix(publisher, "/")+"/")
}
