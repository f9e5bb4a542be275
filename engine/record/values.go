package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events/wire"
	"github.com/penstock-cd/penstock/workflows"
)

// Values is a tree of the plain values that expressions know, by name. Its
// JSON keeps their types, so that a rule that is evaluated again sees what it
// saw: a double is always written with a point or an exponent, and what JSON
// has no form for as {"$time": "…"}, {"$duration": "…"} or {"$double": "…"}
// (not a number, or infinite). A name that begins with $ gets another one
// before it, so that nobody's data reads as one of these.
type Values map[string]any

// MarshalJSON writes names in order.
func (v Values) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil) }

// AppendJSON appends what MarshalJSON gives.
func (v Values) AppendJSON(b []byte) ([]byte, error) {
	if v == nil {
		return append(b, "null"...), nil
	}
	return appendMap(b, v)
}

func appendValue(b []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case float64:
		return appendDouble(b, x), nil
	case int64:
		return strconv.AppendInt(b, x, 10), nil
	case string:
		return wire.AppendText(b, x), nil
	case time.Time:
		return fmt.Appendf(b, `{"$time":%q}`, x.UTC().Format(time.RFC3339Nano)), nil
	case time.Duration:
		return fmt.Appendf(b, `{"$duration":%q}`, x.String()), nil
	case Values:
		return appendMap(b, x)
	case map[string]any:
		return appendMap(b, x)
	case []any:
		var err error
		b = append(b, '[')
		for i, e := range x {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
	p, err := json.Marshal(v)
	return append(b, p...), err
}

// appendDouble writes a double so that it is read as one.
func appendDouble(b []byte, x float64) []byte {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return fmt.Appendf(b, `{"$double":"%v"}`, x)
	}
	from := len(b)
	b = strconv.AppendFloat(b, x, 'g', -1, 64)
	if !bytes.ContainsAny(b[from:], ".e") {
		b = append(b, ".0"...)
	}
	return b
}

func appendMap(b []byte, m map[string]any) ([]byte, error) {
	var err error
	b = append(b, '{')
	for i, k := range wire.Keys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		name := k
		if strings.HasPrefix(k, "$") {
			name = "$" + k
		}
		b = append(wire.AppendText(b, name), ':')
		if b, err = appendValue(b, m[k]); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Values) UnmarshalJSON(p []byte) error {
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	var raw map[string]any
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	if raw == nil {
		*v = nil
		return nil
	}
	*v = restoreNames(raw)
	return nil
}

func restore(v any) any {
	switch x := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return i
		}
		f, _ := x.Float64()
		return f
	case []any:
		for i, e := range x {
			x[i] = restore(e)
		}
	case map[string]any:
		if len(x) == 1 {
			if special, ok := restoreSpecial(x); ok {
				return special
			}
		}
		return restoreNames(x)
	}
	return v
}

// restoreSpecial reads a value that JSON has no form for.
func restoreSpecial(x map[string]any) (any, bool) {
	for name, v := range x {
		s, _ := v.(string)
		switch name {
		case "$time":
			t, err := time.Parse(time.RFC3339Nano, s)
			return t, err == nil
		case "$duration":
			d, err := time.ParseDuration(s)
			return d, err == nil
		case "$double":
			f, err := strconv.ParseFloat(s, 64)
			return f, err == nil
		}
	}
	return nil, false
}

func restoreNames(x map[string]any) map[string]any {
	out := make(map[string]any, len(x))
	for k, e := range x {
		if strings.HasPrefix(k, "$$") {
			k = k[1:]
		}
		out[k] = restore(e)
	}
	return out
}

// Plain reports whether v has a form in ordinary JSON: no double in it is
// infinite or not a number. What leaves for others must be plain.
func Plain(v any) bool {
	switch x := v.(type) {
	case float64:
		return !math.IsNaN(x) && !math.IsInf(x, 0)
	case []any:
		return !slices.ContainsFunc(x, func(e any) bool { return !Plain(e) })
	case map[string]any:
		for _, e := range x {
			if !Plain(e) {
				return false
			}
		}
	}
	return true
}

// Clone is a deep copy.
func (v Values) Clone() Values {
	if v == nil {
		return nil
	}
	return clone(map[string]any(v)).(map[string]any)
}

func clone(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// Cut gives the part of scope that refs name: what an expression with these
// references reads, and no more. A chain that ends early is cut where it ends,
// so that asking whether something is there gives the same answer.
// What it gives shares values with scope and changes none of them.
func Cut(lookup func(name string) (any, bool), refs [][]string) Values {
	out := Values{}
	for i, ref := range refs {
		if covered(refs, i) {
			continue
		}
		if v, ok := lookup(ref[0]); ok {
			graft(out, ref, v)
		}
	}
	return out
}

// covered reports whether another chain asks for all that chain i asks for:
// it begins it, or is the same and stands before it. Of the chains that are
// left none begins another, so that graft never writes into what it copied.
func covered(refs [][]string, i int) bool {
	for j, other := range refs {
		if j != i && len(other) <= len(refs[i]) && (len(other) < len(refs[i]) || j < i) && slices.Equal(other, refs[i][:len(other)]) {
			return true
		}
	}
	return false
}

// graft copies the value at the end of the chain from v into dst.
func graft(dst map[string]any, ref []string, v any) {
	src, isMap := v.(map[string]any)
	if len(ref) == 1 || !isMap {
		dst[ref[0]] = v
		return
	}
	sub, ok := dst[ref[0]].(map[string]any)
	if !ok {
		sub = map[string]any{}
		dst[ref[0]] = sub
	}
	if next, there := src[ref[1]]; there {
		graft(sub, ref[1:], next)
	}
}

// Text is a value for people.
func Text(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return x
	case time.Time:
		return x.Format(time.RFC3339)
	case float64, int64, bool:
		return fmt.Sprint(x)
	}
	p, err := json.Marshal(workflows.Normal(v))
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(p)
}
