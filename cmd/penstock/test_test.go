package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/rogpeppe/go-internal/txtar"
)

// scenarioFiles are the files of the test script, and so many scenarios beside
// them, ten to a file.
func scenarioFiles(t testing.TB, n int) []parse.File {
	t.Helper()
	ar, err := txtar.ParseFile(filepath.Join("testdata", "script", "test.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var files []parse.File
	var one string
	for _, f := range ar.Files {
		switch {
		case strings.HasPrefix(f.Name, "flow/"):
			files = append(files, parse.File{Name: f.Name, Content: f.Data})
		case f.Name == "good_test.yaml":
			one, _, _ = strings.Cut(string(f.Data), "---\n")
		}
	}
	for i := 0; i < n; i += 10 {
		var docs []string
		for k := range 10 {
			docs = append(docs, strings.Replace(one, "two approve", fmt.Sprint("two approve ", i+k), 1))
		}
		files = append(files, parse.File{Name: fmt.Sprintf("scenario%d.yaml", i), Content: []byte(strings.Join(docs, "---\n"))})
	}
	return files
}

func TestAThousandScenariosTakeNoTime(t *testing.T) {
	set, problems := parse.Files(scenarioFiles(t, 1000))
	if parse.Failed(problems) {
		t.Fatal(parse.Text(problems))
	}
	got := playAll(set.Catalog(), regexp.MustCompile(""))
	if len(got.results) != 1000 || got.failed > 0 {
		t.Fatalf("%d of %d failed", got.failed, len(got.results))
	}
	for i, r := range got.results {
		if want := fmt.Sprint("two approve ", i); r.Scenario.Metadata.Name != want {
			t.Fatalf("result %d is that of %q", i, r.Scenario.Metadata.Name)
		}
	}
}

// BenchmarkTest is penstock test with 1,000 scenarios, from files in memory to
// the coverage.
func BenchmarkTest(b *testing.B) {
	files := scenarioFiles(b, 1000)
	for b.Loop() {
		set, _ := parse.Files(files)
		if got := playAll(set.Catalog(), regexp.MustCompile("")); got.failed > 0 {
			b.Fatal(got.failed)
		}
	}
}

func TestDiffLinesUp(t *testing.T) {
	got := strings.Join(diff([]string{"a", "b", "c"}, []string{"a", "x", "c", "d"}), "|")
	if want := "  a|- b|+ x|  c|+ d"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAReportThatCannotBeWrittenIsAFailure(t *testing.T) {
	if err := writeJUnit(filepath.Join(t.TempDir(), "no", "report.xml"), &tested{}); err == nil || !strings.Contains(err.Error(), "cannot be written") {
		t.Error(err)
	}
	name := filepath.Join(t.TempDir(), "report.xml")
	if err := writeJUnit(name, &tested{}); err != nil {
		t.Error(err)
	}
	if p, err := os.ReadFile(name); err != nil || !strings.Contains(string(p), "<testsuites>") {
		t.Errorf("%s %v", p, err)
	}
}

var yamlBlock = regexp.MustCompile("(?ms)^```(yaml|yaml fails|text)\n(.*?)^```$")

// TestTheScenariosOfTheDocumentationAreAsTheyAreDescribed plays the scenarios
// of docs/testing.md. UPDATE=1 writes the failure that the page shows.
func TestTheScenariosOfTheDocumentationAreAsTheyAreDescribed(t *testing.T) {
	const name = "../../docs/testing.md"
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var good, bad []parse.File
	var shown string
	for i, m := range yamlBlock.FindAllStringSubmatch(string(page), -1) {
		file := parse.File{Name: fmt.Sprintf("example%d.yaml", i+1), Content: []byte(m[2])}
		switch m[1] {
		case "yaml":
			good = append(good, file)
		case "yaml fails":
			file.Name = "release_test.yaml"
			bad = append(bad, file)
		case "text":
			shown = m[2]
		}
	}
	set, problems := parse.Files(append(good, bad...))
	if len(problems) > 0 {
		t.Fatal(parse.Text(problems))
	}
	var out bytes.Buffer
	a := newApp(nil, &out, &out)
	for _, r := range playAll(set.Catalog(), regexp.MustCompile("")).results {
		fails := r.Scenario.Origin.Pos.File == "release_test.yaml"
		if r.Passed() == fails {
			t.Errorf("%s: %+v", r.Scenario.Metadata.Name, r.Failures)
		}
		if fails {
			a.printFailed(r)
		}
	}
	want := strings.TrimRight(out.String(), "\n") + "\n"
	differs := func(a, b string) bool { // the story has the words of the core
		a, _, _ = strings.Cut(a, "how it went")
		b, _, _ = strings.Cut(b, "how it went")
		return a != b
	}
	if os.Getenv("UPDATE") != "" {
		page = []byte(strings.Replace(string(page), "```text\n"+shown+"```", "```text\n"+want+"```", 1))
		if err := os.WriteFile(name, page, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if differs(shown, want) {
		t.Errorf("the page shows another failure than there is:\n%s", want)
	}
}

func TestAnExpressionIsTriedOnARun(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbEval, events.Evaluation{Value: true, Parts: []events.EvaluationPart{{Source: "a && b", Value: true}, {Source: "a", Depth: 1, Value: true}}},
		events.Evaluation{Error: "no such key: authors"}, events.Evaluation{Problems: []string{"there is no field x\n  run.x\n      ^"}})
	for _, want := range []struct {
		exit      int
		out, tell string
	}{{0, "true\n\nPART  VALUE\n  a   true\n", ""}, {1, "", "has no value: no such key: authors"}, {2, "", "there is no field x"}} {
		got := penstock(t, "eval", "a && b", "--run", "k3f9")
		if got.code != want.exit || got.out != want.out || !strings.Contains(got.stderr, want.tell) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
