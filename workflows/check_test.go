package workflows_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

// minimal is a catalog with one workflow: an approval with these seats.
func minimal(roles map[string]*workflows.Role, exclude []string, seats ...*workflows.Seat) *workflows.Catalog {
	w := &workflows.Workflow{Metadata: workflows.Metadata{Name: "w"}, Spec: workflows.WorkflowSpec{Initial: "a", States: map[string]*workflows.State{
		"a":    {Name: "a", Approval: &workflows.Approval{Quorum: seats, Exclude: exclude, Expires: 1}, Next: "done", OnFail: "done"},
		"done": {Name: "done", Index: 1, Final: "succeeded"},
	}}}
	return &workflows.Catalog{Workflows: map[string]*workflows.Workflow{"w": w}, Kinds: workflows.ShippedKinds(),
		Roles: []*workflows.Roles{{Metadata: workflows.Metadata{Name: "r"}, Spec: workflows.RolesSpec{Roles: roles}}}}
}

func codes(problems []workflows.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Code)
	}
	return out
}

func TestAQuorumThatNobodyCanFillIsFound(t *testing.T) {
	type roles = map[string]*workflows.Role
	seat := func(role string, count int) *workflows.Seat { return &workflows.Seat{Role: role, Count: count} }
	ab := roles{"lead": {Users: []string{"ana"}}, "dev": {Users: []string{"ana", "li"}}, "many": {Groups: []string{"oidc:x"}}, "nobody": {}}
	tests := map[string]struct {
		exclude []string
		seats   []*workflows.Seat
		want    []string
	}{
		"enough":                      {nil, []*workflows.Seat{seat("dev", 2)}, nil},
		"too many seats":              {nil, []*workflows.Seat{seat("dev", 3)}, []string{"quorum-too-large"}},
		"an excluded user counts not": {[]string{"li"}, []*workflows.Seat{seat("dev", 2)}, []string{"quorum-too-large"}},
		"authors are not known yet":   {[]string{"authors"}, []*workflows.Seat{seat("dev", 1)}, nil},
		"an author may be needed":     {[]string{"authors"}, []*workflows.Seat{seat("dev", 2)}, []string{"quorum-without-spare"}},
		"a role without holders":      {nil, []*workflows.Seat{seat("nobody", 1)}, []string{"quorum-too-large"}},
		"groups count as unlimited":   {nil, []*workflows.Seat{seat("many", 50)}, nil},
		"each person fills one seat":  {nil, []*workflows.Seat{seat("lead", 1), seat("dev", 2)}, []string{"quorum-too-large"}},
		"distinct people":             {nil, []*workflows.Seat{seat("dev", 1), seat("lead", 1)}, nil},
		"an unknown role":             {nil, []*workflows.Seat{seat("boss", 1)}, []string{"unknown-role"}},
	}
	for name, tt := range tests {
		got := codes(workflows.Check(minimal(ab, tt.exclude, tt.seats...)))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", name, diff)
		}
	}
}

func TestShippedKindsAreProperKinds(t *testing.T) {
	for name, kind := range workflows.ShippedKinds() {
		for _, declared := range []map[string]string{kind.Spec.Inputs, kind.Spec.Outputs} {
			for field, text := range declared {
				if plain, _ := workflows.Optional(text); !plain.Valid() || workflows.CheckField(field) != "" {
					t.Errorf("%s: %s is %s", name, field, text)
				}
			}
		}
	}
}

func TestNearestGuessesWhatWasMeant(t *testing.T) {
	names := []string{"commit", "command", "next", "onFail", "build", "id"}
	for text, want := range map[string]string{"comit": "commit", "commti": "commit", "nxet": "next", "on_fail": "onFail", "onfail": "onFail",
		"zebra": "", "x": "", "biuld": "build", "idd": "id", "": ""} {
		if got := workflows.Nearest(text, names); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestPathsNameOnePlace(t *testing.T) {
	tests := []struct{ parent, key, want string }{
		{"", "spec", "spec"}, {"spec", "states", "spec.states"}, {"spec.tasks", "verify.test", `spec.tasks["verify.test"]`},
		{"spec.x[3]", "to", "spec.x[3].to"}, {"spec", "", `spec[""]`}, {`spec["a.b"]`, "c", `spec["a.b"].c`},
	}
	for _, tt := range tests {
		if got := workflows.Join(tt.parent, tt.key); got != tt.want {
			t.Errorf("%s and %s: %s, want %s", tt.parent, tt.key, got, tt.want)
		}
		if got := workflows.Parent(tt.want); got != tt.parent {
			t.Errorf("parent of %s: %s, want %s", tt.want, got, tt.parent)
		}
	}
	if got := workflows.Parent("spec.x[3]"); got != "spec.x" {
		t.Errorf("parent of an element: %s", got)
	}
}

func TestConform(t *testing.T) {
	for _, tt := range []struct {
		t    workflows.Type
		v    any
		want any
		ok   bool
	}{
		{"int", 3.0, int64(3), true}, {"int", 3.5, nil, false}, {"int", "3", nil, false}, {"double", int64(3), 3.0, true},
		{"list(int)", []any{1.0, 2}, []any{int64(1), int64(2)}, true}, {"list(int)", []any{"x"}, nil, false},
		{"map(list(string))", map[string]any{"a": []any{"b"}}, map[string]any{"a": []any{"b"}}, true},
		{"duration", "1d", "1d", true}, {"duration", "soon", nil, false}, {"timestamp", "2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z", true},
		{"any", nil, nil, true}, {"bool", "true", nil, false}, {"nonsense", 1, nil, false},
	} {
		got, err := tt.t.Conform(tt.v)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != tt.ok {
			t.Errorf("%s of %v: %v, %v", tt.t, tt.v, got, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*-release", "checkout-release", true}, {"*-release", "release", false}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false},
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"a", "a*", false}, {"a**", "a", true}, {"*ab", "aab", true}, {"*aab*", "aaab", true},
		{strings.Repeat("*e", 40) + "x", strings.Repeat("e", 63), false}, // and at once
	} {
		if got := workflows.Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%s and %s: %v", tt.pattern, tt.name, got)
		}
	}
}
