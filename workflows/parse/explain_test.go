package parse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

// partsText writes the parts of an explanation one a line.
func partsText(x *workflows.Explanation) string {
	var b strings.Builder
	for _, p := range x.Parts {
		value, _ := json.Marshal(p.Value)
		if p.Error != "" {
			value = []byte("error " + p.Error)
		}
		fmt.Fprintf(&b, "%s%s = %s\n", strings.Repeat("  ", p.Depth), p.Source, value)
	}
	return b.String()
}

func TestAnExplanationShowsThePartsFromTheOutsideIn(t *testing.T) {
	tests := map[string]string{
		`build.passed > 3 && (inputs.n == 4 || inputs.l.exists(s, s == inputs.s && inputs.n > 0))`: `
build.passed > 3 && (inputs.n == 4 || inputs.l.exists(s, s == inputs.s && inputs.n > 0)) = true
  build.passed > 3 = true
    build.passed = 4
  inputs.n == 4 || inputs.l.exists(s, s == inputs.s && inputs.n > 0) = true
    inputs.n == 4 = false
      inputs.n = 3
    inputs.l.exists(s, s == inputs.s && inputs.n > 0) = true
      inputs.l = ["x","y"]
      inputs.s = "x"
      inputs.n > 0 = true
`,
		`visits("build") < 3 && has(build.coverage) && build.?failed.orValue(0) == 0`: `
visits("build") < 3 && has(build.coverage) && build.?failed.orValue(0) == 0 = false
  visits("build") < 3 = true
    visits("build") = 0
  has(build.coverage) = false
`,
		`cel.bind(x, inputs.n + 1, x * 2 > inputs.n) && 1 / (inputs.n - 3) == 1`: `
cel.bind(x, inputs.n + 1, x * 2 > inputs.n) && 1 / (inputs.n - 3) == 1 = error division by zero
  cel.bind(x, inputs.n + 1, x * 2 > inputs.n) = true
    inputs.n + 1 = 4
      inputs.n = 3
    x * 2 > inputs.n = true
      x * 2 = 8
        x = 4
  1 / (inputs.n - 3) == 1 = error division by zero
    1 / (inputs.n - 3) = error division by zero
      inputs.n - 3 = 0
`,
		`build.coverage > 0.5 || run.startedAt + duration("1h") < now`: `
build.coverage > 0.5 || run.startedAt + duration("1h") < now = error no such key: coverage
  build.coverage > 0.5 = error no such key: coverage
    build.coverage = error no such key: coverage
  run.startedAt + duration("1h") < now = false
    run.startedAt + duration("1h") = "2026-11-23T11:00:00Z"
      run.startedAt = "2026-11-23T10:00:00Z"
    now = "2026-11-23T11:00:00Z"
`,
	}
	for source, want := range tests {
		x := rule(t, source).Explain(t.Context(), ruleScope())
		if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), partsText(x)); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", source, diff)
		}
		if len(x.Parts) == 0 || x.Source != source || x.Error != x.Parts[0].Error || x.Residual != "" {
			t.Errorf("%s: %+v", source, x)
		}
	}
}

func TestAResidualIsWhatIsStillToBeDecided(t *testing.T) {
	tests := []struct {
		source string
		open   []string
		want   string
	}{
		{`inputs.l.exists(s, s == inputs.s) && build.passed > inputs.n`, []string{"build"}, `build.passed > 3`},
		{`inputs.l.exists(s, s == inputs.s) && build.passed > inputs.n`, []string{"build.passed"}, `build.passed > 3`},
		{`inputs.l.exists(s, s == inputs.s) && build.passed > inputs.n`, []string{"inputs.l"}, `inputs.l.exists(s, s == "x")`},
		{`inputs.l.filter(s, s != inputs.s && !(s in run.authors)).size() >= 2`, []string{"inputs.l"}, `inputs.l.filter(s, s != "x" && !(s in ["ana"])).size() >= 2`},
		{`inputs.n == 4 && build.passed > 3`, []string{"build"}, ``}, // false already
		{`inputs.n == 3 || build.passed > 3`, []string{"build"}, ``}, // true already
		{`build.passed > 3`, []string{"error"}, ``},                  // not read
		{`inputs.n == 3 ? build.passed > 3 : now > run.startedAt`, []string{"build", "now"}, `build.passed > 3`},
		{`visits("build") < 3 && outcome == "failed"`, []string{"outcome"}, `outcome == "failed"`},
		{`1 / (inputs.n - 3) == 1 && build.passed > 3`, []string{"build"}, `1 / 0 == 1 && build.passed > 3`},
	}
	for _, tt := range tests {
		if x := rule(t, tt.source).Explain(t.Context(), ruleScope(), tt.open...); x.Residual != tt.want {
			t.Errorf("%s with %v open: %q, want %q", tt.source, tt.open, x.Residual, tt.want)
		}
	}
}

func TestWhatAnApprovalStillNeedsIsInItsResidual(t *testing.T) {
	e := good(t).Catalog().Environments["production"].Spec.Require[0].Expression
	x := e.Explain(t.Context(), full(), "approvals")
	want := `approvals.exists(a, a.user != "event:git" && !(a.user in ["ana"]))`
	if x.Residual != want || x.Value != true {
		t.Errorf("residual %q, want %q; value %v, %s", x.Residual, want, x.Value, x.Error)
	}
}

func TestAnExplanationIsBounded(t *testing.T) {
	var rows []string
	for i := range 300 {
		rows = append(rows, fmt.Sprintf("inputs.n + %d > %d", i, i))
	}
	scope := ruleScope()
	list := []any{}
	for range 5000 {
		list = append(list, strings.Repeat("é", 5000))
	}
	scope["inputs"].(map[string]any)["l"] = list
	for _, source := range []string{strings.Join(rows, " && "), `size(inputs.l) > 0 && inputs.l[0] != ""`} {
		x := rule(t, source).Explain(t.Context(), scope, "inputs")
		x.Source = ""
		text, err := json.Marshal(x)
		if err != nil || len(text) > 200_000 || len(x.Parts) > maxParts || x.Value != true {
			t.Errorf("%.40s: %d parts, %d bytes, %v, %s, %v", source, len(x.Parts), len(text), x.Value, x.Error, err)
		}
	}
}

func TestAnExplanationNeverPanicsAndIsLimitedAsTheExpressionIs(t *testing.T) {
	for _, v := range []any{struct{ X chan int }{}, make(chan int), func() {}, (*int)(nil), map[any]any{1: 2}} {
		scope := ruleScope()
		scope["build"] = v
		if x := rule(t, `build.passed > 3`).Explain(t.Context(), scope, "inputs", ""); x.Error == "" || x.Value != nil {
			t.Errorf("%T: %+v", v, x)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if x := rule(t, `lists.range(2000).all(i, i >= 0)`).Explain(ctx, ruleScope(), "inputs"); x.Error == "" {
		t.Errorf("it went on: %v", x.Value)
	}
}
