package workertest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/workers/workertest"
)

func TestInputsHaveTheTypesOfTheBus(t *testing.T) {
	job := workertest.New(t, map[string]any{"command": []string{"make"}, "instances": 2})
	if _, ok := job.With["command"].([]any); !ok {
		t.Errorf("command is %T, want []any", job.With["command"])
	}
	if n, ok := job.With["instances"].(float64); !ok || n != 2 {
		t.Errorf("instances is %v (%T), want 2 as float64", n, job.With["instances"])
	}
}

func TestArtifactsAreFoundByTheDigestOfTheirContent(t *testing.T) {
	job := workertest.New(t, nil)
	digest := workertest.Store(t, job, "a.txt", []byte("hello"))
	if want := "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; digest != want {
		t.Errorf("digest %s, want %s", digest, want)
	}
	if again := workertest.Store(t, job, "b.txt", []byte("hello")); again != digest {
		t.Errorf("the same content got digest %s, then %s", digest, again)
	}
	store := job.Artifacts.(*workertest.Artifacts)
	if got := store.Digests(); len(got) != 1 || store.Name(digest) != "a.txt" {
		t.Errorf("digests %v, name %q; want one, named a.txt", got, store.Name(digest))
	}
	if got := workertest.Content(t, job, digest); string(got) != "hello" {
		t.Errorf("content %q", got)
	}
	if err := job.Artifacts.Get(t.Context(), "sha256:00", &strings.Builder{}); err == nil {
		t.Error("an unknown digest was found")
	}
}

func TestOutputIsCaptured(t *testing.T) {
	job := workertest.New(t, nil)
	fmt.Fprint(job.Stdout, "out")
	fmt.Fprint(job.Stderr, "err")
	if out, err := workertest.Text(job.Stdout), workertest.Text(job.Stderr); out != "out" || err != "err" {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
}

func TestARepositoryHasWhatWasCommitted(t *testing.T) {
	r := workertest.NewRepo(t)
	first := r.Commit("first", map[string]string{"a.txt": "1", "dir/b.txt": "2"})
	r.Author = "Ben <ben@acme.example>"
	second := r.Commit("second", map[string]string{"a.txt": "-"})
	if got, want := r.Git("log", "--format=%H %ae %s"), second+" ben@acme.example second\n"+first+" ana@acme.example first"; got != want {
		t.Errorf("history is\n%s\nwant\n%s", got, want)
	}
	if got := r.Git("ls-tree", "-r", "--name-only", second); got != "dir/b.txt" {
		t.Errorf("files are %q", got)
	}
}
