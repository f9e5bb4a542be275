package parse

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// template is data with expressions in it, as a tree of constants, texts,
// lists and maps. It is the Program of a workflows.Data.
type template struct {
	root part
	refs [][]string
}

func (t *template) Refs() [][]string { return t.refs }

// Eval gives the data with its expressions evaluated. Timestamps and durations
// become text, because data is stored as JSON; an optional without a value
// becomes nil.
func (t *template) Eval(ctx context.Context, scope map[string]any) (any, error) {
	return t.root.eval(ctx, scope)
}

// part is a piece of a template.
type part interface {
	eval(ctx context.Context, scope map[string]any) (any, error)
	programs(yield func(*program))
}

type (
	constant struct{ value any }
	single   struct{ *program }
	joined   struct{ parts []part } // text: values written one after the other
	items    struct{ parts []part }
	entries  struct {
		keys  []string
		parts map[string]part
	}
)

func (c constant) eval(context.Context, map[string]any) (any, error) { return c.value, nil }
func (c constant) programs(func(*program))                           {}

func (s single) programs(yield func(*program)) { yield(s.program) }
func (s single) eval(ctx context.Context, scope map[string]any) (any, error) {
	v, err := s.Eval(ctx, scope)
	if err != nil {
		return nil, err
	}
	return storable(v), nil
}

func (j joined) programs(yield func(*program)) { each(j.parts, yield) }
func (j joined) eval(ctx context.Context, scope map[string]any) (any, error) {
	var b strings.Builder
	for _, p := range j.parts {
		v, err := p.eval(ctx, scope)
		if err != nil {
			return nil, err
		}
		if err := write(&b, v); err != nil {
			return nil, err
		}
		if b.Len() > maxText {
			return nil, fmt.Errorf("the text grows longer than %d bytes", maxText)
		}
	}
	return b.String(), nil
}

// maxText is how long a text made of expressions can be.
const maxText = 1 << 20

func (l items) programs(yield func(*program)) { each(l.parts, yield) }
func (l items) eval(ctx context.Context, scope map[string]any) (any, error) {
	out := make([]any, len(l.parts))
	for i, p := range l.parts {
		var err error
		if out[i], err = p.eval(ctx, scope); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (m entries) programs(yield func(*program)) {
	for _, key := range m.keys {
		m.parts[key].programs(yield)
	}
}
func (m entries) eval(ctx context.Context, scope map[string]any) (any, error) {
	out := make(map[string]any, len(m.parts))
	for _, key := range m.keys {
		v, err := m.parts[key].eval(ctx, scope)
		if err != nil {
			return nil, err
		}
		out[key] = v
	}
	return out, nil
}

func each(parts []part, yield func(*program)) {
	for _, p := range parts {
		p.programs(yield)
	}
}

// storable gives a value as JSON can hold it.
func storable(v any) any {
	switch x := v.(type) {
	case time.Time:
		return x.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		return x.String()
	case []any:
		for i := range x {
			x[i] = storable(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = storable(x[k])
		}
	}
	return v
}

// write puts a value into a text as people expect to read it.
func write(b *strings.Builder, v any) error {
	switch x := v.(type) {
	case nil:
	case string:
		b.WriteString(x)
	case float64:
		b.WriteString(strconv.FormatFloat(x, 'f', -1, 64))
	case bool, int64:
		fmt.Fprint(b, x)
	default:
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		b.Write(text)
	}
	return nil
}

// data compiles data at a position; want is the type it is declared to have,
// or "" where any will do.
func (c *compiler) data(d *workflows.Data, sc *scope, path string, want workflows.Type) {
	if d == nil {
		return
	}
	n := c.unit.dec.datas[d]
	if n == nil {
		return // it could not be read: a problem says so
	}
	before := len(c.unit.dec.problems)
	c.noting = d
	root := c.part(n, sc, path, want)
	if len(c.unit.dec.problems) > before {
		return
	}
	var found [][]string
	count := 0
	root.programs(func(p *program) {
		count++
		found = append(found, p.refs...)
	})
	if count > 0 {
		d.Program = &template{root: root, refs: cut(found)}
	} else if want != "" {
		c.conform(d.Value, n, path, want)
	}
}

// conform checks a constant against its declared type.
func (c *compiler) conform(value any, n *yaml.Node, path string, want workflows.Type) {
	if value == nil {
		return // the same as leaving it out
	}
	if _, err := want.Conform(value); err != nil {
		c.unit.dec.fault(n, path, "wrong-type", fmt.Sprintf("%s: %s", last(path), strings.ReplaceAll(err.Error(), workflows.ErrType.Error()+": ", "")), "")
	}
}

func (c *compiler) part(n *yaml.Node, sc *scope, path string, want workflows.Type) part {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	name, elem := want.Split()
	if name != "list" && name != "map" {
		elem = ""
	}
	switch n.Kind {
	case yaml.SequenceNode:
		return c.list(n, sc, path, name, elem)
	case yaml.MappingNode:
		return c.entries(n, sc, path, name, elem)
	}
	if n.ShortTag() != "!!str" || !strings.Contains(n.Value, "${{") {
		return constant{c.constant(n)}
	}
	return c.text(n, sc, path, want)
}

func (c *compiler) list(n *yaml.Node, sc *scope, path, name string, elem workflows.Type) part {
	out, constants := items{}, []any{}
	for i, x := range n.Content {
		p := c.part(x, sc, path+"["+strconv.Itoa(i)+"]", elem)
		out.parts = append(out.parts, p)
		if v, ok := p.(constant); ok {
			constants = append(constants, v.value)
		}
	}
	if len(constants) == len(out.parts) {
		return constant{constants}
	}
	c.mixed(n, path, name, "list")
	return out
}

func (c *compiler) entries(n *yaml.Node, sc *scope, path, name string, elem workflows.Type) part {
	out, constants := entries{parts: map[string]part{}}, map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		p := c.part(n.Content[i+1], sc, workflows.Join(path, key), elem)
		out.parts[key] = p
		if v, ok := p.(constant); ok {
			constants[key] = v.value
		}
	}
	if len(constants) == len(out.parts) {
		return constant{constants}
	}
	out.keys = slices.Sorted(maps.Keys(out.parts))
	c.mixed(n, path, name, "map")
	return out
}

// mixed checks the outer type of a structure that has expressions in it; its
// constants are checked when it is evaluated and conforms to its declaration.
func (c *compiler) mixed(n *yaml.Node, path, declared, is string) {
	if declared != "" && declared != "any" && declared != is {
		c.unit.dec.fault(n, path, "wrong-type", fmt.Sprintf("%s is a %s, want %s", last(path), is, declared), "")
	}
}

// constant gives a node as plain Go; problems in it were noted when it was read.
func (c *compiler) constant(n *yaml.Node) any {
	d := newDecoder(c.unit.src)
	return d.plain(n, "")
}

// text compiles text with ${{ … }} in it.
func (c *compiler) text(n *yaml.Node, sc *scope, path string, want workflows.Type) part {
	var out joined
	rest, at := n.Value, 0
	alone := false
	for {
		begin := strings.Index(rest, "${{")
		if begin < 0 {
			break
		}
		length := closing(rest[begin+3:])
		if length < 0 {
			line, column := c.unit.src.locate(n, at+begin)
			c.unit.dec.problems = append(c.unit.dec.problems, c.unit.src.problem(line, column, "open-expression", path,
				"${{ is never closed", "close it with }}"))
			return constant{n.Value}
		}
		if begin > 0 {
			out.parts = append(out.parts, constant{rest[:begin]})
		}
		source := rest[begin+3 : begin+3+length]
		end := begin + 3 + length + 2
		alone = len(out.parts) == 0 && strings.TrimSpace(rest[end:]) == ""
		wanted := workflows.Type("")
		if alone {
			wanted = want
		}
		if p := c.expression(n, at+begin+3, source, sc, path, wanted); p != nil {
			out.parts = append(out.parts, single{p})
		} else {
			out.parts = append(out.parts, constant{""})
		}
		rest, at = rest[end:], at+end
		if alone {
			return out.parts[0]
		}
	}
	if rest != "" {
		out.parts = append(out.parts, constant{rest})
	}
	if name, _ := want.Split(); want != "" && !slices.Contains([]string{"any", "string", "duration", "timestamp"}, name) {
		c.unit.dec.fault(n, path, "wrong-type", fmt.Sprintf("%s is text with values in it, want %s", last(path), want),
			"a text that is one ${{ … }} and nothing else keeps the type of its value")
	}
	return out
}

// closing gives the length of an expression up to its }}, which may not be one
// of its own braces or part of a text; -1 when it is never closed.
func closing(text string) int {
	depth := 0
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		case c == '}' && i+1 < len(text) && text[i+1] == '}':
			return i
		}
	}
	return -1
}
