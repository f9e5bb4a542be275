package parse

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/penstock-cd/penstock/workflows"
)

// note keeps what an expression reads and, of a condition, what it says, for
// the checks that look at whole workflows. of is the *Expr or *Data that it is
// or stands in.
func (c *compiler) note(of any, checked *ast.AST, at placer) {
	if of == nil || c.unit.reading.Reads == nil {
		return // an expression that is only tried out
	}
	r := reader{conds: map[int64]*workflows.Cond{}, pos: func(e ast.Expr) func() workflows.Pos {
		return func() workflows.Pos { return at.pos(checked, e) }
	}}
	r.visit(checked.Expr(), nil, nil)
	if len(r.found) > 0 {
		c.unit.reading.Reads[of] = append(c.unit.reading.Reads[of], r.found...)
	}
	if e, ok := of.(*workflows.Expr); ok {
		if cond := r.cond(checked.Expr()); cond.Op != "" {
			c.unit.reading.Conds[e] = cond
		}
	}
}

// pos gives the place in the file of a part of the expression.
func (p placer) pos(checked *ast.AST, e ast.Expr) workflows.Pos {
	for e.Kind() == ast.SelectKind { // a selection begins at its dot
		e = e.AsSelect().Operand()
	}
	location := checked.SourceInfo().GetStartLocation(e.ID())
	offset := runeOffset(p.source, location.Line(), location.Column())
	src := p.c.unit.src
	line, column := src.locate(p.node, p.offset+min(offset, len(p.source)))
	return workflows.Pos{File: src.file, Line: src.first + line - 1, Column: column}
}

// reader finds what an expression reads, and under which conditions.
type reader struct {
	found []workflows.Read
	conds map[int64]*workflows.Cond
	pos   func(ast.Expr) func() workflows.Pos
}

func (r *reader) visit(e ast.Expr, when *workflows.When, bound []string) {
	if path, sure, ok := selected(e, bound); ok {
		if path != nil {
			r.found = append(r.found, workflows.Read{Path: path, Sure: sure, When: when, Pos: r.pos(e)})
		}
		r.keys(e, when, bound)
		return
	}
	switch e.Kind() {
	case ast.SelectKind:
		r.visit(e.AsSelect().Operand(), when, bound)
	case ast.CallKind:
		r.call(e.AsCall(), when, bound)
	case ast.ListKind:
		for _, x := range e.AsList().Elements() {
			r.visit(x, when, bound)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			r.visit(entry.AsMapEntry().Key(), when, bound)
			r.visit(entry.AsMapEntry().Value(), when, bound)
		}
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			r.visit(field.AsStructField().Value(), when, bound)
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		r.visit(c.IterRange(), when, bound)
		r.visit(c.AccuInit(), when, bound)
		inner := append(slices.Clone(bound), c.AccuVar(), c.IterVar())
		if c.HasIterVar2() {
			inner = append(inner, c.IterVar2())
		}
		r.visit(c.LoopCondition(), when, inner)
		r.visit(c.LoopStep(), when, inner)
		r.visit(c.Result(), when, append(slices.Clone(bound), c.AccuVar()))
	}
}

// call visits the operands of a call. Of a logical one each is read only where
// the others leave the value open.
func (r *reader) call(call ast.CallExpr, when *workflows.When, bound []string) {
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd, operators.LogicalOr:
		not := call.FunctionName() == operators.LogicalOr
		for i, arg := range args {
			inner := when
			for j, other := range args {
				if j != i {
					inner = &workflows.When{Cond: r.cond(other), Not: not, And: inner}
				}
			}
			r.visit(arg, inner, bound)
		}
		return
	case operators.Conditional:
		r.visit(args[0], when, bound)
		r.visit(args[1], &workflows.When{Cond: r.cond(args[0]), And: when}, bound)
		r.visit(args[2], &workflows.When{Cond: r.cond(args[0]), Not: true, And: when}, bound)
		return
	}
	if call.IsMemberFunction() {
		r.visit(call.Target(), when, bound)
	}
	for _, arg := range args {
		r.visit(arg, when, bound)
	}
}

// keys visits what a chain is indexed by.
func (r *reader) keys(e ast.Expr, when *workflows.When, bound []string) {
	for {
		switch e.Kind() {
		case ast.SelectKind:
			e = e.AsSelect().Operand()
		case ast.CallKind:
			args := e.AsCall().Args()
			if _, literal := textLiteral(args[1]); !literal {
				r.visit(args[1], when, bound)
			}
			e = args[0]
		default:
			return
		}
	}
}

// selected gives the path that an expression selects, and how many of its
// names must be there. ok tells that it is a selection, a nil path that it
// begins at a variable bound within the expression. A step that is computed
// ends the path, and counts.
func selected(e ast.Expr, bound []string) (path []string, sure int, ok bool) {
	switch e.Kind() {
	case ast.IdentKind:
		if slices.Contains(bound, e.AsIdent()) || slices.Contains(typeNames, e.AsIdent()) {
			return nil, 0, true
		}
		return []string{e.AsIdent()}, 1, true
	case ast.SelectKind:
		s := e.AsSelect()
		path, sure, ok = selected(s.Operand(), bound)
		return further(path, sure, ok, s.FieldName(), true, !s.IsTestOnly())
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			key, literal := textLiteral(call.Args()[1])
			path, sure, ok = selected(call.Args()[0], bound)
			return further(path, sure, ok, key, literal, call.FunctionName() == operators.Index)
		}
	}
	return nil, 0, false
}

// computed ends a path behind which a step is computed.
const computed = "*"

func further(path []string, sure int, ok bool, key string, literal, must bool) ([]string, int, bool) {
	if path == nil {
		return nil, 0, ok
	}
	if must && sure == len(path) {
		sure++
	}
	if path[len(path)-1] == computed {
		return path, min(sure, len(path)), ok
	}
	if !literal {
		key = computed
	}
	return append(path, key), sure, ok
}

// cond gives what is understood of a condition.
func (r *reader) cond(e ast.Expr) *workflows.Cond {
	if known := r.conds[e.ID()]; known != nil {
		return known
	}
	c := r.understand(e)
	c.Weight = 1
	for _, part := range c.Of {
		c.Weight += part.Weight
	}
	r.conds[e.ID()] = c
	return c
}

func (r *reader) understand(e ast.Expr) *workflows.Cond {
	other := &workflows.Cond{}
	switch e.Kind() {
	case ast.LiteralKind:
		switch e.AsLiteral() {
		case types.True:
			return &workflows.Cond{Op: "true"}
		case types.False:
			return &workflows.Cond{Op: "false"}
		}
	case ast.SelectKind:
		if path, _, ok := selected(e, nil); ok && path != nil && e.AsSelect().IsTestOnly() {
			return &workflows.Cond{Op: "has", Path: path}
		}
	case ast.CallKind:
		call := e.AsCall()
		parts := func(op string) *workflows.Cond {
			c := &workflows.Cond{Op: op}
			for _, arg := range call.Args() {
				c.Of = append(c.Of, r.cond(arg))
			}
			return c
		}
		switch call.FunctionName() {
		case operators.LogicalAnd:
			return parts("and")
		case operators.LogicalOr:
			return parts("or")
		case operators.LogicalNot:
			return parts("not")
		case operators.Conditional:
			return parts("if")
		case "hasValue":
			if path, _, ok := selected(call.Target(), nil); ok && path != nil {
				return &workflows.Cond{Op: "has", Path: path}
			}
		case operators.Equals, operators.NotEquals, operators.In, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
			return comparison(call)
		}
	}
	return other
}

// comparison understands comparisons of outcome with words and of visits()
// with anything that does not count visits.
func comparison(call ast.CallExpr) *workflows.Cond {
	left, right := call.Args()[0], call.Args()[1]
	op := call.FunctionName()
	if words, ok := texts(right, op == operators.In); ok && isName(left, "outcome") {
		return outcomeIs(words, op)
	}
	if words, ok := texts(left, false); ok && isName(right, "outcome") && op != operators.In {
		return outcomeIs(words, op)
	}
	if op == operators.In {
		if path, _, ok := selected(right, nil); ok && path != nil { // "eu" in rollout
			return &workflows.Cond{Op: "has", Path: append(path, computed)}
		}
	}
	if state, ok := visitsOf(left); ok && !counts(right) {
		return grown(state, op)
	}
	if state, ok := visitsOf(right); ok && !counts(left) {
		return grown(state, map[string]string{operators.Less: operators.Greater, operators.LessEquals: operators.GreaterEquals,
			operators.Greater: operators.Less, operators.GreaterEquals: operators.LessEquals, operators.Equals: operators.Equals, operators.NotEquals: operators.NotEquals}[op])
	}
	return &workflows.Cond{}
}

func outcomeIs(words []string, op string) *workflows.Cond {
	is := &workflows.Cond{Op: "outcome", Words: words, Weight: 1}
	switch op {
	case operators.Equals, operators.In:
		return is
	case operators.NotEquals:
		return &workflows.Cond{Op: "not", Of: []*workflows.Cond{is}}
	}
	return &workflows.Cond{}
}

// grown is the comparison of a number of visits with a bound, when the number
// has grown beyond it.
func grown(state, op string) *workflows.Cond {
	switch op {
	case operators.Less, operators.LessEquals, operators.Equals, operators.In:
		return &workflows.Cond{Op: "visits", State: state}
	case operators.Greater, operators.GreaterEquals, operators.NotEquals:
		return &workflows.Cond{Op: "visits", State: state, Grown: true}
	}
	return &workflows.Cond{}
}

func isName(e ast.Expr, name string) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == name }

// texts gives a text, or the texts of a list where list is asked for.
func texts(e ast.Expr, list bool) ([]string, bool) {
	if !list {
		word, ok := textLiteral(e)
		return []string{word}, ok
	}
	if e.Kind() != ast.ListKind {
		return nil, false
	}
	var words []string
	for _, x := range e.AsList().Elements() {
		word, ok := textLiteral(x)
		if !ok {
			return nil, false
		}
		words = append(words, word)
	}
	return words, true
}

// visitsOf gives the state of which visits() or a sum of them is taken.
func visitsOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.CallKind {
		return "", false
	}
	call := e.AsCall()
	switch call.FunctionName() {
	case "orValue":
		if target := call.Target(); target != nil && target.Kind() == ast.CallKind {
			if held := target.AsCall(); held.FunctionName() == operators.OptIndex && isName(held.Args()[0], visitsName) {
				return textLiteral(held.Args()[1])
			}
		}
	case operators.Add: // no part of a sum is negative that makes sense here
		if state, ok := visitsOf(call.Args()[0]); ok && (isLiteral(call.Args()[1]) || counts(call.Args()[1])) {
			return state, true
		}
		if state, ok := visitsOf(call.Args()[1]); ok && isLiteral(call.Args()[0]) {
			return state, true
		}
	}
	return "", false
}

func isLiteral(e ast.Expr) bool { return e.Kind() == ast.LiteralKind }

// counts reports whether an expression reads visits, or time, which grow.
func counts(e ast.Expr) bool {
	for _, path := range refsOf(e) {
		if path[0] == visitsName || path[0] == "now" {
			return true
		}
	}
	return false
}
