package gitsrc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/penstock-cd/penstock/workers/proc"
)

// git runs git in one checkout.
type git struct {
	dir        string
	repository string
	note       io.Writer
}

// safety comes before every subcommand.
var safety = []string{
	"-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
	"-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false",
	// nothing may go on in the background after the task
	"-c", "gc.auto=0", "-c", "maintenance.auto=false",
	"-c", "init.defaultBranch=main", "-c", "advice.detachedHead=false",
	// a server that stops sending must not hold the task until its timeout
	"-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60",
}

// gitError is a git command that failed, with what it said.
type gitError struct {
	err  error
	said string
}

func (e *gitError) Error() string { return e.err.Error() }
func (e *gitError) Unwrap() error { return e.err }

func (g *git) run(ctx context.Context, args ...string) (stdout string, err error) {
	return g.runIn(ctx, g.dir, args...)
}

func (g *git) runIn(ctx context.Context, dir string, args ...string) (string, error) {
	var stdout bytes.Buffer
	var stderr proc.Tail
	err := proc.Run(ctx, proc.Command{
		Args: append(append([]string{"git"}, safety...), args...),
		Dir:  dir, Env: g.env(), Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil {
		return "", &gitError{err, g.redactAll(stderr.Lines(5))}
	}
	return stdout.String(), nil
}

// failed turns the error of a git command into an *Error about the clone.
func (g *git) failed(err error) error {
	var start *proc.StartError
	var exit *proc.ExitError
	var said *gitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &start) && errors.Is(start, exec.ErrNotFound):
		return &Error{Code: CodeGitMissing, Message: "git is not installed on this worker, or not in its PATH: " +
			"install the package git (Debian, Alpine, Fedora), or the command line tools on macOS"}
	case errors.As(err, &start):
		return &Error{Code: CodeCloneFailed, Message: start.Error(), Retryable: true}
	case !errors.As(err, &exit) || !errors.As(err, &said): // the context has ended
		return err
	}
	text := said.said
	if text == "" {
		text = exit.Error()
	}
	return &Error{Code: CodeCloneFailed, Retryable: !permanent(text),
		Message: fmt.Sprintf("repository %s could not be fetched: %s%s", redact(g.repository), text, hint(text))}
}

// permanent reports whether git's message tells that trying again cannot
// help. What is not known to be permanent may be the network.
func permanent(said string) bool {
	return containsAny(said, "authentication failed", "could not read username", "could not read password",
		"terminal prompts disabled", "permission denied", "host key verification failed", "repository not found",
		"' not found", "does not appear to be a git repository", "dubious ownership", "returned error: 401",
		"returned error: 403", "returned error: 404", "' not allowed", "does not exist")
}

func hint(said string) string {
	switch {
	case containsAny(said, "dubious ownership"):
		return "\nthe repository belongs to another user: run, as the worker's user, git config --global --add safe.directory <path>"
	case containsAny(said, "host key verification failed"):
		return "\nadd the host's key to the known_hosts of the worker's user"
	case containsAny(said, "could not read username", "authentication failed", "permission denied (publickey"):
		return "\nthe worker's user needs credentials for it: a git credential helper or an ssh key"
	}
	return ""
}

// missing reports whether a fetch failed because the server would not give
// that object, or not in that way, so that fetching everything may help.
func missing(err error) bool {
	var said *gitError
	return errors.As(err, &said) && containsAny(said.said, "not our ref", "couldn't find remote ref", "unadvertised object",
		"dumb http transport", "did not send all necessary objects", "no such remote ref")
}

func containsAny(text string, parts ...string) bool {
	text = strings.ToLower(text)
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}

// fetch gets commit (a full name) and gives the name of the commit itself,
// which differs when an annotated tag was named. Without history it comes
// alone; with it, its whole history comes without the old files.
func (g *git) fetch(ctx context.Context, commit string, history bool) (string, error) {
	depth := "--depth=1"
	if history {
		depth = "--filter=blob:none"
	}
	_, err := g.run(ctx, "fetch", "--quiet", "--no-tags", depth, "--", "origin", commit)
	if missing(err) {
		_, err = g.run(ctx, "fetch", "--quiet", "--filter=blob:none", "--", "origin",
			"+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
	}
	if err != nil {
		return "", g.failed(err)
	}
	out, err := g.run(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", commit+"^{commit}")
	if err != nil && ctx.Err() != nil {
		return "", g.failed(err)
	}
	if err != nil {
		return "", g.noSuchCommit(commit)
	}
	return strings.TrimSpace(out), nil
}

// resolve gives the full name of what a commit, tag or branch names.
func (g *git) resolve(ctx context.Context, name string) (string, error) {
	if isFullName(name) {
		return strings.ToLower(name), nil
	}
	candidates := []string{"refs/tags/" + name, "refs/heads/" + name}
	if strings.HasPrefix(name, "refs/") {
		candidates = []string{name}
	}
	out, err := g.run(ctx, append([]string{"ls-remote", "--quiet", "--", "origin"}, candidates...)...)
	if err != nil {
		return "", g.failed(err)
	}
	at := map[string]string{}
	for line := range strings.Lines(out) {
		if object, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			at[ref] = object
		}
	}
	for _, ref := range candidates { // ls-remote matches the end of a ref: x also finds a/x
		if object := at[ref]; object != "" {
			return object, nil
		}
	}
	return "", g.noSuchCommit(name)
}

func (g *git) noSuchCommit(name string) *Error {
	message := fmt.Sprintf("repository %s has no commit %s", redact(g.repository), name)
	if !isFullName(name) {
		message = fmt.Sprintf("repository %s has no tag or branch %s", redact(g.repository), name)
		if isHex(name) {
			message += "; give a commit by its full name of 40 digits"
		}
	}
	return &Error{Code: CodeNoSuchCommit, Message: message}
}
