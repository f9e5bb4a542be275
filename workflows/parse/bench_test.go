package parse

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// thousand gives 1,000 files, each with a workflow of ten states, and the
// documents that they share.
func thousand(t testing.TB) []File {
	t.Helper()
	content, err := os.ReadFile("testdata/good/release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	workflow, rest, _ := strings.Cut(string(content), "\n---\n")
	files := []File{{Name: "shared.yaml", Content: []byte(strings.Split(rest, "---\napiVersion: penstock/v1\nkind: Scenario")[0])}}
	for i := range 1000 {
		text := strings.Replace(workflow, "name: checkout-release", fmt.Sprintf("name: n%d-release", i), 1)
		files = append(files, File{Name: fmt.Sprintf("w%d.yaml", i), Content: []byte(text)})
	}
	return files
}

// BenchmarkFiles reads and checks 1,000 files. Beside the time it shows how
// many times that is of the floor: reading their YAML and nothing else.
func BenchmarkFiles(b *testing.B) {
	files := thousand(b)
	began := time.Now()
	for _, f := range files {
		for _, src := range split(f.Name, f.Content) {
			var node yaml.Node
			if err := yaml.Load(src.text, &node); err != nil {
				b.Fatal(err)
			}
		}
	}
	floor := time.Since(began)
	for b.Loop() {
		if set, problems := Files(files); len(problems) > 0 || len(set.Documents) != 1004 {
			b.Fatalf("%d documents\n%s", len(set.Documents), Text(problems))
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(floor), "×yaml")
}
