package gitdefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits of what is taken from a repository.
const (
	mostFiles = 10_000   // that may hold definitions
	mostBytes = 64 << 20 // of them together
	mostSaid  = 32 << 20 // that a command of git may print besides
	killAfter = 5 * time.Second
)

// safety comes before every subcommand.
var safety = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false",
	"-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "fetch.writeCommitGraph=false",
	// nothing may go on in the background
	"-c", "gc.auto=0", "-c", "maintenance.auto=false",
	"-c", "init.defaultBranch=main", "-c", "log.showSignature=false", "-c", "diff.renames=false",
	// a server that stops sending must not hold the look until its timeout
	"-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60",
}

// passed are the variables of this process that git may see: they say where
// programs are, how to reach a repository and how to log in.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"SSH_AUTH_SOCK", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_SSL_CAINFO",
	"SYSTEMROOT", "SystemRoot", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
}

// environment is all that git sees.
func (a Address) environment() []string {
	env := []string{
		"GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "LC_ALL=C", "GIT_LITERAL_PATHSPECS=1", "GIT_OPTIONAL_LOCKS=0",
		"GIT_ALLOW_PROTOCOL=" + a.Scheme,                                                                 // the one that was asked for, whatever a server or a configuration says
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=remote.origin.url", "GIT_CONFIG_VALUE_0=" + a.Repository, // a password is in no list of processes
	}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	ssh := os.Getenv("GIT_SSH_COMMAND")
	if ssh == "" {
		ssh = "ssh -o BatchMode=yes -o ConnectTimeout=20"
	}
	return append(env, "GIT_SSH_COMMAND="+ssh)
}

// gitError is a git command that failed, with what it said.
type gitError struct {
	err  error
	said string
}

func (e *gitError) Error() string {
	if e.said != "" {
		return e.said
	}
	return e.err.Error()
}

func (e *gitError) Unwrap() error { return e.err }

// errMissing says that there is no git.
var errMissing = errors.New("git is not installed on this host, or not in the server's PATH: install the package git")

// git runs a command of git and gives what it printed.
func (r *Repository) git(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := r.gitTo(ctx, &limited{w: &out, left: mostSaid}, stdin, args...)
	return out.Bytes(), err
}

// gitTo runs a command of git whose output a writer takes.
func (r *Repository) gitTo(ctx context.Context, out io.Writer, stdin io.Reader, args ...string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	cmd := exec.CommandContext(ctx, "git", append(append([]string{"--git-dir=" + r.dir}, safety...), args...)...)
	said := &tail{}
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = filepath.Dir(r.dir), r.address.environment(), stdin, out, said
	cmd.WaitDelay = killAfter
	group(cmd)
	r.watchSize(ctx, stop)
	err := cmd.Run()
	if w, ok := out.(interface{ end() error }); ok && w.end() != nil {
		return w.end() // which made git end as well
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return errMissing
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return &gitError{err, r.address.quiet(said.text())}
}

// watchSize stops a command that makes the copy of the repository too large.
func (r *Repository) watchSize(ctx context.Context, stop context.CancelCauseFunc) {
	most := r.most
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if size(r.dir) > most {
					stop(&largeError{most})
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

// largeError says that a repository is too large to be fetched.
type largeError struct{ most int64 }

func (e *largeError) Error() string {
	return fmt.Sprintf("what has to be fetched is larger than %d MiB; keep definitions in a repository of their own", e.most>>20)
}

// size is how many bytes are below a folder, as far as it can be seen.
func size(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // files come and go while git works
		}
		if info, err := entry.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// errTooMuch says that a command printed more than anybody should have to read.
var errTooMuch = errors.New("there is too much to read: more than 10,000 files or 64 MiB of definitions")

// limited is a writer with an end.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errTooMuch
	}
	return l.w.Write(p)
}

func (l *limited) end() error {
	if l.left < 0 {
		return errTooMuch
	}
	return nil
}

// tail keeps the end of what git said.
type tail struct{ p []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.p = append(t.p, p...)
	if len(t.p) > 4<<10 {
		t.p = t.p[len(t.p)-2<<10:]
	}
	return len(p), nil
}

// text is the last lines, without the words that every failure begins with.
func (t *tail) text() string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.p), "?")), "\n")
	var kept []string
	for _, line := range lines[max(0, len(lines)-5):] {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(line, "fatal: "), "error: "))
		if line != "" && !slices.ContainsFunc(empty, func(words string) bool { return strings.HasPrefix(line, words) }) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; ")
}

// empty are the beginnings of lines that say nothing.
var empty = []string{"warning: filtering not recognized", "Please make sure you have the correct access rights", "and the repository exists."}

// says reports whether git said one of some things, in any case.
func says(err error, parts ...string) bool {
	e, ok := errors.AsType[*gitError](err)
	if !ok {
		return false
	}
	said := strings.ToLower(e.said)
	for _, p := range parts {
		if strings.Contains(said, p) {
			return true
		}
	}
	return false
}

// hint says what to do about an error of git, where that is known.
func hint(err error) error {
	switch {
	case says(err, "dubious ownership"):
		return fmt.Errorf("%w; the repository belongs to another user: run, as the server's user, git config --global --add safe.directory PATH", err)
	case says(err, "host key verification failed"):
		return fmt.Errorf("%w; add the host's key to the known_hosts of the server's user", err)
	case says(err, "could not read username", "authentication failed", "permission denied (publickey", "terminal prompts disabled"):
		return fmt.Errorf("%w; the server's user needs credentials for it: a git credential helper or an ssh key", err)
	}
	return err
}
