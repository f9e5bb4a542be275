package parse

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the faults give as what is wanted")

// TestFaultsAreTold compares the whole text that each fault gives.
func TestFaultsAreTold(t *testing.T) {
	folders, err := filepath.Glob("testdata/faults/*/input.yaml")
	if err != nil || len(folders) < 30 {
		t.Fatalf("%d faults, %v", len(folders), err)
	}
	for _, input := range folders {
		folder := filepath.Dir(input)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			content, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			_, problems := Files([]File{{Name: "input.yaml", Content: content}})
			if len(problems) == 0 {
				t.Error("no problem was found")
			}
			got := Text(problems)
			if *update {
				if err := os.WriteFile(filepath.Join(folder, "want.txt"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Join(folder, "want.txt"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}
