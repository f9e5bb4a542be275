// Package gitsrc fetches the source of a task: one commit of a git
// repository, checked out fresh, and who wrote what is new in it. It drives
// the git command line client, which brings every protocol and credential
// store with it.
//
// A repository is an absolute local path, or a file:, https: or ssh: URL, or
// user@host:path; http: reaches loopback addresses only. A commit is the full
// hexadecimal name of a commit (40 or 64 digits), else the name of a tag or,
// when there is none, of a branch. Submodules are not fetched.
//
// The repository is not trusted: no hook of it runs, no transport beyond
// those above is used, nothing in a name is taken for an option, and git
// never asks a person. Credentials come from what the worker's user has set
// up for git and ssh, or from the URL; those in the URL reach neither a
// command line, nor the checkout, nor a message.
package gitsrc

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/proc"
)

// Codes of the errors of Clone and Directory.
const (
	CodeBadSource    = "bad_source"     // repository or commit is not of an accepted form
	CodeGitMissing   = "git_missing"    // the worker has no git
	CodeCloneFailed  = "clone_failed"   // the repository could not be fetched
	CodeNoSuchCommit = "no_such_commit" // it could, and does not have the commit
)

// Error is what Clone and Directory give, ready to be a task's error.
type Error = events.TaskError

// Request says what to fetch.
type Request struct {
	Repository string
	Commit     string
	// Since is the commit before what is new, in the same forms as Commit.
	// Empty: only Commit itself is new, and its history is not fetched.
	Since string
	// Running are commits that run somewhere now: what is new to one of them is new.
	Running []string
	Dir     string    // the checkout is made here; it must not exist or be empty
	Note    io.Writer // gets a line for each step; nil discards
}

// Checkout is a commit with its files.
type Checkout struct {
	Dir     string
	Commit  string // full name
	Subject string // first line of its message
	// Authors are the e-mail addresses, in lower case and sorted, of the
	// authors and co-authors (Co-authored-by trailers) of the commits that
	// Commit has and Since, or one of Running, has not; of Commit when there are none, because
	// going back to an older commit is a change too. The repository's
	// mailmap is not applied: an author could use it to be somebody else.
	// Nil when they could not be found out; Unknown says why.
	Authors []string
	Unknown string
	Commits int // how many commits are new
}

// Clone makes a Checkout. The error is an *Error with one of the codes above,
// unless ctx has ended.
func Clone(ctx context.Context, r Request) (*Checkout, error) {
	if r.Note == nil {
		r.Note = io.Discard
	}
	if err := checkRepository(r.Repository); err != nil {
		return nil, err
	}
	for _, name := range append([]string{r.Commit, r.Since}, r.Running...) {
		if err := checkName(name); name != "" && err != nil {
			return nil, err
		}
	}
	if r.Commit == "" {
		return nil, badSource("commit is empty: name the commit, tag or branch to fetch")
	}
	g := &git{dir: r.Dir, repository: r.Repository, note: r.Note}
	return g.clone(ctx, r)
}

func (g *git) clone(ctx context.Context, r Request) (*Checkout, error) {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, &Error{Code: CodeCloneFailed, Message: fmt.Sprintf("no directory for the checkout: %v", err), Retryable: true}
	}
	format := "sha1"
	if len(r.Commit) == 64 && isHex(r.Commit) {
		format = "sha256"
	}
	fmt.Fprintf(g.note, "fetching %s at %s\n", redact(g.repository), r.Commit)
	if err := g.init(ctx, format); err != nil {
		return nil, err
	}
	commit, err := g.resolve(ctx, r.Commit)
	if err != nil {
		return nil, err
	}
	if len(commit) == 64 && format == "sha1" { // known only once a name has been resolved
		if err := os.RemoveAll(r.Dir); err != nil {
			return nil, &Error{Code: CodeCloneFailed, Message: err.Error(), Retryable: true}
		}
		if err := g.init(ctx, "sha256"); err != nil {
			return nil, err
		}
	}
	if commit, err = g.fetch(ctx, commit, r.Since != "" || len(r.Running) > 0); err != nil {
		return nil, err
	}
	if _, err := g.run(ctx, "checkout", "--quiet", "--detach", "--force", commit, "--"); err != nil {
		return nil, g.failed(err)
	}
	c := &Checkout{Dir: r.Dir, Commit: commit}
	if err := g.describe(ctx, c, append(slices.Clone(r.Running), r.Since)); err != nil {
		return nil, err
	}
	return c, ctx.Err()
}

// init makes an empty repository. The URL is not written to it: see git.env.
func (g *git) init(ctx context.Context, format string) error {
	_, err := g.runIn(ctx, os.TempDir(), "init", "--quiet", "--template=", "--object-format="+format, "--", g.dir)
	return g.failed(err)
}

// gitEnv are the worker's variables that git may see beyond those of proc.Env:
// they say how to reach a repository and how to log in.
var gitEnv = []string{"SSH_AUTH_SOCK", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_SSL_CAINFO", "XDG_CONFIG_HOME"}

func (g *git) env() []string {
	extra := append([]string{
		"GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "LC_ALL=C",
		"GIT_ALLOW_PROTOCOL=file:https:http:ssh",
		// By the environment, so that a password in it is neither in the
		// list of processes nor in the configuration of the checkout.
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=remote.origin.url", "GIT_CONFIG_VALUE_0=" + g.repository,
	}, gitEnv...)
	if ssh := os.Getenv("GIT_SSH_COMMAND"); ssh != "" {
		extra = append(extra, "GIT_SSH_COMMAND="+ssh)
	} else {
		extra = append(extra, "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	}
	return proc.Env(extra...)
}
