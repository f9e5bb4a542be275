package parse

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// Added stands before whatever Annotate has added.
const Added = "+ "

// Annotate writes a document with edits, as YAML that reads back. What the
// author wrote stays, with its comments; what is added is marked with a
// comment that begins with Added.
func Annotate(doc Document, edits []workflows.Edit) ([]byte, error) {
	u := read(newSource(doc.Origin.Pos.File, doc.Origin.Pos.Line, doc.Source), File{Name: doc.Origin.Pos.File})
	root := u.dec.places[""].value
	if root == nil {
		return nil, fmt.Errorf("%s %s cannot be read", doc.Kind, doc.Name)
	}
	for _, e := range edits {
		u.edit(e)
	}
	var b bytes.Buffer
	d, err := yaml.NewDumper(&b, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err == nil {
		err = errors.Join(d.Dump(root), d.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", doc.Kind, doc.Name, err)
	}
	return b.Bytes(), nil
}

// edit changes a mapping in the tree. One that is an alias, or within one,
// stands in several places; it is left as it is.
func (u *unit) edit(e workflows.Edit) {
	spot, ok := u.dec.places[e.Path]
	if !ok || spot.value == nil {
		return
	}
	for path := e.Path; ; path = workflows.Parent(path) {
		above, ok := u.dec.places[path]
		if ok && above.value != nil && above.value.Kind == yaml.AliasNode {
			return
		}
		if ok && above.value != nil {
			above.value.Style &^= yaml.FlowStyle // comments need lines of their own
		}
		if path == "" {
			break
		}
	}
	n := spot.value
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); {
		if slices.Contains(e.Drop, n.Content[i].Value) {
			n.Content = slices.Delete(n.Content, i, i+2)
			continue
		}
		i += 2
	}
	for _, p := range e.Set {
		value := nodeOf(p.Value)
		note(value, p.Why)
		if i := slices.IndexFunc(n.Content, func(k *yaml.Node) bool { return k.Value == p.Key && k.Kind == yaml.ScalarNode }); i >= 0 && i%2 == 0 {
			n.Content[i+1] = value
			continue
		}
		n.Content = append(n.Content, scalar(p.Key), value)
	}
	above := spot.key
	if above == nil && len(n.Content) > 0 {
		above = n.Content[0] // an element of a list
	}
	if above != nil {
		above.HeadComment = joinLines(above.HeadComment, e.Above)
	}
}

// joinLines adds lines to a comment, each marked.
func joinLines(comment string, lines []string) string {
	for _, line := range lines {
		if comment != "" {
			comment += "\n"
		}
		comment += "# " + Added + strings.Join(strings.Fields(line), " ")
	}
	return comment
}

func note(n *yaml.Node, why string) {
	if why != "" {
		n.LineComment = "# " + Added + why
	}
}

// nodeOf gives the node of a value of an edit.
func nodeOf(v any) *yaml.Node {
	switch x := v.(type) {
	case workflows.Aside:
		n := nodeOf(x.Value)
		note(n, x.Why)
		return n
	case []workflows.Pair:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		for _, p := range x {
			n.Content = append(n.Content, scalar(p.Key), nodeOf(p.Value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		plain := true
		for _, item := range x {
			c := nodeOf(item)
			plain = plain && c.Kind == yaml.ScalarNode
			n.Content = append(n.Content, c)
		}
		if plain {
			n.Style = yaml.FlowStyle
		}
		return n
	}
	return scalar(v)
}
