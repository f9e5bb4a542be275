package workertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Repo is a git repository of a test, with a work tree on branch main.
type Repo struct {
	t      testing.TB
	Dir    string
	Author string // of the next commits, "Name <address>"
}

// NewRepo is an empty repository, removed with the test. The test is skipped
// when there is no git. initArgs are added to git init.
func NewRepo(t testing.TB, initArgs ...string) *Repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	r := &Repo{t: t, Dir: t.TempDir(), Author: "Ana <ana@acme.example>"}
	r.Git(append([]string{"init", "--quiet", "--initial-branch=main"}, initArgs...)...)
	return r
}

// Git runs git in the repository and gives what it printed, without the
// space around it. Nothing of the user's configuration applies.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_DATE=2026-11-23T12:00:00Z", "GIT_COMMITTER_DATE=2026-11-23T12:00:00Z",
		"GIT_COMMITTER_NAME=Merge Bot", "GIT_COMMITTER_EMAIL=bot@acme.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Commit writes files (path to content; a content of "-" removes the file),
// commits all of them, and gives the full name of the commit.
func (r *Repo) Commit(message string, files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		path := filepath.Join(r.Dir, name)
		if content == "-" {
			if err := os.Remove(path); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	r.Git("add", "--all", "--force")
	r.Git("commit", "--quiet", "--allow-empty", "--author", r.Author, "-m", message)
	return r.Git("rev-parse", "HEAD")
}
