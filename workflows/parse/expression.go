package parse

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// Limits of a document: expressions are compiled one by one, and each problem
// searches its place in the file.
const (
	maxExpressions = 2000
	maxProblems    = 200
)

// condition compiles an expression that must be true or false.
func (c *compiler) condition(e *workflows.Expr, sc *scope, path string) {
	if e == nil {
		return
	}
	n := c.unit.dec.exprs[e]
	if n == nil {
		return // it could not be read: a problem says so
	}
	if p := c.expression(n, 0, e.Source, sc, path, "bool"); p != nil {
		e.Program = p
	}
}

// expression compiles source, which begins at a byte of a node's value; nil
// when it has problems.
func (c *compiler) expression(n *yaml.Node, offset int, source string, sc *scope, path string, want workflows.Type) *program {
	at := placer{c: c, node: n, offset: offset, source: source, path: path}
	if c.expressions++; c.expressions > maxExpressions {
		if c.expressions == maxExpressions+1 {
			at.fault(0, "too-many-expressions", fmt.Sprintf("a document has %d expressions at most", maxExpressions), "split it up")
		}
		return nil
	}
	if len(c.unit.dec.problems) > maxProblems {
		return nil
	}
	if strings.TrimSpace(source) == "" {
		at.fault(0, "cel-syntax", "the expression is empty", "")
		return nil
	}
	checked, issues := c.compile(sc.env, source)
	if issues.Err() != nil {
		for i, e := range issues.Errors() {
			if i == 5 {
				break // one slip can make many
			}
			code, message, hint := sc.explain(e.Message)
			at.fault(runeOffset(source, e.Location.Line(), e.Location.Column()), code, message, hint)
		}
		return nil
	}
	before := len(c.unit.dec.problems)
	(&inspection{at: at, sc: sc, checked: checked.NativeRep()}).run()
	if want != "" && !fits(checked.OutputType(), want) {
		at.fault(0, "wrong-type", fmt.Sprintf("%s gives %s, want %s", last(path), typeText(checked.OutputType()), want), "")
	}
	if len(c.unit.dec.problems) > before {
		return nil
	}
	return newProgram(sc.env, checked)
}

// compile compiles each expression of a document once for each environment:
// the same few stand in many places.
func (c *compiler) compile(env *cel.Env, source string) (*cel.Ast, *cel.Issues) {
	key := expressionKey{env, source}
	known, ok := c.compiled[key]
	if !ok {
		if c.compiled == nil {
			c.compiled = map[expressionKey]compiled{}
		}
		known.ast, known.issues = env.Compile(source)
		c.compiled[key] = known
	}
	return known.ast, known.issues
}

type expressionKey struct {
	env    *cel.Env
	source string
}

type compiled struct {
	ast    *cel.Ast
	issues *cel.Issues
}

// placer turns places of an expression into places of the file.
type placer struct {
	c      *compiler
	node   *yaml.Node
	offset int
	source string
	path   string
}

func (p placer) fault(at int, code, message, hint string) {
	line, column := p.c.unit.src.locate(p.node, p.offset+min(at, len(p.source)))
	p.c.unit.dec.problems = append(p.c.unit.dec.problems, p.c.unit.src.problem(line, column, code, p.path, message, hint))
}

// runeOffset turns CEL's line (from 1) and column (characters, from 0) into bytes.
func runeOffset(source string, line, column int) int {
	at := 0
	for range line - 1 {
		next := strings.IndexByte(source[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	for range column {
		if at >= len(source) {
			break
		}
		_, size := utf8.DecodeRuneInString(source[at:])
		at += size
	}
	return at
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	undefined  = regexp.MustCompile(`^undefined field '([^']*)'`)
	overload   = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
)

// explain puts an error of the CEL compiler into words for people who write
// workflows.
func (sc *scope) explain(message string) (code, text, hint string) {
	if m := undeclared.FindStringSubmatch(message); m != nil {
		return "unknown-name", fmt.Sprintf("%s is not known in %s", m[1], sc.position), sc.hint(m[1])
	}
	if m := undefined.FindStringSubmatch(message); m != nil {
		if near := workflows.Nearest(m[1], sc.shapes.fieldNames()); near != "" && near != m[1] {
			hint = "did you mean " + near + "?"
		}
		return "unknown-field", "there is no field " + m[1] + " here", hint
	}
	if m := overload.FindStringSubmatch(message); m != nil {
		name := strings.Trim(m[1], "_@")
		return "cel-type", fmt.Sprintf("%s does not apply to %s", name, m[2]), ""
	}
	if rest, ok := strings.CutPrefix(message, "Syntax error: "); ok {
		rest, _, _ = strings.Cut(rest, " expecting ")
		return "cel-syntax", "syntax error: " + rest, ""
	}
	if strings.HasPrefix(message, "invalid matches argument") {
		return "bad-pattern", "this is not a regular expression", "patterns are written in RE2 syntax"
	}
	return "cel-type", message, ""
}

func (sc *scope) hint(name string) string {
	known := slices.Sorted(maps.Keys(sc.names))
	for i := range known {
		if known[i] == visitsName {
			known[i] = "visits()"
		}
	}
	if near := workflows.Nearest(name, known); near != "" && near != name {
		return "did you mean " + near + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// inspection finds what type-checks and is wrong all the same.
type inspection struct {
	at      placer
	sc      *scope
	checked *ast.AST
}

func (in *inspection) run() {
	in.names(in.checked.Expr())
	ast.PreOrderVisit(in.checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		switch call := e.AsCall(); call.FunctionName() {
		case operators.Equals, operators.NotEquals, operators.In:
			in.words(call.Args()[0], call.Args()[1])
			in.words(call.Args()[1], call.Args()[0])
			in.division(e)
		case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
			in.division(e)
		case operators.OptIndex:
			in.words(call.Args()[0], call.Args()[1]) // visits("state")
		}
	}))
}

func (in *inspection) fault(e ast.Expr, code, message, hint string) {
	location := in.checked.SourceInfo().GetStartLocation(e.ID())
	in.at.fault(runeOffset(in.at.source, location.Line(), location.Column()), code, message, hint)
}

// names refuses names that the position does not have, though others do.
func (in *inspection) names(e ast.Expr) {
	if in.sc.names == nil {
		return
	}
	seen := map[string]bool{}
	var refs refs
	refs.visit(e, nil)
	for _, path := range refs.found {
		name := path[0]
		if in.sc.names[name] || seen[name] {
			continue
		}
		seen[name] = true
		in.unknown(e, name)
	}
}

// unknown reports a name at its first use.
func (in *inspection) unknown(root ast.Expr, name string) {
	shown := name
	if name == visitsName {
		shown = "visits()"
	}
	place := root
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		if place == root && e.Kind() == ast.IdentKind && e.AsIdent() == name {
			place = e
		}
	}))
	in.fault(place, "unknown-name", fmt.Sprintf("%s is not known in %s", shown, in.sc.position), in.sc.hint(name))
}

// words refuses the comparison of a name that stands for one of a few words
// with a word that it can never be: it would be false for ever.
func (in *inspection) words(subject, with ast.Expr) {
	if subject.Kind() != ast.IdentKind {
		return
	}
	words := in.sc.words[subject.AsIdent()]
	if words == nil {
		return
	}
	literals := []ast.Expr{with}
	if with.Kind() == ast.ListKind {
		literals = with.AsList().Elements()
	}
	for _, literal := range literals {
		word, ok := textLiteral(literal)
		if !ok || slices.Contains(words, word) {
			continue
		}
		hint := "one of " + strings.Join(words, ", ")
		if near := workflows.Nearest(word, words); near != "" {
			hint = "did you mean " + near + "?"
		}
		what := subject.AsIdent()
		if what == visitsName {
			what = "state"
		}
		in.fault(literal, "unknown-word", fmt.Sprintf("there is no %s %q", what, word), hint)
	}
}

// division refuses to compare a quotient of whole numbers with a fraction:
// failed / total <= 0.1 holds for 90 of 100.
func (in *inspection) division(e ast.Expr) {
	args := e.AsCall().Args()
	for i, arg := range args {
		other := args[1-i]
		if in.kind(arg) != types.IntKind || in.kind(other) != types.DoubleKind {
			continue
		}
		if q := quotient(arg); q != nil {
			in.fault(q, "integer-division", "a division of whole numbers drops the fraction that it is compared with",
				"write double(a) / double(b), or multiply instead: 10 * a <= b")
		}
	}
}

func (in *inspection) kind(e ast.Expr) types.Kind {
	if t := in.checked.GetType(e.ID()); t != nil {
		return t.Kind()
	}
	return types.DynKind
}

// quotient finds a division in the arithmetic of an operand.
func quotient(e ast.Expr) ast.Expr {
	if e.Kind() != ast.CallKind {
		return nil
	}
	call := e.AsCall()
	switch call.FunctionName() {
	case operators.Divide:
		return e
	case operators.Add, operators.Subtract, operators.Multiply, operators.Negate:
		for _, arg := range call.Args() {
			if q := quotient(arg); q != nil {
				return q
			}
		}
	}
	return nil
}
