package definitions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/compare"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// Change is what Apply puts in force.
type Change struct {
	Source   string // where the files come from, as in workflows.Origin
	Files    []parse.File
	Problems []workflows.Problem // with files that could not be read at all
	// Prune says that Files are all there is in the source: what came from it
	// earlier and is not in them any more is removed.
	Prune  bool
	DryRun bool
}

// Hold says which sources are watched. What came from one of them is replaced
// and removed by that source only.
func (s *Store) Hold(sources ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = map[string]bool{}
	for _, name := range sources {
		s.held[name] = true
	}
}

// Holds reports whether a source is watched.
func (s *Store) Holds(source string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.held[source]
}

// key names a document.
type key struct{ kind, name string }

func keyFor(d parse.Document) key { return key{d.Kind, d.Name} }

// index finds documents by their names.
type index map[key]*parse.Document

func indexOf(docs []parse.Document) index {
	m := make(index, len(docs))
	for i := range docs {
		if k := keyFor(docs[i]); m[k] == nil {
			m[k] = &docs[i]
		}
	}
	return m
}

// Apply lays files over what is in force. The result tells what changed and
// all problems; good documents are in force when it returns without error. A
// document that is replaced or removed so that another one could not stay
// in force is not replaced or removed, which is a problem as well.
func (s *Store) Apply(ctx context.Context, c Change) (*events.Applied, error) {
	s.apply.Lock()
	defer s.apply.Unlock()
	for tries := 1; ; tries++ {
		if _, err := s.refresh(ctx); err != nil {
			return nil, err
		}
		out, err := s.lay(ctx, c)
		if !errors.Is(err, errChanged) || tries == mostLays {
			return out, err
		}
	}
}

// mostLays is how often a change is laid over what other engines put in force
// just then.
const mostLays = 10

// lay lays a change over what stands.
func (s *Store) lay(ctx context.Context, c Change) (*events.Applied, error) {
	s.mu.RLock()
	standing, before := s.docs, s.now
	s.mu.RUnlock()
	files := slices.Clone(c.Files)
	for i := range files {
		files[i].Source = c.Source
	}
	read, problems := parse.OverUnless(standing, files, func(d parse.Document, f parse.File) bool {
		return d.Origin.Source != f.Source && s.Holds(d.Origin.Source)
	})
	p := &plan{standing: standing, before: before, read: read, good: keepOrigins(standing, read.Documents), gone: map[key]bool{}}
	problems = slices.Concat(c.Problems, problems, p.prune(c))
	set, more := p.settle(c.Source)
	problems = newProblems(standing, files, append(problems, more...))
	out := &events.Applied{Definitions: p.changes(set.Documents), Text: parse.Text(problems), Meaning: s.meaning(before, set.Catalog())}
	for _, problem := range problems {
		raw, err := json.Marshal(problem)
		if err != nil {
			return nil, err
		}
		out.Problems = append(out.Problems, raw)
	}
	if c.DryRun {
		return out, nil
	}
	return out, s.enforce(ctx, set)
}

// newProblems leaves out the warnings that what stood before had already and
// that are in none of the files: they say nothing about the change.
func newProblems(standing []parse.Document, files []parse.File, problems []workflows.Problem) []workflows.Problem {
	given := map[string]bool{}
	for _, f := range files {
		given[f.Name] = true
	}
	others := func(p workflows.Problem) bool { return p.Warning && p.Pos.File != "" && !given[p.Pos.File] }
	if !slices.ContainsFunc(problems, others) {
		return problems
	}
	_, old := parse.Over(standing, nil)
	return slices.DeleteFunc(problems, func(p workflows.Problem) bool {
		return others(p) && slices.ContainsFunc(old, func(o workflows.Problem) bool {
			return o.Pos == p.Pos && o.Code == p.Code && o.Message == p.Message
		})
	})
}

// meaning says what a change means. The change counts whether or not that can be said.
func (s *Store) meaning(before, after *workflows.Catalog) (out []events.Meaning) {
	if before.Digest == after.Digest {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("what a change of definitions means cannot be said", "panic", p, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	for _, c := range compare.Catalogs(before, after) {
		out = append(out, events.Meaning{Text: c.String(), Weaker: c.Weaker})
	}
	return out
}

// enforce makes a set current, where it is not what is.
func (s *Store) enforce(ctx context.Context, set *parse.Set) error {
	cat := set.Catalog()
	s.mu.RLock()
	before, docs := s.now, s.docs
	s.mu.RUnlock()
	switch {
	case cat.Digest != before.Digest:
		if err := s.put(ctx, set.Documents, cat.Digest); err != nil {
			return err
		}
		s.remember(before)
	case sameOrigins(docs, set.Documents):
		return nil
	default:
		if err := s.putOrigins(ctx, set.Documents); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs, s.now = set.Documents, cat
	return nil
}

func sameOrigins(a, b []parse.Document) bool {
	before := indexOf(a)
	for _, d := range b {
		if old := before[keyFor(d)]; old == nil || !sameOrigin(old.Origin, d.Origin) {
			return false
		}
	}
	return true
}

func sameOrigin(a, b workflows.Origin) bool {
	return a.Digest == b.Digest && a.Pos == b.Pos && a.Source == b.Source && a.Commit == b.Commit && a.Author == b.Author
}

// keepOrigins lets a document that has not changed keep its commit and author:
// those of the change that made it what it is.
func keepOrigins(standing, docs []parse.Document) []parse.Document {
	docs, before := slices.Clone(docs), indexOf(standing)
	for i, d := range docs {
		old := before[keyFor(d)]
		if old != nil && old.Digest == d.Digest && old.Origin.Source == d.Origin.Source && old.Origin.Pos.File == d.Origin.Pos.File {
			docs[i].Origin.Commit, docs[i].Origin.Author = old.Origin.Commit, old.Origin.Author
		}
	}
	return docs
}

// plan is a change on its way to what will be in force.
type plan struct {
	standing []parse.Document
	before   *workflows.Catalog
	read     *parse.Set       // the files over what stands
	good     []parse.Document // of it, with their origins
	gone     map[key]bool     // what is to be removed
}

// prune finds what came from the source and is not there any more. While
// anything in the source cannot be read, or there is nothing in it at all,
// nothing is removed: it may be what cannot be seen.
func (p *plan) prune(c Change) []workflows.Problem {
	if !c.Prune {
		return nil
	}
	given := map[key]bool{}
	whole := len(c.Files) > 0 && len(c.Problems) == 0
	for _, d := range p.read.Given {
		given[keyFor(d)] = true
		whole = whole && d.Kind != "" && d.Name != ""
	}
	for _, d := range p.standing {
		if d.Origin.Source == c.Source && !given[keyFor(d)] {
			p.gone[keyFor(d)] = true
		}
	}
	if whole || len(p.gone) == 0 {
		return nil
	}
	left := len(p.gone)
	clear(p.gone)
	if len(c.Files) == 0 && len(c.Problems) == 0 {
		return []workflows.Problem{{Code: "source-empty", Message: fmt.Sprintf("there are no definitions in %s any more; the %d that came from it stay in force", c.Source, left),
			Hint: "an empty source removes nothing: leave one document in it, or take the source away from the server"}}
	}
	return []workflows.Problem{{Code: "not-removed", Warning: true, Message: fmt.Sprintf(
		"%d that came from %s and are not found there stay in force until all of it can be read", left, c.Source)}}
}

// candidates are the documents that would be in force: the good ones, what
// stood before where its successor is bad, and nothing that is gone.
func (p *plan) candidates() []parse.Document {
	docs, good := slices.Clone(p.good), indexOf(p.good)
	for _, old := range p.standing {
		if good[keyFor(old)] == nil {
			docs = append(docs, old)
		}
	}
	return slices.DeleteFunc(docs, func(d parse.Document) bool { return p.gone[keyFor(d)] })
}

// settle gives what will be in force. Nothing that was good is lost by it: what
// would make another document bad is taken back.
func (p *plan) settle(source string) (*parse.Set, []workflows.Problem) {
	var told []workflows.Problem
	for {
		docs := p.candidates()
		if same(docs, p.read.Documents) {
			return p.read, told
		}
		set, problems := parse.Over(docs, nil)
		lost := p.lost(docs, set.Documents)
		if len(lost) == 0 {
			return set, told
		}
		back := p.needed(lost)
		if len(back) == 0 {
			back = p.culprits(lost)
		}
		if len(back) == 0 {
			return set, told // nothing of ours can help: this version refuses what stood
		}
		for _, d := range back {
			told = append(told, p.problem(d, source, lost, problems))
			p.takeBack(d)
		}
	}
}

// mostTries is how many changes are tried one by one to find the one that
// makes others bad.
const mostTries = 30

// culprits gives what makes documents bad where their needs do not say so: a
// change without which fewer are, or else all changes.
func (p *plan) culprits(lost []parse.Document) []parse.Document {
	all := p.differs()
	for _, d := range all[:min(len(all), mostTries)] {
		try := &plan{standing: p.standing, before: p.before, read: p.read, good: slices.Clone(p.good), gone: maps.Clone(p.gone)}
		try.takeBack(d)
		docs := try.candidates()
		set, _ := parse.Over(docs, nil)
		if len(try.lost(docs, set.Documents)) < len(lost) {
			return []parse.Document{d}
		}
	}
	return all
}

// takeBack leaves a document as it stands.
func (p *plan) takeBack(d parse.Document) {
	k := keyFor(d)
	if p.gone[k] {
		delete(p.gone, k)
		return
	}
	p.good = slices.DeleteFunc(p.good, func(g parse.Document) bool { return keyFor(g) == k })
}

func same(a, b []parse.Document) bool {
	return slices.EqualFunc(a, b, func(x, y parse.Document) bool {
		return keyFor(x) == keyFor(y) && x.Digest == y.Digest && sameOrigin(x.Origin, y.Origin)
	})
}

// lost gives the documents that were good by themselves and are not in a set.
func (p *plan) lost(docs, set []parse.Document) []parse.Document {
	there, good := indexOf(set), indexOf(p.good)
	return slices.DeleteFunc(slices.Clone(docs), func(d parse.Document) bool {
		return there[keyFor(d)] != nil || good[keyFor(d)] == nil && definition(p.before, keyFor(d)) == nil
	})
}

// needed gives what was changed or is to be removed and lost documents need.
func (p *plan) needed(lost []parse.Document) (back []parse.Document) {
	good, other := indexOf(p.good), indexOf(p.differs())
	for _, d := range lost {
		cat := p.before
		if good[keyFor(d)] != nil {
			cat = p.read.Catalog()
		}
		for _, need := range workflows.Needs(cat, definition(cat, keyFor(d))) {
			k := key{need.Kind, need.Name}
			if b := other[k]; b != nil {
				back = append(back, *b)
				delete(other, k)
			}
		}
	}
	return back
}

// differs gives what will not be as it is now.
func (p *plan) differs() (docs []parse.Document) {
	before := indexOf(p.standing)
	for _, d := range p.good {
		if old := before[keyFor(d)]; old == nil || old.Digest != d.Digest {
			docs = append(docs, d)
		}
	}
	for _, d := range p.standing {
		if p.gone[keyFor(d)] {
			docs = append(docs, d)
		}
	}
	return docs
}

// problem says why a document is left as it stands.
func (p *plan) problem(d parse.Document, source string, lost []parse.Document, problems []workflows.Problem) workflows.Problem {
	by, why := lost[0], ""
	for _, other := range problems {
		if !other.Warning && other.Pos.File == by.Origin.Pos.File {
			why = ": " + other.Message
			break
		}
	}
	out := workflows.Problem{Pos: d.Origin.Pos, Path: "metadata.name"}
	other := fmt.Sprintf("%s %s (%s)", by.Kind, by.Name, by.Origin.Pos)
	switch {
	case p.gone[keyFor(d)]:
		out.Code, out.Hint = "still-needed", "take out what needs it as well, or put it back"
		out.Message = fmt.Sprintf("%s %s is not in %s any more and stays in force, because %s cannot be without it%s", d.Kind, d.Name, source, other, why)
	case keyFor(d) == keyFor(by):
		out.Code, out.Hint = "breaks-others", "change both together"
		out.Message = fmt.Sprintf("%s %s cannot be in force with what stays in force%s", d.Kind, d.Name, why)
	default:
		out.Code, out.Hint = "breaks-others", "change both together"
		out.Message = fmt.Sprintf("%s %s is not in force as it stands here, because %s would not be good with it%s", d.Kind, d.Name, other, why)
	}
	return out
}

// changes says what becomes of each document. What is refused is told instead
// of what stays in its place.
func (p *plan) changes(after []parse.Document) []events.Definition {
	before, there, refused := indexOf(p.standing), indexOf(after), map[key]parse.Document{}
	for _, d := range p.read.Given {
		if now := there[keyFor(d)]; d.Kind != "" && d.Name != "" && (now == nil || now.Digest != d.Digest || now.Origin.Source != d.Origin.Source) {
			refused[keyFor(d)] = d
		}
	}
	var out []events.Definition
	for _, d := range after {
		if _, ok := refused[keyFor(d)]; ok {
			continue
		}
		change := "created"
		if old := before[keyFor(d)]; old != nil {
			change = "changed"
			if old.Digest == d.Digest {
				change = "unchanged"
			}
		}
		out = append(out, view(d, change))
	}
	for _, d := range p.standing {
		if there[keyFor(d)] == nil && p.gone[keyFor(d)] {
			out = append(out, view(d, "removed"))
		}
	}
	for _, d := range p.read.Given {
		if r, ok := refused[keyFor(d)]; ok && r.Origin.Pos == d.Origin.Pos {
			out = append(out, view(d, "refused"))
		}
	}
	return out
}

// definition gives a definition of a catalog; nil when it has none of the name.
func definition(c *workflows.Catalog, k key) any {
	switch k.kind {
	case workflows.KindWorkflow:
		return orNil(c.Workflows[k.name])
	case workflows.KindEnvironment:
		return orNil(c.Environments[k.name])
	case workflows.KindChannel:
		return orNil(c.Channels[k.name])
	case workflows.KindPolicy:
		return orNil(c.Policies[k.name])
	case workflows.KindTaskKind:
		return orNil(c.Kinds[k.name])
	}
	for _, r := range c.Roles {
		if k.kind == workflows.KindRoles && r.Metadata.Name == k.name {
			return r
		}
	}
	for _, sc := range c.Scenarios {
		if k.kind == workflows.KindScenario && sc.Metadata.Name == k.name {
			return sc
		}
	}
	return nil
}

func orNil[T any](p *T) any {
	if p == nil {
		return nil
	}
	return p
}
