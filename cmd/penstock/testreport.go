package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/events"
)

// testReport is what a test gives to programs.
type testReport struct {
	OK        bool             `json:"ok"`
	Scenarios []reportScenario `json:"scenarios"`
	Coverage  []reportCoverage `json:"coverage"`
	Mutants   *reportMutants   `json:"mutants,omitempty"` // with --mutate
}

type reportMutants struct {
	All       int            `json:"all"`
	Survivors []reportMutant `json:"survivors"` // that no scenario notices
}

type reportMutant struct {
	At   string `json:"at"`
	What string `json:"what"`
}

type reportScenario struct {
	Name     string              `json:"name"`
	Workflow string              `json:"workflow"`
	At       string              `json:"at"` // file:line:column
	OK       bool                `json:"ok"`
	Outcome  string              `json:"outcome,omitempty"` // left out when the run has not ended
	State    string              `json:"state"`
	Path     []string            `json:"path"`
	TookMs   int64               `json:"tookMs"` // virtual time
	Failures []reportFailure     `json:"failures,omitempty"`
	Waiting  []events.WaitReason `json:"waiting,omitempty"`
	Effects  []reportEffect      `json:"effects,omitempty"`
	Notified map[string]int      `json:"notified,omitempty"`
}

type reportFailure struct {
	At   string   `json:"at"`
	Text string   `json:"text"`
	Want []string `json:"want,omitempty"`
	Got  []string `json:"got,omitempty"`
}

type reportEffect struct {
	Task string         `json:"task"`
	Kind string         `json:"kind"`
	AtMs int64          `json:"atMs"`
	With map[string]any `json:"with,omitempty"`
}

type reportCoverage struct {
	Workflow    string        `json:"workflow"`
	Scenarios   int           `json:"scenarios"`
	Percent     int           `json:"percent"`
	States      reportCount   `json:"states"`
	Transitions reportCount   `json:"transitions"`
	Rules       reportCount   `json:"rules"`
	Missing     []reportWhere `json:"missing,omitempty"`
}

type reportCount struct {
	Covered int `json:"covered"`
	All     int `json:"all"`
}

type reportWhere struct {
	At   string `json:"at"`
	Sort string `json:"sort"` // "state", "transition" or "rule"
	Name string `json:"name"`
}

func reportOf(t *tested) testReport {
	out := testReport{OK: t.failed == 0, Scenarios: []reportScenario{}, Coverage: []reportCoverage{}}
	for _, r := range t.results {
		out.Scenarios = append(out.Scenarios, reportResult(r))
	}
	for _, c := range t.coverage {
		rc := reportCoverage{Workflow: c.Workflow, Scenarios: c.Scenarios, Percent: percent(c.Count(""))}
		for sort, n := range map[string]*reportCount{scenario.SortState: &rc.States, scenario.SortTransition: &rc.Transitions, scenario.SortRule: &rc.Rules} {
			n.Covered, n.All = c.Count(sort)
		}
		for _, it := range c.Items {
			if !it.Covered {
				rc.Missing = append(rc.Missing, reportWhere{it.Pos.String(), it.Sort, it.Name})
			}
		}
		out.Coverage = append(out.Coverage, rc)
	}
	if t.mutants > 0 {
		out.Mutants = &reportMutants{All: t.mutants, Survivors: []reportMutant{}}
		for _, m := range t.survivors {
			out.Mutants.Survivors = append(out.Mutants.Survivors, reportMutant{m.Pos.String(), m.What})
		}
	}
	return out
}

func reportResult(r *scenario.Result) reportScenario {
	out := reportScenario{Name: r.Scenario.Metadata.Name, Workflow: r.Scenario.Spec.Workflow, At: r.Scenario.Origin.Pos.String(), OK: r.Passed(),
		Outcome: r.Outcome, State: r.At, Path: append([]string{}, r.Path...), TookMs: r.Took.Milliseconds(), Waiting: r.Waiting, Notified: r.Notified}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, reportFailure{f.Pos.String(), f.Text, f.Want, f.Got})
	}
	for _, e := range r.Effects {
		out.Effects = append(out.Effects, reportEffect{e.Task, e.Kind, e.At.Milliseconds(), e.With})
	}
	return out
}

// The elements of a JUnit report.
type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// junit is the report: a suite for each workflow, a case for each scenario.
func junit(t *tested) ([]byte, error) {
	var out junitSuites
	for _, c := range t.coverage {
		suite := junitSuite{Name: c.Workflow}
		for _, r := range t.results {
			if r.Scenario.Spec.Workflow != c.Workflow {
				continue
			}
			pos := r.Scenario.Origin.Pos
			one := junitCase{Class: c.Workflow, Name: r.Scenario.Metadata.Name, File: pos.File, Line: pos.Line}
			if !r.Passed() {
				suite.Failures++
				one.Failure = &junitFailure{Message: r.Failures[0].Text, Text: failuresText(r)}
			}
			suite.Tests++
			suite.Cases = append(suite.Cases, one)
		}
		out.Suites = append(out.Suites, suite)
	}
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", "  ")
	err := enc.Encode(out)
	b.WriteByte('\n')
	return b.Bytes(), err
}

func failuresText(r *scenario.Result) string {
	var b strings.Builder
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s: %s\n", f.Pos, f.Text)
		for _, line := range diff(f.Want, f.Got) {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	for _, reason := range r.Waiting {
		fmt.Fprintf(&b, "after %s it waits: %s %s\n", r.Took.Round(time.Millisecond), reason.State, reason.Summary)
	}
	return b.String()
}
