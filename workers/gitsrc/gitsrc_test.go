package gitsrc_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/gitsrc"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// sample is a repository with three commits, an annotated tag v1 on the
// first and a branch topic beside the second.
func sample(t *testing.T) (r *workertest.Repo, commits []string) {
	t.Helper()
	r = workertest.NewRepo(t)
	one := r.Commit("one", map[string]string{"a.txt": "1"})
	r.Git("-c", "user.name=x", "-c", "user.email=x@x", "tag", "-a", "v1", "-m", "version 1")
	two := r.Commit("two\n\nwith a body", map[string]string{"a.txt": "2"})
	r.Git("checkout", "-q", "-b", "topic")
	topic := r.Commit("topic", map[string]string{"a.txt": "t"})
	r.Git("checkout", "-q", "main")
	return r, []string{one, two, topic}
}

func clone(t *testing.T, r gitsrc.Request) (*gitsrc.Checkout, error) {
	t.Helper()
	if r.Dir == "" {
		r.Dir = filepath.Join(t.TempDir(), "src")
	}
	return gitsrc.Clone(t.Context(), r)
}

func mustClone(t *testing.T, r gitsrc.Request) *gitsrc.Checkout {
	t.Helper()
	c, err := clone(t, r)
	if err != nil {
		t.Fatalf("clone of %s at %s: %v", r.Repository, r.Commit, err)
	}
	return c
}

func wantError(t *testing.T, err error, code string, retryable bool, parts ...string) {
	t.Helper()
	var e *events.TaskError
	if !errors.As(err, &e) || e.Code != code || e.Retryable != retryable {
		t.Errorf("error %#v (%v), want code %s, retryable %v", err, err, code, retryable)
		return
	}
	for _, p := range parts {
		if !strings.Contains(e.Message, p) {
			t.Errorf("message %q does not mention %q", e.Message, p)
		}
	}
}

func file(t *testing.T, c *gitsrc.Checkout, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestACommitIsFoundByNameTagOrBranch(t *testing.T) {
	r, commits := sample(t)
	r.Git("branch", "v2")
	r.Git("tag", "v2", commits[0]) // a tag comes before a branch of its name
	for _, tc := range []struct{ name, commit, content string }{
		{commits[0], commits[0], "1"},
		{strings.ToUpper(commits[1]), commits[1], "2"},
		{r.Git("rev-parse", "v1"), commits[0], "1"},
		{"main", commits[1], "2"},
		{"v1", commits[0], "1"},
		{"v2", commits[0], "1"},
		{"topic", commits[2], "t"},
		{"refs/heads/topic", commits[2], "t"},
	} {
		for _, repository := range []string{r.Dir, "file://" + r.Dir} {
			c := mustClone(t, gitsrc.Request{Repository: repository, Commit: tc.name})
			if got := file(t, c, "a.txt"); c.Commit != tc.commit || got != tc.content {
				t.Errorf("%s: got %s with %q, want %s with %q", tc.name, c.Commit, got, tc.commit, tc.content)
			}
		}
	}
	c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: commits[1]})
	if c.Subject != "two" {
		t.Errorf("subject %q", c.Subject)
	}
}

func TestWhatIsNotThereIsSaid(t *testing.T) {
	r, commits := sample(t)
	absent := strings.Repeat("5", 40)
	_, err := clone(t, gitsrc.Request{Repository: r.Dir, Commit: absent})
	wantError(t, err, gitsrc.CodeNoSuchCommit, false, absent, r.Dir)
	_, err = clone(t, gitsrc.Request{Repository: r.Dir, Commit: "nowhere"})
	wantError(t, err, gitsrc.CodeNoSuchCommit, false, "no tag or branch nowhere")
	_, err = clone(t, gitsrc.Request{Repository: r.Dir, Commit: commits[0][:8]})
	wantError(t, err, gitsrc.CodeNoSuchCommit, false, "40 digits")
	_, err = clone(t, gitsrc.Request{Repository: r.Dir, Commit: r.Git("rev-parse", "main:a.txt")})
	wantError(t, err, gitsrc.CodeNoSuchCommit, false)
	_, err = clone(t, gitsrc.Request{Repository: "/no/such/place", Commit: "main"})
	wantError(t, err, gitsrc.CodeCloneFailed, false, "/no/such/place")
	_, err = clone(t, gitsrc.Request{Repository: t.TempDir(), Commit: "main"})
	wantError(t, err, gitsrc.CodeCloneFailed, false, "git repository")
}

func TestOnlySafeSourcesAreAccepted(t *testing.T) {
	r, _ := sample(t)
	mark := filepath.Join(t.TempDir(), "mark")
	for _, repository := range []string{"", "relative/path", "../up", "--upload-pack=touch " + mark, "ext::touch " + mark, "fd::17",
		"git://example.com/a", "ftp://example.com/a", "http://example.com/a", "https:///a", "ssh://-oProxyCommand=x/a",
		"ssh://-l@example.com/a", "-o@example.com:a", "git@-host:a", "git@host:-a", "/tmp/a\nb", "://"} {
		_, err := clone(t, gitsrc.Request{Repository: repository, Commit: "main"})
		wantError(t, err, gitsrc.CodeBadSource, false)
	}
	for _, name := range []string{"", "-x", "--upload-pack=touch", "a b", "a..b", "a~1", "a^", "a:b", "a*", "a@{1}", "a\n", "a.lock", "a/"} {
		_, err := clone(t, gitsrc.Request{Repository: r.Dir, Commit: name})
		wantError(t, err, gitsrc.CodeBadSource, false)
		if name != "" {
			_, err = clone(t, gitsrc.Request{Repository: r.Dir, Commit: "main", Since: name})
			wantError(t, err, gitsrc.CodeBadSource, false)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a repository name ran a command")
	}
}

func TestNoHookRuns(t *testing.T) {
	r, _ := sample(t)
	dir := t.TempDir()
	mark, hooks, config := filepath.Join(dir, "mark"), filepath.Join(dir, "template", "hooks"), filepath.Join(dir, "config")
	if err := os.MkdirAll(hooks, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"post-checkout", "reference-transaction"} {
		if err := os.WriteFile(filepath.Join(hooks, hook), []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(config, []byte("[init]\ntemplateDir="+dir+"/template\n[core]\nhooksPath="+hooks+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", config)
	mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: "main"})
	if _, err := os.Stat(mark); err == nil {
		t.Error("a hook ran")
	}
}

func TestGitOfARepositoryWithSHA256(t *testing.T) {
	r := workertest.NewRepo(t, "--object-format=sha256")
	commit := r.Commit("one", map[string]string{"a.txt": "1"})
	for _, name := range []string{commit, "main"} {
		if c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: name, Since: commit}); c.Commit != commit || len(commit) != 64 {
			t.Errorf("%s: got %s, want %s", name, c.Commit, commit)
		}
	}
	plain, _ := sample(t)
	if _, err := clone(t, gitsrc.Request{Repository: plain.Dir, Commit: commit}); err == nil {
		t.Error("a commit of another object format was found")
	}
}

func TestAMissingGitIsSaid(t *testing.T) {
	r, _ := sample(t)
	t.Setenv("PATH", t.TempDir())
	_, err := clone(t, gitsrc.Request{Repository: r.Dir, Commit: "main"})
	wantError(t, err, gitsrc.CodeGitMissing, false, "install")
}

func TestACancelledCloneSaysSo(t *testing.T) {
	r, _ := sample(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed my mind")
	cancel(reason)
	if _, err := gitsrc.Clone(ctx, gitsrc.Request{Repository: r.Dir, Commit: "main", Dir: t.TempDir()}); !errors.Is(err, reason) {
		t.Errorf("error %v, want %v", err, reason)
	}
}

// serve is git over http on a loopback address, for a user with a password
// when one is given.
func serve(t *testing.T, r *workertest.Repo, user, password string) string {
	t.Helper()
	exe, err := exec.LookPath("git")
	if err != nil {
		t.Skip("needs git")
	}
	backend := &cgi.Handler{Path: exe, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + r.Dir, "GIT_HTTP_EXPORT_ALL=1"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		u, p, _ := req.BasicAuth()
		if user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestCredentialsStayOutOfTheCheckoutAndOfMessages(t *testing.T) {
	r, commits := sample(t)
	base := serve(t, r, "robot", "s3cret")
	with := func(user string) string { return strings.Replace(base, "://", "://"+user+"@", 1) + "/.git" }

	var notes workertest.Output
	c := mustClone(t, gitsrc.Request{Repository: with("robot:s3cret"), Commit: "main", Since: commits[0], Note: &notes})
	if c.Commit != commits[1] || c.Commits != 1 {
		t.Errorf("got %+v", c)
	}
	config, err := exec.Command("grep", "-r", "s3cret", c.Dir).CombinedOutput()
	if err == nil {
		t.Errorf("the checkout holds the password: %s", config)
	}
	_, denied := clone(t, gitsrc.Request{Repository: with("robot:wr0ng"), Commit: "main", Note: &notes})
	wantError(t, denied, gitsrc.CodeCloneFailed, false, "***@")
	_, token := clone(t, gitsrc.Request{Repository: with("t0ken"), Commit: "main", Note: &notes})
	wantError(t, token, gitsrc.CodeCloneFailed, false)
	_, absent := clone(t, gitsrc.Request{Repository: with("robot:s3cret"), Commit: "nowhere", Note: &notes})
	wantError(t, absent, gitsrc.CodeNoSuchCommit, false)
	for _, text := range []string{notes.String(), denied.Error(), token.Error(), absent.Error()} {
		for _, secret := range []string{"s3cret", "wr0ng", "t0ken"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is told: %s", secret, text)
			}
		}
	}
}

func TestANetworkFailureMayBeTriedAgain(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	base := server.URL
	_, err := clone(t, gitsrc.Request{Repository: base + "/x.git", Commit: "main"})
	wantError(t, err, gitsrc.CodeCloneFailed, false, "not found")
	server.Close()
	_, err = clone(t, gitsrc.Request{Repository: base + "/x.git", Commit: "main"})
	wantError(t, err, gitsrc.CodeCloneFailed, true)
}

func TestGitOverSSHNeverAsks(t *testing.T) {
	r, commits := sample(t)
	dir := t.TempDir()
	ssh := filepath.Join(dir, "ssh") // runs the command that a server would run
	script := "#!/bin/sh\necho \"$@\" >>" + dir + "/calls\nfor last; do :; done\nexec sh -c \"$last\"\n"
	if err := os.WriteFile(ssh, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, repository := range []string{"ssh://git@git.example" + r.Dir, "git@git.example:" + r.Dir} {
		if c := mustClone(t, gitsrc.Request{Repository: repository, Commit: "main"}); c.Commit != commits[1] {
			t.Errorf("%s: got %s", repository, c.Commit)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(calls)) {
		if !strings.Contains(line, "BatchMode=yes") {
			t.Errorf("ssh may ask: %s", line)
		}
	}
}

func TestAuthorsAreThoseOfWhatIsNew(t *testing.T) {
	r := workertest.NewRepo(t)
	r.Author = "Root <root@acme.example>"
	first := r.Commit("first", map[string]string{"a.txt": "1", ".mailmap": "Root <root@acme.example> <ana@acme.example>\n"})
	r.Author = "Ana <Ana@Acme.example>"
	r.Commit("second\n\nCo-authored-by: Ben <ben@acme.example>\nCo-Authored-By: Cy \"x\" <cy@acme.example>", map[string]string{"a.txt": "2"})
	r.Author = "Dan <dan@acme.example>"
	last := r.Commit("third", map[string]string{"a.txt": "3"})
	all := []string{"ana@acme.example", "ben@acme.example", "cy@acme.example", "dan@acme.example"}
	for _, tc := range []struct {
		name, commit, since string
		authors             []string
		commits             int
		running             []string
	}{
		{"since the first", last, first, all, 3 - 1, nil},
		{"the commit alone", last, "", []string{"dan@acme.example"}, 1, nil},
		{"nothing new", last, last, []string{"dan@acme.example"}, 0, nil},
		{"going back", first, last, []string{"root@acme.example"}, 0, nil},
		{"since the one that lacks most", last, "", all, 3 - 1, []string{last, first}},
	} {
		c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: tc.commit, Since: tc.since, Running: tc.running})
		if diff := cmp.Diff(tc.authors, c.Authors); diff != "" || c.Commits != tc.commits || c.Unknown != "" {
			t.Errorf("%s: %d commits (%s), want %d; authors (-want +got)\n%s", tc.name, c.Commits, c.Unknown, tc.commits, diff)
		}
	}
}

func TestUnknownAuthorsAreNotNobody(t *testing.T) {
	r, _ := sample(t)
	var notes workertest.Output
	c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: "main", Since: strings.Repeat("7", 40), Note: &notes})
	if c.Authors != nil || !strings.Contains(c.Unknown, "7777777") || !strings.Contains(notes.String(), c.Unknown) {
		t.Errorf("authors %q, unknown %q, notes %q", c.Authors, c.Unknown, notes.String())
	}
	r.Author = "Nobody <>"
	r.Commit("anonymous", nil)
	if c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: "main"}); c.Authors != nil || c.Unknown == "" {
		t.Errorf("authors %q, unknown %q", c.Authors, c.Unknown)
	}
}

func TestHistoryComesWithoutOldFiles(t *testing.T) {
	r := workertest.NewRepo(t)
	r.Git("config", "uploadpack.allowFilter", "true")
	first := r.Commit("one", map[string]string{"big.txt": strings.Repeat("old", 1000)})
	last := r.Commit("two", map[string]string{"big.txt": "new"})
	c := mustClone(t, gitsrc.Request{Repository: "file://" + r.Dir, Commit: last, Since: first})
	if c.Commits != 1 || file(t, c, "big.txt") != "new" {
		t.Errorf("got %+v", c)
	}
	cmd := exec.Command("git", "-C", c.Dir, "rev-list", "--objects", "--all", "--missing=print", last)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "\n?") {
		t.Errorf("the old content was fetched too: %v\n%s", err, out)
	}
}

func TestADirectoryLiesInTheCheckout(t *testing.T) {
	r, _ := sample(t)
	if err := os.Symlink("/", filepath.Join(r.Dir, "out")); err != nil {
		t.Fatal(err)
	}
	r.Commit("more", map[string]string{"sub/b.txt": "b"})
	c := mustClone(t, gitsrc.Request{Repository: r.Dir, Commit: "main"})
	for _, name := range []string{"..", "out", "out/tmp", "/tmp", "nowhere", "a.txt"} {
		dir, err := c.Directory(name)
		if wantError(t, err, gitsrc.CodeBadSource, false, name); dir != "" {
			t.Errorf("%s: got %s", name, dir)
		}
	}
	if dir, err := c.Directory("sub"); err != nil || dir != filepath.Join(c.Dir, "sub") {
		t.Errorf("got %s, %v", dir, err)
	}
	if dir, err := c.Directory(""); err != nil || dir != c.Dir {
		t.Errorf("got %s, %v", dir, err)
	}
}
