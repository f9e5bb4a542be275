package parse

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workflows"
)

func good(t testing.TB) *Set {
	t.Helper()
	files, err := Dir("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	set, problems := Files(files)
	if len(problems) > 0 {
		t.Fatalf("problems in a good file:\n%s", Text(problems))
	}
	return set
}

func TestAGoodFileIsClean(t *testing.T) {
	set := good(t)
	if got := len(set.Documents); got != 14 {
		t.Errorf("%d documents, want 14", got)
	}
	c := set.Catalog()
	if w := c.Workflows["checkout-release"]; w == nil || w.Spec.States["verify"].Index != 1 || w.Spec.States["verify"].Name != "verify" {
		t.Errorf("the states do not know their names and places: %+v", w)
	}
	if len(c.Roles) != 2 || len(c.Scenarios) != 1 || c.Environments["production"] == nil || c.Channels["releases"] == nil {
		t.Errorf("catalog %+v", c)
	}
}

const (
	envDoc      = "apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: prod}\nspec: {config: {a: 1}}\n"
	workflowDoc = "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  initial: a\n  states:\n" +
		"    a: {deploy: {environment: prod, strategy: recreate, artifact: x}, next: b, onFail: b}\n    b: {final: succeeded}\n"
)

func read1(t *testing.T, content string) (*Set, []workflows.Problem) {
	t.Helper()
	return Files([]File{{Name: "f.yaml", Content: []byte(content), Commit: "c0ffee", Author: "ana"}})
}

func TestADocumentIsTheSameWhereverItStands(t *testing.T) {
	alone, _ := read1(t, envDoc)
	for name, content := range map[string]string{
		"second":          workflowDoc + "---\n" + envDoc,
		"marker before":   "---\n" + envDoc,
		"marker, comment": "# about\n--- # the environment\n\n" + envDoc + "\n\n...\n",
		"carriage":        strings.ReplaceAll(envDoc, "\n", "\r\n"),
		"byte order mark": "\xef\xbb\xbf" + envDoc,
		"no last newline": strings.TrimSpace(envDoc),
		"directive":       "%YAML 1.2\n---\n" + envDoc,
	} {
		set, problems := read1(t, content)
		if len(problems) > 0 {
			t.Errorf("%s:\n%s", name, Text(problems))
			continue
		}
		doc := set.Documents[len(set.Documents)-1]
		if doc.Digest != alone.Documents[0].Digest || doc.Kind != "Environment" || doc.Name != "prod" {
			t.Errorf("%s: %s %s %s, source %q", name, doc.Kind, doc.Name, doc.Digest, doc.Source)
		}
		line := 1 + strings.Count(content[:strings.Index(content, "kind: Environment")], "\n") - 1
		if doc.Origin.Pos.Line != line || doc.Origin.Commit != "c0ffee" || doc.Origin.Author != "ana" || doc.Origin.Digest != doc.Digest {
			t.Errorf("%s: origin %+v, want line %d", name, doc.Origin, line)
		}
	}
}

func TestABadDocumentHidesAndStopsNoGoodOne(t *testing.T) {
	for name, bad := range map[string]string{
		"syntax":      "apiVersion: [\n",
		"open quote":  "a: 'x\n",
		"literal":     "a: |\n  x\n",
		"not YAML":    "\x00\xff\n",
		"unknown key": "apiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c}\nspec: {uri: x}\n",
	} {
		set, problems := read1(t, envDoc+"---\n"+bad+"---\n"+workflowDoc)
		if len(problems) == 0 {
			t.Errorf("%s: no problem", name)
		}
		if len(set.Documents) != 2 || set.Catalog().Workflows["w"] == nil || set.Catalog().Environments["prod"] == nil {
			t.Errorf("%s: %d documents are left\n%s", name, len(set.Documents), Text(problems))
		}
	}
}

func TestWhatNeedsARefusedDocumentIsRefused(t *testing.T) {
	set, problems := read1(t, strings.Replace(envDoc, "config", "konfig", 1)+"---\n"+workflowDoc)
	if len(set.Documents) != 0 || len(set.Catalog().Workflows) != 0 {
		t.Errorf("%d documents are left\n%s", len(set.Documents), Text(problems))
	}
	if len(problems) != 2 || problems[1].Code != "needs-refused" {
		t.Errorf("problems:\n%s", Text(problems))
	}
}

func TestStoredDocumentsGiveTheSameDefinitions(t *testing.T) {
	set := good(t)
	catalog, problems := Load(set.Documents)
	if len(problems) > 0 {
		t.Fatal(Text(problems))
	}
	if catalog.Digest != set.Catalog().Digest || catalog.Digest == "" {
		t.Errorf("digest %s, want %s", catalog.Digest, set.Catalog().Digest)
	}
	want, err := json.Marshal(set.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(catalog)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	e := catalog.Workflows["checkout-release"].Spec.States["verify"].Gate[1].Require
	if ok, err := e.Bool(t.Context(), full()); err != nil || !ok {
		t.Errorf("a loaded expression: %v, %v", ok, err)
	}
}

func TestPositionsOfStoredDocumentsAreThoseOfTheirFiles(t *testing.T) {
	text := "---\n" + envDoc + "---\n" + workflowDoc
	set, _ := read1(t, text)
	_, problems := Load(set.Documents[1:]) // without the environment
	if len(problems) != 1 || problems[0].Pos.Line != 13 || problems[0].Pos.File != "f.yaml" {
		t.Errorf("problems:\n%s", Text(problems))
	}
	if strings.Split(text, "\n")[12] != strings.Split(problems[0].Excerpt, "\n")[0] {
		t.Errorf("excerpt %q", problems[0].Excerpt)
	}
}

func TestFilesAreLaidOverWhatStands(t *testing.T) {
	standing, _ := read1(t, envDoc)
	set, problems := Over(standing.Documents, []File{{Name: "w.yaml", Content: []byte(workflowDoc)}})
	if len(problems) > 0 || len(set.Documents) != 2 {
		t.Fatalf("%d documents\n%s", len(set.Documents), Text(problems))
	}
	changed := strings.Replace(envDoc, "a: 1", "a: 2", 1)
	next, problems := Over(set.Documents, []File{{Name: "e.yaml", Content: []byte(changed)}})
	if len(problems) > 0 || len(next.Documents) != 2 {
		t.Fatalf("%d documents\n%s", len(next.Documents), Text(problems))
	}
	if got := next.Catalog().Environments["prod"].Spec.Config["a"]; got != int64(2) {
		t.Errorf("config a is %v", got)
	}
	if next.Catalog().Digest == set.Catalog().Digest {
		t.Error("the digest is still that of the older set")
	}
	// A change that breaks what stands is told where that stands.
	_, problems = Over(next.Documents, []File{{Name: "k.yaml", Content: []byte(strings.Replace(envDoc, "spec:", "spec: {require: [{name: x, expression: '1'}]}\n#", 1))}})
	if !Failed(problems) || problems[0].Pos.File != "w.yaml" {
		t.Errorf("problems:\n%s", Text(problems))
	}
}

func TestLargeFilesAreRefusedAndOthersRead(t *testing.T) {
	set, problems := Files([]File{{Name: "big.yaml", Content: make([]byte, MaxFile+1)}, {Name: "e.yaml", Content: []byte(envDoc)}})
	if len(problems) != 1 || problems[0].Code != "too-large" || len(set.Documents) != 1 {
		t.Errorf("%d documents\n%s", len(set.Documents), Text(problems))
	}
}

func TestAnAliasBombIsRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: prod}\nspec:\n  config:\n    a0: &a0 [x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "    a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	set, problems := read1(t, b.String())
	if !Failed(problems) || len(set.Documents) != 0 || len(problems) > 3 {
		t.Errorf("%d documents\n%s", len(set.Documents), Text(problems))
	}
}

func TestDirFindsYAMLBelowAndLeavesOutDotFolders(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.yaml", "sub/b.yml", ".git/c.yaml", "d.txt", "sub/.e/f.yaml"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	tests := map[string][]string{".": {"a.yaml", "sub/b.yml"}, "sub": {"sub/b.yml"}, "./sub/b.yml": {"./sub/b.yml"}, "d.txt": {"d.txt"}}
	for path, want := range tests {
		files, err := Dir(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			got = append(got, f.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", path, diff)
		}
	}
	if _, err := Dir("missing"); err == nil {
		t.Error("a folder that is not there gives no error")
	}
}

func TestLookingAsksNotWhetherDocumentsFitTogether(t *testing.T) {
	text := `apiVersion: penstock/v1
kind: Workflow
metadata: {name: one}
spec: {initial: a, states: {a: {deploy: {environment: elsewhere}, transitions: [{when: this is no expression, to: b}]}}}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: two}
spec: {initial: a, stats: {}}
`
	set, problems := Look([]File{{Name: "a.yaml", Content: []byte(text), Commit: "c", Author: "ana"}})
	w := set.Catalog().Workflows["one"]
	if w == nil || w.Spec.States["a"].Transitions[0].When.Program != nil || w.Origin.Author != "ana" {
		t.Errorf("one: %+v", w)
	}
	if set.Catalog().Workflows["two"] != nil || len(problems) != 1 || problems[0].Code != "unknown-key" || problems[0].Pos.Line != 9 {
		t.Errorf("two: %+v", problems)
	}
	again, problems := LookAt(set.Documents)
	if got := again.Catalog().Workflows["one"]; got == nil || !cmp.Equal(got.Origin, w.Origin) || len(problems) != 0 {
		t.Errorf("stored: %+v %v", got, problems)
	}
}
