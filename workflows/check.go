package workflows

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Check gives the problems of all documents of a catalog, as far as they show
// in the definitions alone. A position is that of the document; package parse
// gives the place of the key.
func Check(c *Catalog) []Problem {
	var problems []Problem
	ck := NewChecker(c)
	for _, doc := range documents(c) {
		problems = append(problems, ck.Document(doc)...)
	}
	return problems
}

func documents(c *Catalog) []any {
	var docs []any
	for _, name := range slices.Sorted(maps.Keys(c.Workflows)) {
		docs = append(docs, c.Workflows[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Environments)) {
		docs = append(docs, c.Environments[name])
	}
	for _, doc := range c.Roles {
		docs = append(docs, doc)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Channels)) {
		docs = append(docs, c.Channels[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		docs = append(docs, c.Policies[name])
	}
	shipped := ShippedKinds()
	for _, name := range slices.Sorted(maps.Keys(c.Kinds)) {
		if doc := c.Kinds[name]; shipped[name] == nil || doc.Origin.Digest != "" {
			docs = append(docs, doc)
		}
	}
	for _, doc := range c.Scenarios {
		docs = append(docs, doc)
	}
	return docs
}

// A Checker checks the documents of one catalog. What they share is worked
// out once. It is safe for concurrent use; the catalog must not change.
type Checker struct {
	c *Catalog

	roles     func() []string            // the names of all roles, sorted
	starts    func() map[string][]string // the workflows that each workflow starts
	allClaims func() claims              // places that ask for an environment while another one is held
	circles   func() map[string]int      // workflows that start each other in a circle, by its number
}

// NewChecker makes a checker for the documents of a catalog.
func NewChecker(c *Catalog) *Checker {
	ck := &Checker{c: c}
	ck.roles = sync.OnceValue(ck.roleNames)
	ck.starts = sync.OnceValue(ck.startsOf)
	ck.allClaims = sync.OnceValue(ck.everyClaim)
	ck.circles = sync.OnceValue(ck.circlesOf)
	return ck
}

// Document gives the problems of one document of the catalog, a *Workflow,
// *Environment, *Roles, *Channel, *TaskKind, *Policy or *Scenario, that show
// in its keys and names alone. What it names is looked up in the catalog.
func (ck *Checker) Document(doc any) []Problem {
	k := &check{Checker: ck}
	k.shape(doc)
	switch d := doc.(type) {
	case *Workflow:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.workflow(d)
	case *Environment:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.environment(d)
	case *Roles:
		k.origin = d.Origin.Pos
		k.rolesDoc(d)
	case *Channel:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.channel(d)
	case *Policy:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.policy(d)
	case *TaskKind:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.taskKind(d)
	case *Scenario:
		k.origin = d.Origin.Pos
		k.scenario(d)
	}
	return k.found()
}

// check collects the problems of one document.
type check struct {
	*Checker
	reading  *Reading
	origin   Pos
	problems []Problem
	tried    int // recurring freezes that were tried out
}

// found gives the problems, each at the document where it has no place of its own.
func (k *check) found() []Problem {
	for i := range k.problems {
		if k.problems[i].Pos.Line == 0 {
			k.problems[i].Pos = k.origin
		}
	}
	return k.problems
}

func (k *check) fault(path, code, hint, format string, args ...any) {
	k.add(Problem{Path: path, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)})
}

// maxTold is how many problems are told of one document.
const maxTold = 200

func (k *check) add(p Problem) {
	if len(k.problems) == maxTold {
		p = Problem{Code: "too-many-problems", Hint: "the rest is not looked at", Message: fmt.Sprintf("there are more than %d problems in this document", maxTold)}
	}
	if len(k.problems) <= maxTold {
		k.problems = append(k.problems, p)
	}
}

// last gives the problem that was told last, or would have been.
func (k *check) last() *Problem {
	if len(k.problems) > maxTold {
		return &Problem{}
	}
	return &k.problems[len(k.problems)-1]
}

// value is fault for a problem of the value at path rather than of its key.
func (k *check) value(path, code, hint, format string, args ...any) {
	k.fault(path, code, hint, format, args...)
	k.last().AtValue = true
}

func (k *check) warn(path, code, hint, format string, args ...any) {
	k.fault(path, code, hint, format, args...)
	k.last().Warning = true
}

// known refuses a name that is not among names.
func (k *check) known(path, what, name string, names []string) bool {
	if name == "" || slices.Contains(names, name) {
		return true
	}
	if len(k.problems) > maxTold {
		return false
	}
	k.value(path, "unknown-"+strings.ReplaceAll(what, " ", "-"), meant(name, names), "there is no %s %s", what, name)
	return false
}

// knownIn refuses a name that is not among the keys of m.
func knownIn[T any](k *check, path, what, name string, m map[string]T) bool {
	if _, ok := m[name]; ok || name == "" {
		return true
	}
	return k.known(path, what, name, names(m))
}

// meant is the hint for an unknown name.
func meant(name string, names []string) string {
	if near := Nearest(name, names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(names) == 0 {
		return "there are none"
	}
	names = slices.Sorted(slices.Values(names))
	if len(names) > 12 {
		names = append(names[:12:12], "…")
	}
	return "known: " + strings.Join(names, ", ")
}

func (k *check) docName(name string) {
	if name != "" && !docPattern.MatchString(name) {
		k.value("metadata.name", "bad-name", "small letters, digits and -, at most 63", "%q cannot be the name of a document", name)
	}
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func names[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
