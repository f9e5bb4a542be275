package parse

import (
	"maps"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// restoration is a path of a scope whose values JSON cannot keep as they are
// declared: there a timestamp and a duration are text, and 2.0 is 2.
type restoration struct {
	path []string
	typ  *cel.Type
	sh   *shapes
}

// restorations gives those of the paths that lead to such values, or have them below.
func (n *names) restorations(paths [][]string) []restoration {
	var out []restoration
	for _, path := range paths {
		t := n.vars[path[0]]
		for _, key := range path[1:] {
			t = n.shapes.below(t, key)
		}
		if n.shapes.restores(t) {
			out = append(out, restoration{path: path, typ: t, sh: n.shapes})
		}
	}
	return out
}

// below gives the type of what stands under a key; nil when it is not declared.
func (s *shapes) below(t *cel.Type, key string) *cel.Type {
	switch {
	case t == nil:
		return nil
	case t.Kind() == types.StructKind:
		return s.objects[t.TypeName()][key]
	case t.Kind() == types.MapKind:
		return t.Parameters()[1]
	}
	return nil
}

// restores reports whether values of a type may have to be restored.
func (s *shapes) restores(t *cel.Type) bool {
	if t == nil {
		return false
	}
	switch t.Kind() {
	case types.TimestampKind, types.DurationKind, types.DoubleKind:
		return true
	case types.ListKind:
		return s.restores(t.Parameters()[0])
	case types.MapKind:
		return s.restores(t.Parameters()[1])
	case types.StructKind:
		for _, field := range s.objects[t.TypeName()] {
			if s.restores(field) {
				return true
			}
		}
	}
	return false
}

// restored gives a scope with its values as they are declared. The scope of
// the caller stays as it is: what changes is copied.
func restored(scope map[string]any, paths []restoration) map[string]any {
	out := scope
	for _, p := range paths {
		if v, changed := p.along(out, p.path); changed {
			out = v.(map[string]any)
		}
	}
	return out
}

// along restores what a path leads to.
func (p restoration) along(v any, path []string) (any, bool) {
	if len(path) == 0 {
		return p.sh.restore(v, p.typ)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v, false
	}
	inner, ok := m[path[0]]
	if !ok {
		return v, false
	}
	inner, changed := p.along(inner, path[1:])
	if !changed {
		return v, false
	}
	m = maps.Clone(m)
	m[path[0]] = inner
	return m, true
}

// restore gives a value as its type is declared, and whether that is another one.
func (s *shapes) restore(v any, t *cel.Type) (any, bool) {
	switch x := v.(type) {
	case string:
		return fromText(x, t)
	case int64:
		if t.Kind() == types.DoubleKind {
			return float64(x), true
		}
	case []any:
		if t.Kind() == types.ListKind {
			return s.restoreList(x, t.Parameters()[0])
		}
	case map[string]any:
		if k := t.Kind(); k == types.StructKind || k == types.MapKind {
			return s.restoreMap(x, t)
		}
	}
	return v, false
}

func fromText(text string, t *cel.Type) (any, bool) {
	switch t.Kind() {
	case types.TimestampKind:
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at, true
		}
	case types.DurationKind:
		if d, err := time.ParseDuration(text); err == nil {
			return d, true
		}
	}
	return text, false
}

func (s *shapes) restoreList(list []any, elem *cel.Type) (any, bool) {
	if !s.restores(elem) {
		return list, false
	}
	out := list
	for i, x := range list {
		v, changed := s.restore(x, elem)
		if !changed {
			continue
		}
		if &out[0] == &list[0] {
			out = slices.Clone(list)
		}
		out[i] = v
	}
	return out, len(list) > 0 && &out[0] != &list[0]
}

func (s *shapes) restoreMap(m map[string]any, t *cel.Type) (any, bool) {
	var out map[string]any
	for k, x := range m {
		inner := s.below(t, k)
		if !s.restores(inner) {
			continue
		}
		if v, changed := s.restore(x, inner); changed {
			if out == nil {
				out = maps.Clone(m)
			}
			out[k] = v
		}
	}
	if out == nil {
		return m, false
	}
	return out, true
}
