package parse

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// root is the top of the repository.
const root = "../.."

func schemaOf(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "cmd/penstock/internal/schema/penstock.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("penstock.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("penstock.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// misfits gives the fault that the schema finds in each document of a file.
func misfits(t *testing.T, s *jsonschema.Schema, content string) (faults []error) {
	t.Helper()
	for _, text := range regexp.MustCompile(`(?m)^---.*$`).Split(content, -1) {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if v != nil {
			faults = append(faults, s.Validate(asJSON(v)))
		}
	}
	return faults
}

// asJSON gives a value as JSON has it.
func asJSON(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			x[k] = asJSON(x[k])
		}
	case map[any]any:
		m := map[string]any{}
		for k := range x {
			m[fmt.Sprint(k)] = asJSON(x[k])
		}
		return m
	case []any:
		for i := range x {
			x[i] = asJSON(x[i])
		}
	case nil, string, bool, int, int64, float64:
	default:
		return fmt.Sprint(x) // a date
	}
	return v
}

// goodFiles gives every good definition there is: the tests' own, those of the
// library and of init, and the examples of the pages.
func goodFiles(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"workflows/parse/testdata/good/*.yaml", "workflows/library/*.yaml", "workflows/library/*/*.yaml", "engine/scenario/testdata/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(content)
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/language.md"))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllSubmatch(page, -1) {
		out[fmt.Sprintf("docs/language.md, example %d", i+1)] = string(m[1])
	}
	return out
}

func TestEveryGoodDefinitionFitsTheSchema(t *testing.T) {
	s, documents := schemaOf(t), 0
	for name, content := range goodFiles(t) {
		for i, fault := range misfits(t, s, content) {
			if documents++; fault != nil {
				t.Errorf("%s, document %d: %v", name, i+1, fault)
			}
		}
	}
	if documents < 20 {
		t.Errorf("only %d documents were tried", documents)
	}
}

func TestTheSchemaRefusesWhatNoEditorShouldAccept(t *testing.T) {
	workflow := func(spec string) string {
		return "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec: {initial: a, states: {a: {final: succeeded}}" + spec + "}\n"
	}
	state := func(body string) string {
		return strings.Replace(workflow(""), "a: {final: succeeded}", "a: {"+body+"}", 1)
	}
	s := schemaOf(t)
	if faults := misfits(t, s, workflow("")); faults[0] != nil {
		t.Fatal(faults[0])
	}
	for name, content := range map[string]string{
		"an unknown version":     strings.Replace(workflow(""), "penstock/v1", "penstock/v2", 1),
		"an unknown kind":        strings.Replace(workflow(""), "kind: Workflow", "kind: Workflows", 1),
		"no name":                strings.Replace(workflow(""), "{name: w}", "{}", 1),
		"no states":              strings.Replace(workflow(""), "states: {a: {final: succeeded}}", "title: x", 1),
		"an unknown key":         workflow(", inital: a"),
		"an unknown key below":   state("taks: build"),
		"a number for a text":    state("task: 3"),
		"a text for a list":      state("compensate: a"),
		"an unknown outcome":     state("final: done"),
		"an unknown strategy":    state("deploy: {environment: e, strategy: bluegreen}"),
		"an unknown join":        state("parallel: {a: {task: b}}, join: some"),
		"an unknown policy":      workflow(", concurrency: {key: k, policy: wait}"),
		"no key":                 workflow(", concurrency: {policy: queue}"),
		"a wave of nobody":       state("forEach: {in: x, as: y, do: {task: z}, waves: [1, 0]}"),
		"a wave of others":       state("forEach: {in: x, as: y, do: {task: z}, waves: [1, others]}"),
		"no member":              state("forEach: {in: x, do: {task: z}}"),
		"too many attempts":      state("task: a, retry: {attempts: 1000}"),
		"an unknown type":        workflow(", inputs: {a: {type: number}}"),
		"no duration":            state("task: a, timeout: soon"),
		"a list for CEL":         state("wait: {event: a, when: [b]}"),
		"a step above 100":       state("deploy: {environment: e, strategy: canary, steps: [{weight: 101}]}"),
		"an unknown day":         "apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec: {windows: {allow: [{days: [monday]}]}}\n",
		"a policy without rules": "apiVersion: penstock/v1\nkind: Policy\nmetadata: {name: p}\nspec: {require: []}\n",
		"a run that is neither":  "apiVersion: penstock/v1\nkind: TaskKind\nmetadata: {name: k}\nspec: {runs: twice}\n",
	} {
		faults := misfits(t, s, content)
		if faults[len(faults)-1] == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
