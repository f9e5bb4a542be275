package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// Values is a tree of the plain values that expressions know, by name. Its
// JSON keeps their types: a double is always written with a point or an
// exponent, and a time as {"$time": "…"}, so that a rule that is evaluated
// again sees what it saw.
type Values map[string]any

// MarshalJSON writes names in order.
func (v Values) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := appendValue(&b, map[string]any(v)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func appendValue(b *bytes.Buffer, v any) error {
	switch x := v.(type) {
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%v cannot be stored", x)
		}
		s := strconv.FormatFloat(x, 'g', -1, 64)
		if !bytes.ContainsAny([]byte(s), ".e") {
			s += ".0"
		}
		b.WriteString(s)
	case int64:
		b.WriteString(strconv.FormatInt(x, 10))
	case time.Time:
		fmt.Fprintf(b, `{"$time":%q}`, x.UTC().Format(time.RFC3339Nano))
	case Values:
		return appendValue(b, map[string]any(x))
	case map[string]any:
		b.WriteByte('{')
		for i, k := range slices.Sorted(maps.Keys(x)) {
			if i > 0 {
				b.WriteByte(',')
			}
			key, _ := json.Marshal(k) // a string always encodes
			b.Write(key)
			b.WriteByte(':')
			if err := appendValue(b, x[k]); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range x {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := appendValue(b, e); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	default:
		p, err := json.Marshal(x)
		if err != nil {
			return err
		}
		b.Write(p)
	}
	return nil
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
	*v = restore(raw).(map[string]any)
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
		if s, ok := x["$time"].(string); ok && len(x) == 1 {
			if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
				return t
			}
		}
		for k, e := range x {
			x[k] = restore(e)
		}
	}
	return v
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
func Cut(lookup func(name string) (any, bool), refs [][]string) Values {
	out := Values{}
	whole := map[string]bool{}
	for _, ref := range refs {
		if len(ref) == 1 {
			whole[ref[0]] = true
		}
	}
	for _, ref := range refs {
		v, ok := lookup(ref[0])
		if !ok {
			continue
		}
		if whole[ref[0]] {
			out[ref[0]] = v
			continue
		}
		graft(out, ref, v)
	}
	return out
}

// graft copies the value at the end of the chain from v into dst.
func graft(dst map[string]any, ref []string, v any) {
	src, isMap := v.(map[string]any)
	if len(ref) == 1 || !isMap {
		if old, ok := dst[ref[0]].(map[string]any); ok && isMap {
			maps.Copy(old, src) // a shorter chain after a longer one: all of it
			return
		}
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
