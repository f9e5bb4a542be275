// Package gitdefs reads definitions out of a branch of a Git repository, with
// the commit and the author that each file is from.
//
// It drives the git command line client, which brings every protocol and
// credential store with it, and keeps a bare copy of what it fetched: nothing
// is checked out and nothing of the repository runs. Files are read from git's
// objects, so that a symbolic link is a text and leads nowhere; one that is
// named like a file of definitions is a problem. git never asks a person,
// takes nothing in a name for an option, uses the one protocol that the
// address names, and has bounds of size and time.
//
// Only what is needed is fetched, as far as the server can give it: the newest
// commits without their files, then the files. The commit of a file is the
// last one that made it what it is, its author that commit's author, by
// address and in lower case. Where the history that was fetched does not reach
// back so far, it is the commit that was read, and there is no author.
package gitdefs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const (
	askTime   = time.Minute     // to ask for the branch
	fetchTime = 5 * time.Minute // for everything else
	mostCopy  = 1 << 30         // bytes of the copy of a repository
	mostPacks = 60              // of a copy; then it is made anew
)

// ways are how a repository is fetched, the best one first. A server that
// cannot give commits without files, or no part of the history, gives more.
var ways = [][]string{{"--depth=300", "--filter=blob:none"}, {"--depth=300"}, {}}

// deeper is for files that did not change in the newest commits.
const deeper = "--depth=5000"

// fetched is the ref of the copy that holds the branch.
const fetched = "refs/penstock/head"

// Repository is a branch that is looked at again and again. One goroutine at a
// time uses it.
type Repository struct {
	address Address
	base    string // where copies are
	dir     string // the copy
	most    int64
	way     int // into ways
	failed  int // how often in a row

	known map[file]origin   // where files have their contents from
	blobs map[string][]byte // contents of the last snapshot, by object
	bad   map[string]error  // commits that need not be fetched again
}

// file is a path with an object that was there.
type file struct{ path, object string }

// origin is where a file has its content from.
type origin struct{ commit, author string }

// Snapshot is what stands at a commit.
type Snapshot struct {
	Commit   string
	Author   string
	Files    []parse.File
	Problems []workflows.Problem // with files that are not read
}

// Open gives the repository at an address, with its copy below the directory
// cache. Nothing is fetched yet.
func Open(a Address, cache string) *Repository {
	sum := sha256.Sum256([]byte(a.Repository + "\x00" + a.ref()))
	base := filepath.Join(cache, hex.EncodeToString(sum[:8]))
	return &Repository{address: a, base: base, dir: base, most: mostCopy, known: map[file]origin{}}
}

// Look gives what stands at the branch, nil where that is still the commit
// that is known.
func (r *Repository) Look(ctx context.Context, known string) (*Snapshot, error) {
	head, err := r.head(ctx)
	if err != nil || head == known {
		return nil, err
	}
	if err := r.bad[head]; err != nil {
		return nil, err
	}
	snap, err := r.read(ctx, head)
	if err == nil {
		r.failed = 0
		return snap, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	err = fmt.Errorf("commit %s: %w", head[:min(12, len(head))], hint(err))
	_, said := errors.AsType[*gitError](err)
	if r.failed++; !said || r.failed > 1 { // the copy may be what is wrong
		os.RemoveAll(r.dir)
	}
	if _, large := errors.AsType[*largeError](err); large {
		r.bad = map[string]error{head: err}
	}
	return nil, err
}

// head asks which commit the branch is at.
func (r *Repository) head(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, errors.New("the repository does not answer within a minute"))
	defer cancel()
	r.dir = r.base
	if err := r.init(ctx, "sha1"); err != nil {
		return "", err
	}
	ref := r.address.ref()
	out, err := r.git(ctx, nil, "ls-remote", "--quiet", "--", "origin", ref)
	if err != nil {
		return "", hint(err)
	}
	for line := range strings.Lines(string(out)) { // it also lists refs that end like this one
		if object, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && name == ref && isObject(object) {
			return object, nil
		}
	}
	if r.address.Branch == "" {
		return "", errors.New("the repository has no commits yet")
	}
	return "", fmt.Errorf("the repository has no branch %s", r.address.Branch)
}

func isObject(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// init makes an empty copy where there is none.
func (r *Repository) init(ctx context.Context, format string) error {
	if _, err := os.Stat(filepath.Join(r.dir, "HEAD")); err == nil {
		return nil
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.dir), 0o700); err != nil {
		return err
	}
	_, err := r.git(ctx, nil, "init", "--quiet", "--bare", "--template=", "--object-format="+format)
	return err
}

// read fetches the branch and gives what stands there.
func (r *Repository) read(ctx context.Context, head string) (*Snapshot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTime, fmt.Errorf("it could not be fetched within %v", fetchTime))
	defer cancel()
	format := "sha1"
	if len(head) == 64 {
		format, r.dir = "sha256", r.base+".sha256"
	}
	if packs, _ := filepath.Glob(filepath.Join(r.dir, "objects", "pack", "*.pack")); len(packs) > mostPacks {
		if err := os.RemoveAll(r.dir); err != nil {
			return nil, err
		}
	}
	commit, err := r.fetch(ctx, format)
	if err != nil {
		return nil, err
	}
	snap, want, err := r.tree(ctx, commit)
	if err != nil {
		return nil, err
	}
	if err := r.contents(ctx, snap, want); err != nil {
		return nil, err
	}
	if err := r.origins(ctx, commit, want); err != nil {
		return nil, err
	}
	for i := range snap.Files {
		o := r.known[want[i]]
		snap.Files[i].Commit, snap.Files[i].Author = o.commit, o.author
	}
	snap.Author, err = r.author(ctx, commit)
	return snap, err
}

// fetch fetches the branch and gives the commit that it is at.
func (r *Repository) fetch(ctx context.Context, format string) (string, error) {
	for {
		if err := r.init(ctx, format); err != nil {
			return "", err
		}
		err := r.fetchWith(ctx, ways[r.way]...)
		if err == nil {
			break
		}
		if r.way == len(ways)-1 || !says(err, "shallow", "filter", "promisor", "dumb http") {
			return "", err
		}
		if err := r.lessExact(); err != nil {
			return "", err
		}
	}
	out, err := r.git(ctx, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", fetched+"^{commit}")
	return strings.TrimSpace(string(out)), err
}

func (r *Repository) fetchWith(ctx context.Context, args ...string) error {
	args = append([]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"}, args...)
	_, err := r.git(ctx, nil, append(args, "--", "origin", "+"+r.address.ref()+":"+fetched)...)
	if err == nil && size(r.dir) > r.most { // it was faster than who watches
		return &largeError{r.most}
	}
	return err
}

// lessExact starts again in the next of ways.
func (r *Repository) lessExact() error {
	r.way++
	return os.RemoveAll(r.dir)
}

// author gives the author of a commit.
func (r *Repository) author(ctx context.Context, commit string) (string, error) {
	out, err := r.git(ctx, nil, "log", "-1", "--format=%ae", "--end-of-options", commit, "--")
	return address(string(out)), err
}

func address(s string) string {
	return strings.ToValidUTF8(strings.ToLower(strings.TrimSpace(s)), "?")
}
