package workflows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Program evaluates an expression. Package parse compiles CEL to it.
type Program interface {
	// Eval computes the value on a scope of plain values: nil, bool, int64,
	// float64, string, []any, map[string]any, time.Time, time.Duration. An
	// expression that errs, costs too much or reads what is not there gives an
	// error, never a value.
	Eval(ctx context.Context, scope map[string]any) (any, error)
	// Refs lists what the expression reads, as select chains from a name of
	// the scope: ["build", "digest"]. Evaluated on a scope cut down to these,
	// it gives the same value.
	Refs() [][]string
}

// Explainer is a Program that can say how it comes to its value.
type Explainer interface {
	Program
	// Explain evaluates on a scope and keeps the value of each part. open names
	// what of the scope may still change: the residual is the expression that
	// is left when these are not known.
	Explain(ctx context.Context, scope map[string]any, open ...string) *Explanation
}

// Explanation is how an expression comes to its value.
type Explanation struct {
	Source   string    `json:"source"`
	Value    any       `json:"value,omitempty"`    // nil when Error is set
	Error    string    `json:"error,omitempty"`    //
	Parts    []SubExpr `json:"parts,omitempty"`    // sub-expressions that were evaluated, outer ones first
	Residual string    `json:"residual,omitempty"` // what is left to be decided when what is open is not known; empty when that does not matter
}

// SubExpr is a part of an expression with its value.
type SubExpr struct {
	Source string `json:"source"`
	Depth  int    `json:"depth"` // 0 is the whole
	Value  any    `json:"value,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Explain explains an expression; nil when its program cannot.
func (e *Expr) Explain(ctx context.Context, scope map[string]any, open ...string) *Explanation {
	p, ok := e.Program.(Explainer)
	if !ok {
		return nil
	}
	x := p.Explain(ctx, scope, open...)
	x.Source = e.Source
	return x
}

// Expr is a key that holds CEL.
type Expr struct {
	Source  string  `json:"source"`
	Pos     Pos     `json:"pos"`
	Program Program `json:"-"`
}

// UnmarshalText takes the source; package parse adds position and program.
func (e *Expr) UnmarshalText(p []byte) error { e.Source = string(p); return nil }

// Bool evaluates a condition. Anything but true and false is an error.
func (e *Expr) Bool(ctx context.Context, scope map[string]any) (bool, error) {
	v, err := e.Program.Eval(ctx, scope)
	if err != nil {
		return false, fmt.Errorf("%s: %q: %w", e.Pos, e.Source, err)
	}
	b, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("%s: %q gives %v, want true or false", e.Pos, e.Source, v)
	}
	return b, nil
}

// Data is text or a structure in which ${{ … }} holds CEL. A text that is one
// ${{ … }} and nothing else keeps the type of its value; otherwise values are
// written into the text.
type Data struct {
	Value   any     `json:"value"` // as it stands in the file
	Pos     Pos     `json:"pos"`
	Program Program `json:"-"` // nil when there is no ${{ … }} in it
}

// Eval gives the value on a scope.
func (d *Data) Eval(ctx context.Context, scope map[string]any) (any, error) {
	if d.Program == nil {
		return d.Value, nil
	}
	v, err := d.Program.Eval(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Pos, err)
	}
	return v, nil
}

// Refs lists what it reads; none for a constant.
func (d *Data) Refs() [][]string {
	if d == nil || d.Program == nil {
		return nil
	}
	return d.Program.Refs()
}

// String is file:line:column, as compilers write it.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problem is something wrong with a definition.
type Problem struct {
	Pos     Pos    `json:"pos"`
	Path    string `json:"path,omitempty"` // of the key, "spec.states.build.next"
	Warning bool   `json:"warning,omitempty"`
	Code    string `json:"code"`              // stable, kebab-case: "unknown-key"
	Message string `json:"message"`           // what is wrong
	Hint    string `json:"hint,omitempty"`    // what to do
	Excerpt string `json:"excerpt,omitempty"` // the line, and a line with a caret under the place
	AtValue bool   `json:"-"`                 // the place is the value at Path, not its key
	At      bool   `json:"-"`                 // the place is Pos
}

func (p Problem) Error() string {
	s := p.Pos.String() + ": " + p.Message
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// D gives the time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// ParseDuration reads a duration as Go writes it, with "d" for 24 hours.
func ParseDuration(s string) (Duration, error) {
	text := s
	var days time.Duration
	if n, rest, ok := strings.Cut(text, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration such as 90s, 20m, 24h or 1d", s)
		}
		days, text = time.Duration(v)*24*time.Hour, rest
	}
	if text == "" && days > 0 {
		return Duration(days), nil
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("%q is not a duration such as 90s, 20m, 24h or 1d", s)
	}
	return Duration(days + v), nil
}

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(p []byte) (err error) {
	*d, err = ParseDuration(string(p))
	return err
}

// String writes it as people do: "10m", "1h30m", "1d".
func (d Duration) String() string {
	if d > 0 && d.D()%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d.D()/(24*time.Hour))) + "d"
	}
	return ShortDuration(d.D())
}

// ShortDuration writes a duration as Go does, without the units that are zero
// at its end: 2h, not 2h0m0s.
func ShortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes it as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// ErrType is wrapped by every error that Conform gives.
var ErrType = errors.New("wrong type")

// Type is the name of a type in the language: string, int, double, bool,
// duration, timestamp, any, list(T) or map(T).
type Type string

// Split gives the name of a type and the type of its elements: list(int) is
// "list" and int. The elements of what is no list or map have the type "".
func (t Type) Split() (name string, elem Type) {
	name = string(t)
	if i := strings.IndexByte(name, '('); i > 0 && strings.HasSuffix(name, ")") {
		return name[:i], Type(name[i+1 : len(name)-1])
	}
	return name, ""
}

// Valid reports whether t is a type of the language.
func (t Type) Valid() bool {
	name, elem := t.Split()
	switch name {
	case "string", "int", "double", "bool", "duration", "timestamp", "any":
		return elem == "" && name == string(t)
	case "list", "map":
		return elem.Valid()
	}
	return false
}

// Optional takes the final "?" off a declared type and reports whether it was there.
func Optional(declared string) (Type, bool) {
	plain, ok := strings.CutSuffix(declared, "?")
	return Type(plain), ok
}

// Conform gives v as the type asks for it, or an error that says what it is
// instead. Integral JSON numbers become int64; a double accepts an integer.
// Strings become nothing else: "3" is not an int.
func (t Type) Conform(v any) (any, error) {
	name, elem := t.Split()
	v = Normal(v)
	switch name {
	case "any":
		return v, nil
	case "string", "bool", "int":
		if typeName(v) == name {
			return v, nil
		}
	case "double":
		switch x := v.(type) {
		case float64:
			return x, nil
		case int64:
			return float64(x), nil
		}
	case "duration":
		if s, ok := v.(string); ok {
			if _, err := ParseDuration(s); err == nil {
				return s, nil
			}
		}
	case "timestamp":
		if s, ok := v.(string); ok {
			if _, err := time.Parse(time.RFC3339Nano, s); err == nil {
				return s, nil
			}
		}
	case "list":
		if list, ok := v.([]any); ok {
			out := make([]any, len(list))
			for i, x := range list {
				var err error
				if out[i], err = elem.Conform(x); err != nil {
					return nil, fmt.Errorf("element %d: %w", i, err)
				}
			}
			return out, nil
		}
	case "map":
		if m, ok := v.(map[string]any); ok {
			out := make(map[string]any, len(m))
			for k, x := range m {
				var err error
				if out[k], err = elem.Conform(x); err != nil {
					return nil, fmt.Errorf("key %q: %w", k, err)
				}
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: %s where %s is declared", ErrType, describe(v), t)
}

// ParseInput reads the text of an input given on a command line as the type
// asks for it: JSON for everything but strings.
func (t Type) ParseInput(text string) (any, error) {
	if t == "string" || t == "duration" || t == "timestamp" {
		return t.Conform(text)
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil || dec.More() {
		return nil, fmt.Errorf("%w: %q where %s is declared", ErrType, text, t)
	}
	return t.Conform(v)
}

// Normal gives a decoded JSON or YAML value in the few types that expressions
// know: integral numbers as int64, others as float64, recursively.
func Normal(v any) any {
	switch x := v.(type) {
	case json.Number:
		if i, err := x.Int64(); err == nil {
			return i
		}
		f, _ := x.Float64()
		return integral(f)
	case int:
		return int64(x)
	case int32:
		return int64(x)
	case uint64:
		if x <= 1<<63-1 {
			return int64(x)
		}
		return float64(x)
	case float32:
		return integral(float64(x))
	case float64:
		return integral(x)
	case []string:
		out := make([]any, len(x))
		for i, s := range x {
			out[i] = s
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = Normal(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = Normal(e)
		}
		return out
	}
	return v
}

// integral gives f as int64 when it is a whole number that float64 holds exactly.
func integral(f float64) any {
	if f == float64(int64(f)) && f > -1<<53 && f < 1<<53 {
		return int64(f)
	}
	return f
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "double"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return fmt.Sprintf("%T", v)
}

func describe(v any) string {
	switch x := v.(type) {
	case string:
		if len(x) > 40 {
			x = x[:40] + "…"
		}
		return fmt.Sprintf("string %q", x)
	case int64, float64, bool:
		return fmt.Sprintf("%s %v", typeName(v), v)
	}
	return typeName(v)
}
