package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
)

// sarifLevels and scores carry a severity through a report and back.
var (
	sarifLevels = map[severity]string{low: sarif.LevelNote, medium: sarif.LevelWarning, high: sarif.LevelError, critical: sarif.LevelError}
	scores      = map[severity]string{low: "2.0", medium: "5.5", high: "8.0", critical: "9.5"}
)

// mergedReport is one SARIF report with a run for each tool. It is made from
// the findings and not from the tools' reports, because those may quote the
// secrets that they found.
func mergedReport(tools []string, fs []finding) ([]byte, error) {
	names := slices.Clone(tools)
	for _, f := range fs { // a report from elsewhere brings the names of its tools
		if !slices.Contains(names, f.Tool) {
			names = append(names, f.Tool)
		}
	}
	slices.Sort(names)
	report := sarif.NewReport()
	for _, name := range slices.Compact(names) {
		run := sarif.NewRunWithInformationURI(name, "")
		run.Tool.Driver.InformationURI = nil
		for _, f := range fs {
			if f.Tool == name {
				addResult(run, f)
			}
		}
		report.AddRun(run)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	if err := e.Encode(report); err != nil {
		return nil, fmt.Errorf("the merged report cannot be written: %w", err)
	}
	return b.Bytes(), nil
}

func addResult(run *sarif.Run, f finding) {
	rule := run.AddRule(f.Rule)
	if rule.ShortDescription == nil {
		rule.WithShortDescription(sarif.NewMultiformatMessageString().WithText(f.Title))
		if f.URL != "" {
			rule.WithHelpURI(f.URL)
		}
	}
	props := sarif.NewPropertyBag().Add("security-severity", scores[f.Severity]).Add("severity", f.Severity.String())
	for key, value := range map[string]string{"package": f.Package, "version": f.Version, "fixed": f.Fixed} {
		if value != "" {
			props.Add(key, value)
		}
	}
	r := run.CreateResultForRule(f.Rule).
		WithLevel(sarifLevels[f.Severity]).
		WithMessage(sarif.NewTextMessage(f.Title)).
		WithProperties(props)
	r.PartialFingerprints = map[string]string{"penstock/v1": f.Fingerprint}
	if f.Location == "" {
		return
	}
	path, at, _ := strings.Cut(f.Location, ":")
	place := sarif.NewPhysicalLocation().WithArtifactLocation(sarif.NewSimpleArtifactLocation(path))
	if n, err := strconv.Atoi(at); err == nil {
		place.WithRegion(sarif.NewRegion().WithStartLine(n))
	}
	r.AddLocation(sarif.NewLocationWithPhysicalLocation(place))
}
