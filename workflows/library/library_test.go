package library_test

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/compare"
	"github.com/penstock-cd/penstock/workflows/graph"
	"github.com/penstock-cd/penstock/workflows/library"
	"github.com/penstock-cd/penstock/workflows/parse"
)

var update = flag.Bool("update", false, "write the page of the documentation")

func read(t *testing.T, s library.Starter) ([]library.File, *workflows.Catalog) {
	t.Helper()
	files, err := s.Files()
	if err != nil {
		t.Fatal(err)
	}
	var sources []parse.File
	for _, f := range files {
		sources = append(sources, parse.File{Name: f.Name, Content: f.Content})
	}
	set, problems := parse.Files(sources)
	if len(problems) > 0 {
		t.Fatalf("%s:\n%s", s.Name, parse.Text(problems))
	}
	return files, set.Catalog()
}

// TestStartersAreSoundAndTheirScenariosComeThroughAllOfThem holds each starter
// to what it promises: no problem and no warning, every scenario passes, and no
// state, transition or clause of a rule is left out.
func TestStartersAreSoundAndTheirScenariosComeThroughAllOfThem(t *testing.T) {
	for _, s := range library.List() {
		t.Run(s.Name, func(t *testing.T) {
			_, catalog := read(t, s)
			if catalog.Workflows[s.Workflow] == nil {
				t.Fatalf("it has no workflow %s", s.Workflow)
			}
			covers := map[string]*scenario.Coverage{}
			for name := range catalog.Workflows {
				covers[name] = scenario.NewCoverage(catalog, name)
			}
			for _, sc := range catalog.Scenarios {
				r := scenario.Play(catalog, sc)
				for _, f := range r.Failures {
					t.Errorf("%s: %s: want %q, got %q", sc.Metadata.Name, f.Text, f.Want, f.Got)
				}
				covers[sc.Spec.Workflow].Add(r)
			}
			for name, c := range covers {
				for _, item := range c.Items {
					if !item.Covered {
						t.Errorf("no scenario comes through %s: %s %s", name, item.Sort, item.Name)
					}
				}
			}
		})
	}
}

// TestWrittenOutTheyMeanTheSame holds that what show --expanded prints reads
// back without a problem and means what the file means.
func TestWrittenOutTheyMeanTheSame(t *testing.T) {
	for _, s := range library.List() {
		t.Run(s.Name, func(t *testing.T) {
			files, catalog := read(t, s)
			var sources []parse.File
			for _, f := range files {
				sources = append(sources, parse.File{Name: f.Name, Content: f.Content})
			}
			set, _ := parse.Files(sources)
			for i, d := range set.Documents {
				if d.Kind != workflows.KindWorkflow {
					continue
				}
				text, err := parse.Annotate(d, workflows.Expand(catalog, catalog.Workflows[d.Name]))
				if err != nil {
					t.Fatal(err)
				}
				over, problems := parse.Over(set.Documents, []parse.File{{Name: "expanded.yaml", Content: text}})
				if len(problems) > 0 {
					t.Errorf("%s\n%s", parse.Text(problems), text)
				}
				for _, c := range compare.Catalogs(catalog, over.Catalog()) {
					t.Errorf("document %d: %s", i, c)
				}
				again, err := parse.Annotate(documentOf(t, over, d.Name), workflows.Expand(over.Catalog(), over.Catalog().Workflows[d.Name]))
				if err != nil || strings.Count(string(again), "transitions:") != strings.Count(string(text), "transitions:") {
					t.Errorf("written out twice it is something else: %v\n%s", err, again)
				}
			}
		})
	}
}

func documentOf(t *testing.T, set *parse.Set, name string) parse.Document {
	t.Helper()
	for _, d := range set.Documents {
		if d.Kind == workflows.KindWorkflow && d.Name == name {
			return d
		}
	}
	t.Fatalf("there is no workflow %s", name)
	return parse.Document{}
}

func TestEveryFolderIsListedAndEveryFileSaysWhatItIs(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var folders, listed []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "testdata" {
			folders = append(folders, e.Name())
		}
	}
	for _, s := range library.List() {
		listed = append(listed, s.Name)
		if got, ok := library.Named(s.Name); !ok || got != s {
			t.Errorf("%s is not found by its name", s.Name)
		}
		files, err := s.Files()
		if err != nil || len(files) < 4 {
			t.Errorf("%s: %d files, %v", s.Name, len(files), err)
		}
		for _, f := range files {
			if !strings.HasPrefix(string(f.Content), "# yaml-language-server: $schema=./penstock.schema.json\n") {
				t.Errorf("%s/%s: an editor does not know its schema", s.Name, f.Name)
			}
			if strings.Contains(string(f.Content), "TODO") {
				t.Errorf("%s/%s is not finished", s.Name, f.Name)
			}
		}
	}
	slices.Sort(listed)
	if diff := cmp.Diff(folders, listed); diff != "" {
		t.Errorf("folders -, listed +:\n%s", diff)
	}
	if _, ok := library.Named("nothing"); ok {
		t.Error("there is a starter that nobody wrote")
	}
	if _, err := (library.Starter{Name: "nothing"}).Files(); err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		t.Errorf("files of one that there is not: %v", err)
	}
}

const page = "../../docs/library.md"

// TestThePageShowsTheStartersAsTheyAre holds docs/library.md fresh; -update
// writes it.
func TestThePageShowsTheStartersAsTheyAre(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Starter workflows

Whole folders to begin with: a workflow, the environments, roles, channels and task kinds that it needs, and scenarios
that come through all of it. They are meant to be copied and changed.

` + "```sh" + `
penstock init --list                      # what there is
penstock init --from service-canary       # writes ./penstock, overwrites nothing
penstock test penstock                    # what it does, in virtual time
penstock graph penstock --name service-canary --format svg > release.svg
` + "```" + `

People, addresses and task kinds in them stand for yours. Each key is in [the language](language.md), and the scenarios
are explained in [testing](testing.md). A test of Penstock plays all of them and draws these pictures; this page is made by it.

| starter | is |
| --- | --- |
`)
	for _, s := range library.List() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", s.Name, s.Name, s.About)
	}
	for _, s := range library.List() {
		section(t, &b, s)
	}
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("docs/library.md is not what the starters are; go test ./workflows/library -update writes it:\n%s", diff)
	}
}

// section writes what there is to say of a starter, all of it from its files.
func section(t *testing.T, b *strings.Builder, s library.Starter) {
	files, catalog := read(t, s)
	fmt.Fprintf(b, "\n## %s\n\n", s.Name)
	var names []string
	for _, f := range files {
		names = append(names, "`"+f.Name+"`")
		if strings.Contains(string(f.Content), "metadata: {name: "+s.Workflow) || strings.Contains(string(f.Content), "  name: "+s.Workflow+"\n") {
			b.WriteString(heading(string(f.Content)))
		}
	}
	fmt.Fprintf(b, "`penstock init --from %s` writes %s.\n\n", s.Name, strings.Join(names, ", "))
	fmt.Fprintf(b, "```mermaid\n%s```\n\nIts scenarios:\n\n", graph.Mermaid(catalog.Workflows[s.Workflow], graph.Trace{}))
	for _, sc := range catalog.Scenarios {
		outcome := sc.Spec.Expect.Outcome
		if outcome == "" {
			outcome = "waits in " + sc.Spec.Expect.Waits
		}
		of := ""
		if sc.Spec.Workflow != s.Workflow {
			of = sc.Spec.Workflow + ": "
		}
		fmt.Fprintf(b, "- %s%s: %s\n", of, sc.Metadata.Name, outcome)
	}
	if own := ownKinds(catalog); len(own) > 0 {
		fmt.Fprintf(b, "\nWorkers of your own serve %s ([workers](workers.md)).\n", strings.Join(own, ", "))
	}
}

func ownKinds(c *workflows.Catalog) (own []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Kinds)) {
		if c.Kinds[name].Origin.Digest != "" {
			own = append(own, "`"+name+"`")
		}
	}
	return own
}

// heading is the comment at the beginning of a workflow's file, as a paragraph.
func heading(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "#")
		if !ok {
			break
		}
		if rest = strings.TrimSpace(rest); rest != "" && !strings.HasPrefix(rest, "yaml-language-server") {
			lines = append(lines, rest)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n\n"
}
