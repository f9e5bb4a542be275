package run_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const semantics = "../../docs/semantics.md"

var (
	ruleLine  = regexp.MustCompile(`^(\d+)\. `)
	ruleNames = regexp.MustCompile("\\(((?:`[^`]+`(?:, )?)+)\\)$")
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// TestEveryRuleNamesWhatShowsItAndEveryTranscriptShowsARule compares
// docs/semantics.md with the transcripts, and with the tests beside the
// aggregates, and here, where there is none.
func TestEveryRuleNamesWhatShowsItAndEveryTranscriptShowsARule(t *testing.T) {
	page, err := os.ReadFile(semantics)
	if err != nil {
		t.Fatal(err)
	}
	tests := sourceOfTests(t, "../env") + sourceOfTests(t, ".")
	shown, section, n := map[string]bool{}, "", 0
	for _, line := range strings.Split(string(page), "\n") {
		if name, is := strings.CutPrefix(line, "## "); is {
			section, n = name, 0
		}
		m := ruleLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if n++; m[1] != strconv.Itoa(n) {
			t.Errorf("%s: rule %s is number %d", section, m[1], n)
		}
		names := ruleNames.FindStringSubmatch(line)
		if names == nil {
			continue // it follows from others
		}
		for _, q := range quoted.FindAllStringSubmatch(names[1], -1) {
			shown[q[1]] = true
			if strings.HasPrefix(q[1], "Test") {
				if !strings.Contains(tests, "func "+q[1]+"(") {
					t.Errorf("%s %d: there is no test %s in engine/env or engine/run", section, n, q[1])
				}
			} else if _, err := os.Stat(filepath.Join("testdata", q[1]+".txtar")); err != nil {
				t.Errorf("%s %d: there is no transcript %s", section, n, q[1])
			}
		}
	}
	transcripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range transcripts {
		if name = strings.TrimSuffix(filepath.Base(name), ".txtar"); !shown[name] {
			t.Errorf("no rule of docs/semantics.md names the transcript %s", name)
		}
	}
}

func sourceOfTests(t *testing.T, dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		p, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(p)
	}
	return all.String()
}
