package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-cd/penstock/workflows/parse"
)

func TestSarifIsValid(t *testing.T) {
	inputs, err := filepath.Glob("../../workflows/parse/testdata/faults/*/input.yaml")
	if err != nil || len(inputs) < 60 {
		t.Fatalf("%d files, %v", len(inputs), err)
	}
	for _, input := range append(inputs, "../../workflows/parse/testdata/good/release.yaml") {
		content, err := os.ReadFile(input)
		if err != nil {
			t.Fatal(err)
		}
		files := []parse.File{{Name: filepath.ToSlash(input), Content: content}}
		_, problems := parse.Files(files)
		report := sarifReport(files, problems)
		if err := report.Validate(); err != nil {
			t.Errorf("%s: %v", input, err)
		}
		if got := len(report.Runs[0].Results); got != len(problems) {
			t.Errorf("%s: %d results of %d problems", input, got, len(problems))
		}
	}
}

func TestSarifCountsColumnsAsEditorsDo(t *testing.T) {
	files := []parse.File{{Name: "dir/w x.yaml", Content: []byte("apiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c, description: 'é 🌊', nmae: d}\n")}}
	_, problems := parse.Files(files)
	if len(problems) != 1 {
		t.Fatal(parse.Text(problems))
	}
	where := sarifReport(files, problems).Runs[0].Results[0].Locations[0].PhysicalLocation
	if line, column := *where.Region.StartLine, *where.Region.StartColumn; line != 3 || column != 42 {
		t.Errorf("%d:%d, want 3:42", line, column)
	}
	if got := *where.ArtifactLocation.URI; got != "dir/w%20x.yaml" {
		t.Errorf("the file is %s", got)
	}
}
