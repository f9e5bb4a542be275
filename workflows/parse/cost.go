package parse

import (
	"fmt"
	"math"
	"regexp/syntax"
	"slices"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"github.com/penstock-cd/penstock/workflows"
)

// CostLimit is what one evaluation may cost at most, in CEL's cost units. An
// expression whose estimate is above it is refused when its file is checked.
const CostLimit = 1_000_000

// ceiling is the highest estimate that is not refused. Tests raise it to reach
// the limit of an evaluation.
var ceiling uint64 = CostLimit

// The sizes that an estimate reckons with where nothing smaller is declared.
const (
	boundApprovals = 100
	boundRoles     = 20
	boundAuthors   = 100
	boundItems     = 1_000
	boundText      = 4 << 10
	boundWord      = 256 // names, ids, digests, codes
)

// words are the fields of objects that hold a name and no text.
var words = map[string][]string{
	runType.TypeName():      {"id", "workflow", "requestedBy", "outcome"},
	decisionType.TypeName(): {"user", "via"},
	envType.TypeName():      {"name"},
	artifactType.TypeName(): {"digest"},
	errorType.TypeName():    {"code"},
}

// maxNested is how deep macros can stand inside each other. The time that an
// estimate takes doubles with each cel.bind inside another one.
const maxNested = 12

// nested counts how deep macros stand inside each other.
func nested(e ast.Expr) int {
	deepest := 0
	switch e.Kind() {
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		inner := max(nested(c.AccuInit()), nested(c.LoopCondition()), nested(c.LoopStep()), nested(c.Result()))
		return max(nested(c.IterRange()), inner+1)
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			deepest = max(deepest, nested(field.AsStructField().Value()))
		}
	}
	for _, child := range children(e) {
		deepest = max(deepest, nested(child))
	}
	return deepest
}

// maxPlain is how many nodes an expression can have that is cheap for certain
// as long as it has operators only: each of them costs the longest text at most
// that could be made of all.
const maxPlain = 40

// plainlyCheap reports whether an expression is small and has operators only,
// so that there is nothing to estimate. Most expressions are like this, and an
// estimate takes as long as the rest of a check.
func plainlyCheap(e ast.Expr) bool {
	left := maxPlain
	var cheap func(e ast.Expr) bool
	cheap = func(e ast.Expr) bool {
		left--
		switch e.Kind() {
		case ast.ComprehensionKind, ast.StructKind, ast.MapKind:
			return false
		case ast.CallKind:
			if name := e.AsCall().FunctionName(); name[0] >= 'a' && name[0] <= 'z' && !slices.Contains([]string{"orValue", "hasValue", "size"}, name) {
				return false
			}
		}
		return left >= 0 && !slices.ContainsFunc(children(e), func(c ast.Expr) bool { return !cheap(c) })
	}
	return cheap(e)
}

// affordable refuses an expression that may cost too much.
func (c *compiler) affordable(sc *scope, checked *cel.Ast, at placer) {
	if plainlyCheap(checked.NativeRep().Expr()) {
		return
	}
	if deep := nested(checked.NativeRep().Expr()); deep > maxNested {
		at.fault(0, "too-deep", fmt.Sprintf("macros stand %d deep inside each other, the most is %d", deep, maxNested), "split it up")
		return
	}
	estimate, err := baseEnv().EstimateCost(checked, bounds{sc}) // it needs no names, and each environment would have models of its own
	if err != nil {
		at.fault(0, "internal", "the cost of the expression cannot be estimated: "+err.Error(), "please report this")
		return
	}
	if estimate.Max <= ceiling {
		return
	}
	most := "more than can be counted"
	if estimate.Max < math.MaxUint64/2 {
		most = "up to " + grouped(estimate.Max)
	}
	at.fault(0, "too-expensive", fmt.Sprintf("the expression may cost %s, the most is %s", most, grouped(ceiling)),
		"look at fewer things (a macro inside a macro multiplies), or declare how long inputs are by a pattern or an enum")
}

// grouped writes a number with its thousands apart.
func grouped(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// bounds says how large the values of a scope may be.
type bounds struct{ sc *scope }

func (bounds) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (b bounds) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.ComputedSize() != nil || n.Type() == nil {
		return nil
	}
	most := b.declared(n.Path())
	if most == 0 {
		most = boundOf(n.Type())
	}
	return &cost.SizeEstimate{Min: 0, Max: most}
}

// declared gives the bound of what a path leads to; 0 when there is none of its own.
func (b bounds) declared(path []string) uint64 {
	if len(path) == 0 {
		return 0
	}
	t, end := b.sc.vars[path[0]], path[0]
	var parent *cel.Type
	for _, key := range path[1:] {
		if parent, end = t, key; t != nil {
			t = b.sc.shapes.step(t, key)
		}
	}
	switch {
	case end == "approvals" || end == "rejections":
		return boundApprovals
	case end == "state" || end == "outcome" || end == outcomeName:
		return boundWord
	case parent == nil:
		return 0
	case end == "authors" && parent.TypeName() == runType.TypeName():
		return boundAuthors
	case end == "roles" && parent.TypeName() == decisionType.TypeName():
		return boundRoles
	case slices.Contains(words[parent.TypeName()], end):
		return boundWord
	case parent.TypeName() == inputsName:
		return b.sc.inputs[end]
	case len(path) > 1 && end == "@items" && (path[len(path)-2] == "roles" || path[len(path)-2] == "authors"):
		return boundWord
	}
	return 0
}

// boundOf gives how large a value of a type may be.
func boundOf(t *cel.Type) uint64 {
	switch t.Kind() {
	case types.StringKind, types.BytesKind:
		return boundText
	case types.DynKind, types.AnyKind, types.TypeParamKind:
		return boundText // it may be a text
	case types.ListKind, types.MapKind:
		return boundItems
	}
	return 1
}

// step gives the type of what a step of a path of the estimate leads to.
func (s *shapes) step(t *cel.Type, key string) *cel.Type {
	switch {
	case t.Kind() == types.ListKind && key == "@items":
		return t.Parameters()[0]
	case t.Kind() == types.MapKind && key == "@keys":
		return t.Parameters()[0]
	case t.Kind() == types.MapKind && key == "@values":
		return t.Parameters()[1]
	}
	return s.below(t, key)
}

// inputBounds gives how long the texts among the inputs can be, where their
// pattern or enum says so.
func inputBounds(w *workflows.Workflow) map[string]uint64 {
	out := map[string]uint64{}
	for name, in := range w.Spec.Inputs {
		if in.Type != "string" {
			continue
		}
		if len(in.Enum) > 0 {
			out[name] = 1
			for _, v := range in.Enum {
				if text, ok := v.(string); ok {
					out[name] = max(out[name], uint64(len(text)))
				}
			}
			continue
		}
		if pattern, err := syntax.Parse(in.Pattern, syntax.Perl); in.Pattern != "" && err == nil && anchored(pattern) {
			out[name] = max(longest(pattern), 1)
		}
	}
	return out
}

// anchored reports whether a pattern must match the whole text.
func anchored(re *syntax.Regexp) bool {
	return re.Op == syntax.OpConcat && re.Sub[0].Op == syntax.OpBeginText && re.Sub[len(re.Sub)-1].Op == syntax.OpEndText
}

// longest gives how many bytes a match can have, boundText at most.
func longest(re *syntax.Regexp) uint64 {
	var n uint64
	switch re.Op {
	case syntax.OpLiteral:
		n = uint64(utf8.UTFMax * len(re.Rune)) // a letter may have a longer sibling
		if re.Flags&syntax.FoldCase == 0 {
			n = uint64(len(string(re.Rune)))
		}
	case syntax.OpCharClass:
		n = uint64(utf8.RuneLen(re.Rune[len(re.Rune)-1]))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		n = utf8.UTFMax
	case syntax.OpCapture, syntax.OpQuest:
		n = longest(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			n += longest(sub)
		}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			n = max(n, longest(sub))
		}
	case syntax.OpRepeat:
		n = longest(re.Sub[0]) * uint64(max(re.Max, 0))
		if re.Max < 0 {
			n = boundText
		}
	case syntax.OpStar, syntax.OpPlus:
		n = boundText
	}
	return min(n, boundText)
}
