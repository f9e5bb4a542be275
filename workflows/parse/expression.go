package parse

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
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
	maxExpression  = 64 << 10 // characters of one
	maxProblems    = 200
)

// condition compiles an expression that must be true or false.
func (c *compiler) condition(e *workflows.Expr, sc *scope, path string) { c.typed(e, sc, path, "bool") }

// typed compiles an expression that must give a value of a type.
func (c *compiler) typed(e *workflows.Expr, sc *scope, path string, want workflows.Type) {
	if e == nil {
		return
	}
	n := c.unit.dec.exprs[e]
	if n == nil {
		return // it could not be read: a problem says so
	}
	c.noting = e
	if p := c.expression(n, 0, e.Source, sc, path, want); p != nil {
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
			place := runeOffset(source, e.Location.Line(), e.Location.Column())
			if m := undefined.FindStringSubmatch(e.Message); m != nil {
				place = fieldOffset(source, place, m[1])
			}
			code, message, hint := sc.explain(e.Message, source[min(place, len(source)):])
			at.fault(place, code, message, hint)
		}
		return nil
	}
	before := len(c.unit.dec.problems)
	(&inspection{at: at, sc: sc, checked: checked.NativeRep()}).run()
	if want != "" && !fits(checked.OutputType(), want) {
		at.fault(0, "wrong-type", fmt.Sprintf("%s gives %s, want %s", last(path), typeText(checked.OutputType()), want), "")
	}
	c.affordable(sc, checked, at)
	if len(c.unit.dec.problems) > before {
		return nil
	}
	c.note(c.noting, checked.NativeRep(), at)
	return newProgram(sc.names, checked)
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
	if at == 0 { // the whole expression: it begins behind the space after ${{
		at = len(p.source) - len(strings.TrimLeft(p.source, " \t\n"))
	}
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

// fieldOffset gives where a field is named that CEL found wrong at a place: at
// the dot before it, or at the beginning of a macro that holds it.
func fieldOffset(source string, place int, field string) int {
	for at := min(place, len(source)); ; {
		next := strings.Index(source[at:], field)
		if next < 0 {
			return place
		}
		at += next
		before := strings.TrimRight(strings.TrimSuffix(strings.TrimRight(source[:at], " \t\n"), "?"), " \t\n")
		if strings.HasSuffix(before, ".") {
			return at
		}
		at += len(field)
	}
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	undefined  = regexp.MustCompile(`^undefined field '([^']*)'`)
	overload   = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
)

// explain puts an error of the CEL compiler, which is about the beginning of
// source, into words for people who write workflows.
func (sc *scope) explain(message, source string) (code, text, hint string) {
	if m := undeclared.FindStringSubmatch(message); m != nil {
		if shownAs(m[1]) == m[1] && (strings.HasPrefix(source, "(") || strings.HasPrefix(source, m[1]+"(")) {
			return "unknown-function", "there is no function " + m[1], meantFunction(m[1])
		}
		return "unknown-name", fmt.Sprintf("%s is not known in %s", shownAs(m[1]), sc.position), sc.hint(m[1])
	}
	if m := undefined.FindStringSubmatch(message); m != nil {
		if near := workflows.Nearest(m[1], sc.shapes.fieldNames()); near != "" && near != m[1] {
			hint = "did you mean " + near + "?"
		}
		return "unknown-field", "there is no field " + m[1] + " here", hint
	}
	if m := overload.FindStringSubmatch(message); m != nil {
		name := strings.Trim(m[1], "_@")
		what := m[2]
		if target, args, member := strings.Cut(what, ".("); member {
			what = strings.TrimSuffix(target+" with ("+args, " with ()")
		}
		return "cel-type", fmt.Sprintf("%s does not apply to %s", name, what), ""
	}
	if rest, ok := strings.CutPrefix(message, "Syntax error: "); ok {
		rest, _, _ = strings.Cut(rest, " expecting ")
		return "cel-syntax", "syntax error: " + rest, ""
	}
	switch {
	case strings.Contains(message, "recursion"):
		return "too-deep", "the expression is nested too deep", "an expression has 100 levels at most"
	case strings.HasPrefix(message, "expression code point size exceeds limit"):
		return "too-large", fmt.Sprintf("the expression is longer than %d characters", maxExpression), "split it up"
	}
	if strings.HasPrefix(message, "invalid matches argument") {
		return "bad-pattern", "this is not a regular expression", "patterns are written in RE2 syntax"
	}
	return "cel-type", message, ""
}

// meantFunction guesses which function was meant.
func meantFunction(name string) string {
	if near := workflows.Nearest(name, functionNames()); near != "" {
		return "did you mean " + near + "()?"
	}
	return ""
}

// functionNames lists what can be called, macros included.
var functionNames = sync.OnceValue(func() []string {
	var names []string
	for name := range baseEnv().Functions() {
		if name[0] >= 'a' && name[0] <= 'z' {
			names = append(names, name)
		}
	}
	for _, macro := range baseEnv().Macros() {
		names = append(names, macro.Function())
	}
	slices.Sort(names)
	return slices.Compact(names)
})

func (sc *scope) hint(name string) string {
	known := slices.Sorted(maps.Keys(sc.known))
	for i := range known {
		known[i] = shownAs(known[i])
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

	bound map[int64]bool // the identifiers that macros bind, and whether they are roles
}

func (in *inspection) run() {
	in.names(in.checked.Expr())
	in.bound = map[int64]bool{}
	ast.PreOrderVisit(in.checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			in.bind(e)
		case ast.CallKind:
			in.call(e)
		}
	}))
}

func (in *inspection) call(e ast.Expr) {
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.Equals, operators.NotEquals, operators.In:
		in.words(args[0], args[1])
		in.words(args[1], args[0])
		in.roles(args[0], args[1])
		in.roles(args[1], args[0])
		in.division(e)
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		in.division(e)
	case operators.OptIndex:
		in.words(args[0], args[1]) // visits("state")
	case "sets.contains", "sets.intersects", "sets.equivalent":
		in.roles(args[0], args[1])
		in.roles(args[1], args[0])
	}
}

func (in *inspection) fault(e ast.Expr, code, message, hint string) {
	location := in.checked.SourceInfo().GetStartLocation(e.ID())
	in.at.fault(runeOffset(in.at.source, location.Line(), location.Column()), code, message, hint)
}

// names refuses names that the position does not have, though others do.
func (in *inspection) names(e ast.Expr) {
	seen := map[string]bool{}
	var refs refs
	refs.visit(e, nil)
	for _, path := range refs.found {
		name := path[0]
		if in.sc.known[name] || seen[name] {
			continue
		}
		seen[name] = true
		in.unknown(e, name)
	}
}

// unknown reports a name at its first use.
func (in *inspection) unknown(root ast.Expr, name string) {
	place := root
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		if place == root && e.Kind() == ast.IdentKind && e.AsIdent() == name {
			place = e
		}
	}))
	in.fault(place, "unknown-name", fmt.Sprintf("%s is not known in %s", shownAs(name), in.sc.position), in.sc.hint(name))
}

// countedBy says what functions are about.
var countedBy = map[string]string{visitsName: "state", enteredName: "state", approvedName: "approval", outcomeName: "outcome of a run"}

// words refuses the comparison of a name that stands for one of a few words
// with a word that it can never be: it would be false for ever.
func (in *inspection) words(subject, with ast.Expr) {
	if _, bound := in.bound[subject.ID()]; bound || subject.Kind() != ast.IdentKind {
		return
	}
	if words := in.sc.words[subject.AsIdent()]; words != nil && in.sc.known[subject.AsIdent()] {
		in.oneOf(cmp.Or(countedBy[subject.AsIdent()], subject.AsIdent()), words, with)
	}
}

// roles refuses roles that nobody can hold, beside the roles of a decision.
func (in *inspection) roles(subject, with ast.Expr) {
	if words := in.at.c.roles(); len(words) > 0 && in.isRoles(subject) {
		in.oneOf("role", words, with)
	}
}

// isRoles reports whether an expression gives the roles of a decision, or one of them.
func (in *inspection) isRoles(e ast.Expr) bool {
	switch e.Kind() {
	case ast.SelectKind:
		of := in.checked.GetType(e.AsSelect().Operand().ID())
		return e.AsSelect().FieldName() == "roles" && of != nil && of.TypeName() == decisionType.TypeName()
	case ast.IdentKind:
		return in.bound[e.ID()]
	case ast.CallKind:
		return e.AsCall().FunctionName() == operators.Index && in.isRoles(e.AsCall().Args()[0])
	}
	return false
}

// bind notes what the names that a macro gives stand for. Macros are seen from
// the outside in, so that of two with one name the inner one counts.
func (in *inspection) bind(e ast.Expr) {
	c := e.AsComprehension()
	role := in.isRoles(c.IterRange())
	visitor := ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && (e.AsIdent() == c.IterVar() || c.HasIterVar2() && e.AsIdent() == c.IterVar2()) {
			in.bound[e.ID()] = role
		}
	})
	ast.PreOrderVisit(c.LoopCondition(), visitor)
	ast.PreOrderVisit(c.LoopStep(), visitor)
}

// meantWord is the hint for a word that is none of the words.
func meantWord(word string, words []string) string {
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "" })
	if near := workflows.Nearest(word, words); near != "" {
		return "did you mean " + near + "?"
	}
	if len(words) == 0 {
		return "there are none"
	}
	if len(words) > 12 {
		words = append(words[:12], "…")
	}
	return "one of " + strings.Join(words, ", ")
}

// oneOf refuses text literals that are none of the words.
func (in *inspection) oneOf(what string, words []string, with ast.Expr) {
	literals := []ast.Expr{with}
	if with.Kind() == ast.ListKind {
		literals = with.AsList().Elements()
	}
	for _, literal := range literals {
		word, ok := textLiteral(literal)
		if !ok || slices.Contains(words, word) {
			continue
		}
		in.fault(literal, "unknown-word", fmt.Sprintf("there is no %s %q", what, word), meantWord(word, words))
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
