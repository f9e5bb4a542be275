package parse

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/penstock-cd/penstock/workflows"
)

// visitsName is what visits("build") reads: scope["visits__"] is a map from
// the names of states to how often each was entered (int64); a state that is
// missing was never entered.
const visitsName = "visits__"

// baseEnv is the language without names, built once.
var baseEnv = sync.OnceValue(func() *cel.Env {
	env, err := cel.NewCustomEnv(
		cel.StdLib(),
		cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ExtendedValidations(),
		cel.ParserExpressionSizeLimit(64<<10),
		cel.ParserRecursionLimit(100),
		ext.Strings(ext.StringsVersion(5)), ext.Lists(), ext.Sets(), ext.Math(), ext.Bindings(),
		ext.Encoders(), ext.Regex(), ext.TwoVarComprehensions(),
		cel.Macros(visitsMacro),
	)
	if err != nil {
		panic(err) // unreachable unless the options above contradict each other
	}
	return env
})

// visitsMacro makes visits("build") read the count, 0 where there is none.
var visitsMacro = cel.GlobalMacro("visits", 1, func(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
	if args[0].Kind() != ast.LiteralKind || args[0].AsLiteral().Type() != types.StringType {
		return nil, f.NewError(args[0].ID(), `visits() wants the name of a state as text: visits("build")`)
	}
	count := f.NewCall(operators.OptIndex, f.NewIdent(visitsName), args[0])
	return f.NewMemberCall("orValue", count, f.NewLiteral(types.IntZero)), nil
})

// scope is what an expression at a position may read.
type scope struct {
	env      *cel.Env
	shapes   *shapes
	position string          // for messages: "retry.when"
	names    map[string]bool // nil: everything that env knows
	words    map[string][]string
}

// world holds the types of everything that the expressions of one workflow can
// read: one CEL environment for all its positions, because making one is far
// dearer than an expression. What a position may not read is refused by name.
type world struct {
	env    *cel.Env
	shapes *shapes
	states map[string]bool
	words  map[string][]string // names that stand for a fixed set of words → the words
}

// extend makes a CEL environment with variables of these types.
func extend(shapes *shapes, vars map[string]*cel.Type) *cel.Env {
	opts := []cel.EnvOption{cel.CustomTypeProvider(shapes)}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		opts = append(opts, cel.Variable(name, vars[name]))
	}
	env, err := baseEnv().Extend(opts...)
	if err != nil {
		panic(fmt.Sprintf("scope %v: %v", slices.Sorted(maps.Keys(vars)), err)) // unreachable: names are checked before
	}
	return env
}

func newWorld(c *workflows.Catalog, w *workflows.Workflow) *world {
	sh := newShapes(baseEnv().CELTypeProvider())
	out := &world{shapes: sh, states: map[string]bool{}}
	vars := map[string]*cel.Type{
		"now": cel.TimestampType, "run": runType, "env": envType, "error": errorType,
		"outcome": cel.StringType, "state": cel.StringType,
		"approvals": cel.ListType(decisionType), "rejections": cel.ListType(decisionType),
		visitsName: cel.MapType(cel.StringType, cel.IntType),
		"inputs":   sh.object("the inputs", inputTypes(w)),
	}
	outcomes := map[string]bool{}
	for _, s := range w.Ordered() {
		for _, o := range s.Outcomes() {
			outcomes[o] = true
		}
		if workflows.CheckName(s.Name) != "" {
			continue // a check says so
		}
		out.states[s.Name] = true
		vars[s.Name] = sh.object("state "+s.Name, stateFields(c, sh, s))
	}
	for _, o := range workflows.RunOutcomes() {
		outcomes[o] = true
	}
	states := slices.Sorted(maps.Keys(w.Spec.States))
	out.words = map[string][]string{"outcome": slices.Sorted(maps.Keys(outcomes)), "state": states, visitsName: states}
	out.env = extend(sh, vars)
	return out
}

func inputTypes(w *workflows.Workflow) map[string]*cel.Type {
	fields := map[string]*cel.Type{}
	for name, input := range w.Spec.Inputs {
		fields[name] = celType(workflows.Type(input.Type))
	}
	return fields
}

// stateFields gives the fields under which others read the results of a state.
func stateFields(c *workflows.Catalog, sh *shapes, s *workflows.State) map[string]*cel.Type {
	switch s.Kind() {
	case "task", "deploy":
		return outputTypes(c.OutputsOf(s.Doing()))
	case "parallel":
		fields := map[string]*cel.Type{}
		for _, b := range s.Branches() {
			fields[b.Name] = sh.object("branch "+s.Name+" "+b.Name, outputTypes(c.OutputsOf(&b.Activity)))
		}
		return fields
	}
	return map[string]*cel.Type{}
}

// at gives the scope of a position. With states, those can be read as well.
func (w *world) at(position string, states bool, names ...string) *scope {
	known := map[string]bool{"now": true}
	for _, name := range names {
		known[name] = true
	}
	if states {
		maps.Copy(known, w.states)
	}
	return &scope{env: w.env, shapes: w.shapes, position: position, names: known, words: w.words}
}

// gate gives the scope of a gate: the branches stand under their own names.
func (w *world) gate(c *workflows.Catalog, s *workflows.State) *scope {
	sh := &shapes{Provider: w.shapes.Provider, objects: w.shapes.objects}
	vars := map[string]*cel.Type{"now": cel.TimestampType, "run": runType, "inputs": cel.ObjectType("the inputs")}
	for _, b := range s.Branches() {
		if workflows.CheckName(b.Name) == "" {
			vars[b.Name] = cel.ObjectType("branch " + s.Name + " " + b.Name)
		}
	}
	return &scope{env: extend(sh, vars), shapes: sh, position: "gate", names: keys(vars)}
}

func keys(vars map[string]*cel.Type) map[string]bool {
	out := map[string]bool{}
	for name := range vars {
		out[name] = true
	}
	return out
}

// fixed makes a scope that does not depend on any definition.
func fixed(position string, vars map[string]*cel.Type) func() *scope {
	return sync.OnceValue(func() *scope {
		vars["now"] = cel.TimestampType
		sh := newShapes(baseEnv().CELTypeProvider())
		return &scope{env: extend(sh, vars), shapes: sh, position: position, names: keys(vars)}
	})
}

var (
	triggerScope = fixed("a trigger", map[string]*cel.Type{"event": cel.DynType})
	retryScope   = fixed("retry.when", map[string]*cel.Type{"error": errorType, "attempt": cel.IntType})
	requireScope = fixed("an environment's rule", map[string]*cel.Type{
		"approvals": cel.ListType(decisionType), "rejections": cel.ListType(decisionType),
		"run": runType, "artifact": artifactType, "env": envType})
	templateScope = fixed("a template", map[string]*cel.Type{
		"run": runType, "state": cel.StringType, "outcome": cel.StringType, "inputs": cel.DynType, "why": whyType})
)
