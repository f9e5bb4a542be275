package parse

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/penstock-cd/penstock/workflows"
)

// What some functions read of the scope, because what they give depends on the
// run. An expression cannot spell these names.
const (
	visitsName   = "visits__"   // visits("build"): map from states to how often each was entered (int64); one that is missing never was
	enteredName  = "entered__"  // entered("build"): map from states to whether the run was ever there (bool)
	approvedName = "approved__" // approved("approve"): map from approval states to whether they have succeeded (bool)
	outcomeName  = "outcome__"  // outcome(): the outcome of the run (string), empty while it goes on
)

// shownAs gives what people write for a name.
func shownAs(name string) string {
	if plain, ok := strings.CutSuffix(name, "__"); ok {
		return plain + "()"
	}
	return name
}

// baseEnv is the language without names, built once.
var baseEnv = sync.OnceValue(func() *cel.Env {
	env, err := cel.NewCustomEnv(
		cel.StdLib(),
		cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ExtendedValidations(),
		cel.EnableMacroCallTracking(), // explanations show macros as they were written
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(100),
		ext.Strings(ext.StringsVersion(5)), ext.Lists(), ext.Sets(), ext.Math(), ext.Bindings(),
		ext.Encoders(), ext.Regex(), ext.TwoVarComprehensions(),
		cel.Macros(
			count("visits", visitsName, types.IntZero),
			count("entered", enteredName, types.False),
			count("approved", approvedName, types.False),
			cel.GlobalMacro("outcome", 0, func(f cel.MacroExprFactory, _ ast.Expr, _ []ast.Expr) (ast.Expr, *cel.Error) {
				return f.NewIdent(outcomeName), nil
			}),
		),
		semverLibrary(),
	)
	if err != nil {
		panic(err) // unreachable unless the options above contradict each other
	}
	return env
})

// count makes visits("build") read what the scope holds of the state, and
// missing where it holds nothing.
func count(function, name string, missing ref.Val) cel.Macro {
	return cel.GlobalMacro(function, 1, func(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if args[0].Kind() != ast.LiteralKind || args[0].AsLiteral().Type() != types.StringType {
			return nil, f.NewError(args[0].ID(), fmt.Sprintf(`%s() wants the name of a state as text: %s("build")`, function, function))
		}
		held := f.NewCall(operators.OptIndex, f.NewIdent(name), args[0])
		return f.NewMemberCall("orValue", held, f.NewLiteral(missing)), nil
	})
}

// names are the names that a CEL environment knows, with their types.
type names struct {
	env    *cel.Env
	vars   map[string]*cel.Type
	shapes *shapes
}

// scope is what an expression at a position may read.
type scope struct {
	*names
	position string          // for messages: "retry.when"
	known    map[string]bool // the names that this position has
	words    map[string][]string
	inputs   map[string]uint64 // how long the texts among the inputs can be, where that is declared
}

// world holds the types of everything that the expressions of one workflow can
// read: one CEL environment for all its positions, because making one is far
// dearer than an expression. What a position may not read is refused by name.
type world struct {
	*names
	states []string
	scopes map[string]*scope   // by position and names
	words  map[string][]string // names that stand for a fixed set of words → the words
	inputs map[string]uint64
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
	out := &world{scopes: map[string]*scope{}, inputs: inputBounds(w), names: &names{shapes: sh, vars: map[string]*cel.Type{
		"now": cel.TimestampType, "run": runType, "env": envType, "error": errorType, "event": cel.DynType,
		"outcome": cel.StringType, "state": cel.StringType, "labels": labelsType,
		"approvals": cel.ListType(decisionType), "rejections": cel.ListType(decisionType),
		visitsName: cel.MapType(cel.StringType, cel.IntType), outcomeName: cel.StringType,
		enteredName: cel.MapType(cel.StringType, cel.BoolType), approvedName: cel.MapType(cel.StringType, cel.BoolType),
		"inputs": sh.object(inputsName, inputTypes(w)),
	}}}
	outcomes := map[string]bool{}
	for _, o := range workflows.RunOutcomes() {
		outcomes[o] = true
	}
	approvals := []string{}
	for _, s := range w.Ordered() {
		for _, o := range s.Outcomes() {
			outcomes[o] = true
		}
		if s.Approval != nil {
			approvals = append(approvals, s.Name)
		}
		if f := s.ForEach; f != nil && workflows.CheckName(f.As) == "" {
			out.vars[f.As] = cel.StringType
		}
	}
	for _, s := range w.Ordered() {
		if workflows.CheckName(s.Name) == "" { // otherwise a check says so
			out.states = append(out.states, s.Name)
			out.vars[s.Name] = stateType(c, sh, s)
		}
	}
	out.branches(w)
	states := slices.Sorted(maps.Keys(w.Spec.States))
	out.words = map[string][]string{"outcome": slices.Sorted(maps.Keys(outcomes)), "state": states, visitsName: states,
		enteredName: states, approvedName: approvals, outcomeName: append(workflows.RunOutcomes(), "")}
	out.env = extend(sh, out.vars)
	return out
}

// branches adds the branches for gates, where nothing else has their names.
func (w *world) branches(doc *workflows.Workflow) {
	for _, s := range doc.Ordered() {
		if len(s.Gate) == 0 {
			continue
		}
		for _, b := range s.Branches() {
			if workflows.CheckName(b.Name) == "" && w.vars[b.Name] == nil {
				w.vars[b.Name] = cel.ObjectType(branchType(s, b))
			}
		}
	}
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
	fields := map[string]*cel.Type{}
	switch s.Kind() {
	case "parallel":
		for _, b := range s.Branches() {
			fields[b.Name] = sh.object(branchType(s, b), bodyFields(c, &b.Body))
		}
	case "wait":
		if s.Wait.Event != "" {
			fields["event"] = cel.DynType
		}
	case "task", "deploy", "workflow":
		return bodyFields(c, &s.Body)
	}
	return fields
}

// stateType gives the type of the result of a state: an object, or a map of
// objects by member.
func stateType(c *workflows.Catalog, sh *shapes, s *workflows.State) *cel.Type {
	if s.ForEach == nil {
		return sh.object("state "+s.Name, stateFields(c, sh, s))
	}
	fields := map[string]*cel.Type{}
	if s.ForEach.Do != nil {
		fields = bodyFields(c, s.ForEach.Do)
	}
	return cel.MapType(cel.StringType, sh.object("member of "+s.Name, fields))
}

// bodyFields gives the outputs of a body.
func bodyFields(c *workflows.Catalog, b *workflows.Body) map[string]*cel.Type {
	if b.Workflow == nil {
		return outputTypes(c.OutputsOf(b.Doing()))
	}
	fields := map[string]*cel.Type{}
	if child := c.Workflows[b.Workflow.Name]; child != nil {
		for name, out := range child.Spec.Outputs {
			fields[name] = celType(workflows.Type(out.Type))
		}
	}
	return fields
}

// at gives the scope of a position: the recorded time, some states, and names.
func (w *world) at(position string, states []string, names ...string) *scope {
	key := position + " " + strings.Join(names, " ") // positions that see states see all of them
	if w.scopes[key] == nil {
		w.scopes[key] = w.newScope(position, states, names...)
	}
	return w.scopes[key]
}

func (w *world) newScope(position string, states []string, names ...string) *scope {
	known := map[string]bool{"now": true}
	for _, name := range names {
		known[name] = true
	}
	for _, name := range states {
		known[name] = true
	}
	return &scope{names: w.names, position: position, known: known, words: w.words, inputs: w.inputs}
}

// invariant gives the scope of an invariant, which is proved before anything
// runs: no time, no values.
func (w *world) invariant() *scope {
	sc := w.newScope("an invariant", nil, "labels", enteredName, approvedName, outcomeName)
	delete(sc.known, "now")
	return sc
}

// gate gives the scope of a gate: the branches stand under their own names.
func (w *world) gate(s *workflows.State) *scope {
	known := []string{"run", "inputs"}
	own := true // whether the environment of the workflow has the branches as they are
	for _, b := range s.Branches() {
		if workflows.CheckName(b.Name) == "" {
			known = append(known, b.Name)
			own = own && w.vars[b.Name] != nil && w.vars[b.Name].TypeName() == branchType(s, b)
		}
	}
	sc := w.newScope("gate", nil, known...)
	if own {
		return sc
	}
	other := &names{shapes: &shapes{Provider: w.shapes.Provider, objects: w.shapes.objects},
		vars: map[string]*cel.Type{"now": cel.TimestampType, "run": runType, "inputs": cel.ObjectType(inputsName)}}
	for _, b := range s.Branches() {
		if sc.known[b.Name] {
			other.vars[b.Name] = cel.ObjectType(branchType(s, b))
		}
	}
	other.env = extend(other.shapes, other.vars)
	sc.names = other
	return sc
}

func branchType(s *workflows.State, b *workflows.Branch) string {
	return "branch " + s.Name + " " + b.Name
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
		return &scope{names: &names{env: extend(sh, vars), vars: vars, shapes: sh}, position: position, known: keys(vars)}
	})
}

var (
	triggerScope  = fixed("a trigger", map[string]*cel.Type{"event": cel.DynType})
	scheduleScope = fixed("a trigger", map[string]*cel.Type{"event": firedType})
	retryScope    = fixed("retry.when", map[string]*cel.Type{"error": errorType, "attempt": cel.IntType})
	requireScope  = fixed("an environment's rule", ruleVars())
	policyScope   = fixed("a policy's rule", ruleVars())

	analysisScope = fixed("an analysis", map[string]*cel.Type{"value": cel.DoubleType, "samples": cel.ListType(cel.DoubleType),
		"baseline": cel.DoubleType, "elapsed": cel.DurationType})
	templateScope = fixed("a template", map[string]*cel.Type{
		"run": runType, "state": cel.StringType, "outcome": cel.StringType, "inputs": cel.DynType, "why": whyType})
)

// ruleVars are the names of rules that environments and policies require.
func ruleVars() map[string]*cel.Type {
	return map[string]*cel.Type{"approvals": cel.ListType(decisionType), "rejections": cel.ListType(decisionType),
		"run": runType, "artifact": artifactType, "env": envType, "attestations": cel.ListType(cel.MapType(cel.StringType, cel.DynType))}
}
