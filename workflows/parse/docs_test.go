package parse

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

const manual = "../../docs/language.md"

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml ?([^\n]*)\n(.*?)^```$")

// examples gives the YAML blocks of a page that are marked with word.
func examples(t *testing.T, path, word string) (found []string) {
	t.Helper()
	for _, m := range yamlBlock.FindAllStringSubmatch(readPage(t, path), -1) {
		if m[1] == word {
			found = append(found, m[2])
		}
	}
	return found
}

// beside are the documents that the workflow of the README names and does not show.
const beside = `
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: production}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec: {roles: {release-manager: {users: [marta, li, jonas]}}}
`

func TestEveryDefinitionInTheDocumentationIsSound(t *testing.T) {
	for path, more := range map[string]string{manual: "", "../../docs/events.md": "", "../../docs/workers.md": "", "../../README.md": beside} {
		found := examples(t, path, "")
		if len(found) == 0 {
			t.Errorf("%s has no example", path)
		}
		for i, text := range found {
			_, problems := Files([]File{{Name: fmt.Sprintf("%s, example %d", path, i+1), Content: []byte(text + more)}})
			if len(problems) > 0 {
				t.Errorf("%s:\n%s", path, Text(problems))
			}
		}
	}
}

// frame holds the states of an example that is no whole file; it stands beside
// the whole file of the page.
const frame = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: frame}
spec:
  inputs: {plan: {type: string}}
  initial: build
  states:
    build: {task: build, with: {repository: r, commit: c}, next: FIRST, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
`

func TestEveryStateInThePageIsSound(t *testing.T) {
	whole := examples(t, manual, "")[0]
	found := examples(t, manual, "state")
	if len(found) == 0 {
		t.Fatal("there are none")
	}
	for i, text := range found {
		first, _, _ := strings.Cut(text, ":")
		content := strings.Replace(frame, "FIRST", first, 1) + "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
		_, problems := Files([]File{{Name: "page", Content: []byte(whole)}, {Name: fmt.Sprintf("state %d", i+1), Content: []byte(content)}})
		if len(problems) > 0 {
			t.Errorf("%s", Text(problems))
		}
	}
}

func TestEveryKeyOfTheLanguageIsInThePage(t *testing.T) {
	text := readPage(t, manual)
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, typ.Kind()) {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ == exprType || typ == dataType {
			return
		}
		seen[typ] = true
		for f := range typ.Fields() {
			key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if key == "-" {
				continue
			}
			if option != "inline" && !regexp.MustCompile("`[^`\n]*\\b"+key+"\\b[^`\n]*`").MatchString(text) {
				t.Errorf("docs/language.md does not explain the key %s of %s", key, typ.Name())
			}
			visit(f.Type)
		}
	}
	for _, kind := range kinds {
		visit(reflect.TypeOf(kind()))
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(kinds)), workflows.Actions()) {
		if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, "\n## "+name+"\n") {
			t.Errorf("docs/language.md does not name %s", name)
		}
	}
}

func TestThePageListsTheShippedKindsAsTheyAre(t *testing.T) {
	text := readPage(t, manual)
	for name, kind := range workflows.ShippedKinds() {
		row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| (\\w+) \\| (.*) \\| (.*) \\|$").FindStringSubmatch(text)
		if row == nil {
			t.Errorf("there is no row for %s", name)
			continue
		}
		if row[1] != kind.Spec.Runs {
			t.Errorf("%s runs %s, the page says %s", name, kind.Spec.Runs, row[1])
		}
		for i, declared := range []map[string]string{kind.Spec.Inputs, kind.Spec.Outputs} {
			shown := map[string]string{}
			for _, m := range regexp.MustCompile("`(\\w+): ([^`]+)`").FindAllStringSubmatch(row[2+i], -1) {
				shown[m[1]] = m[2]
			}
			if diff := cmp.Diff(declared, shown); diff != "" {
				t.Errorf("%s: code -, page +:\n%s", name, diff)
			}
		}
	}
}

// positions are documents with an expression X, or several, at the positions
// of the table in the page. build stands for states, test for branches.
var positions = map[string][]string{
	"title, concurrency: key": {in("  title: 'x ${{ X }}'", ""), in("  concurrency: {key: 'x ${{ X }}'}", "")},
	"triggers: when, inputs":  {in("  triggers: [{event: a, when: 'X'}]", ""), in("  inputs: {any: {type: any}}\n  triggers: [{event: a, inputs: {any: '${{ X }}'}}]", "")},
	"with, undo: with": {in("", "    s: {task: command, environment: prod, with: {run: ['${{ X }}']}, next: done, onFail: done}"),
		in("", "    s: {task: command, environment: prod, with: {run: [a]}, undo: {task: command, with: {run: ['${{ X }}']}}, next: done, onFail: done}")},
	"deploy: artifact, with": {in("", "    s: {deploy: {environment: prod, strategy: recreate, artifact: 'x${{ X }}'}, next: done, onFail: done}"), in("", "    s: {deploy: {environment: prod, strategy: recreate, artifact: x, with: {env: {A: 'x${{ X }}'}}}, next: done, onFail: done}")},
	"workflow: inputs; forEach: in; wait: until": {in("", "    s: {workflow: {name: child, inputs: {any: '${{ X }}'}}, next: done, onFail: done}"),
		in("", "    s: {forEach: {in: 'X ? [\"a\"] : [\"b\"]', as: m, do: {task: command, with: {run: [a]}}}, next: done, onFail: done}"),
		in("", "    s: {wait: {until: 'timestamp(string(X))'}, next: done}")},
	"wait: when; events: when":                 {in("", "    s: {wait: {event: a, when: 'X'}, next: done}"), in("", "    s: {wait: {for: 1h}, events: [{event: a, when: 'X', to: done}], next: done}")},
	"gate: require, warn, message":             {gated("require: 'X'"), gated("warn: 'X'"), gated("require: 'true', message: 'x ${{ X }}'")},
	"transitions: when":                        {in("", "    s: {wait: {for: 1s}, transitions: [{when: 'X', to: done}, {to: done}]}")},
	"retry: when":                              {in("", "    s: {task: command, with: {run: [a]}, retry: {attempts: 2, when: 'X'}, next: done, onFail: done}")},
	"analysis: pass, fail":                     {analyzed("pass: 'X'"), analyzed("pass: 'true', fail: 'X'")},
	"approval: rule, reject, auto":             {asked("rule: 'X'"), asked("rule: 'true', reject: 'X'"), asked("rule: 'true', auto: 'X'")},
	"approval: message; outputs: value":        {asked("rule: 'true', message: 'x ${{ X }}'"), in("  outputs: {any: {type: any, value: '${{ X }}'}}", "")},
	"environment, policy: expression, message": {required("Environment", "expression: 'X'"), required("Environment", "expression: 'true', message: 'x ${{ X }}'"), required("Policy", "expression: 'X'"), required("Policy", "expression: 'true', message: 'x ${{ X }}'")},
	"notify: when":                             {in("  notify: [{when: 'X', channel: c}]", "")},
	"invariants: never":                        {in("  invariants: [{never: 'X'}]", "")},
	"channel: templates":                       {"apiVersion: penstock/v1\nkind: Channel\nmetadata: {name: d}\nspec: {templates: {a: 'x ${{ X }}'}}\n"},
}

func required(kind, line string) string {
	return "apiVersion: penstock/v1\nkind: " + kind + "\nmetadata: {name: e}\nspec: {require: [{name: a, " + line + "}]}\n"
}

func asked(line string) string {
	return in("", "    s: {approval: {expires: 1h, "+line+"}, next: done, onFail: done}")
}

func analyzed(line string) string {
	return in("", "    s: {deploy: {environment: prod, strategy: canary, artifact: x, steps: [{weight: 5}, {analyze: 1h}, {weight: 100}], analysis: [{name: a, query: {prometheus: q}, every: 1m, "+line+"}]}, next: done, onFail: done}")
}

func in(spec, state string) string {
	initial := "s"
	if state == "" {
		initial, state = "done", ""
	}
	return "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n" + spec + "\n  initial: build\n  states:\n" +
		"    build: {task: build, with: {repository: r, commit: c}, next: " + initial + ", onFail: stopped}\n" + state + "\n    done: {final: succeeded}\n    stopped: {final: failed}\n" +
		"---\napiVersion: penstock/v1\nkind: Environment\nmetadata: {name: prod}\n---\napiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c}\n" +
		"---\napiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: child}\nspec: {inputs: {any: {type: any}}, initial: done, states: {done: {final: succeeded}}}\n"
}

func gated(line string) string {
	return in("", "    s:\n      parallel: {test: {task: test, with: {repository: r, commit: c}}}\n      gate: [{name: a, "+line+"}]\n      next: done\n      onFail: done")
}

// everyName are all names that some position knows.
var everyName = []string{"inputs", "run", "event", "env", "outcome", "error", "attempt", "approvals", "rejections", "artifact", "state", "why", "visits()", "build", "test", "now",
	"attestations", "value", "samples", "baseline", "elapsed", "labels", "entered()", "approved()", "outcome()"}

func TestEachPositionKnowsTheNamesOfTheTableAndNoOthers(t *testing.T) {
	_, table, _ := strings.Cut(readPage(t, manual), "| position | names |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")[1:]
	if len(rows) != len(positions) {
		t.Errorf("the table has %d rows, %d are known here", len(rows), len(positions))
	}
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		documents := positions[cells[0]]
		if documents == nil {
			t.Errorf("the position %q is not known here", cells[0])
			continue
		}
		names, _, _ := strings.Cut(cells[1], ";")
		want := []string{"now"}
		if cells[0] == "invariants: never" {
			want = nil
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(names, -1) {
			want = append(want, m[1])
		}
		if strings.Contains(names, "states") {
			want = append(want, "build")
		}
		if strings.Contains(names, "branches") {
			want = append(want, "test")
		}
		for _, text := range documents {
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), known(t, text)); diff != "" {
				t.Errorf("%s: page -, compiler +:\n%s\n%s", cells[0], diff, text)
			}
		}
	}
}

// known tries every name at the place of X and gives those that are known.
func known(t *testing.T, text string) (names []string) {
	t.Helper()
	for _, name := range everyName {
		expression := "size([" + name + "]) > 0"
		switch name {
		case "visits()":
			expression = `visits("build") > 0`
		case "entered()":
			expression = `entered("build")`
		case "approved()":
			expression = `approved("build")`
		case "outcome()":
			expression = `outcome() == ""`
		}
		_, problems := Files([]File{{Name: "w.yaml", Content: []byte(strings.ReplaceAll(text, "X", expression))}})
		refused := false
		for _, p := range problems {
			switch {
			case p.Code == "unknown-name":
				refused = true
			case !p.Warning && p.Code != "wrong-type" && p.Code != "unknown-word" && p.Code != "invariant-broken":
				t.Fatalf("%s: %s\n%s", name, p, text)
			}
		}
		if !refused {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
