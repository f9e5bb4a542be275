package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// definitionsDir writes a directory of n files, each with a workflow of eight
// states, beside the environments, roles and channels that they share.
func definitionsDir(t testing.TB, n int) string {
	t.Helper()
	content, err := os.ReadFile("../../workflows/parse/testdata/good/release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	workflow, rest, _ := strings.Cut(string(content), "\n---\n")
	shared, _, _ := strings.Cut(rest, "---\napiVersion: penstock/v1\nkind: Scenario")
	write("shared.yaml", shared)
	for i := range n {
		write(fmt.Sprintf("w%d.yaml", i), strings.Replace(workflow, "name: checkout-release", fmt.Sprintf("name: r%d-release", i), 1)+"\n")
	}
	return dir
}

// BenchmarkCheck is penstock check of a directory of 1,000 files.
func BenchmarkCheck(b *testing.B) {
	dir := definitionsDir(b, 1000)
	for b.Loop() {
		if code := newApp(strings.NewReader(""), io.Discard, os.Stderr).execute(context.Background(), []string{"check", dir}); code != 0 {
			b.Fatalf("exit %d", code)
		}
	}
}

func TestABadFileNeitherHidesNorStopsAGoodOne(t *testing.T) {
	dir := definitionsDir(t, 20)
	for name, text := range map[string]string{
		"a-broken.yaml":  "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: broken}\nspec: {initial: [\n",
		"m-not-text.yml": "\xff\xfe\x00",
		"z-wrong.yaml":   "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: wrong}\nspec: {initial: a, states: {a: {final: done}}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := penstock(t, "check", dir)
	if got.code != exitUsage || !strings.Contains(got.stderr, "(24 files, 24 good definitions)") {
		t.Errorf("exit %d, %s", got.code, got.stderr)
	}
	for _, name := range []string{"a-broken.yaml", "m-not-text.yml", "z-wrong.yaml"} {
		if !strings.Contains(got.out, name+":") {
			t.Errorf("nothing is said of %s:\n%s", name, got.out)
		}
	}
	if strings.Contains(got.out, "shared.yaml") || strings.Contains(got.out, "w7.yaml") {
		t.Errorf("a good file has a problem:\n%s", got.out)
	}
}
