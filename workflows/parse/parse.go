// Package parse turns files into definitions: YAML into the structs of package
// workflows, CEL into their programs. It is the only package that knows YAML
// or CEL.
//
// Every problem of every document is found in one go, each with file, line,
// column, the line with a caret, and what to do. A bad document never hides or
// stops a good one: what a result holds is complete and checked, and what is
// refused has a problem that says why. Nothing here panics, whatever a file
// holds; sizes, depth and the cost of expressions are bounded.
//
// A definition is stored as the source text of its document, by the digest of
// that text. Load makes the same definitions of the same texts again.
package parse

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/penstock-cd/penstock/workflows"
)

// MaxFile is the size of the largest file that is read, in bytes.
const MaxFile = 1 << 20

// maxDocuments is how many documents one file can hold.
const maxDocuments = 1000

// File is a file of definitions. Source, Commit and Author say where it came
// from, if that is known, as in workflows.Origin.
type File struct {
	Name    string
	Content []byte
	Source  string
	Commit  string
	Author  string
}

// Document is one YAML document of a file as source text. Digest is "sha256:"
// and the hex digest of Source, which does not depend on where in its file the
// document stands.
type Document struct {
	Kind   string
	Name   string
	Digest string
	Source []byte
	Origin workflows.Origin
}

// Set is what is good among the documents that were read, in their order.
type Set struct {
	Documents []Document
	// Given are the documents of the files, the bad ones too. Kind or Name is
	// empty where it could not be read, and both are where that is a whole file.
	Given   []Document
	catalog *workflows.Catalog
}

// Catalog gives the definitions, compiled. Its Digest is the digest of the
// sorted list of the documents' kinds, names and digests.
func (s *Set) Catalog() *workflows.Catalog { return s.catalog }

// Files reads files. The problems are in the order of the files; those that
// are no warnings have kept their document out of the set.
func Files(files []File) (*Set, []workflows.Problem) { return Over(nil, files) }

// Over reads files that are laid over documents which stand already: a
// document of the same kind and name takes the place of the older one. The set
// holds both, and the problems are those of both together.
func Over(standing []Document, files []File) (*Set, []workflows.Problem) {
	return OverUnless(standing, files, func(Document, File) bool { return false })
}

// OverUnless is Over for documents that may be held: where held says so of a
// standing document, a file's document of the same kind and name does not take
// its place and is refused.
func OverUnless(standing []Document, files []File, held func(standing Document, f File) bool) (*Set, []workflows.Problem) {
	sources, unread, found := sourcesOf(files)
	units := readAll(sources)
	replaces := map[[2]string]File{}
	for i, u := range units {
		replaces[[2]string{u.doc.Kind, u.doc.Name}] = sources[i].from
	}
	var older []origin
	for _, doc := range standing {
		if f, ok := replaces[[2]string{doc.Kind, doc.Name}]; !ok || held(doc, f) {
			older = append(older, stored(doc))
		}
	}
	set, problems := assemble(append(readAll(older), units...))
	for _, u := range units {
		set.Given = append(set.Given, u.doc)
	}
	set.Given = append(set.Given, unread...)
	return set, slices.Concat(append(found, problems)...)
}

// sourcesOf cuts files into documents. A file that is too large is refused
// whole, and told as a document that cannot be read.
func sourcesOf(files []File) (sources []origin, unread []Document, found [][]workflows.Problem) {
	whole := func(f File, p workflows.Problem) {
		found = append(found, []workflows.Problem{p})
		unread = append(unread, Document{Origin: workflows.Origin{Pos: workflows.Pos{File: f.Name}, Source: f.Source}})
	}
	for _, f := range files {
		if len(f.Content) > MaxFile {
			whole(f, workflows.Problem{Pos: workflows.Pos{File: f.Name}, Code: "too-large",
				Message: fmt.Sprintf("the file is larger than %d bytes", MaxFile), Hint: "split it up"})
			continue
		}
		docs := split(f.Name, f.Content)
		if len(docs) > maxDocuments {
			whole(f, docs[maxDocuments].problem(1, 1, "too-large", "",
				fmt.Sprintf("a file has %d documents at most", maxDocuments), "split it up"))
			continue
		}
		for _, src := range docs {
			sources = append(sources, origin{src, f})
		}
	}
	return sources, unread, found
}

// Load compiles stored documents again. Positions are those of their Origin.
func Load(docs []Document) (*workflows.Catalog, []workflows.Problem) {
	set, problems := Over(docs, nil)
	return set.catalog, problems
}

// origin is the source of a document and where it came from.
type origin struct {
	src  *source
	from File
}

func stored(doc Document) origin {
	return origin{newSource(doc.Origin.Pos.File, doc.Origin.Pos.Line, doc.Source),
		File{Source: doc.Origin.Source, Commit: doc.Origin.Commit, Author: doc.Origin.Author}}
}

func readAll(sources []origin) []*unit {
	units := make([]*unit, len(sources))
	parallel(len(sources), func(i int) { units[i] = read(sources[i].src, sources[i].from) })
	return units
}

// parallel calls do for 0 … n-1 on all processors and waits for it.
func parallel(n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}

// assemble checks documents against each other and compiles them. Bad ones
// take part in the checks, so that one fault is not told as many; then they,
// and what cannot be without them, are left out.
func assemble(units []*unit) (*Set, []workflows.Problem) {
	refuseRepeated(units)
	catalog := catalogOf(units)
	checker := workflows.NewChecker(catalog)
	parallel(len(units), func(i int) { units[i].check(catalog, checker) })
	dropDependents(catalog, units)
	set := &Set{catalog: catalogOf(slices.DeleteFunc(slices.Clone(units), func(u *unit) bool { return u.bad }))}
	var problems []workflows.Problem
	for _, u := range units {
		if !u.bad {
			set.Documents = append(set.Documents, u.doc)
		}
		slices.SortStableFunc(u.dec.problems, func(a, b workflows.Problem) int {
			return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
		})
		problems = append(problems, u.dec.problems...)
	}
	set.catalog.Digest = setDigest(set.Documents)
	return set, problems
}

// check runs the checks over a document and compiles its expressions.
func (u *unit) check(catalog *workflows.Catalog, checker *workflows.Checker) {
	defer func() {
		if r := recover(); r != nil { // a fault of ours or of a library must not stop the other documents
			u.dec.problems = append(u.dec.problems, u.src.problem(1, 1, "internal", "", fmt.Sprintf("the document cannot be checked: %v", r), "please report this"))
		}
		u.bad = u.value == nil || serious(u.dec.problems)
	}()
	if u.value == nil {
		return
	}
	found := checker.Document(u.value)
	if w, ok := u.value.(*workflows.Workflow); ok && workflows.TooLarge(w) || u.dec.cut {
		u.dec.problems = append(u.dec.problems, u.place(found)...)
		return
	}
	before := len(u.dec.problems)
	u.reading = workflows.Reading{Reads: map[any][]workflows.Read{}, Conds: map[*workflows.Expr]*workflows.Cond{}}
	(&compiler{c: catalog, unit: u}).run()
	found = append(found, checker.Compiled(u.value, &u.reading)...)
	compiled := slices.Clone(u.dec.problems[before:])
	u.dec.problems = u.dec.problems[:before] // what is wrong with an expression does not explain what else is
	u.dec.problems = append(u.dec.problems, append(compiled, u.place(found)...)...)
	u.reading = workflows.Reading{}
}

func serious(problems []workflows.Problem) bool {
	return slices.ContainsFunc(problems, func(p workflows.Problem) bool { return !p.Warning })
}

// refuseRepeated notes documents whose kind and name an earlier one has.
func refuseRepeated(units []*unit) {
	seen := map[[2]string]*unit{}
	for _, u := range units {
		key := [2]string{u.doc.Kind, u.doc.Name}
		if u.value == nil || u.doc.Name == "" {
			continue
		}
		if first := seen[key]; first != nil {
			place := u.dec.places["metadata.name"]
			at, other := first.doc.Origin.Pos.String(), first.doc.Origin.Source
			if other != "" && other != u.doc.Origin.Source {
				at += " of " + other
			}
			u.dec.fault(place.value, "metadata.name", "duplicate-document",
				fmt.Sprintf("%s %s is already defined at %s", u.doc.Kind, u.doc.Name, at), "rename one of them, or take it out")
			continue
		}
		seen[key] = u
	}
}

// dropDependents refuses documents that need a refused one.
func dropDependents(catalog *workflows.Catalog, units []*unit) {
	bad := map[[2]string]*unit{}
	for _, u := range units {
		if key := [2]string{u.doc.Kind, u.doc.Name}; u.bad && u.doc.Name != "" {
			bad[key] = u
		}
	}
	for _, u := range units {
		if key := [2]string{u.doc.Kind, u.doc.Name}; !u.bad && u.doc.Name != "" {
			delete(bad, key)
		}
	}
	for again := len(bad) > 0; again; {
		again = false
		for _, u := range units {
			if u.bad {
				continue
			}
			for _, need := range workflows.Needs(catalog, u.value) {
				first := bad[[2]string{need.Kind, need.Name}]
				if first == nil {
					continue
				}
				u.dec.problems = append(u.dec.problems, u.place([]workflows.Problem{{Path: need.Path, Code: "needs-refused", AtValue: true,
					Message: fmt.Sprintf("%s %s has problems of its own (%s)", need.Kind, need.Name, first.doc.Origin.Pos), Hint: "they come first"}})...)
				u.bad, again = true, true
				bad[[2]string{u.doc.Kind, u.doc.Name}] = u
			}
		}
	}
}

func catalogOf(units []*unit) *workflows.Catalog {
	c := &workflows.Catalog{Workflows: map[string]*workflows.Workflow{}, Environments: map[string]*workflows.Environment{},
		Channels: map[string]*workflows.Channel{}, Policies: map[string]*workflows.Policy{}, Kinds: workflows.ShippedKinds()}
	for _, u := range slices.Backward(units) { // of two with a name the first one counts
		switch doc := u.value.(type) {
		case *workflows.Workflow:
			c.Workflows[u.doc.Name] = doc
		case *workflows.Environment:
			c.Environments[u.doc.Name] = doc
		case *workflows.Channel:
			c.Channels[u.doc.Name] = doc
		case *workflows.Policy:
			c.Policies[u.doc.Name] = doc
		case *workflows.TaskKind:
			c.Kinds[u.doc.Name] = doc
		}
	}
	for _, u := range units {
		switch doc := u.value.(type) {
		case *workflows.Roles:
			c.Roles = append(c.Roles, doc)
		case *workflows.Scenario:
			c.Scenarios = append(c.Scenarios, doc)
		}
	}
	return c
}

func setDigest(docs []Document) string {
	lines := make([]string, len(docs))
	for i, doc := range docs {
		lines[i] = doc.Kind + "\x00" + doc.Name + "\x00" + doc.Digest + "\n"
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Dir gives the YAML files of a directory and of those below it, leaving out
// directories whose name begins with a dot. The path of a file gives that file.
// Names begin with the path as it was given.
func Dir(path string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); name != path && strings.HasPrefix(base, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if ext := filepath.Ext(name); name != path && ext != ".yaml" && ext != ".yml" {
			return nil
		}
		content, err := readFile(name)
		if err != nil {
			return err
		}
		files = append(files, File{Name: filepath.ToSlash(name), Content: content})
		return nil
	})
	return files, err
}

// readFile reads a file, and of one that is too large just enough to tell.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}
