package gitdefs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const link = "120000" // the mode of a symbolic link

// entry is something in a tree.
type entry struct{ mode, kind, object, path string }

// tree lists the files of definitions that stand at a commit.
func (r *Repository) tree(ctx context.Context, commit string) (*Snapshot, []file, error) {
	top, err := r.top(ctx, commit)
	if err != nil {
		return nil, nil, err
	}
	found := []entry{top}
	if top.kind == "tree" {
		if found, err = r.list(ctx, top.object, top.path, "-r"); err != nil {
			return nil, nil, err
		}
	}
	snap := &Snapshot{Commit: commit}
	var want []file
	for _, e := range found {
		below := strings.TrimPrefix(strings.TrimPrefix(e.path, top.path), "/")
		if e.kind != "blob" || top.kind == "tree" && !defines(below) {
			continue
		}
		if e.mode == link {
			snap.Problems = append(snap.Problems, workflows.Problem{Pos: workflows.Pos{File: e.path}, Code: "symlink",
				Message: "a symbolic link is not followed", Hint: "put the file itself here"})
			continue
		}
		snap.Files = append(snap.Files, parse.File{Name: e.path})
		want = append(want, file{e.path, e.object})
	}
	if len(want) > mostFiles {
		return nil, nil, errTooMuch
	}
	return snap, want, nil
}

// top is what the address names at a commit.
func (r *Repository) top(ctx context.Context, commit string) (entry, error) {
	if r.address.Path == "" {
		return entry{kind: "tree", object: commit}, nil
	}
	found, err := r.list(ctx, commit, "", r.address.Path)
	if err != nil {
		return entry{}, err
	}
	if len(found) != 1 || found[0].kind == "commit" {
		return entry{}, fmt.Errorf("there is no %s in it", r.address.Path)
	}
	if found[0].mode == link {
		return entry{}, fmt.Errorf("%s is a symbolic link, and none is followed", r.address.Path)
	}
	return found[0], nil
}

// list lists a tree. more are options, or a path in it.
func (r *Repository) list(ctx context.Context, tree, at string, more ...string) ([]entry, error) {
	args := []string{"ls-tree", "-z", "--full-tree"}
	if len(more) > 0 && more[0] == "-r" {
		args, more = append(args, "-r"), nil
	}
	out, err := r.git(ctx, nil, append(append(args, tree), more...)...)
	if err != nil {
		return nil, err
	}
	var found []entry
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		what, name, ok := strings.Cut(line, "\t")
		if parts := strings.Fields(what); ok && len(parts) == 3 && isObject(parts[2]) {
			found = append(found, entry{parts[0], parts[1], parts[2], path.Join(at, name)})
		}
	}
	return found, nil
}

// defines reports whether a file holds definitions, as parse.Dir does: by its
// extension, and by no directory of its path being hidden.
func defines(name string) bool {
	dirs := strings.Split(name, "/")
	for _, dir := range dirs[:len(dirs)-1] {
		if strings.HasPrefix(dir, ".") {
			return false
		}
	}
	return path.Ext(name) == ".yaml" || path.Ext(name) == ".yml"
}

// contents reads files that are not known from the last time.
func (r *Repository) contents(ctx context.Context, snap *Snapshot, want []file) error {
	var missing []string
	blobs := map[string][]byte{}
	for _, f := range want {
		if _, there := blobs[f.object]; there {
			continue
		}
		content, known := r.blobs[f.object]
		if blobs[f.object] = content; !known {
			missing = append(missing, f.object)
		}
	}
	sizes, err := r.objects(ctx, missing, blobs)
	if err != nil {
		return err
	}
	kept, left := 0, mostBytes
	for i, f := range want {
		if n := sizes[f.object]; n > parse.MaxFile {
			snap.Problems = append(snap.Problems, workflows.Problem{Pos: workflows.Pos{File: f.path}, Code: "too-large",
				Message: fmt.Sprintf("the file has %d bytes, the most is %d", n, parse.MaxFile), Hint: "split it up"})
			delete(blobs, f.object)
			continue
		}
		if left -= len(blobs[f.object]); left < 0 {
			return errTooMuch
		}
		snap.Files[kept], want[kept] = snap.Files[i], f
		snap.Files[kept].Content = blobs[f.object]
		kept++
	}
	snap.Files = snap.Files[:kept]
	r.blobs = blobs
	return nil
}

// objects reads objects, except for those that are too large, and gives the
// size of each.
func (r *Repository) objects(ctx context.Context, names []string, into map[string][]byte) (map[string]int, error) {
	sizes := map[string]int{}
	if len(names) == 0 {
		return sizes, nil
	}
	list := strings.Join(names, "\n") + "\n"
	if r.way == 0 {
		// As git does by itself, but all at once. Where it fails, git tries one by one.
		_, err := r.git(ctx, strings.NewReader(list), "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags",
			"--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin")
		if err != nil && !says(err, "not our ref", "unadvertised object", "not allow") {
			return nil, err
		}
	}
	out, err := r.git(ctx, strings.NewReader(list), "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)")
	if err != nil {
		return nil, err
	}
	var small []string
	for line := range strings.Lines(string(out)) {
		parts := strings.Fields(line)
		if len(parts) != 3 || parts[1] != "blob" {
			return nil, fmt.Errorf("git does not have what it fetched: %s", strings.TrimSpace(line))
		}
		n, err := strconv.Atoi(parts[2])
		if err != nil {
			return nil, err
		}
		if sizes[parts[0]] = n; n <= parse.MaxFile {
			small = append(small, parts[0])
		}
	}
	return sizes, r.cat(ctx, small, into)
}

// cat reads objects.
func (r *Repository) cat(ctx context.Context, names []string, into map[string][]byte) error {
	var out bytes.Buffer
	list := strings.NewReader(strings.Join(names, "\n") + "\n")
	if err := r.gitTo(ctx, &limited{w: &out, left: mostBytes + len(names)*100}, list, "cat-file", "--batch=%(objectname) %(objectsize)"); err != nil {
		return err
	}
	in := bufio.NewReader(&out)
	for range names {
		line, err := in.ReadString('\n')
		name, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		n, bad := strconv.Atoi(number)
		if err != nil || !ok || bad != nil || n < 0 || n > parse.MaxFile {
			return errors.New("git does not give the files that it has")
		}
		content := make([]byte, n+1) // with the line's end behind it
		if _, err := io.ReadFull(in, content); err != nil {
			return err
		}
		into[name] = content[:n:n]
	}
	return nil
}

// origins finds out where files have their contents from.
func (r *Repository) origins(ctx context.Context, commit string, want []file) error {
	known, open := map[file]origin{}, map[file]bool{}
	for _, f := range want {
		if o, ok := r.known[f]; ok {
			known[f] = o
		} else {
			open[f] = true
		}
	}
	r.known = known
	err := r.search(ctx, commit, open)
	if err == nil && len(open) > 0 && r.way == 0 && len(r.ends()) > 0 && r.fetchWith(ctx, append([]string{deeper}, ways[0][1:]...)...) == nil {
		err = r.search(ctx, commit, open)
	}
	for f := range open {
		known[f] = origin{commit: commit}
	}
	return err
}

// ends are the commits at which the history that was fetched begins: what they
// changed cannot be told.
func (r *Repository) ends() map[string]bool {
	p, err := os.ReadFile(filepath.Join(r.dir, "shallow"))
	if err != nil {
		return nil
	}
	ends := map[string]bool{}
	for _, commit := range strings.Fields(string(p)) {
		ends[commit] = true
	}
	return ends
}

// errFound ends a command whose answer is known.
var errFound = errors.New("found")

// search looks for open files in the history of a commit, newest first: the
// first commit that made a file what it is. What is found is open no more.
func (r *Repository) search(ctx context.Context, commit string, open map[file]bool) error {
	if len(open) == 0 {
		return nil
	}
	h := &history{open: open, known: r.known, ends: r.ends()}
	args := []string{"log", "--format=@%H %ae", "--raw", "--no-abbrev", "--no-renames", "-c", "--end-of-options", commit, "--"}
	if r.address.Path != "" {
		args = append(args, r.address.Path)
	}
	err := r.gitTo(ctx, h, nil, args...)
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// history reads what git log prints.
type history struct {
	rest []byte
	at   origin
	skip bool
	read int

	open  map[file]bool
	known map[file]origin
	ends  map[string]bool
}

// mostHistory is how much of the history is read, in bytes.
const mostHistory = 256 << 20

func (h *history) Write(p []byte) (int, error) {
	if h.read += len(p); h.read > mostHistory {
		return 0, errFound
	}
	h.rest = append(h.rest, p...)
	for {
		line, rest, ok := bytes.Cut(h.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		h.line(string(line))
		if h.rest = rest; len(h.open) == 0 {
			return 0, errFound
		}
	}
}

func (h *history) end() error {
	if len(h.open) == 0 || h.read > mostHistory { // then the rest is not known
		return errFound
	}
	return nil
}

// line takes "@COMMIT ADDRESS", ":… OBJECT STATUS\tPATH" of a commit, or
// "::… OBJECT STATUS\tPATH" of a merge.
func (h *history) line(text string) {
	if commit, author, ok := strings.Cut(strings.TrimPrefix(text, "@"), " "); ok && strings.HasPrefix(text, "@") {
		h.at, h.skip = origin{commit, address(author)}, h.ends[commit]
		return
	}
	what, name, ok := strings.Cut(text, "\t")
	parts := strings.Fields(what)
	if h.skip || !ok || !strings.HasPrefix(what, ":") || len(parts) < 5 {
		return
	}
	f := file{name, parts[len(parts)-2]}
	if h.open[f] {
		h.known[f] = h.at
		delete(h.open, f)
	}
}
