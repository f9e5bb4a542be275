package parse

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

// fleet is a scope with everything that testdata/good/fleet.yaml reads, as it
// is after it was stored: times are text, and 2.0 is 2.
func fleet() map[string]any {
	decision := func(user string, roles ...any) map[string]any {
		return map[string]any{"user": user, "roles": roles, "comment": "", "at": "2026-11-23T10:00:00Z", "via": "cli"}
	}
	return map[string]any{
		"now":    "2026-11-23T11:00:00Z",
		"inputs": map[string]any{"version": "1.4.0", "previous": "1.3.9", "regions": []any{"eu", "us"}, "notBefore": "2026-01-01T00:00:00Z"},
		"run":    map[string]any{"id": "run-1", "authors": []any{"ana"}, "startedAt": "2026-11-23T10:00:00Z"},
		"build":  map[string]any{"digest": "sha256:aa"}, "migrate": map[string]any{}, "child": map[string]any{"ok": true},
		"signal":    map[string]any{"event": map[string]any{"data": map[string]any{"depth": int64(3), "version": "1.4.0"}}},
		"rollout":   map[string]any{"us": map[string]any{"url": "http://us", "instances": int64(2)}},
		"region":    "us",
		"place":     "us",
		"env":       map[string]any{"name": "eu", "labels": map[string]any{"tier": "prod"}, "config": map[string]any{}},
		"outcome":   "succeeded",
		"approvals": []any{decision("marta", "release")}, "rejections": []any{decision("li", "oncall"), decision("jo", "release")},
		"event":      map[string]any{"type": "x", "data": map[string]any{"version": "1.4.0", "severity": "page", "head": "1.4.0"}},
		"value":      int64(2),
		"samples":    []any{int64(1), 1.5},
		"baseline":   int64(2),
		"elapsed":    "2m0s",
		"labels":     map[string]any{"risk": "high"},
		"entered__":  map[string]any{"rollout": true, "checks": true},
		"approved__": map[string]any{},
		"outcome__":  "succeeded",
		"artifact":   map[string]any{"digest": "sha256:aa"},
		"attestations": []any{map[string]any{"type": "build", "verified": true},
			map[string]any{"type": "other"}},
	}
}

func TestEveryPositionOfTheWholeLanguageEvaluates(t *testing.T) {
	c := good(t).Catalog()
	w := c.Workflows["fleet-release"]
	s := w.Spec.States
	policy := c.Policies["signed"].Spec.Require[0]
	conditions := map[string]struct {
		e    *workflows.Expr
		want bool
	}{
		"wait.when":             {s["signal"].Wait.When, true},
		"rule":                  {s["approve"].Approval.Rule, true},
		"reject":                {s["approve"].Approval.Reject, true},
		"auto":                  {s["approve"].Approval.Auto, true},
		"pass":                  {s["canary"].Deploy.Analysis[0].Pass, false},
		"fail":                  {s["canary"].Deploy.Analysis[0].Fail, true},
		"baseline, whole":       {s["canary"].Deploy.Analysis[1].Pass, true},
		"events.when":           {s["canary"].Events[0].When, true},
		"results of members":    {s["each"].Transitions[0].When, true},
		"invariant":             {w.Spec.Invariants[0].Never, true},
		"invariant of outcomes": {w.Spec.Invariants[1].Never, false},
		"policy":                {policy.Expression, true},
	}
	for name, tt := range conditions {
		got, err := tt.e.Bool(t.Context(), fleet())
		if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tt.want)
		}
	}
	values := map[string]struct {
		e    workflows.Program
		want any
	}{
		"wait.until":    {s["quiet"].Wait.Until.Program, time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)},
		"forEach.in":    {s["rollout"].ForEach.In.Program, []any{"us"}},
		"member":        {s["rollout"].ForEach.Do.Deploy.With["env"].Program, map[string]any{"REGION": "us", "TIER": "prod"}},
		"artifact":      {s["rollout"].ForEach.Do.Deploy.Artifact.Program, "sha256:aa"},
		"undo.with":     {s["migrate"].Undo.With["plan"].Program, "from 0 at eu"},
		"child inputs":  {s["child"].Workflow.Inputs["depth"].Program, int64(3)},
		"concurrency":   {w.Spec.Concurrency.Key.Program, "fleet/1.4.0"},
		"output":        {w.Spec.Outputs["regions"].Value.Program, int64(1)},
		"schedule":      {w.Spec.Triggers[0].Inputs["version"].Program, "1.4.0"},
		"of one member": {s["each"].ForEach.Do.With["run"].Program, []any{"echo", "us", "http://us"}},
		"message":       {policy.Message.Program, "sha256:aa is not signed"},
	}
	for name, tt := range values {
		got, err := tt.e.Eval(t.Context(), fleet())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", name, diff)
		}
	}
}

// What an expression reads must be all it needs: the engine gives it no more.
func TestTheWholeLanguageNeedsOnlyWhatItSaysThatItReads(t *testing.T) {
	w := good(t).Catalog().Workflows["fleet-release"]
	s := w.Spec.States
	for _, e := range []*workflows.Expr{s["signal"].Wait.When, s["approve"].Approval.Rule, s["approve"].Approval.Reject, s["approve"].Approval.Auto,
		s["canary"].Deploy.Analysis[1].Pass, s["canary"].Events[0].When, s["each"].Transitions[0].When, w.Spec.Invariants[0].Never} {
		if ok, err := e.Bool(t.Context(), prune(fleet(), e.Program.Refs())); err != nil || !ok {
			t.Errorf("%s: %v, %v", e.Source, ok, err)
		}
	}
}

func TestABaselineThatIsNotThereNeverPasses(t *testing.T) {
	pass := good(t).Catalog().Workflows["fleet-release"].Spec.States["canary"].Deploy.Analysis[1].Pass
	scope := fleet()
	delete(scope, "baseline")
	if ok, err := pass.Bool(t.Context(), scope); ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// What is stored as JSON comes back as it is declared, and the scope that was
// given stays as it is.
func TestStoredValuesAreAsDeclared(t *testing.T) {
	tests := map[string]struct {
		scope map[string]any
		want  bool
	}{
		`build.coverage / 2.0 == 1.0`:                                         {map[string]any{"build": map[string]any{"coverage": int64(2)}}, true},
		`type(build.coverage) == double`:                                      {map[string]any{"build": map[string]any{"coverage": int64(2)}}, true},
		`build.?coverage.orValue(0.0) + 0.5 == 2.5`:                           {map[string]any{"build": map[string]any{"coverage": int64(2)}}, true},
		`type(build.passed) == int`:                                           {map[string]any{"build": map[string]any{"passed": int64(2)}}, true},
		`type(inputs.m.x) == int`:                                             {map[string]any{"inputs": map[string]any{"m": map[string]any{"x": int64(2)}}}, true},
		`run.startedAt < now`:                                                 {map[string]any{"now": "2026-11-23T11:00:00Z", "run": map[string]any{"startedAt": "2026-11-23T10:00:00.5Z"}}, true},
		`[build].all(b, b.coverage / 2.0 == 1.0)`:                             {map[string]any{"build": map[string]any{"coverage": int64(2), "passed": int64(1)}}, true},
		`semver(inputs.s) < semver("1.10.0")`:                                 {map[string]any{"inputs": map[string]any{"s": "v1.9.3"}}, true},
		`semver(inputs.s) >= semver("1.9.3-rc.1")`:                            {map[string]any{"inputs": map[string]any{"s": "1.9.3"}}, true},
		`semver(inputs.s) == semver("v1.9.3+build")`:                          {map[string]any{"inputs": map[string]any{"s": "1.9.3"}}, true},
		`semver(inputs.s) != semver("1.9.4")`:                                 {map[string]any{"inputs": map[string]any{"s": "1.9.3"}}, true},
		`semver(inputs.s).minor() == 9 && semver(inputs.s).patch() == 3`:      {map[string]any{"inputs": map[string]any{"s": "1.9.3"}}, true},
		`semver(inputs.s).prerelease() == "rc.1"`:                             {map[string]any{"inputs": map[string]any{"s": "1.9.3-rc.1"}}, true},
		`string(semver(inputs.s)) == "1.9.3"`:                                 {map[string]any{"inputs": map[string]any{"s": "v1.9.3"}}, true},
		`!isSemver(inputs.s) && !isSemver("1.2") && isSemver("v1.0.0-alpha")`: {map[string]any{"inputs": map[string]any{"s": "01.9.3"}}, true},
	}
	for source, tt := range tests {
		before := cmp.Diff(tt.scope, map[string]any{})
		got, err := rule(t, source).Bool(t.Context(), tt.scope)
		if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", source, got, err)
		}
		if cmp.Diff(tt.scope, map[string]any{}) != before {
			t.Errorf("%s changed its scope", source)
		}
	}
	for _, source := range []string{`semver(inputs.s) < semver("1.0.0")`, `semver("99999999999999999999.0.0").major() > 0`} {
		if got, err := rule(t, source).Bool(t.Context(), map[string]any{"inputs": map[string]any{"s": "1.2"}}); err == nil {
			t.Errorf("%s: %v, want an error", source, got)
		}
	}
}
