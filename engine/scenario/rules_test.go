package scenario_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/workflows"
)

// ruled is a workflow with one rule: the gate that expr is.
func ruled(t testing.TB, expr string, answers ...string) (*workflows.Catalog, []*workflows.Scenario) {
	t.Helper()
	text := `-- flow.yaml --
apiVersion: penstock/v1
kind: Workflow
metadata: {name: flow}
spec:
  initial: verify
  states:
    verify:
      parallel:
        test: {task: test, with: {repository: x, commit: y}}
        scan: {task: scan, with: {artifact: x}}
      gate: [{name: it, require: '` + strings.ReplaceAll(expr, "'", "''") + `'}]
      next: done
      onFail: stopped
    done: {final: succeeded}
    stopped: {final: failed}
`
	for i, a := range answers {
		outcome := "succeeded"
		if strings.HasPrefix(a, "!") {
			outcome, a = "failed", a[1:]
		}
		test, scan, _ := strings.Cut(a, "|")
		text += fmt.Sprintf(`-- %d.yaml --
apiVersion: penstock/v1
kind: Scenario
metadata: {name: s%d}
spec:
  workflow: flow
  tasks: {verify.test: {outputs: {%s}}, verify.scan: {outputs: {%s}}}
  expect: {outcome: %s}
`, i, i, test, scan, outcome)
	}
	c := catalog(t, txtar.Parse([]byte(text)))
	return c, c.Scenarios
}

// rules lists what is covered of the rules, with a plus, and what is not.
func rules(c *workflows.Catalog, list []*workflows.Scenario) []string {
	cov := scenario.NewCoverage(c, "flow")
	for _, s := range list {
		cov.Add(scenario.Play(c, s))
	}
	var out []string
	for _, it := range cov.Items {
		if it.Sort == scenario.SortRule {
			sign := "- "
			if it.Covered {
				sign = "+ "
			}
			out = append(out, sign+strings.TrimPrefix(it.Name, "verify.gate[0].require"))
		}
	}
	return out
}

func TestEachClauseOfARuleIsCountedByItself(t *testing.T) {
	for _, x := range []struct {
		rule    string
		answers []string
		want    []string
	}{
		{"test.failed == 0", []string{"failed: 0|"}, []string{
			"+  is true: test.failed == 0",
			"-  is false: test.failed == 0"}},
		{"test.failed == 0 && scan.critical == 0 && scan.high < 3", []string{"failed: 0|", "!failed: 1|critical: 1", "!failed: 0|high: 3"}, []string{
			"+  is true: test.failed == 0 && scan.critical == 0 && scan.high < 3",
			"+  is false: test.failed == 0 && scan.critical == 0 && scan.high < 3",
			"+ : test.failed == 0 decides when it is false",
			"- : scan.critical == 0 decides when it is false",
			"+ : scan.high < 3 decides when it is false"}},
		{"(test.failed == 0 || test.passed > 100) && !(scan.critical > 0)", []string{"passed: 101, failed: 1|", "!failed: 0|critical: 1"}, []string{
			"+  is true: (test.failed == 0 || test.passed > 100) && !(scan.critical > 0)",
			"+  is false: (test.failed == 0 || test.passed > 100) && !(scan.critical > 0)",
			"- : test.failed == 0 || test.passed > 100 decides when it is false",
			"+ : test.failed == 0 decides when it is true",
			"+ : test.passed > 100 decides when it is true",
			"+ : !(scan.critical > 0) decides when it is false"}},
		{`test.passed > 10 ? scan.high < 3 : scan.tools.all(t, t != "x" && t != "y || z")`, []string{"passed: 11|", "passed: 1|tools: [a]", "!passed: 1|tools: [a, 'y || z']"}, []string{
			`+  is true: test.passed > 10 ? scan.high < 3 : scan.tools.all(t, t != "x" && t != "y || z")`,
			`+  is false: test.passed > 10 ? scan.high < 3 : scan.tools.all(t, t != "x" && t != "y || z")`,
			"+ : test.passed > 10 decides when it is true",
			"+ : test.passed > 10 decides when it is false",
			`- : t != "x" decides when it is false`,
			`+ : t != "y || z" decides when it is false`}},
	} {
		c, list := ruled(t, x.rule, x.answers...)
		for _, s := range list {
			if r := scenario.Play(c, s); !r.Passed() {
				t.Errorf("%s: %s: %+v", x.rule, s.Metadata.Name, r.Failures)
			}
		}
		if d := cmp.Diff(x.want, rules(c, list)); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.rule, d)
		}
	}
}

func TestAMutantIsOneChangeOfARule(t *testing.T) {
	c, list := ruled(t, "test.passed > 9 && (test.failed < 2 || !(scan.high >= 1)) && scan.total != 7", "passed: 10, failed: 1|", "!passed: 9|", "!passed: 10, failed: 2|high: 1")
	var got []string
	for _, m := range scenario.Mutants(c, "flow") {
		what, _, _ := strings.Cut(strings.TrimPrefix(m.What, "verify.gate[0]"), " in test.passed")
		if !m.Noticed(list) {
			what += " (nobody notices)"
		}
		got = append(got, what)
	}
	want := []string{
		".require: > → >=",
		".require: 9 → 8",
		".require: 9 → 10",
		".require: test.passed > 9 && left out",
		".require: && (test.failed < 2 || !(scan.high >= 1)) left out",
		".require: < → <=",
		".require: 2 → 1 (nobody notices)",
		".require: 2 → 3",
		".require: test.failed < 2 || left out (nobody notices)",
		".require: || !(scan.high >= 1) left out (nobody notices)",
		".require: ! left out",
		".require: >= → >",
		".require: 1 → 0 (nobody notices)",
		".require: 1 → 2",
		".require: (test.failed < 2 || !(scan.high >= 1)) && left out",
		".require: && scan.total != 7 left out (nobody notices)",
		".require: != → ==",
		".require: 7 → 6 (nobody notices)",
		".require: 7 → 8 (nobody notices)",
		": \"it\" taken away",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if r := scenario.Play(c, list[0]); !r.Passed() {
		t.Errorf("the definitions themselves are changed: %+v", r.Failures)
	}
}

// TestWhatAnEnvironmentForbidsIsTakenAwayOneByOne: its windows, its freezes and
// how often a metric may be bad are rules like those that are written in CEL.
func TestWhatAnEnvironmentForbidsIsTakenAwayOneByOne(t *testing.T) {
	c := catalog(t, txtar.Parse([]byte(`-- flow.yaml --
apiVersion: penstock/v1
kind: Environment
metadata: {name: production}
spec:
  windows:
    allow: [{from: '09:00', to: '16:00'}, {days: [sat]}]
    freeze: [{from: '2026-12-18', to: '2027-01-04', reason: year end}]
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: flow}
spec:
  initial: ship
  states:
    ship:
      deploy:
        environment: production
        artifact: sha256:aa
        strategy: canary
        steps: [{weight: 5}, {analyze: 10m}, {weight: 100}]
        analysis: [{name: errors, query: {prometheus: x}, every: 1m, pass: value < 1.0, failures: 1}]
      next: done
      onFail: stopped
    done: {final: succeeded}
    stopped: {final: failed}
-- s.yaml --
apiVersion: penstock/v1
kind: Scenario
metadata: {name: early on a day of the freeze}
spec:
  workflow: flow
  start: 2026-12-18T06:00:00Z
  tasks: {ship.errors: [{outputs: {value: 2.0}}, {outputs: {value: 0.5}}]}
  expect: {outcome: succeeded, ends: 435h10m} # Tuesday, 5 January, 09:00
`)))
	var got []string
	for _, m := range scenario.Mutants(c, "flow") {
		if strings.Contains(m.What, " in value ") {
			continue
		}
		what := m.What
		if !m.Noticed(c.Scenarios) {
			what += " (nobody notices)"
		}
		got = append(got, what)
	}
	want := []string{
		"ship.deploy.analysis[0].failures: 1 → 2 (nobody notices)",
		"ship.deploy.analysis[0].failures: 1 → 0",
		"production windows.allow[0]: taken away",
		"production windows.allow[1]: taken away (nobody notices)",
		"production windows.freeze[0]: taken away",
		"production windows.allow[0].from: 09:00 taken away",
		"production windows.allow[0].to: 16:00 taken away (nobody notices)",
		"production windows.allow[1].days: taken away",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, s := range c.Scenarios {
		if r := scenario.Play(c, s); !r.Passed() {
			t.Errorf("%s: %+v", s.Metadata.Name, r.Failures)
		}
	}
}

// TestEveryTransitionOfEveryFeatureIsFound: from no scenario at all, a search
// finds ones that take every transition of every workflow in testdata.
func TestEveryTransitionOfEveryFeatureIsFound(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		c := catalog(t, archive(t, strings.TrimSuffix(filepath.Base(name), ".txtar")))
		for wf := range c.Workflows {
			cov := scenario.NewCoverage(c, wf)
			for _, g := range scenario.Generate(c, wf, nil, nil) {
				r := scenario.Play(c, g.Scenario)
				if !r.Passed() {
					t.Errorf("%s: %s: %+v", name, g.Scenario.Metadata.Name, r.Failures)
				}
				cov.Add(r)
			}
			for _, it := range cov.Items {
				if it.Sort != scenario.SortRule && !it.Covered {
					t.Errorf("%s: %s %s is not found", name, it.Sort, it.Name)
				}
			}
		}
	}
}

func TestGeneratedScenariosPassAndCoverWhatTheySay(t *testing.T) {
	c, _ := ruled(t, "test.passed > 9 && scan.critical == 0")
	found := scenario.Generate(c, "flow", nil, nil)
	cov := scenario.NewCoverage(c, "flow")
	for _, g := range found {
		r := scenario.Play(c, g.Scenario)
		if !r.Passed() {
			t.Errorf("%s: %+v", g.Scenario.Metadata.Name, r.Failures)
		}
		cov.Add(r)
	}
	for _, it := range cov.Items {
		if it.Sort != scenario.SortRule && !it.Covered {
			t.Errorf("%s %s is not covered by %d scenarios", it.Sort, it.Name, len(found))
		}
	}
	again := scenario.Generate(c, "flow", nil, nil)
	if d := cmp.Diff(found, again); d != "" {
		t.Errorf("another search finds something else:\n%s", d)
	}
}
