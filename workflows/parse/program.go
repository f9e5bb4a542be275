package parse

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// program is a compiled expression. The expression is checked when the program
// is made and planned when it is first evaluated or explained: most of what is
// checked never runs.
type program struct {
	plan    func() (planned, error)
	explain func() (*explained, error)
	refs    [][]string
	in      *names
}

// planned is a program that can be evaluated.
type planned struct {
	cel.Program
	stored []restoration
}

func newProgram(in *names, checked *cel.Ast) *program {
	out := &program{in: in, refs: refsOf(checked.NativeRep().Expr())}
	out.plan = sync.OnceValues(func() (planned, error) { return in.planned(checked, out.refs) })
	out.explain = sync.OnceValues(func() (*explained, error) {
		tracking, err := in.planned(checked, out.refs, cel.OptTrackState)
		if err != nil {
			return nil, err
		}
		partial, err := in.planned(checked, out.refs, cel.OptTrackState, cel.OptPartialEval)
		return &explained{env: in.env, checked: checked, tracking: tracking, partial: partial}, err
	})
	return out
}

// planned is the only maker of CEL programs, so that each has its limits.
func (n *names) planned(checked *cel.Ast, refs [][]string, how ...cel.EvalOption) (planned, error) {
	p, err := n.env.Program(checked, cel.EvalOptions(how...), cel.CostLimit(CostLimit), cel.InterruptCheckFrequency(100))
	return planned{p, n.restorations(refs)}, err
}

func (p *program) Refs() [][]string { return p.refs }

// Eval gives the value in plain Go types; a timestamp is a time.Time, a
// duration a time.Duration, an optional without a value nil.
func (p *program) Eval(ctx context.Context, scope map[string]any) (v any, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("evaluation panicked: %v", r)
		}
	}()
	ready, err := p.plan()
	if err != nil {
		return nil, err
	}
	out, _, err := ready.ContextEval(ctx, restored(scope, ready.stored))
	if err != nil {
		return nil, err
	}
	return plain(out)
}

// plain turns a CEL value into plain Go.
func plain(v ref.Val) (any, error) {
	switch x := v.(type) {
	case types.Bool:
		return bool(x), nil
	case types.Int:
		return int64(x), nil
	case types.Uint:
		if uint64(x) > math.MaxInt64 {
			return nil, fmt.Errorf("%d is too large for an int", uint64(x))
		}
		return int64(x), nil
	case types.Double:
		if f := float64(x); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
		return nil, fmt.Errorf("%v is not a number that can be stored", float64(x))
	case types.String:
		return string(x), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(x), nil
	case types.Null:
		return nil, nil
	case types.Timestamp:
		return x.Time, nil
	case types.Duration:
		return x.Duration, nil
	case *types.Optional:
		if !x.HasValue() {
			return nil, nil
		}
		return plain(x.GetValue())
	case *types.Type:
		return x.String(), nil
	case traits.Mapper:
		return plainMap(x)
	case traits.Lister:
		return plainList(x)
	case *types.Err:
		return nil, x
	case *types.Unknown:
		return nil, fmt.Errorf("the value is not known")
	}
	return nil, fmt.Errorf("a value of type %s cannot be used here", v.Type().TypeName())
}

func plainList(list traits.Lister) (any, error) {
	out := []any{}
	for it := list.Iterator(); it.HasNext() == types.True; {
		v, err := plain(it.Next())
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func plainMap(m traits.Mapper) (any, error) {
	out := map[string]any{}
	for it := m.Iterator(); it.HasNext() == types.True; {
		k := it.Next()
		key, ok := k.(types.String)
		if !ok {
			return nil, fmt.Errorf("a map with the key %v, which is not text, cannot be stored", k.Value())
		}
		v, err := plain(m.Get(k))
		if err != nil {
			return nil, err
		}
		out[string(key)] = v
	}
	return out, nil
}
