package gitdefs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/internal/gitdefs"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// repo is a repository with a work tree on branch main.
type repo struct {
	*testing.T
	dir    string
	author string
	clock  int
}

func newRepo(t *testing.T, initArgs ...string) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	r := &repo{T: t, dir: t.TempDir(), author: "Ana <Ana@acme.example>"}
	r.git(append([]string{"init", "--quiet", "--initial-branch=main"}, initArgs...)...)
	return r
}

func (r *repo) git(args ...string) string {
	r.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	date := fmt.Sprintf("2026-11-23T12:00:%02dZ", r.clock%60)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date,
		"GIT_COMMITTER_NAME=Merge Bot", "GIT_COMMITTER_EMAIL=bot@acme.example", "GIT_AUTHOR_NAME=Merge Bot", "GIT_AUTHOR_EMAIL=bot@acme.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files (path to content, "-" removes) and commits them.
func (r *repo) commit(files map[string]string) string {
	r.Helper()
	r.clock++
	for name, content := range files {
		at := filepath.Join(r.dir, name)
		if content == "-" {
			if err := os.Remove(at); err != nil {
				r.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			r.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	r.git("add", "--all", "--force")
	r.git("commit", "--quiet", "--allow-empty", "--author", r.author, "-m", "a commit")
	return r.git("rev-parse", "HEAD")
}

func open(t *testing.T, address string) *gitdefs.Repository {
	t.Helper()
	a, err := gitdefs.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return gitdefs.Open(a, filepath.Join(t.TempDir(), "cache"))
}

func look(t *testing.T, r *gitdefs.Repository, known string) *gitdefs.Snapshot {
	t.Helper()
	snap, err := r.Look(t.Context(), known)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// shown is a snapshot in one line for each file.
func shown(s *gitdefs.Snapshot) string {
	var lines []string
	for _, f := range s.Files {
		lines = append(lines, fmt.Sprintf("%s %q %s %s", f.Name, f.Content, f.Commit, f.Author))
	}
	return strings.Join(lines, "\n")
}

func TestEachFileHasTheCommitThatMadeItWhatItIs(t *testing.T) {
	r := newRepo(t)
	one := r.commit(map[string]string{"defs/a.yaml": "1", "defs/b.yml": "1", "defs/sub/c.yaml": "1", "defs/no.txt": "", "defs/.hidden/x.yaml": "", "else.yaml": ""})
	r.author = "Li <li@acme.example>"
	two := r.commit(map[string]string{"defs/a.yaml": "2"})
	r.git("checkout", "-q", "-b", "topic", one)
	three := r.commit(map[string]string{"defs/sub/c.yaml": "2"})
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "--no-ff", "-m", "merge", "topic")
	head := r.commit(map[string]string{"README": "x"})
	for _, allow := range []string{"false", "true"} { // a server that can give commits without files, and one that cannot
		r.git("config", "uploadpack.allowFilter", allow)
		repository := open(t, "git+file://"+r.dir+"#main:defs")
		snap := look(t, repository, "")
		want := "defs/a.yaml \"2\" " + two + " li@acme.example\n" + "defs/b.yml \"1\" " + one + " ana@acme.example\n" + "defs/sub/c.yaml \"2\" " + three + " li@acme.example"
		if snap.Commit != head || snap.Author != "li@acme.example" || shown(snap) != want {
			t.Errorf("allowFilter=%s: at %s by %s:\n%s\nwant at %s:\n%s", allow, snap.Commit, snap.Author, shown(snap), head, want)
		}
		if again := look(t, repository, snap.Commit); again != nil {
			t.Errorf("the same commit again: %+v", again)
		}
	}
}

func TestOneFileTheWholeTreeAndTheRepositorysOwnBranch(t *testing.T) {
	r := newRepo(t)
	r.commit(map[string]string{"defs/a.yaml": "1", "b.yaml": "2"})
	for address, want := range map[string]string{"": "b.yaml defs/a.yaml", "#main:defs/a.yaml": "defs/a.yaml", "#:defs/": "defs/a.yaml", "#refs/heads/main": "b.yaml defs/a.yaml"} {
		var names []string
		for _, f := range look(t, open(t, "git+file://"+r.dir+address), "").Files {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%q: %s, want %s", address, got, want)
		}
	}
}

func TestAForcePushIsFollowedAndWhatIsGoneIsSaid(t *testing.T) {
	r := newRepo(t)
	first := r.commit(map[string]string{"defs/a.yaml": "1"})
	r.commit(map[string]string{"defs/a.yaml": "2"})
	repository := open(t, "git+file://"+r.dir+"#main:defs")
	second := look(t, repository, "")
	r.git("reset", "-q", "--hard", first)
	r.author = "Li <li@acme.example>"
	other := r.commit(map[string]string{"defs/a.yaml": "3"})
	snap := look(t, repository, second.Commit)
	if want := `defs/a.yaml "3" ` + other + " li@acme.example"; snap == nil || shown(snap) != want {
		t.Errorf("after a force push: %+v, want %s", snap, want)
	}
	r.commit(map[string]string{"defs/a.yaml": "-"})
	if _, err := repository.Look(t.Context(), other); err == nil || !strings.Contains(err.Error(), "there is no defs in it") {
		t.Errorf("without the folder: %v", err)
	}
	r.git("checkout", "-q", "-b", "elsewhere")
	r.git("branch", "-D", "main")
	if _, err := repository.Look(t.Context(), other); err == nil || !strings.Contains(err.Error(), "the repository has no branch main") {
		t.Errorf("without the branch: %v", err)
	}
	if err := os.Rename(r.dir, r.dir+"x"); err != nil {
		t.Fatal(err)
	}
	if _, err := repository.Look(t.Context(), other); err == nil || !strings.Contains(err.Error(), r.dir) {
		t.Errorf("without the repository: %v", err)
	}
}

func TestLinksAndLargeFilesAreProblems(t *testing.T) {
	r := newRepo(t)
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(r.dir, "link.yaml")); err != nil {
		t.Skip(err)
	}
	if err := os.Symlink(filepath.Dir(secret), filepath.Join(r.dir, "folder")); err != nil {
		t.Fatal(err)
	}
	r.commit(map[string]string{"a.yaml": "1", "large.yaml": strings.Repeat("x", parse.MaxFile+1)})
	snap := look(t, open(t, "git+file://"+r.dir), "")
	var told []string
	for _, p := range snap.Problems {
		told = append(told, p.Error())
	}
	if got := strings.Join(told, "\n"); len(snap.Files) != 1 || !strings.Contains(got, "link.yaml: a symbolic link is not followed") || !strings.Contains(got, "large.yaml: the file has 1048577 bytes") || len(told) != 2 {
		t.Errorf("%d files, told:\n%s", len(snap.Files), got)
	}
	for _, path := range []string{"folder", "link.yaml"} {
		if _, err := open(t, "git+file://"+r.dir+"#main:"+path).Look(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "is a symbolic link") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTheHistoryMayBeLongerThanWhatIsFetched(t *testing.T) {
	r := newRepo(t)
	r.git("config", "uploadpack.allowFilter", "true")
	one := r.commit(map[string]string{"defs/a.yaml": "1"})
	var in strings.Builder // much faster than as many commits by hand
	for i := range 400 {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter Li <li@acme.example> %d +0000\ndata 1\nx\n", 1795435300+i)
		if i == 0 {
			fmt.Fprintf(&in, "from %s\n", one)
		}
		fmt.Fprintf(&in, "M 100644 inline defs/b.yaml\ndata 4\n%04d\n", i)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	head := r.git("rev-parse", "main")
	want := `defs/a.yaml "1" ` + one + " ana@acme.example\n" + `defs/b.yaml "0399" ` + head + " li@acme.example"
	if got := shown(look(t, open(t, "git+file://"+r.dir+"#main:defs"), "")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// a server that gives files with every commit is not asked for so many
	r.git("config", "uploadpack.allowFilter", "false")
	a, err := gitdefs.Parse("git+file://" + r.dir + "#main:defs")
	if err != nil {
		t.Fatal(err)
	}
	if got := look(t, gitdefs.Open(a, t.TempDir()), ""); len(got.Files) != 2 {
		t.Errorf("%s", shown(got))
	}
}

func TestOverHTTPFromAServerThatIsCleverAndFromOneThatIsNot(t *testing.T) {
	r := newRepo(t)
	one := r.commit(map[string]string{"defs/a.yaml": "1"})
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(core)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip(err)
	}
	r.git("update-server-info")
	for name, handler := range map[string]http.Handler{
		"git http-backend": &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1"}},
		"files":            http.FileServer(http.Dir(r.dir)),
	} {
		srv := httptest.NewServer(handler)
		defer srv.Close()
		address := "git+http://git:hunter2@" + strings.TrimPrefix(srv.URL, "http://") + "/.git#main:defs"
		repository := open(t, address)
		if got, want := shown(look(t, repository, "")), `defs/a.yaml "1" `+one+" ana@acme.example"; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		srv.Close()
		if _, err := repository.Look(t.Context(), one); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s, without a server: %v", name, err)
		}
	}
}

func TestTheOtherKindOfObjectNames(t *testing.T) {
	r := newRepo(t, "--object-format=sha256")
	one := r.commit(map[string]string{"a.yaml": "1"})
	if got, want := shown(look(t, open(t, "git+file://"+r.dir), "")), `a.yaml "1" `+one+" ana@acme.example"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestACopyThatIsBrokenIsMadeAnew(t *testing.T) {
	r := newRepo(t)
	r.commit(map[string]string{"a.yaml": "1"})
	cache := t.TempDir()
	a, err := gitdefs.Parse("git+file://" + r.dir)
	if err != nil {
		t.Fatal(err)
	}
	look(t, gitdefs.Open(a, cache), "")
	packs, err := filepath.Glob(filepath.Join(cache, "*", "objects", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, p := range packs {
		if err := os.Chmod(p, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	repository := gitdefs.Open(a, cache)
	for range 3 {
		if snap, err := repository.Look(t.Context(), ""); err == nil {
			if shown(snap) == "" {
				t.Error("nothing was read")
			}
			return
		}
	}
	t.Error("it stays broken")
}

func TestAddressesThatMustNotBe(t *testing.T) {
	for _, text := range []string{
		"git+https://", "git+https:///x", "git+ext::sh -c id", "git+ext://x/y", "git+git://host/x", "git+http://host/x", "git+ssh://-oProxyCommand=x/y",
		"git+ssh://-x@host/y", "git+file://host/x", "git+https://host/x y", "git+https://host/x#-u", "git+https://host/x#a..b", "git+https://host/x#a@{1}",
		"git+https://host/x#main:/etc", "git+https://host/x#main:../x", "git+https://host/x#main:a/../../x", "git+https://host/x#main:.git/config",
		"git+https://host/x#main:-x", "git+https://host/x#ma\nin", "git+git@host:x", "git+/tmp/x", "git+https://host/x#main:a:b",
	} {
		if a, err := gitdefs.Parse(text); err == nil {
			t.Errorf("%s is taken for %+v", text, a)
		}
	}
}

func TestAnAddressShowsNoSecret(t *testing.T) {
	for text, want := range map[string]string{
		"git+https://host/x":                         "git+https://host/x",
		"git+https://host/x#main:defs/":              "git+https://host/x#main:defs",
		"git+https://host/x#:defs":                   "git+https://host/x#:defs",
		"git+https://token@host/x#main":              "git+https://***@host/x#main",
		"git+https://user:pa@ss@host:8443/x#main:.":  "git+https://***@host:8443/x#main",
		"git+ssh://git@host:22/x.git#release/1:.pen": "git+ssh://git@host:22/x.git#release/1:.pen",
		"git+ssh://git:secret@host/x":                "git+ssh://***@host/x",
		"git+file:///srv/git/x#main":                 "git+file:///srv/git/x#main",
	} {
		a, err := gitdefs.Parse(text)
		if err != nil || a.String() != want {
			t.Errorf("%s: %q, %v, want %q", text, a.String(), err, want)
		}
	}
	if _, err := gitdefs.Parse("git+gopher://user:secret@host/x"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func TestALookEndsWithItsContext(t *testing.T) {
	r := newRepo(t)
	r.commit(map[string]string{"a.yaml": "1"})
	ctx, cancel := context.WithCancel(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }))
	defer srv.Close()
	if _, err := open(t, "git+"+srv.URL+"/x").Look(ctx, ""); err == nil {
		t.Error("it found something")
	}
}

func TestARepositoryThatIsTooLargeIsRefusedAndNotFetchedAgainAndAgain(t *testing.T) {
	r := newRepo(t)
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(noise) // does not compress
	r.commit(map[string]string{"a.yaml": "1", "large": string(noise)})
	repository := open(t, "git+file://"+r.dir)
	repository.Limit(2 << 20)
	for range 2 {
		if _, err := repository.Look(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "larger than 2 MiB") {
			t.Fatalf("%v", err)
		}
	}
	repository.Limit(1 << 30)
	r.commit(map[string]string{"a.yaml": "2", "large": "-"})
	r.git("checkout", "-q", "--orphan", "fresh")
	r.git("branch", "-D", "main")
	r.git("checkout", "-q", "-b", "main")
	r.commit(map[string]string{"a.yaml": "3"})
	if snap := look(t, repository, ""); len(snap.Files) != 1 {
		t.Errorf("%s", shown(snap))
	}
}
