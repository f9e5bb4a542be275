package parse

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// refsOf lists what an expression reads, as chains from a name of the scope.
// A chain goes on as long as its steps are known before evaluation; where a
// value is used as a whole, indexed by something computed or handed to a
// function, the chain ends and the whole value is read.
func refsOf(e ast.Expr) [][]string {
	var r refs
	r.visit(e, nil)
	return cut(r.found)
}

// typeNames are names that expressions know without a scope.
var typeNames = []string{"bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "optional_type", "string", "type", "uint",
	"google.protobuf.Timestamp", "google.protobuf.Duration"}

type refs struct{ found [][]string }

func (r *refs) visit(e ast.Expr, bound []string) {
	if path, ok := chain(e, bound); ok {
		if path != nil {
			r.found = append(r.found, path)
		}
		return
	}
	switch e.Kind() {
	case ast.SelectKind:
		r.visit(e.AsSelect().Operand(), bound)
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			r.visit(call.Target(), bound)
		}
		for _, arg := range call.Args() {
			r.visit(arg, bound)
		}
	case ast.ListKind:
		for _, x := range e.AsList().Elements() {
			r.visit(x, bound)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			r.visit(entry.AsMapEntry().Key(), bound)
			r.visit(entry.AsMapEntry().Value(), bound)
		}
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			r.visit(field.AsStructField().Value(), bound)
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		r.visit(c.IterRange(), bound)
		r.visit(c.AccuInit(), bound)
		inner := append(slices.Clone(bound), c.AccuVar(), c.IterVar())
		if c.HasIterVar2() {
			inner = append(inner, c.IterVar2())
		}
		r.visit(c.LoopCondition(), inner)
		r.visit(c.LoopStep(), inner)
		r.visit(c.Result(), append(slices.Clone(bound), c.AccuVar()))
	}
}

// chain gives the path that an expression selects: ok tells that it is a chain,
// a nil path that it begins at a variable bound within the expression.
func chain(e ast.Expr, bound []string) (path []string, ok bool) {
	step := func(operand ast.Expr, key string) ([]string, bool) {
		path, ok := chain(operand, bound)
		if path == nil {
			return nil, ok
		}
		return append(path, key), true
	}
	switch e.Kind() {
	case ast.IdentKind:
		if slices.Contains(bound, e.AsIdent()) {
			return nil, true
		}
		if slices.Contains(typeNames, e.AsIdent()) {
			return nil, true
		}
		return []string{e.AsIdent()}, true
	case ast.SelectKind:
		return step(e.AsSelect().Operand(), e.AsSelect().FieldName())
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			if key, ok := textLiteral(call.Args()[1]); ok {
				return step(call.Args()[0], key)
			}
		}
	}
	return nil, false
}

func textLiteral(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// cut sorts the paths and drops those that begin with another one.
func cut(paths [][]string) [][]string {
	slices.SortFunc(paths, slices.Compare)
	var out [][]string
	for _, p := range paths {
		if n := len(out); n > 0 && len(out[n-1]) <= len(p) && slices.Equal(out[n-1], p[:len(out[n-1])]) {
			continue
		}
		out = append(out, p)
	}
	return out
}
