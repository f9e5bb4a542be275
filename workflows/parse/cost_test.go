package parse

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"github.com/penstock-cd/penstock/workflows"
)

// everywhere has the expression X at every position where one can stand.
const everywhere = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: w, labels: {tried: 'no'}}
spec:
  title: '${{ X }}!'
  inputs: {b: {type: bool}}
  outputs: {b: {type: bool, value: '${{ X }}'}}
  triggers: [{event: a, when: 'X', inputs: {b: '${{ X }}'}}, {schedule: {cron: '0 2 * * *'}, when: 'X', inputs: {b: '${{ X }}'}}]
  concurrency: {key: '${{ X }}!'}
  initial: a
  states:
    a:
      parallel:
        t: {task: test, with: {repository: '${{ X }}!', commit: c}, retry: {attempts: 2, when: 'X'}, undo: {task: command, with: {run: ['${{ X }}!']}}}
      gate: [{name: g, require: 'X', warn: 'X', message: '${{ X }}!'}]
      events: [{event: a, when: 'X', to: b}]
      transitions: [{when: 'X', to: b}, {to: b}]
    b:
      approval: {rule: 'X', reject: 'X', auto: 'X', message: '${{ X }}!', expires: 1h}
      next: c
      onFail: c
    c:
      deploy:
        environment: e
        strategy: canary
        artifact: '${{ X }}!'
        with: {args: ['${{ X }}!'], env: {A: '${{ X }}!'}}
        steps: [{weight: 5}, {analyze: 10m}, {weight: 100}]
        analysis: [{name: m, query: {prometheus: q}, every: 1m, pass: 'X', fail: 'X'}]
      next: f
      onFail: f
    f:
      forEach:
        in: 'X ? ["e"] : []'
        as: member
        do: {deploy: {environment: '${{ member }}', strategy: recreate, artifact: '${{ X }}!'}}
      next: g
      onFail: g
    g: {workflow: {name: child, inputs: {b: '${{ X }}'}}, next: h, onFail: h}
    h: {wait: {until: 'X ? now : now'}, next: i}
    i: {wait: {event: a, when: 'X'}, next: j}
    j: {task: command, with: {run: ['${{ X }}!']}, undo: {task: command, with: {run: ['${{ X }}!']}}, next: z, onFail: z}
    z: {final: succeeded}
  finally: [{task: command, with: {run: ['${{ X }}!']}}]
  notify: [{when: 'X', channel: n}]
  invariants: [{never: 'labels.tried == "yes" && X'}]
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: child}
spec: {inputs: {b: {type: bool}}, initial: z, states: {z: {final: succeeded}}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: e}
spec: {require: [{name: r, expression: 'X', message: '${{ X }}!'}]}
---
apiVersion: penstock/v1
kind: Policy
metadata: {name: p}
spec: {require: [{name: r, expression: 'X', message: '${{ X }}!'}]}
---
apiVersion: penstock/v1
kind: Channel
metadata: {name: n}
spec: {templates: {t: '${{ X }}!'}}
`

// put gives every program of a catalog in which the expression stands
// everywhere. How much it may cost is not looked at when it is checked.
func put(t *testing.T, expression string) map[string]workflows.Program {
	t.Helper()
	ceiling = math.MaxUint64
	defer func() { ceiling = CostLimit }()
	text := strings.ReplaceAll(everywhere, "X", expression)
	set, problems := Files([]File{{Name: "w.yaml", Content: []byte(text)}})
	if Failed(problems) {
		t.Fatal(Text(problems))
	}
	programs := map[string]workflows.Program{}
	c := set.Catalog()
	programsIn("", reflect.ValueOf([]any{c.Workflows, c.Environments, c.Policies, c.Channels}), func(path string, p workflows.Program) { programs[path] = p })
	if want := strings.Count(text, expression); len(programs) != want {
		t.Fatalf("%d programs, the file has %d expressions", len(programs), want)
	}
	return programs
}

// programsIn finds every program that a definition holds, whatever its field is called.
func programsIn(path string, v reflect.Value, found func(string, workflows.Program)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.Kind() == reflect.Interface && !v.IsNil() {
			if p, ok := v.Interface().(workflows.Program); ok {
				found(path, p)
				return
			}
		}
		if !v.IsNil() {
			programsIn(path, v.Elem(), found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				programsIn(path+"."+v.Type().Field(i).Name, v.Field(i), found)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			programsIn(fmt.Sprintf("%s[%d]", path, i), v.Index(i), found)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			programsIn(path+"."+key.String(), v.MapIndex(key), found)
		}
	}
}

// dear costs more than any expression may, and gets there fast: it doubles a
// text until it is 6.5 MB long.
var dear = func() string {
	e := "size(a11) > 0"
	for i := 11; i > 0; i-- {
		e = fmt.Sprintf("cel.bind(a%d, a%d + a%d, %s)", i, i-1, i-1, e)
	}
	return fmt.Sprintf("cel.bind(a0, %q, %s)", strings.Repeat("x", 3200), e)
}()

func TestTheCostLimitFiresForEveryProgram(t *testing.T) {
	for path, p := range put(t, dear) {
		if _, err := p.Eval(t.Context(), map[string]any{}); !limited(err) {
			t.Errorf("%s: %v, want the cost limit", path, err)
		}
		each, isData := p.(*template)
		if !isData {
			explains(t, path, p.(*program))
			continue
		}
		each.root.programs(func(p *program) { explains(t, path, p) })
	}
}

func limited(err error) bool {
	return err != nil && strings.Contains(err.Error(), "cost limit exceeded")
}

// explains evaluates through each path of an explanation: with the values of
// parts kept, and with names left open.
func explains(t *testing.T, path string, p *program) {
	t.Helper()
	if x := p.Explain(t.Context(), map[string]any{}); !strings.Contains(x.Error, "cost limit exceeded") {
		t.Errorf("%s: explained as %v, %q, want the cost limit", path, x.Value, x.Error)
	}
	e, err := p.explain()
	if err != nil {
		t.Fatal(err)
	}
	vars, err := cel.PartialVars(map[string]any{}, cel.AttributePattern("run"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.partial.ContextEval(t.Context(), vars); !limited(err) {
		t.Errorf("%s: partially evaluated: %v, want the cost limit", path, err)
	}
}

func TestACancelledContextStopsEveryProgram(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for path, p := range put(t, `lists.range(2000).all(i, i >= 0)`) {
		if v, err := p.Eval(ctx, map[string]any{}); err == nil {
			t.Errorf("%s went on and gave %v", path, v)
		}
		if x, ok := p.(*program); ok {
			if x := x.Explain(ctx, map[string]any{}, "run"); x.Error == "" {
				t.Errorf("%s: its explanation went on and gave %v", path, x.Value)
			}
		}
	}
}

// withInputs is a workflow with a condition over inputs.
func withInputs(inputs, condition string) []workflows.Problem {
	text := "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  inputs: {" + inputs + "}\n  initial: a\n  states:\n    a:\n      wait: {for: 1m}\n" +
		"      transitions:\n        - when: >-\n            " + condition + "\n          to: b\n        - {to: b}\n    b: {final: succeeded}\n"
	_, problems := Files([]File{{Name: "w.yaml", Content: []byte(text)}})
	return problems
}

func TestWhatMayCostTooMuchIsRefused(t *testing.T) {
	tests := []struct {
		name, inputs, condition string
		refused                 bool
	}{
		{"a loop", "l: {type: list(string)}", `inputs.l.all(x, x != "")`, false},
		{"a loop over long texts", "l: {type: list(string)}, s: {type: string}", `inputs.l.all(x, x != inputs.s)`, false},
		{"a loop in a loop", "l: {type: list(string)}", `inputs.l.all(x, inputs.l.exists(y, y == x))`, true},
		{"a loop in a loop in a loop", "l: {type: list(int)}", `inputs.l.all(x, inputs.l.exists(y, inputs.l.exists(z, x + y + z > 0)))`, true},
		{"a loop of 100 in a loop of 1,000", "l: {type: list(int)}", `inputs.l.all(x, lists.range(100).exists(y, y == x))`, false},
		{"a text that doubles", "s: {type: string}", dear, true},
		{"a large range", "n: {type: int}", `lists.range(1000000).all(i, i != inputs.n)`, true},
		{"10^9", "n: {type: int}", `lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, a + b + c != inputs.n)))`, true},
		{"contains on long texts in a loop", "l: {type: list(string)}, s: {type: string}", `inputs.l.exists(x, inputs.s.contains(x))`, true},
		{"contains on a short text", "l: {type: list(string)}, s: {type: string, pattern: '^[a-z]{1,8}$'}", `inputs.l.exists(x, x.contains(inputs.s))`, false},
		{"a pattern that is not anchored", "l: {type: list(string)}, s: {type: string, pattern: '[a-z]{1,8}'}", `inputs.l.exists(x, x.contains(inputs.s))`, true},
		{"contains on one of few", "l: {type: list(string)}, s: {type: string, enum: [red, green]}", `inputs.l.exists(x, x.contains(inputs.s))`, false},
	}
	for _, tt := range tests {
		problems := withInputs(tt.inputs, tt.condition)
		if tt.refused != (len(problems) == 1 && problems[0].Code == "too-expensive" && problems[0].Pos.Line == 12) || !tt.refused && len(problems) > 0 {
			t.Errorf("%s: refused %v, want %v\n%s", tt.name, len(problems) > 0, tt.refused, Text(problems))
		}
	}
}

func TestMacrosInMacrosAreLimitedInDepth(t *testing.T) {
	bind, all := "a0 > 0", "true"
	for i := range 40 {
		bind = fmt.Sprintf("cel.bind(a%d, inputs.n, %s)", i, bind)
		all = fmt.Sprintf("[1].all(a%d, %s)", i, all)
	}
	for _, condition := range []string{bind, all} {
		if problems := withInputs("n: {type: int}", condition); len(problems) != 1 || problems[0].Code != "too-deep" {
			t.Error(Text(problems))
		}
	}
	chain := "[1]" + strings.Repeat(".map(x, x + 1)", 40) + ".size() > 0"
	if problems := withInputs("n: {type: int}", chain); len(problems) > 0 {
		t.Error(Text(problems))
	}
}

// What people write about approvals must not be refused.
func TestRulesAboutPeopleAreCheapEnough(t *testing.T) {
	for _, rule := range []string{
		`approvals.exists(a, a.user != run.requestedBy && !(a.user in run.authors))`,
		`approvals.filter(a, "dba" in a.roles).size() >= 2 && rejections.size() == 0`,
		`approvals.exists(a, approvals.exists(b, a.user != b.user && "dba" in a.roles && "dba" in b.roles))`,
		`approvals.all(a, a.roles.exists(r, r in ["dba", "boss"])) && approvals.map(a, a.user).all(u, !(u in run.authors))`,
		`attestations.exists(a, a.type == "build" && a.verified && a.digest == artifact.digest)`,
		`approvals.filter(a, !(a.user in run.authors)).map(a, a.user).distinct().size() > 1`,
		`sets.contains(approvals.map(a, a.user), ["marta", "li"]) && approvals.exists(a, a.comment.contains("risk accepted"))`,
		`run.startedAt + duration("1h") < now && artifact.digest.matches("^sha256:[0-9a-f]{64}$")`,
	} {
		_, problems := Files([]File{{Name: "e.yaml", Content: []byte("apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec:\n  require:\n    - name: r\n      expression: >-\n        " + rule + "\n")}})
		if len(problems) > 0 {
			t.Error(Text(problems))
		}
	}
}

// What makes a program gives it its limits, so there is one place that does.
func TestProgramsAreMadeInOnePlace(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for range strings.Count(string(text), "."+"Program(") {
			made = append(made, name)
		}
	}
	if len(made) != 1 || made[0] != "program.go" {
		t.Errorf("programs are made in %v", made)
	}
}

// Expressions that stand in no file, and variants of those that do, have the
// same limit.
func TestTheCostLimitFiresForExpressionsOfNoFile(t *testing.T) {
	ceiling = math.MaxUint64
	defer func() { ceiling = CostLimit }()
	c := good(t).Catalog()
	p, problems := Expression(c, c.Workflows["checkout-release"], dear)
	if p == nil {
		t.Fatal(Text(problems))
	}
	variant, err := p.(*program).Compile(dear)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]workflows.Program{"asked": p, "variant": variant} {
		if _, err := p.Eval(t.Context(), map[string]any{}); !limited(err) {
			t.Errorf("%s: %v, want the cost limit", name, err)
		}
		explains(t, name, p.(*program))
	}
}
