package parse

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzFiles reads anything: it must not panic, every problem must lie within
// the file, and what is good must load again.
func FuzzFiles(f *testing.F) {
	seeds, _ := filepath.Glob("testdata/faults/*/input.yaml")
	for _, seed := range append(seeds, "testdata/good/release.yaml") {
		content, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		set, problems := Files([]File{{Name: "f.yaml", Content: content}})
		lines := strings.Split(string(content), "\n")
		for _, p := range problems {
			if p.Code == "internal" {
				t.Fatalf("a fault of ours: %s", p.Message)
			}
			if p.Message == "" || p.Pos.Line < 1 || p.Pos.Line > len(lines) || p.Pos.Column < 1 {
				t.Fatalf("problem %+v in a file of %d lines", p, len(lines))
			}
			if width := len(strings.TrimPrefix(lines[p.Pos.Line-1], "\xef\xbb\xbf")); p.Pos.Column > width+1 {
				t.Fatalf("problem %+v in a line of %d bytes", p, width)
			}
		}
		_ = Text(problems)
		again, more := Load(set.Documents)
		if Failed(more) || again.Digest != set.Catalog().Digest {
			t.Fatalf("what was good does not load again:\n%s", Text(more))
		}
	})
}
