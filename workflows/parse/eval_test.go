package parse

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

var started = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// full is a scope with everything that any position may read.
func full() map[string]any {
	return map[string]any{
		"now": started.Add(time.Hour),
		"inputs": map[string]any{"commit": "1f2e3d4c5b6a79880123456789abcdef01234567", "repository": "https://git.acme.example/checkout.git",
			"drain": "10s", "suites": []any{"unit"}},
		"run": map[string]any{"id": "run-1", "workflow": "checkout-release", "title": "release of 1f2e3d4", "requestedBy": "event:git",
			"authors": []any{"ana"}, "labels": map[string]any{"team": "payments"}, "startedAt": started, "done": true, "outcome": "succeeded",
			"visit": int64(1)},
		"build":      map[string]any{"digest": "sha256:aa", "size": int64(5)},
		"verify":     map[string]any{"test": map[string]any{"passed": int64(9), "failed": int64(0)}, "scan": map[string]any{"critical": int64(0), "high": int64(2)}},
		"test":       map[string]any{"passed": int64(9), "failed": int64(0)},
		"scan":       map[string]any{"critical": int64(0), "high": int64(2)},
		"staging":    map[string]any{"url": "http://127.0.0.1:8081"},
		"production": map[string]any{}, "approve": map[string]any{},
		"env":        map[string]any{"name": "production", "labels": map[string]any{}, "config": map[string]any{"replicas": int64(2), "region": "eu-north-1"}},
		"outcome":    "inconclusive",
		"state":      "approve",
		"error":      map[string]any{"code": "clone_failed", "message": "no route", "retryable": true},
		"attempt":    int64(2),
		"visits__":   map[string]int64{"production": 1},
		"approvals":  []any{map[string]any{"user": "marta", "roles": []any{"release-manager"}, "comment": "", "at": started, "via": "cli"}},
		"rejections": []any{},
		"artifact":   map[string]any{"digest": "sha256:aa"},
		"why":        map[string]any{"short": "two approvals are missing"},
		"event": map[string]any{"id": "e1", "source": "/git", "type": "dev.cdevents.change.merged.0.3.0",
			"data": map[string]any{"subject": map[string]any{"content": map[string]any{"repository": map[string]any{"id": "acme/checkout"}}},
				"customData": map[string]any{"sha": "1f2e3d4c5b6a79880123456789abcdef01234567"}}},
	}
}

func TestEveryPositionOfAGoodFileEvaluates(t *testing.T) {
	c := good(t).Catalog()
	w := c.Workflows["checkout-release"]
	states := w.Spec.States
	prod := c.Environments["production"]
	conditions := map[string]struct {
		e    *workflows.Expr
		want bool
	}{
		"trigger":     {w.Spec.Triggers[0].When, true},
		"retry":       {states["build"].Retry.When, true},
		"gate":        {states["verify"].Gate[0].Require, true},
		"gate folded": {states["verify"].Gate[1].Require, true},
		"gate warn":   {states["verify"].Gate[1].Warn, true},
		"rule":        {states["approve"].Approval.Rule, true},
		"transition":  {states["production"].Transitions[0].When, false},
		"visits":      {states["production"].Transitions[1].When, true},
		"notify":      {w.Spec.Notify[0].When, true},
		"notify done": {w.Spec.Notify[1].When, true},
		"require":     {prod.Spec.Require[0].Expression, true},
		"artifact":    {prod.Spec.Require[1].Expression, true},
	}
	for name, tt := range conditions {
		got, err := tt.e.Bool(t.Context(), full())
		if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tt.want)
		}
	}
	datas := map[string]struct {
		d    *workflows.Data
		want any
	}{
		"title":         {w.Spec.Title, "release of 1f2e3d4"},
		"trigger input": {w.Spec.Triggers[0].Inputs["commit"], "1f2e3d4c5b6a79880123456789abcdef01234567"},
		"optional path": {w.Spec.Triggers[0].Inputs["repository"], "https://git.acme.example/checkout.git"},
		"list":          {states["build"].With["command"], []any{"go", "build", "-ldflags", "-X main.commit=1f2e3d4c5b6a79880123456789abcdef01234567", "./..."}},
		"branch":        {states["verify"].Parallel["scan"].With["artifact"], "sha256:aa"},
		"gate message":  {states["verify"].Gate[0].Message, "0 of 9 tests failed"},
		"message":       {states["approve"].Approval.Message, "staging runs at http://127.0.0.1:8081"},
		"artifact":      {states["production"].Deploy.Artifact, "sha256:aa"},
		"typed":         {states["production"].Deploy.With["instances"], int64(2)},
		"map":           {states["production"].Deploy.With["env"], map[string]any{"COMMIT": "1f2e3d4c5b6a79880123456789abcdef01234567", "REGION": "eu-north-1"}},
		"constant":      {c.Workflows["checkout-release"].Spec.Finally[0].With["run"], []any{"./tidy-up", "run-1"}},
		"rule message":  {prod.Spec.Require[0].Message, "someone other than event:git must approve"},
		"template":      {c.Channels["releases"].Spec.Templates["approval-request"], "release of 1f2e3d4 waits: two approvals are missing"},
	}
	for name, tt := range datas {
		got, err := tt.d.Eval(t.Context(), full())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", name, diff)
		}
	}
}

// rule compiles an expression as the condition of a transition that sees much.
func rule(t testing.TB, source string) *workflows.Expr {
	t.Helper()
	text := "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n" +
		"  inputs: {s: {type: string}, n: {type: int}, d: {type: duration}, l: {type: list(string)}, m: {type: map(any)}}\n" +
		"  initial: build\n  states:\n" +
		"    build: {task: test, with: {repository: r, commit: c}, next: after, onFail: stopped}\n" +
		"    after: {task: test, with: {repository: r, commit: c}, transitions: [{when: WHEN, to: done}, {to: done}]}\n" +
		"    done: {final: succeeded}\n    stopped: {final: failed}\n" +
		"  notify:\n    - {channel: c, when: 'run.done'}\n" +
		"---\napiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c}\nspec: {}\n"
	quoted, _ := json.Marshal(source)
	text = strings.Replace(text, "WHEN", string(quoted), 1)
	set, problems := Files([]File{{Name: "w.yaml", Content: []byte(text)}})
	if len(problems) > 0 {
		t.Fatalf("%s:\n%s", source, Text(problems))
	}
	return set.Catalog().Workflows["w"].Spec.States["after"].Transitions[0].When
}

var expressions = []struct {
	source string
	refs   [][]string
}{
	{`build.passed > 3`, [][]string{{"build", "passed"}}},
	{`build.?coverage.orValue(0.5) > 0.4`, [][]string{{"build", "coverage"}}},
	{`has(build.coverage) || build.passed == 4`, [][]string{{"build", "coverage"}, {"build", "passed"}}},
	{`inputs.m["a"]["b"] == 1`, [][]string{{"inputs", "m", "a", "b"}}},
	{`inputs.m[inputs.s] == 1`, [][]string{{"inputs", "m"}, {"inputs", "s"}}},
	{`inputs.m.a.?b.orValue(0) == 1`, [][]string{{"inputs", "m", "a", "b"}}},
	{`inputs.m.?zz.?b.hasValue()`, [][]string{{"inputs", "m", "zz", "b"}}},
	{`inputs.m[?"zz"].hasValue()`, [][]string{{"inputs", "m", "zz"}}},
	{`size(inputs.m) == 2 && inputs.m.a.b == 1`, [][]string{{"inputs", "m"}}},
	{`inputs.l.exists(s, s == inputs.s)`, [][]string{{"inputs", "l"}, {"inputs", "s"}}},
	{`inputs.l.exists(inputs, inputs == "x")`, [][]string{{"inputs", "l"}}},
	{`inputs.l.all(i, v, i >= 0 && v != inputs.s)`, [][]string{{"inputs", "l"}, {"inputs", "s"}}},
	{`cel.bind(x, inputs.m.a, x.b == 1)`, [][]string{{"inputs", "m", "a"}}},
	{`inputs.l[0] == "x"`, [][]string{{"inputs", "l"}}},
	{`visits("build") < 3 && visits("done") == 0`, [][]string{{"visits__", "build"}, {"visits__", "done"}}},
	{`error.retryable ? outcome == "failed" : run.labels.team == "x"`, [][]string{{"error", "retryable"}, {"outcome"}, {"run", "labels", "team"}}},
	{`type(inputs.n) == int`, [][]string{{"inputs", "n"}}},
	{`now - run.startedAt > duration("59m")`, [][]string{{"now"}, {"run", "startedAt"}}},
	{`run == run`, [][]string{{"run"}}},
	{`{"k": inputs.n}.k == 3 && [inputs.s][0] == "x"`, [][]string{{"inputs", "n"}, {"inputs", "s"}}},
	{`inputs.m.a.b.c == 1`, [][]string{{"inputs", "m", "a", "b", "c"}}},
	{`inputs.m.nope == 1`, [][]string{{"inputs", "m", "nope"}}},
}

func ruleScope() map[string]any {
	s := full()
	s["inputs"] = map[string]any{"s": "x", "n": int64(3), "d": "1d", "l": []any{"x", "y"},
		"m": map[string]any{"a": map[string]any{"b": int64(1), "other": "noise"}, "x": int64(1)}}
	s["build"] = map[string]any{"passed": int64(4), "failed": int64(1)}
	s["outcome"] = "failed"
	return s
}

// prune gives the part of a scope that lies on the paths that an expression
// reads (Program.Refs). What is not there stays away; a value on the way that
// is no map is kept whole.
func prune(scope map[string]any, refs [][]string) map[string]any {
	rest := map[string][][]string{} // name → where its paths go on
	whole := map[string]bool{}      // names at which some path ends
	for _, path := range refs {
		if len(path) == 0 {
			continue
		}
		rest[path[0]] = append(rest[path[0]], path[1:])
		whole[path[0]] = whole[path[0]] || len(path) == 1
	}
	out := map[string]any{}
	for name, paths := range rest {
		v, ok := scope[name]
		if m, isMap := v.(map[string]any); isMap && !whole[name] {
			out[name] = prune(m, paths)
		} else if ok {
			out[name] = v
		}
	}
	return out
}

func TestRefsAreEnough(t *testing.T) {
	for _, tt := range expressions {
		e := rule(t, tt.source)
		if diff := cmp.Diff(tt.refs, e.Program.Refs()); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", tt.source, diff)
		}
		want, wantErr := e.Program.Eval(t.Context(), ruleScope())
		pruned := prune(ruleScope(), e.Program.Refs())
		got, gotErr := e.Program.Eval(t.Context(), pruned)
		if diff := cmp.Diff(want, got); diff != "" || (wantErr == nil) != (gotErr == nil) {
			t.Errorf("%s on a pruned scope: %v, %v; on the whole one: %v, %v", tt.source, got, gotErr, want, wantErr)
		}
		if _, whole := pruned["event"]; whole {
			t.Errorf("%s: the pruned scope holds what is not read: %v", tt.source, pruned)
		}
	}
}

// A record is stored as JSON and evaluated again years later.
func TestAScopeThatWasStoredGivesTheSameValue(t *testing.T) {
	sources := []string{`now - run.startedAt > duration("59m")`, `now > timestamp("2026-01-01T00:00:00Z")`, `run.startedAt.getFullYear() == 2026`, `run == run && now != run.startedAt`}
	for _, source := range sources {
		e := rule(t, source)
		text, err := json.Marshal(prune(ruleScope(), e.Program.Refs()))
		if err != nil {
			t.Fatal(err)
		}
		var stored map[string]any
		if err := json.Unmarshal(text, &stored); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Bool(t.Context(), workflows.Normal(stored).(map[string]any)); err != nil || !got {
			t.Errorf("%s: %v, %v", source, got, err)
		}
	}
	c := good(t).Catalog()
	e := c.Environments["production"].Spec.Require[0].Expression
	e = &workflows.Expr{Source: e.Source, Program: e.Program}
	text, _ := json.Marshal(prune(full(), e.Program.Refs()))
	var stored map[string]any
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Bool(t.Context(), stored); err != nil || !got {
		t.Errorf("a stored approval: %v, %v", got, err)
	}
}

func TestWhatIsNotThereIsAnError(t *testing.T) {
	for _, source := range []string{`build.passed > 3`, `inputs.m.nope == 1`, `error.retryable`, `inputs.n / 0 == 1`, `inputs.l[7] == ""`, `1 / (inputs.n - 3) == 1`} {
		scope := ruleScope()
		delete(scope, "build")
		delete(scope, "error")
		if got, err := rule(t, source).Bool(t.Context(), scope); err == nil || got {
			t.Errorf("%s: %v, %v, want an error", source, got, err)
		}
	}
	scope := ruleScope()
	scope["build"] = map[string]any{}
	if got, err := rule(t, `build.?passed.orValue(7) == 7`).Bool(t.Context(), scope); err != nil || !got {
		t.Errorf("a state that has not run: %v, %v", got, err)
	}
}

// A value of a type that CEL does not know must not stop the program.
func TestAStrangeScopeIsAnErrorAndNoPanic(t *testing.T) {
	for _, v := range []any{struct{ X chan int }{}, make(chan int), func() {}, (*int)(nil), map[any]any{1: 2}} {
		scope := ruleScope()
		scope["build"] = v
		if got, err := rule(t, `build.passed > 3`).Bool(t.Context(), scope); err == nil || got {
			t.Errorf("%T: %v, %v", v, got, err)
		}
	}
}

func TestACancelledContextStopsAnEvaluation(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := rule(t, `lists.range(2000).all(i, i >= 0)`).Bool(ctx, ruleScope()); err == nil {
		t.Error("it went on")
	}
}

func TestDataKeepsTypesAndWritesText(t *testing.T) {
	tests := map[string]any{
		`'${{ inputs.n }}'`:                 int64(3),
		`' ${{ inputs.n }} '`:               " 3 ",
		`'${{ inputs.n }}/${{ inputs.s }}'`: "3/x",
		`'a ${{ inputs.l }}'`:               `a ["x","y"]`,
		`'${{ 1.0 }}'`:                      1.0,
		`'${{ 1.5 }}!'`:                     "1.5!",
		`'${{ now }}'`:                      "2026-11-23T11:00:00Z",
		`'at ${{ now }}'`:                   "at 2026-11-23T11:00:00Z",
		`'${{ {"a": {"b": "}}"}} }}'`:       map[string]any{"a": map[string]any{"b": "}}"}},
		`{a: ['${{ inputs.n }}', 2, {b: 'x${{ inputs.n }}'}]}`: map[string]any{"a": []any{int64(3), int64(2), map[string]any{"b": "x3"}}},
		`[1, 2.5, true, null, text, 2026-01-01]`:               []any{int64(1), 2.5, true, nil, "text", "2026-01-01"},
		`'${{ inputs.?m.?nothing }}'`:                          nil,
		`'[${{ inputs.?m.?nothing }}]'`:                        "[]",
		`'costs $5 {{ x }}'`:                                   "costs $5 {{ x }}",
		`'${{ duration("90s") }}'`:                             "1m30s",
	}
	for source, want := range tests {
		text := "apiVersion: penstock/v1\nkind: TaskKind\nmetadata: {name: k}\nspec: {runs: repeatable, inputs: {v: any}}\n---\n" +
			"apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  inputs: {s: {type: string}, n: {type: int}, l: {type: list(string)}, m: {type: map(any)}}\n" +
			"  initial: a\n  states:\n    a: {task: k, with: {v: " + source + "}, next: b, onFail: b}\n    b: {final: succeeded}\n"
		set, problems := Files([]File{{Name: "w.yaml", Content: []byte(text)}})
		if len(problems) > 0 {
			t.Errorf("%s:\n%s", source, Text(problems))
			continue
		}
		got, err := set.Catalog().Workflows["w"].Spec.States["a"].With["v"].Eval(t.Context(), ruleScope())
		if err != nil {
			t.Errorf("%s: %v", source, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", source, diff)
		}
	}
}
