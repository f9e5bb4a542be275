package main

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// sarifReport is the problems as SARIF 2.1.0: a rule for each code, a result
// for each problem. Columns count UTF-16 code units, as most editors do.
func sarifReport(files []parse.File, problems []workflows.Problem) *sarif.Report {
	driver := sarif.NewToolComponent().WithName("penstock").WithVersion(readVersion().Version)
	codes := map[string]bool{}
	for _, p := range problems {
		codes[p.Code] = true
	}
	rules := slices.Sorted(maps.Keys(codes))
	for _, code := range rules {
		driver.AddRule(sarif.NewReportingDescriptor().WithID(code).WithName(code))
	}
	run := sarif.NewRun().WithTool(sarif.NewTool().WithDriver(driver)).WithColumnKind("utf16CodeUnits")
	run.Results = []*sarif.Result{} // a run without problems has results too: none
	text := map[string][]string{}
	for _, f := range files {
		text[f.Name] = strings.Split(string(f.Content), "\n")
	}
	for _, p := range problems {
		run.AddResult(sarifResult(p, slices.Index(rules, p.Code), text[p.Pos.File]))
	}
	return sarif.NewReport().AddRun(run)
}

func sarifResult(p workflows.Problem, rule int, lines []string) *sarif.Result {
	message := p.Message
	if p.Hint != "" {
		message += " (" + p.Hint + ")"
	}
	level := sarif.LevelError
	if p.Warning {
		level = sarif.LevelWarning
	}
	where := sarif.NewPhysicalLocation().WithArtifactLocation(sarif.NewArtifactLocation().WithURI(fileURI(p.Pos.File)))
	if p.Pos.Line > 0 {
		region := sarif.NewRegion().WithStartLine(p.Pos.Line).WithStartColumn(max(p.Pos.Column, 1))
		if p.Pos.Line <= len(lines) {
			before := lines[p.Pos.Line-1]
			before = before[:min(max(p.Pos.Column-1, 0), len(before))]
			region.WithStartColumn(len(utf16.Encode([]rune(before))) + 1)
		}
		where.WithRegion(region)
	}
	sum := sha256.Sum256([]byte(p.Pos.File + "\x00" + p.Path + "\x00" + p.Code + "\x00" + p.Message))
	return sarif.NewResult().WithRuleID(p.Code).WithRuleIndex(rule).WithLevel(level).
		WithMessage(sarif.NewTextMessage(message)).
		WithPartialFingerprints(map[string]string{"penstock/v1": hex.EncodeToString(sum[:16])}). // the same when lines are added above
		AddLocation(sarif.NewLocation().WithPhysicalLocation(where))
}

// fileURI is the name of a file as a reference: relative where it is.
func fileURI(name string) string {
	name = filepath.ToSlash(name)
	if filepath.IsAbs(name) {
		return (&url.URL{Scheme: "file", Path: name}).String()
	}
	return (&url.URL{Path: strings.TrimPrefix(name, "./")}).String()
}
