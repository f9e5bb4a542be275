package run

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
)

func TestWhyInAnEventIsBounded(t *testing.T) {
	parts := make([]events.EvaluationPart, 50)
	for i := range parts {
		parts[i] = events.EvaluationPart{Source: strings.Repeat("x", 100), Depth: 1}
	}
	rule := events.RuleReason{Name: "four eyes", Source: strings.Repeat("y", 200), Missing: "somebody", Parts: parts}
	reason := func(rules, cannot int) events.WaitReason {
		r := events.WaitReason{State: "approve", What: "approval", Summary: "waits", Can: []string{"li"}}
		for range rules {
			r.Rules = append(r.Rules, rule)
		}
		for range cannot {
			r.Cannot = append(r.Cannot, strings.Repeat("z", 100))
		}
		return r
	}
	many := make([]events.WaitReason, 300)
	for i := range many {
		many[i] = reason(0, 0)
	}
	for _, c := range []struct {
		name                           string
		in                             []events.WaitReason
		reasons, rules, parts, cannots int
	}{
		{"what fits is whole", []events.WaitReason{reason(1, 2)}, 1, 1, 50, 2},
		{"first the parts go", []events.WaitReason{reason(5, 2)}, 1, 5, 0, 2},
		{"then the rules", []events.WaitReason{reason(50, 2)}, 1, 0, 0, 2},
		{"then who cannot", []events.WaitReason{reason(50, 200)}, 1, 0, 0, 0},
		{"then whole reasons", many, 100, 0, 0, 0},
	} {
		got := bounded(c.in)
		p, err := json.Marshal(got)
		if err != nil || len(p) > maxWhy {
			t.Errorf("%s: %d bytes, %v", c.name, len(p), err)
		}
		if len(got) < min(c.reasons, 50) || len(got[0].Rules) != c.rules || len(got[0].Cannot) != c.cannots {
			t.Errorf("%s: %d reasons, the first with %d rules and %d who cannot", c.name, len(got), len(got[0].Rules), len(got[0].Cannot))
			continue
		}
		if c.rules > 0 && len(got[0].Rules[0].Parts) != c.parts {
			t.Errorf("%s: %d parts", c.name, len(got[0].Rules[0].Parts))
		}
		if len(c.in[0].Rules) > 0 && len(c.in[0].Rules[0].Parts) != 50 {
			t.Errorf("%s: what was given was changed", c.name)
		}
	}
}
