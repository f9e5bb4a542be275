package sources_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
)

// repo is a repository with a work tree on branch main.
type repo struct {
	*testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	r := &repo{t, t.TempDir()}
	r.git("init", "--quiet", "--initial-branch=main")
	return r
}

func (r *repo) git(args ...string) string {
	r.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ana", "GIT_AUTHOR_EMAIL=ana@acme.example",
		"GIT_COMMITTER_NAME=Merge Bot", "GIT_COMMITTER_EMAIL=bot@acme.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes a file ("" removes it) and gives the commit that has it.
func (r *repo) commit(name, text string) string {
	r.Helper()
	if text == "" {
		r.git("rm", "-q", "--", name)
	} else {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(r.dir, name)), 0o700); err != nil {
			r.Fatal(err)
		}
		write(r.T, r.dir, name, text)
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "-m", "a commit")
	return r.git("rev-parse", "HEAD")
}

func (s *stand) definition(name string) events.Definition {
	s.Helper()
	for _, d := range s.definitions() {
		if d.Name == name {
			return d
		}
	}
	s.Fatalf("there is no definition %s", name)
	return events.Definition{}
}

func TestWhatStandsInABranchIsInForceWithItsCommitAndAuthor(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	one := r.commit("defs/one.yaml", workflow("one", ""))
	r.commit("defs/two.yaml", workflow("two", ""))
	source := "git+file://" + r.dir + "#main:defs"
	s := start(t, engine.Options{Workflows: []string{source}, WorkflowsPoll: time.Second})
	s.told(events.DefinitionApplied)
	if d := s.definition("one"); d.Source != source || d.Commit != one || d.Author != "ana@acme.example" || d.File != "defs/one.yaml" {
		t.Errorf("it came from %+v", d)
	}
	run := ask[events.RunView](s, events.VerbStart, events.StartRun{ID: "r1", Workflow: "one"})
	for i, o := range []*events.Origin{run.Origin, ask[events.WhyView](s, events.VerbWhy, events.GetRun{Run: run.ID}).Run.Origin} {
		if o == nil || o.Commit != one || o.Author != "ana@acme.example" || o.Source != source || o.File != "defs/one.yaml" {
			t.Errorf("%d: its run says %+v", i, o)
		}
	}

	bad := r.commit("defs/one.yaml", strings.Replace(workflow("one", ""), "initial: z", "initial: nowhere", 1))
	h := s.told(events.DefinitionRefused)
	if h.By != source || h.Commit != bad || h.Author != "ana@acme.example" || len(h.Reasons) == 0 || !strings.HasPrefix(h.Reasons[0], "defs/one.yaml:") {
		t.Errorf("a bad commit is told as %+v", h)
	}
	if d := s.definition("one"); d.Commit != one {
		t.Errorf("the bad commit has replaced the good definition: %+v", d)
	}
	s.restart() // what came from Git stands in the store; nothing is told again
	if src := s.sources()[0]; src.Source != source || src.Error != "" {
		t.Errorf("the source is %+v", src)
	}
	good := r.commit("defs/one.yaml", workflow("one", "better"))
	if h := s.told(events.DefinitionRecovered); h.Commit != good || h.By != source {
		t.Errorf("a good commit is told as %+v", h)
	}
	s.want("what changed", shown(s.told(events.DefinitionApplied)), "Workflow/one")
	if d := s.definition("one"); d.Commit != good {
		t.Errorf("after a good commit: %+v", d)
	}
	if n := s.tellings(events.DefinitionRefused); n != 1 {
		t.Errorf("the bad commit was told %d times", n)
	}

	last := r.commit("defs/two.yaml", "")
	h = s.told(events.DefinitionRemoved)
	if shown(h) != "Workflow/two" || h.Commit != last {
		t.Errorf("a file that is gone is told as %+v", h)
	}
	r.git("reset", "-q", "--hard", good)
	s.want("after a force push", shown(s.told(events.DefinitionApplied)), "Workflow/two")

	r.git("checkout", "-q", "-b", "other")
	r.git("branch", "-D", "main")
	if h := s.told(events.DefinitionUnreachable); !strings.Contains(h.Reason, "has no branch main") || h.Commit != good {
		t.Errorf("a branch that is gone is told as %+v", h)
	}
	s.want("without the branch", s.names(), "one two")
	if src := s.sources()[0]; src.Error == "" || src.Commit != good {
		t.Errorf("the source is %+v", src)
	}
	r.git("branch", "main")
	s.told(events.DefinitionRecovered)
	if src := s.sources()[0]; src.Error != "" || src.Problems != 0 {
		t.Errorf("the source is %+v", src)
	}
}

func TestARepositoryThatDoesNotAnswerKeepsWhatIsInForce(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("one.yaml", workflow("one", ""))
	s := start(t, engine.Options{Workflows: []string{"git+file://" + r.dir}, WorkflowsPoll: time.Second})
	s.stop()
	away := r.dir + ".away"
	if err := os.Rename(r.dir, away); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.want("in force", s.names(), "one")
	s.told(events.DefinitionUnreachable)
	if err := os.Rename(away, r.dir); err != nil {
		t.Fatal(err)
	}
	s.told(events.DefinitionRecovered)
}

func TestARepositoryMayComeLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	s := start(t, engine.Options{Workflows: []string{"git+file://" + dir + "#main"}, WorkflowsPoll: time.Second})
	s.told(events.DefinitionUnreachable)
	r := newRepo(t)
	r.commit("one.yaml", workflow("one", ""))
	if err := os.Rename(r.dir, dir); err != nil {
		t.Fatal(err)
	}
	s.told(events.DefinitionRecovered)
	s.want("in force", s.names(), "one")
}

func TestAWebhookMakesTheServerLookAtOnce(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("one.yaml", workflow("one", ""))
	const secret = "0123456789abcdef"
	s := start(t, engine.Options{Workflows: []string{"git+file://" + r.dir}, WorkflowsPoll: time.Hour, WebhookSecret: secret, HTTP: "127.0.0.1:0"})
	s.told(events.DefinitionApplied)
	r.commit("two.yaml", workflow("two", ""))
	push := func(secret string) int {
		const body = `{"ref":"refs/heads/main"}`
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.info.HTTP+"/v1/webhooks/git", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := push("another secret !"); status != http.StatusUnauthorized {
		t.Errorf("a bad signature: %d", status)
	}
	s.want("after a bad signature", s.names(), "one")
	if status := push(secret); status != http.StatusAccepted {
		t.Errorf("a good signature: %d", status)
	}
	s.want("after a good one", shown(s.told(events.DefinitionApplied)), "Workflow/two")
}

func TestOfTwoSourcesTheFirstWinsUntilItGivesUp(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t), t.TempDir()
	write(t, dir, "one.yaml", workflow("one", "of the folder"))
	write(t, dir, "other.yaml", workflow("other", ""))
	r.commit("one.yaml", workflow("one", "of the repository"))
	r.commit("two.yaml", workflow("two", ""))
	s := start(t, engine.Options{Workflows: []string{dir, "git+file://" + r.dir}, WorkflowsPoll: time.Second})
	if h := s.told(events.DefinitionRefused); !strings.Contains(strings.Join(h.Reasons, "\n"), "Workflow one is already defined at "+filepath.ToSlash(dir)+"/one.yaml:1:1 of folder:"+dir) {
		t.Errorf("the second is told %v", h.Reasons)
	}
	s.want("the first has it", s.definition("one").Source, "folder:"+dir)
	s.want("all", s.names(), "one other two")
	if err := os.Remove(filepath.Join(dir, "one.yaml")); err != nil {
		t.Fatal(err)
	}
	s.told(events.DefinitionRecovered)
	s.want("then the second has it", s.definition("one").Source, "git+file://"+r.dir)
}
