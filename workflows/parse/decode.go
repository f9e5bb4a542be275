package parse

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// Limits of a document. They are far above what people write and far below
// what could hurt.
const (
	maxDepth   = 64
	maxNodes   = 100_000 // visited, so that aliases count each time
	maxAliases = 64
)

// decoder fills a definition from a tree of YAML nodes and keeps on after a
// problem, so that all of them are found at once.
type decoder struct {
	src      *source
	problems []workflows.Problem
	places   map[string]place // by path
	exprs    map[*workflows.Expr]*yaml.Node
	datas    map[*workflows.Data]*yaml.Node
	visited  int
	aliases  int
	depth    int
	tooMuch  bool
	cut      bool // not everything was looked at: what is behind may be without bounds
}

// place is where a key and its value stand; a document and the elements of a
// list have no key.
type place struct{ key, value *yaml.Node }

func newDecoder(src *source) *decoder {
	return &decoder{src: src, places: map[string]place{},
		exprs: map[*workflows.Expr]*yaml.Node{}, datas: map[*workflows.Data]*yaml.Node{}}
}

var (
	exprType     = reflect.TypeFor[workflows.Expr]()
	dataType     = reflect.TypeFor[workflows.Data]()
	answersType  = reflect.TypeFor[[]*workflows.TaskAnswer]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	interfaceAny = reflect.TypeFor[any]()
)

// fault notes a problem at a node.
func (d *decoder) fault(n *yaml.Node, path, code, message, hint string) {
	d.problems = append(d.problems, d.src.problem(n.Line, d.src.byteColumn(n.Line, n.Column), code, path, message, hint))
}

// enter guards against depth, size and alias bombs, and resolves aliases. It
// gives nil when the node must be left alone; leave undoes a successful enter.
func (d *decoder) enter(n *yaml.Node, path string) *yaml.Node {
	d.visited++
	if d.tooMuch {
		d.cut = true
		return nil
	}
	if len(d.problems) > maxProblems {
		d.tooMuch, d.cut = true, true
		d.fault(n, path, "too-many-problems", fmt.Sprintf("there are more than %d problems in this document", maxProblems), "the rest is not looked at")
		return nil
	}
	if n.Kind == yaml.AliasNode {
		d.aliases++
	}
	switch {
	case d.visited > maxNodes:
		d.tooMuch, d.cut = true, true
		d.fault(n, path, "too-large", fmt.Sprintf("the document has more than %d nodes with its aliases written out", maxNodes), "split it up")
		return nil
	case d.depth >= maxDepth:
		d.cut = true
		d.fault(n, path, "too-deep", fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
		return nil
	case d.aliases > maxAliases:
		d.tooMuch, d.cut = true, true
		d.fault(n, path, "too-many-aliases", fmt.Sprintf("more than %d aliases in a document", maxAliases), "write the values out")
		return nil
	}
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil {
			return nil
		}
		n = n.Alias
	}
	d.depth++
	return n
}

func (d *decoder) leave() { d.depth-- }

// value decodes a node into v, which is addressable.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	at := n
	if n = d.enter(n, path); n == nil {
		return
	}
	defer d.leave()
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if d.custom(n, v.Type(), path) {
		return
	}
	switch v.Type() {
	case exprType:
		d.expr(at, n, v.Addr().Interface().(*workflows.Expr), path)
		return
	case dataType:
		data := v.Addr().Interface().(*workflows.Data)
		data.Pos, data.Value = d.pos(at), d.plain(n, path)
		d.datas[data] = n
		return
	case interfaceAny:
		if x := d.plain(n, path); x != nil {
			v.Set(reflect.ValueOf(x))
		}
		return
	}
	if isNull(n) && !slices.Contains([]reflect.Kind{reflect.Map, reflect.Slice}, v.Kind()) {
		d.fault(at, path, "empty-value", last(path)+" has no value", "give it one, or leave the key out")
		return
	}
	if v.Addr().Type().Implements(textType) {
		d.text(at, n, v, path)
		return
	}
	d.byKind(at, n, v, path)
}

func (d *decoder) byKind(at, n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.structure(at, n, v, path)
	case reflect.Map:
		d.mapping(at, n, v, path)
	case reflect.Slice:
		d.sequence(at, n, v, path)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!timestamp" {
			hint := ""
			if n.Kind == yaml.ScalarNode {
				hint = "put it in quotes"
			}
			d.wrong(at, n, path, "text", hint)
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.wrong(at, n, path, "true or false", "")
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		i, ok := d.integer(n)
		if !ok {
			d.wrong(at, n, path, "a whole number", "")
			return
		}
		v.SetInt(i)
	default:
		// unreachable unless a definition gets a field of a kind that files cannot hold.
		d.fault(at, path, "wrong-type", "a field of type "+v.Type().String()+" cannot stand in a file", "")
	}
}

// wrong notes a value of the wrong type.
func (d *decoder) wrong(at, n *yaml.Node, path, want, hint string) {
	d.fault(at, path, "wrong-type", fmt.Sprintf("%s is %s, want %s", last(path), describe(n), want), hint)
}

func (d *decoder) integer(n *yaml.Node) (int64, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		return 0, false
	}
	digits := strings.TrimLeft(n.Value, "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		return 0, false // 010 is ten to some and eight to others
	}
	i, err := strconv.ParseInt(n.Value, 0, 64)
	return i, err == nil
}

// custom refuses tags that are not YAML's own, and merge keys.
func (d *decoder) custom(n *yaml.Node, t reflect.Type, path string) bool {
	tag := n.ShortTag()
	if tag == "" || strings.HasPrefix(tag, "!!") && slices.Contains(knownTags, tag) {
		return false
	}
	hint := "tags cannot be used here"
	if t == exprType || n.Kind == yaml.ScalarNode && isExprKey(last(path)) {
		hint = quoteHint
	}
	d.fault(n, path, "custom-tag", fmt.Sprintf("YAML reads %s as a tag", tag), hint)
	return true
}

var knownTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp"}

// expr takes the source of an expression. YAML reads true and 3 as values of
// its own; as expressions they are what they look like.
func (d *decoder) expr(at, n *yaml.Node, e *workflows.Expr, path string) {
	e.Pos = d.pos(at)
	if n.Kind != yaml.ScalarNode || isNull(n) {
		hint := ""
		if n.Kind != yaml.ScalarNode {
			hint = quoteHint
		}
		d.fault(at, path, "wrong-type", fmt.Sprintf("%s is %s, want an expression", last(path), describe(n)), hint)
		return
	}
	e.Source = n.Value
	d.exprs[e] = n
}

func (d *decoder) text(at, n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(at, n, path, "text", "")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		d.fault(at, path, "wrong-value", fmt.Sprintf("%s: %s", last(path), err), "")
	}
}

func (d *decoder) pos(n *yaml.Node) workflows.Pos {
	return workflows.Pos{File: d.src.file, Line: d.src.first + n.Line - 1, Column: d.src.byteColumn(n.Line, n.Column)}
}

func (d *decoder) sequence(at, n *yaml.Node, v reflect.Value, path string) {
	items := n.Content
	switch {
	case n.Kind == yaml.SequenceNode:
	case isNull(n):
		return
	case n.Kind == yaml.MappingNode && v.Type() == answersType:
		items = []*yaml.Node{n} // one answer may stand without the list
	default:
		d.wrong(at, n, path, "a list", "write [a, b], or one item per line after a dash")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(items))
	for i, item := range items {
		elem := reflect.New(v.Type().Elem()).Elem()
		at := path + "[" + strconv.Itoa(i) + "]"
		d.places[at] = place{value: item}
		d.value(item, elem, at)
		if elem.Kind() == reflect.Pointer && elem.IsNil() {
			elem.Set(reflect.New(elem.Type().Elem())) // nothing later on needs to ask for nil
		}
		out = reflect.Append(out, elem)
	}
	v.Set(out)
}

func (d *decoder) mapping(at, n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(at, n, path, "a mapping", "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	index := 0
	for key, value := range d.pairs(n, path) {
		at := workflows.Join(path, key.Value)
		d.places[at] = place{key: key, value: value}
		elem := reflect.New(v.Type().Elem()).Elem()
		pointer := elem.Kind() == reflect.Pointer
		if pointer {
			elem.Set(reflect.New(elem.Type().Elem()))
		}
		if !pointer || !isNull(value) || elem.Elem().Type() == dataType {
			d.value(value, elem, at)
		}
		if pointer && elem.Elem().Kind() == reflect.Struct {
			named(elem.Elem(), key.Value, index)
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), elem)
		index++
	}
}

// named tells a definition that stands in a mapping its key and its place.
func named(v reflect.Value, name string, index int) {
	if f, ok := v.Type().FieldByName("Index"); !ok || f.Tag.Get("yaml") != "-" {
		return
	}
	v.FieldByName("Name").SetString(name)
	v.FieldByName("Index").SetInt(int64(index))
}

// pairs goes through a mapping, leaving out what is not a proper key.
func (d *decoder) pairs(n *yaml.Node, path string) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		seen := map[string]*yaml.Node{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			switch {
			case key.Kind != yaml.ScalarNode:
				hint := "keys are plain text"
				if strings.Contains(d.src.line(key.Line), "${{") {
					hint = "put text that holds ${{ … }} in quotes"
				}
				d.fault(key, path, "bad-key", "a key must be text, this is "+describe(key), hint)
				continue
			case key.ShortTag() == "!!merge":
				d.fault(key, path, "merge-key", "merge keys (<<) are not supported", "write the keys out")
				continue
			case seen[key.Value] != nil:
				d.fault(key, workflows.Join(path, key.Value), "duplicate-key",
					fmt.Sprintf("%s is already given in line %d", key.Value, d.src.first+seen[key.Value].Line-1), "keep one of them")
				continue
			}
			seen[key.Value] = key
			if !yield(key, value) {
				return
			}
		}
	}
}

// plain gives a node as a plain Go value.
func (d *decoder) plain(n *yaml.Node, path string) any {
	if n = d.enter(n, path); n == nil {
		return nil
	}
	defer d.leave()
	if d.custom(n, interfaceAny, path) {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for key, value := range d.pairs(n, path) {
			at := workflows.Join(path, key.Value)
			d.places[at] = place{key: key, value: value}
			m[key.Value] = d.plain(value, at)
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			at := path + "[" + strconv.Itoa(i) + "]"
			d.places[at] = place{value: item}
			list[i] = d.plain(item, at)
		}
		return list
	}
	return d.scalar(n, path)
}

func (d *decoder) scalar(n *yaml.Node, path string) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		i, ok := d.integer(n)
		if !ok {
			d.fault(n, path, "wrong-value", n.Value+" is not a number that everybody reads alike", "write it without leading zeros, or put it in quotes")
		}
		return i
	case "!!float":
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err != nil {
			d.fault(n, path, "wrong-value", n.Value+" is not a finite number", "put it in quotes if it is meant as text")
		}
		return f
	}
	return n.Value
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "the truth value " + n.Value
	case "!!int", "!!float":
		return "the number " + n.Value
	}
	if len(n.Value) > 40 {
		return "text"
	}
	return strconv.Quote(n.Value)
}

// last gives the last key of a path.
func last(path string) string {
	if i := strings.LastIndexAny(path, ".]"); i >= 0 && path[i] == '.' {
		return path[i+1:]
	}
	if path == "" {
		return "the document"
	}
	return path
}
