package integration_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	reliabilityPart = regexp.MustCompile("`((?:engine|workers|cmd|integration|workflows)[a-z/]*)` ((?:Test\\w+(?:, )?)+)")
	testFunction    = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	anyTest         = regexp.MustCompile(`\bTest\w+`)
)

// TestReliabilityPageNamesTestsThatThereAre holds docs/reliability.md against
// the code: each test is in the package that it is said to be in, and each of
// the promises has one or says that it has none.
func TestReliabilityPageNamesTestsThatThereAre(t *testing.T) {
	p, err := os.ReadFile(filepath.Join(repository(t), "docs", "reliability.md"))
	require(t, err)
	page := string(p)
	known := map[string][]string{"integration": testsOf(t, "integration")}
	named := 0
	for _, m := range reliabilityPart.FindAllStringSubmatch(page, -1) {
		if known[m[1]] == nil {
			known[m[1]] = testsOf(t, m[1])
		}
		for _, name := range anyTest.FindAllString(m[2], -1) {
			if named++; !slices.Contains(known[m[1]], name) {
				t.Errorf("docs/reliability.md: there is no %s in %s", name, m[1])
			}
		}
	}
	for _, name := range anyTest.FindAllString(page, -1) {
		if !slices.Contains(slices.Concat(slices.Collect(maps.Values(known))...), name) {
			t.Errorf("docs/reliability.md names %s, which is in none of the packages that it names", name)
		}
	}
	promises := 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "| I") {
			continue
		}
		if promises++; !anyTest.MatchString(line) && !strings.Contains(line, "not held by a test yet") {
			t.Errorf("docs/reliability.md: no test for %s", line)
		}
	}
	if promises != 25 || named < 50 {
		t.Errorf("docs/reliability.md has %d promises and %d tests: the table is not read right", promises, named)
	}
}

func testsOf(t *testing.T, pkg string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository(t), filepath.FromSlash(pkg), "*_test.go"))
	require(t, err)
	for _, file := range files {
		p, err := os.ReadFile(file)
		require(t, err)
		for _, m := range testFunction.FindAllStringSubmatch(string(p), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
