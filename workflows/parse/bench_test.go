package parse

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// BenchmarkFiles reads 1,000 files, each with a workflow of eight states.
func BenchmarkFiles(b *testing.B) {
	content, err := os.ReadFile("testdata/good/release.yaml")
	if err != nil {
		b.Fatal(err)
	}
	workflow, rest, _ := strings.Cut(string(content), "\n---\n")
	files := []File{{Name: "shared.yaml", Content: []byte(strings.Split(rest, "---\napiVersion: penstock/v1\nkind: Scenario")[0])}}
	for i := range 1000 {
		text := strings.Replace(workflow, "name: checkout-release", fmt.Sprintf("name: r%d-release", i), 1)
		files = append(files, File{Name: fmt.Sprintf("w%d.yaml", i), Content: []byte(text)})
	}
	for b.Loop() {
		if set, problems := Files(files); len(problems) > 0 || len(set.Documents) != 1004 {
			b.Fatalf("%d documents\n%s", len(set.Documents), Text(problems))
		}
	}
}
