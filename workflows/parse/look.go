package parse

import (
	"slices"

	"github.com/penstock-cd/penstock/workflows"
)

// Look reads files without asking whether their documents fit together, for
// those who only want to look at definitions: to draw them, to compare them.
// The problems are those of reading; a document that has one is not in the
// set. Expressions are not compiled: their programs are nil.
func Look(files []File) (*Set, []workflows.Problem) {
	sources, _, found := sourcesOf(files)
	set, problems := look(sources)
	return set, slices.Concat(append(found, problems)...)
}

// LookOver is Look for files that are laid over documents which stand already:
// one of the same kind and name takes the place of the older one.
func LookOver(standing []Document, files []File) (*Set, []workflows.Problem) {
	above, problems := Look(files)
	replaced := map[[2]string]bool{}
	for _, doc := range above.Documents {
		replaced[[2]string{doc.Kind, doc.Name}] = true
	}
	var all []Document
	for _, doc := range standing {
		if !replaced[[2]string{doc.Kind, doc.Name}] {
			all = append(all, doc)
		}
	}
	set, more := LookAt(append(all, above.Documents...))
	return set, append(problems, more...)
}

// LookAt is Look for documents that are stored, with the places and the
// origins that they have.
func LookAt(docs []Document) (*Set, []workflows.Problem) {
	sources := make([]origin, len(docs))
	for i, doc := range docs {
		sources[i] = stored(doc)
	}
	return look(sources)
}

func look(sources []origin) (*Set, []workflows.Problem) {
	units := readAll(sources)
	refuseRepeated(units)
	set := &Set{}
	var good []*unit
	var problems []workflows.Problem
	for _, u := range units {
		problems = append(problems, u.dec.problems...)
		if u.value == nil || serious(u.dec.problems) {
			continue
		}
		good = append(good, u)
		set.Documents = append(set.Documents, u.doc)
	}
	set.catalog = catalogOf(good)
	set.catalog.Digest = setDigest(set.Documents)
	return set, problems
}
