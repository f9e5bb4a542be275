package parse

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// unit is a document on its way from text to definition.
type unit struct {
	doc   Document
	dec   *decoder
	src   *source
	value any  // *workflows.Workflow, …; nil when not even its kind could be read
	bad   bool // it is refused

	reading workflows.Reading // what its expressions read, until it is checked
}

// kinds are the documents that this version knows.
var kinds = map[string]func() any{
	workflows.KindWorkflow:    func() any { return new(workflows.Workflow) },
	workflows.KindEnvironment: func() any { return new(workflows.Environment) },
	workflows.KindRoles:       func() any { return new(workflows.Roles) },
	workflows.KindChannel:     func() any { return new(workflows.Channel) },
	workflows.KindTaskKind:    func() any { return new(workflows.TaskKind) },
	workflows.KindPolicy:      func() any { return new(workflows.Policy) },
	workflows.KindScenario:    func() any { return new(workflows.Scenario) },
}

// read decodes a document; its problems are in unit.dec.
func read(src *source, from File) *unit {
	sum := sha256.Sum256(src.text)
	u := &unit{src: src, dec: newDecoder(src)}
	u.doc = Document{Source: src.text, Digest: "sha256:" + hex.EncodeToString(sum[:])}
	u.doc.Origin = workflows.Origin{Digest: u.doc.Digest, Source: from.Source, Commit: from.Commit, Author: from.Author,
		Pos: workflows.Pos{File: src.file, Line: src.first, Column: 1}}
	defer func() {
		if r := recover(); r != nil { // a fault of ours or of a library must not stop the other documents
			u.value = nil
			u.dec.problems = append(u.dec.problems, src.problem(1, 1, "internal", "", fmt.Sprintf("the document cannot be read: %v", r), "please report this"))
		}
	}()
	root, problem := tree(src)
	if problem != nil {
		u.dec.problems = append(u.dec.problems, *problem)
		return u
	}
	u.decode(root)
	return u
}

// tree parses the YAML of a document.
func tree(src *source) (*yaml.Node, *workflows.Problem) {
	if line, column, what := unreadable(src); what != "" {
		p := src.problem(line, column, "yaml-syntax", "", what, "save the file as UTF-8 text")
		return nil, &p
	}
	var node yaml.Node
	err := yaml.Load(src.text, &node)
	if err == nil && len(node.Content) == 1 {
		return node.Content[0], nil
	}
	p := src.problem(1, 1, "yaml-syntax", "", "this is not YAML", "")
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		line, column := e.Mark.Line, src.byteColumn(e.Mark.Line, e.Mark.Column)
		hint := syntaxHint(src.line(line))
		if hint == "" && line > 1 && e.ContextMark.Line > 0 {
			for l := line - 1; l >= max(e.ContextMark.Line, line-2) && hint == ""; l-- {
				hint = syntaxHint(src.line(l))
			}
		}
		if line > len(src.lines)-1 && e.ContextMark.Line > 0 { // the end of the document says little; where it began says more
			line, column = e.ContextMark.Line, src.byteColumn(e.ContextMark.Line, e.ContextMark.Column)
		}
		for line > 1 && strings.TrimSpace(src.line(line)) == "" { // an end is shown where text ends
			line, column = line-1, len(src.line(line-1))+1
		}
		message := strings.TrimPrefix(e.Message, "yaml: ")
		if e.ContextMsg != "" {
			message = e.ContextMsg + ": " + message
		}
		p = src.problem(line, column, "yaml-syntax", "", "YAML cannot read this: "+message, hint)
	} else if err != nil {
		p.Message = "YAML cannot read this: " + err.Error()
	}
	return nil, &p
}

// unreadable finds bytes that no YAML text may hold.
func unreadable(src *source) (line, column int, what string) {
	for i, text := range src.lines {
		if !utf8.ValidString(text) {
			at := strings.IndexFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return r == utf8.RuneError })
			return i + 1, at + 1, "the text is not UTF-8"
		}
		if at := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); at >= 0 {
			return i + 1, at + 1, "the text holds a control character"
		}
	}
	return 0, 0, ""
}

// decode reads the envelope and, by its kind, the body.
func (u *unit) decode(root *yaml.Node) {
	d := u.dec
	d.places[""] = place{value: root}
	if root.Kind != yaml.MappingNode {
		d.fault(root, "", "wrong-type", "a document is a mapping with apiVersion, kind, metadata and spec, this is "+describe(root), "")
		return
	}
	version, kind, body := envelope(root)
	switch {
	case version == nil:
		d.fault(root, "apiVersion", "missing", "apiVersion is missing", "write apiVersion: "+workflows.APIVersion)
	case version.Value != workflows.APIVersion:
		d.fault(version, "apiVersion", "unknown-version", fmt.Sprintf("unknown apiVersion %s", describe(version)), "this version reads "+workflows.APIVersion)
	}
	if kind == nil {
		d.fault(root, "kind", "missing", "kind is missing", "one of "+strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		return
	}
	makeIt := kinds[kind.Value]
	if makeIt == nil {
		u.unknownKind(kind)
		return
	}
	u.value, u.doc.Kind = makeIt(), kind.Value
	v := reflect.ValueOf(u.value).Elem()
	d.value(body, v, "")
	u.doc.Name = v.FieldByName("Metadata").FieldByName("Name").String()
	origin := u.doc.Origin
	origin.Places = d.positions()
	v.FieldByName("Origin").Set(reflect.ValueOf(origin))
}

// positions gives the place of each key, and of the elements of lists.
func (d *decoder) positions() map[string]workflows.Pos {
	type spot struct {
		path string
		node *yaml.Node
	}
	spots := make([]spot, 0, len(d.places))
	for path, p := range d.places {
		if n := cmp.Or(p.key, p.value); n != nil {
			spots = append(spots, spot{path, n})
		}
	}
	slices.SortFunc(spots, func(a, b spot) int { // columns are counted from left to right
		return cmp.Or(cmp.Compare(a.node.Line, b.node.Line), cmp.Compare(a.node.Column, b.node.Column))
	})
	out := make(map[string]workflows.Pos, len(spots))
	for _, s := range spots {
		out[s.path] = d.pos(s.node)
	}
	return out
}

func (u *unit) unknownKind(kind *yaml.Node) {
	names := slices.Sorted(maps.Keys(kinds))
	hint := "one of " + strings.Join(names, ", ")
	if near := workflows.Nearest(kind.Value, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	u.dec.fault(kind, "kind", "unknown-kind", "unknown kind "+describe(kind), hint)
}

// envelope takes apiVersion and kind out of a document.
func envelope(root *yaml.Node) (version, kind, body *yaml.Node) {
	rest := *root
	rest.Content = nil
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch {
		case key.Value == "apiVersion" && version == nil:
			version = value
		case key.Value == "kind" && kind == nil:
			kind = value
		default:
			rest.Content = append(rest.Content, key, value)
		}
	}
	return version, kind, &rest
}

// place gives positions to problems that name only a path: that of the key, or
// of the nearest one above it that stands in the file. What the decoder has
// already found wrong is not told twice.
func (u *unit) place(problems []workflows.Problem) []workflows.Problem {
	known := map[string]bool{}
	for _, p := range u.dec.problems {
		known[p.Path] = true
	}
	var out []workflows.Problem
	for _, p := range problems {
		if known[p.Path] || below(p.Path, known) || u.follows(p, problems) {
			continue
		}
		if p.Pos.Line > u.src.first-1 && p.Pos.File == u.src.file && p.At {
			q := u.src.problem(p.Pos.Line-u.src.first+1, p.Pos.Column, p.Code, p.Path, p.Message, p.Hint)
			q.Warning = p.Warning
			out = append(out, q)
			continue
		}
		path := p.Path
		spot, ok := u.dec.places[path]
		for ; !ok && path != ""; spot, ok = u.dec.places[path] {
			path = workflows.Parent(path)
		}
		n := spot.key
		if p.AtValue && spot.value != nil && path == p.Path || n == nil {
			n = spot.value
		}
		if n == nil {
			out = append(out, p)
			continue
		}
		line, column := n.Line, u.src.byteColumn(n.Line, n.Column)
		q := u.src.problem(line, column, p.Code, p.Path, p.Message, p.Hint)
		q.Warning = p.Warning
		out = append(out, q)
	}
	return out
}

// armKeys are the keys that say where a state leads.
var armKeys = []string{"next", "transitions", "events", "onFail", "onReject", "onExpire", "onTimeout", "onInconclusive"}

// follows reports whether a problem probably only follows from another one:
// what a state does or where it leads was not understood.
func (u *unit) follows(p workflows.Problem, problems []workflows.Problem) bool {
	unread := func(path string, codes ...string) bool {
		return slices.ContainsFunc(u.dec.problems, func(q workflows.Problem) bool {
			return strings.HasPrefix(q.Path, path) && (len(codes) == 0 || slices.Contains(codes, q.Code))
		})
	}
	switch p.Code {
	case "no-body", "dead-end", "asks-nobody", "ends-early":
		return unread(p.Path + ".")
	case "never-expires":
		return unread(p.Path + ".expires")
	case "missing": // under the key that was meant, it is there
		key, _, _ := strings.Cut(p.Message, " ")
		return slices.ContainsFunc(u.dec.problems, func(q workflows.Problem) bool {
			return q.Hint == "did you mean "+key+"?" && slices.Contains([]string{p.Path, workflows.Parent(p.Path)}, workflows.Parent(q.Path))
		})
	case "uncovered-outcome":
		return unread("spec.states")
	case "unreachable", "endless", "never-taken", "unbounded-loop", "not-assigned", "never-ran", "nothing-unfinished", "invariant-broken", "lock-order":
		return unread("spec.states") || slices.ContainsFunc(problems, func(q workflows.Problem) bool {
			return slices.Contains([]string{"unknown-state", "no-body", "many-bodies", "dead-end"}, q.Code) ||
				q.Code == "misplaced-key" && slices.Contains(armKeys, last(q.Path))
		})
	}
	return false
}

// below reports whether a path leads to something within a value that could
// not be read.
func below(path string, known map[string]bool) bool {
	for path = workflows.Parent(path); path != "" && path != "spec" && path != "metadata"; path = workflows.Parent(path) {
		if known[path] {
			return true
		}
	}
	return false
}
