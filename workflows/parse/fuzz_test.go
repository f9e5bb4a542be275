package parse

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/penstock-cd/penstock/workflows"
)

// FuzzFiles reads anything: it must not panic, every problem must lie within
// the file, what is good must load again, and whatever stands in it evaluates
// without a panic.
func FuzzFiles(f *testing.F) {
	seeds, _ := filepath.Glob("testdata/faults/*/input.yaml")
	more, _ := filepath.Glob("testdata/good/*.yaml")
	for _, seed := range append(seeds, more...) {
		content, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
		for _, document := range strings.Split(string(content), "\n---\n") {
			f.Add([]byte(document))
		}
	}
	f.Add([]byte(strings.ReplaceAll(everywhere, "X", "1 == 1")))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, problems := Files([]File{{Name: "f.yaml", Content: content}})
		lines := strings.Split(string(content), "\n")
		for _, p := range problems {
			if p.Code == "internal" {
				t.Fatalf("a fault of ours: %s", p.Message)
			}
			if p.Message == "" || p.Pos.Line < 1 || p.Pos.Line > len(lines) || p.Pos.Column < 1 {
				t.Fatalf("problem %+v in a file of %d lines", p, len(lines))
			}
			if width := len(strings.TrimPrefix(lines[p.Pos.Line-1], "\xef\xbb\xbf")); p.Pos.Column > width+1 {
				t.Fatalf("problem %+v in a line of %d bytes", p, width)
			}
		}
		_ = Text(problems)
		again, more := Load(set.Documents)
		if Failed(more) || again.Digest != set.Catalog().Digest {
			t.Fatalf("what was good does not load again:\n%s", Text(more))
		}
		c := set.Catalog()
		programsIn("", reflect.ValueOf([]any{c.Workflows, c.Environments, c.Policies, c.Channels}), func(path string, p workflows.Program) {
			for _, scope := range []map[string]any{{}, full(), fleet()} {
				sound(t, path, p, scope)
			}
		})
	})
}

// FuzzExpression reads anything as an expression that sees much. What is
// accepted must evaluate without a panic, give the same again, need no more
// than it says that it reads, and explain itself alike.
func FuzzExpression(f *testing.F) {
	for _, tt := range expressions {
		f.Add(tt.source)
	}
	for _, seed := range []string{
		`approvals.exists(a, a.user != run.requestedBy && !(a.user in run.authors))`, `semver(inputs.s) < semver("1.10.0")`,
		`cel.bind(x, inputs.n + 1, x * x) > 3`, `lists.range(3).transformMap(i, v, string(v), i)["1"] == 1`, `[1, 2.5, "x", null, b"y", {"a": [1]}] == []`,
		`outcome in ["failed", "timedOut"] && visits("build") < 3`, `build.?coverage.orValue(0.0) / 0.0 > 1.0`, `now + duration("1h") > run.startedAt`,
		`"%d %s".format([inputs.n, inputs.s]) != ""`, `inputs.l.map(x, x + "a").filter(x, x.startsWith("x")).size() == 1`, `math.greatest([1, inputs.n]) == 3 ? true : inputs.n / 0 == 1`,
		`regex.replace(inputs.s, "x+", "y") == "y" && inputs.s.matches("^x")`, `sets.contains(["x"], inputs.l)`, `base64.encode(bytes(inputs.s)) == "eA=="`,
		`optional.of(inputs.n).optMap(x, x + 1).value() == 4`, `type(inputs.m) == map && int(inputs.s) == 3`, `now.getHours("Europe/Helsinki") > 9`,
		"inputs.n == 9223372036854775807 + 1 || -9223372036854775808 == inputs.n", `{1: "a"}[1] == {"b": uint(1)}`, `inputs.l.exists_one(x, x == "x") && has(inputs.m.a)`,
	} {
		f.Add(seed)
	}
	c := good(f).Catalog()
	f.Fuzz(func(t *testing.T, source string) {
		text := "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n" +
			"  inputs: {s: {type: string}, n: {type: int}, d: {type: duration}, l: {type: list(string)}, m: {type: map(any)}}\n" +
			"  outputs: {o: {type: any, value: EXPR}}\n  initial: build\n  states:\n    build: {task: test, with: {repository: r, commit: c}, next: done, onFail: done}\n    done: {final: succeeded}\n"
		quoted, err := json.Marshal("${{" + source + "}}")
		if err != nil {
			t.Skip()
		}
		set, problems := Files([]File{{Name: "w.yaml", Content: []byte(strings.Replace(text, "EXPR", string(quoted), 1))}})
		for _, p := range problems {
			if p.Code == "internal" {
				t.Fatalf("a fault of ours: %s", p.Message)
			}
		}
		if w := set.Catalog().Workflows["w"]; w != nil && w.Spec.Outputs["o"].Value.Program != nil {
			sound(t, "output", w.Spec.Outputs["o"].Value.Program, ruleScope())
			sound(t, "output", w.Spec.Outputs["o"].Value.Program, map[string]any{})
		}
		if p, _ := Expression(c, c.Workflows["checkout-release"], source); p != nil {
			sound(t, "expression", p, full())
		}
	})
}

// sound evaluates a program in every way.
func sound(t *testing.T, path string, p workflows.Program, scope map[string]any) {
	t.Helper()
	got, err := p.Eval(t.Context(), scope)
	if err != nil && strings.Contains(err.Error(), "panicked") {
		t.Fatalf("%s: %v", path, err)
	}
	same := cmp.Options{cmpopts.EquateNaNs()}
	pruned, prunedErr := p.Eval(t.Context(), prune(scope, p.Refs()))
	if (err == nil) != (prunedErr == nil) || !cmp.Equal(got, pruned, same) {
		t.Fatalf("%s: %v, %v on all; %v, %v on what it says that it reads, %v", path, got, err, pruned, prunedErr, p.Refs())
	}
	e, ok := p.(workflows.Explainer)
	if !ok {
		return
	}
	x := e.Explain(t.Context(), scope, "inputs", "approvals", "build.passed")
	if strings.Contains(x.Error, "panicked") || (err == nil) != (x.Error == "") || len(x.Parts) > maxParts || len(x.Residual) > math.MaxUint16 {
		t.Fatalf("%s: evaluated %v, %v; explained %v, %q with %d parts and the residual %.100s", path, got, err, x.Value, x.Error, len(x.Parts), x.Residual)
	}
	if _, err := json.Marshal(x); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
