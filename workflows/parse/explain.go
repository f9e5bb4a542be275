package parse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"

	"github.com/penstock-cd/penstock/workflows"
)

// Bounds of an explanation.
const (
	maxParts      = 200
	maxPartSource = 400 // bytes of the source of a part
	maxPartText   = 200 // bytes of a text in a value
	maxPartItems  = 20  // of a list or a map in a value
	maxPartDepth  = 5
	maxInlined    = 64 // bytes of a text, and elements of a list, that a residual shows in place of a name
)

// explained is an expression with the two programs that explain it: one keeps
// the value of each part, the other one leaves open what is not known yet.
type explained struct {
	env               *cel.Env
	checked           *cel.Ast
	tracking, partial planned
}

// Explain evaluates and keeps what each part gives. It is bounded in cost as
// Eval is, and in size; where it fails the explanation holds the error.
func (p *program) Explain(ctx context.Context, scope map[string]any, open ...string) (out *workflows.Explanation) {
	out = &workflows.Explanation{}
	defer func() {
		if r := recover(); r != nil {
			out.Error = fmt.Sprintf("evaluation panicked: %v", r)
		}
	}()
	e, err := p.explain()
	if err != nil {
		out.Error = err.Error()
		return out
	}
	scope = restored(scope, e.tracking.stored)
	v, details, err := e.tracking.ContextEval(ctx, scope)
	if err == nil {
		out.Value, err = plain(v)
		out.Value = small(storable(out.Value), 0)
	}
	if err != nil {
		out.Value, out.Error = nil, shortened(err.Error(), maxPartSource)
	}
	if details != nil && details.State() != nil {
		out.Parts = e.parts(details.State(), v)
	}
	if len(open) > 0 {
		out.Residual = e.residual(ctx, scope, open)
	}
	return out
}

// parts lists what was evaluated, from the outside in.
func (e *explained) parts(state interpreter.EvalState, whole ref.Val) []workflows.SubExpr {
	native := e.checked.NativeRep()
	w := partWalk{state: state, info: native.SourceInfo(), loops: map[int64][]string{}, seen: map[string]bool{}}
	ast.PreOrderVisit(native.Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if x.Kind() == ast.ComprehensionKind {
			c := x.AsComprehension()
			w.loops[x.ID()] = append(w.loops[x.ID()], c.IterVar())
			if c.HasIterVar2() {
				w.loops[x.ID()] = append(w.loops[x.ID()], c.IterVar2())
			}
		}
	}))
	if whole != nil {
		if _, known := state.Value(native.Expr().ID()); !known {
			state.SetValue(native.Expr().ID(), whole)
		}
	}
	w.visit(native.Expr(), nil, 0)
	return w.out
}

// partWalk goes through an expression as it was written, macros included.
type partWalk struct {
	state interpreter.EvalState
	info  *ast.SourceInfo
	loops map[int64][]string // the names that a macro binds anew for each element
	seen  map[string]bool
	out   []workflows.SubExpr
}

func (w *partWalk) visit(e ast.Expr, bound []string, depth int) {
	if len(w.out) >= maxParts || e.Kind() == ast.LiteralKind {
		return
	}
	macro, isMacro := w.info.GetMacroCall(e.ID())
	written := e
	if isMacro {
		written = macro
	}
	if w.show(e, bound, depth) {
		depth++
	}
	if path, ok := chain(written, nil); ok && path != nil {
		return // one name: its beginning says nothing more
	}
	bound = append(slices.Clone(bound), w.loops[e.ID()]...)
	for _, child := range children(written) {
		if chained(written, child) {
			w.row(child, bound, depth)
			continue
		}
		w.visit(child, bound, depth)
	}
}

// chained reports whether an operand is only the first half of a longer row of
// conditions: in a && b && c the part a && b says nothing.
func chained(e, operand ast.Expr) bool {
	for _, op := range []string{operators.LogicalAnd, operators.LogicalOr} {
		if e.Kind() == ast.CallKind && operand.Kind() == ast.CallKind && e.AsCall().FunctionName() == op && operand.AsCall().FunctionName() == op {
			return true
		}
	}
	return false
}

// row visits the conditions of a row without the row itself.
func (w *partWalk) row(e ast.Expr, bound []string, depth int) {
	for _, child := range children(e) {
		if chained(e, child) {
			w.row(child, bound, depth)
			continue
		}
		w.visit(child, bound, depth)
	}
}

// show adds a part. What depends on the element of a macro has many values,
// and is not shown.
func (w *partWalk) show(e ast.Expr, bound []string, depth int) bool {
	v, known := w.state.Value(e.ID())
	if !known || types.IsUnknown(v) || w.depends(e, bound) || depth > 0 && !w.reads(e, func(string) bool { return true }) {
		return false
	}
	source, err := parser.Unparse(e, w.info, parser.WrapOnColumn(1<<20))
	if err != nil || w.seen[source] {
		return false
	}
	w.seen[source] = true
	part := workflows.SubExpr{Source: shortened(source, maxPartSource), Depth: depth}
	value, err := plain(v)
	if err != nil {
		part.Error = shortened(err.Error(), maxPartSource)
	} else {
		part.Value = small(storable(value), 0)
	}
	w.out = append(w.out, part)
	return true
}

// depends reports whether an expression reads one of the names.
func (w *partWalk) depends(e ast.Expr, names []string) bool {
	return len(names) > 0 && w.reads(e, func(name string) bool { return slices.Contains(names, name) })
}

// reads reports whether an expression reads a name that is wanted.
func (w *partWalk) reads(e ast.Expr, wanted func(string) bool) bool {
	if macro, ok := w.info.GetMacroCall(e.ID()); ok {
		if slices.Contains([]string{"visits", "entered", "approved", "outcome"}, macro.AsCall().FunctionName()) {
			return wanted(macro.AsCall().FunctionName() + "()")
		}
		e = macro
	}
	if e.Kind() == ast.IdentKind {
		return wanted(e.AsIdent())
	}
	return slices.ContainsFunc(children(e), func(c ast.Expr) bool { return w.reads(c, wanted) })
}

// children gives the expressions that one consists of. A macro is given as the
// call that was written.
func children(e ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.SelectKind:
		return []ast.Expr{e.AsSelect().Operand()}
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			return append([]ast.Expr{call.Target()}, call.Args()...)
		}
		return call.Args()
	case ast.ListKind:
		return e.AsList().Elements()
	case ast.MapKind:
		var out []ast.Expr
		for _, entry := range e.AsMap().Entries() {
			out = append(out, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
		return out
	case ast.ComprehensionKind:
		return []ast.Expr{e.AsComprehension().IterRange()} // one that no macro has made
	}
	return nil
}

// residual is what is left of the expression when the values of some names are
// not known; empty when they do not matter.
func (e *explained) residual(ctx context.Context, scope map[string]any, open []string) string {
	var patterns []*cel.AttributePatternType
	for _, name := range open {
		path := strings.Split(name, ".")
		pattern := cel.AttributePattern(path[0])
		for _, key := range path[1:] {
			pattern = pattern.QualString(key)
		}
		patterns = append(patterns, pattern)
	}
	vars, err := cel.PartialVars(scope, patterns...)
	if err != nil {
		return ""
	}
	v, details, err := e.partial.ContextEval(ctx, vars)
	if err != nil || v == nil || !types.IsUnknown(v) {
		return ""
	}
	left, err := e.env.ResidualAst(e.checked, details)
	if err != nil {
		left = e.checked // what is left cannot be written down: all of it, then
	}
	native := left.NativeRep()
	if err == nil {
		inline(native, scope, open)
	}
	source, err := parser.Unparse(native.Expr(), native.SourceInfo(), parser.WrapOnColumn(1<<20))
	if err != nil {
		return ""
	}
	return shortened(source, 4*maxPartSource)
}

// inline writes the values of known names in place of the names, where they
// are short.
func inline(native *ast.AST, scope map[string]any, open []string) {
	factory := ast.NewExprFactory()
	var visit func(e ast.Expr)
	bound := map[string]bool{}
	ast.PreOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.ComprehensionKind {
			c := e.AsComprehension()
			bound[c.IterVar()], bound[c.AccuVar()] = true, true
			bound[c.IterVar2()] = c.HasIterVar2()
		}
	}))
	visit = func(e ast.Expr) {
		if path, ok := chain(e, nil); ok && path != nil && e.Kind() != ast.CallKind {
			if v, known := valueAt(scope, path, open); known && !bound[path[0]] {
				if literal, ok := literalOf(factory, e.ID(), v); ok {
					e.SetKindCase(literal)
				}
			}
			return
		}
		for _, child := range children(e) {
			visit(child)
		}
	}
	visit(native.Expr())
	for _, macro := range native.SourceInfo().MacroCalls() {
		if name := macro.AsCall().FunctionName(); name != "has" { // has() wants the name
			visit(macro)
		}
	}
}

// valueAt gives what a path leads to, unless it may still change.
func valueAt(scope map[string]any, path, open []string) (any, bool) {
	var v any = scope
	for i, key := range path {
		if slices.Contains(open, strings.Join(path[:i+1], ".")) {
			return nil, false
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

// literalOf writes a short value as a literal.
func literalOf(factory ast.ExprFactory, id int64, v any) (ast.Expr, bool) {
	switch x := v.(type) {
	case bool:
		return factory.NewLiteral(id, types.Bool(x)), true
	case int64:
		return factory.NewLiteral(id, types.Int(x)), true
	case float64:
		return factory.NewLiteral(id, types.Double(x)), true
	case string:
		return factory.NewLiteral(id, types.String(x)), len(x) <= maxInlined
	case []any:
		if len(x) > maxInlined {
			return nil, false
		}
		elements := make([]ast.Expr, len(x))
		for i := range x {
			if _, nested := x[i].([]any); nested {
				return nil, false
			}
			var ok bool
			if elements[i], ok = literalOf(factory, id, x[i]); !ok {
				return nil, false
			}
		}
		return factory.NewList(id, elements, nil), true
	}
	return nil, false
}

// small cuts a value to what people read.
func small(v any, depth int) any {
	switch x := v.(type) {
	case string:
		return shortened(x, maxPartText)
	case time.Time, time.Duration:
		return storable(v)
	case []any:
		if depth >= maxPartDepth {
			return fmt.Sprintf("a list of %d", len(x))
		}
		out := make([]any, 0, min(len(x), maxPartItems+1))
		for i, elem := range x {
			if i == maxPartItems {
				return append(out, fmt.Sprintf("… and %d more", len(x)-i))
			}
			out = append(out, small(elem, depth+1))
		}
		return out
	case map[string]any:
		if depth >= maxPartDepth {
			return fmt.Sprintf("a map of %d", len(x))
		}
		out := make(map[string]any, min(len(x), maxPartItems+1))
		for i, key := range sorted(x) {
			if i == maxPartItems {
				out["…"] = fmt.Sprintf("and %d more", len(x)-i)
				break
			}
			out[shortened(key, maxPartText)] = small(x[key], depth+1)
		}
		return out
	}
	return v
}
