package contract_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	declared = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	named    = regexp.MustCompile(`\b(?:(broker)\.)?(Test\w+)`)
)

// The package comment lists every test, and none that there is not.
func TestPackageCommentListsTheContract(t *testing.T) {
	mine, brokers := testsIn(t, "."), testsIn(t, "../broker")
	p, err := os.ReadFile("doc.go")
	check(t, err)
	listed := []string{"TestMain", "TestPackageCommentListsTheContract"}
	for _, m := range named.FindAllStringSubmatch(string(p), -1) {
		there := mine
		if m[1] == "broker" {
			there = brokers
		} else {
			listed = append(listed, m[2])
		}
		if !slices.Contains(there, m[2]) {
			t.Errorf("doc.go names %s, which there is not", m[0])
		}
	}
	for _, name := range mine {
		if !slices.Contains(listed, name) {
			t.Errorf("doc.go does not name %s", name)
		}
	}
}

func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	check(t, err)
	for _, file := range files {
		p, err := os.ReadFile(file)
		check(t, err)
		for _, m := range declared.FindAllStringSubmatch(string(p), -1) {
			names = append(names, strings.TrimSpace(m[1]))
		}
	}
	return names
}
