package parse

import (
	"maps"
	"strings"

	"cel.dev/cel-go/cel"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// Expression compiles an expression that stands in no file, with all names that
// the expressions of a run of a workflow may read in any position, those of
// environments' rules among them. The problems have places in the source, and
// no file; with a problem the program is nil.
func Expression(c *workflows.Catalog, w *workflows.Workflow, source string) (workflows.Program, []workflows.Problem) {
	source = strings.Join(strings.Fields(source), " ")
	world := newWorld(c, w)
	vars := maps.Clone(world.vars)
	vars["artifact"] = artifactType
	vars["attestations"] = cel.ListType(cel.MapType(cel.StringType, cel.DynType))
	sc := &scope{names: &names{env: extend(world.shapes, vars), vars: vars, shapes: world.shapes}, position: "a run of " + w.Metadata.Name,
		known: keys(vars), words: world.words, inputs: world.inputs}
	src := newSource("", 1, []byte(source))
	u := &unit{src: src, dec: newDecoder(src)}
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: source, Line: 1, Column: 1}
	p := (&compiler{c: c, unit: u}).expression(node, 0, source, sc, "the expression", "")
	for i := range u.dec.problems {
		u.dec.problems[i].Pos.File, u.dec.problems[i].Path = "", ""
	}
	if p == nil {
		return nil, u.dec.problems
	}
	return p, nil
}

// Caret writes a problem of an expression that stands in no file: what is
// wrong, the expression with a caret under the place, and what to do.
func Caret(p workflows.Problem) string {
	text := p.Message + "\n"
	for line := range strings.Lines(p.Excerpt) {
		text += "  " + strings.TrimRight(line, "\n") + "\n"
	}
	if p.Hint != "" {
		text += p.Hint + "\n"
	}
	return strings.TrimRight(text, "\n")
}
