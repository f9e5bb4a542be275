package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The reader knows the few parts of SARIF 2.1.0 that a finding is made of and
// passes over everything else, since tools differ in the rest and some write
// what the schema does not allow. What it knows must have its type: a result
// that cannot be read is an error, because a gate must not decide on a part
// of a report.

type sarifLog struct {
	Version string      `json:"version"`
	Runs    *[]sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver     sarifComponent   `json:"driver"`
		Extensions []sarifComponent `json:"extensions"`
	} `json:"tool"`
	Invocations []struct {
		Successful *bool `json:"executionSuccessful"`
		Notes      []struct {
			Level   string       `json:"level"`
			Message sarifMessage `json:"message"`
		} `json:"toolExecutionNotifications"`
	} `json:"invocations"`
	Results   []sarifResult `json:"results"`
	Artifacts []struct {
		Location sarifURI `json:"location"`
	} `json:"artifacts"`
}

type sarifComponent struct {
	Name  string      `json:"name"`
	Rules []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Short   sarifMessage `json:"shortDescription"`
	Full    sarifMessage `json:"fullDescription"`
	Help    sarifMessage `json:"help"`
	HelpURI string       `json:"helpUri"`
	Default struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
	Messages   map[string]sarifMessage `json:"messageStrings"`
	Properties map[string]any          `json:"properties"`
}

type sarifResult struct {
	RuleID string `json:"ruleId"`
	Index  *int   `json:"ruleIndex"`
	Rule   struct {
		ID        string `json:"id"`
		Index     *int   `json:"index"`
		Component struct {
			Index *int `json:"index"`
		} `json:"toolComponent"`
	} `json:"rule"`
	Kind         string            `json:"kind"`
	Level        string            `json:"level"`
	Baseline     string            `json:"baselineState"`
	Message      sarifMessage      `json:"message"`
	Locations    []sarifLocation   `json:"locations"`
	Partial      map[string]string `json:"partialFingerprints"`
	Fingerprints map[string]string `json:"fingerprints"`
	Suppressions []struct {
		Status string `json:"status"`
	} `json:"suppressions"`
	Properties map[string]any `json:"properties"`
}

type sarifMessage struct {
	Text      string   `json:"text"`
	ID        string   `json:"id"`
	Arguments []string `json:"arguments"`
}

type sarifLocation struct {
	Physical struct {
		Artifact sarifURI `json:"artifactLocation"`
		Region   struct {
			StartLine int `json:"startLine"`
		} `json:"region"`
	} `json:"physicalLocation"`
	Logical []struct {
		Name      string `json:"name"`
		Qualified string `json:"fullyQualifiedName"`
	} `json:"logicalLocations"`
}

type sarifURI struct {
	URI   string `json:"uri"`
	Index *int   `json:"index"`
}

// readSARIF reads a report. a says how its tool maps severities; root is the
// folder that was scanned, which is taken off absolute locations.
func readSARIF(report []byte, a adapter, root string) ([]finding, error) {
	report = bytes.TrimSpace(bytes.TrimPrefix(report, []byte("\ufeff")))
	if len(report) == 0 {
		return nil, errors.New("the report is empty")
	}
	var log sarifLog
	if err := json.Unmarshal(report, &log); err != nil {
		return nil, fmt.Errorf("the report is not SARIF: %w", err)
	}
	if log.Runs == nil || !strings.HasPrefix(log.Version, "2.") {
		return nil, errors.New("the report is not SARIF 2.1.0: it has no runs or another version")
	}
	var fs []finding
	for i := range *log.Runs {
		run := &(*log.Runs)[i]
		if err := run.completed(); err != nil {
			return nil, err
		}
		for j := range run.Results {
			r := &run.Results[j]
			if !r.counts() {
				continue
			}
			fs = append(fs, run.finding(r, a, root))
		}
	}
	return fs, nil
}

// completed reports a run whose tool says that it did not get to its end:
// that it found nothing proves nothing then.
func (run *sarifRun) completed() error {
	for _, in := range run.Invocations {
		if in.Successful == nil || *in.Successful {
			continue
		}
		text := "no reason given"
		for _, n := range in.Notes {
			if n.Level == "error" && n.Message.Text != "" {
				text = line(n.Message.Text)
				break
			}
		}
		return fmt.Errorf("%s says in its report that it did not complete: %s", line(run.Tool.Driver.Name), text)
	}
	return nil
}

// counts reports whether r is a problem that is there and not accepted.
func (r *sarifResult) counts() bool {
	switch r.Kind {
	case "pass", "notApplicable", "informational":
		return false
	}
	if r.Baseline == "absent" {
		return false
	}
	for _, s := range r.Suppressions {
		if s.Status == "" || s.Status == "accepted" {
			return false
		}
	}
	return true
}

func (run *sarifRun) finding(r *sarifResult, a adapter, root string) finding {
	rule := run.rule(r)
	text := r.Message.format(rule)
	f := finding{
		Tool:     a.name,
		Rule:     firstOf(line(firstOf(r.RuleID, r.Rule.ID, rule.ID)), "unnamed"),
		Severity: severityOfResult(r, rule, a),
		Title:    line(firstOf(rule.Short.Text, text, rule.Full.Text, rule.Name, rule.ID)),
		Location: run.location(r, root),
		URL:      rule.HelpURI,
	}
	if a.name == anySARIF.name {
		f.Tool = firstOf(line(run.Tool.Driver.Name), a.name)
	}
	if a.messageIsTitle {
		f.Title = line(firstOf(text, f.Title))
	}
	f.Package, f.Version, f.Fixed = packageOf(text, rule.Help.Text)
	for _, m := range []map[string]string{r.Fingerprints, r.Partial} {
		for k, v := range m {
			if !slices.Contains(a.unstable, k) {
				f.own = append(f.own, k+"="+v)
			}
		}
	}
	slices.Sort(f.own)
	return f
}

// rule is the description of what r is about: by its id, else by its index,
// which some tools leave at 0 everywhere.
func (run *sarifRun) rule(r *sarifResult) sarifRule {
	components := append([]sarifComponent{run.Tool.Driver}, run.Tool.Extensions...)
	if id := firstOf(r.RuleID, r.Rule.ID); id != "" {
		for _, exact := range []bool{true, false} { // "CA1000/1" is a case of "CA1000"
			for _, c := range components {
				for _, rule := range c.Rules {
					if rule.ID == id || !exact && rule.ID != "" && strings.HasPrefix(id, rule.ID+"/") {
						return rule
					}
				}
			}
		}
		return sarifRule{}
	}
	index, rules := r.Index, run.Tool.Driver.Rules
	if index == nil {
		index = r.Rule.Index
	}
	if c := r.Rule.Component.Index; c != nil && *c >= 0 && *c < len(run.Tool.Extensions) {
		rules = run.Tool.Extensions[*c].Rules
	}
	if index == nil || *index < 0 || *index >= len(rules) {
		return sarifRule{}
	}
	return rules[*index]
}

// severityOfResult takes the most exact statement there is.
func severityOfResult(r *sarifResult, rule sarifRule, a adapter) severity {
	for _, props := range []map[string]any{r.Properties, rule.Properties} {
		if s := severityOfProperties(props); s != 0 {
			return s
		}
	}
	if a.fixed != 0 {
		return a.fixed
	}
	switch firstOf(r.Level, rule.Default.Level, "warning") {
	case "error":
		return high
	case "warning":
		return medium
	}
	return low // note, none, and words that do not exist
}

func severityOfProperties(props map[string]any) severity {
	switch v := props["security-severity"].(type) {
	case float64:
		if s := severityOfScore(v); s != 0 {
			return s
		}
	case string:
		if n, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			if s := severityOfScore(n); s != 0 {
				return s
			}
		} else if s := severityOf(v); s != 0 {
			return s
		}
	}
	tags, _ := props["tags"].([]any)
	for _, tag := range tags {
		word, _ := tag.(string)
		if s := severityOf(word); s != 0 {
			return s
		}
	}
	return 0
}

// format is the text of m, with its arguments put in.
func (m sarifMessage) format(rule sarifRule) string {
	text := m.Text
	if text == "" {
		text = rule.Messages[m.ID].Text
	}
	return placeholder.ReplaceAllStringFunc(text, func(p string) string { // in one pass: arguments may hold braces themselves
		if i, err := strconv.Atoi(p[1 : len(p)-1]); err == nil && i < len(m.Arguments) {
			return m.Arguments[i]
		}
		return p
	})
}

var placeholder = regexp.MustCompile(`\{\d+\}`)

func (run *sarifRun) location(r *sarifResult, root string) string {
	if len(r.Locations) == 0 {
		return ""
	}
	l := r.Locations[0]
	uri := l.Physical.Artifact.URI
	if i := l.Physical.Artifact.Index; uri == "" && i != nil && *i >= 0 && *i < len(run.Artifacts) {
		uri = run.Artifacts[*i].Location.URI
	}
	if uri == "" {
		if len(l.Logical) > 0 {
			return line(firstOf(l.Logical[0].Qualified, l.Logical[0].Name))
		}
		return ""
	}
	path := line(relative(uri, root))
	if n := l.Physical.Region.StartLine; n > 0 {
		path += ":" + strconv.Itoa(n)
	}
	return path
}

// relative is the path of uri within root, or uri as it is.
func relative(uri, root string) string {
	path := uri
	if u, err := url.Parse(uri); err == nil && (u.Scheme == "" || u.Scheme == "file") {
		path = u.Path
	}
	if root == "" || !filepath.IsAbs(path) {
		return strings.TrimPrefix(path, "./")
	}
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return path
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if strings.TrimSpace(t) != "" {
			return t
		}
	}
	return ""
}
