// Package wire writes JSON that is written very often: records, states, tasks
// and events. It appends it to a slice of bytes, field by field, where package
// encoding/json would look at each type anew by reflection.
//
// What is written is byte for byte what json.Marshal gives. A type that is
// written so has a method AppendJSON with one line for each field, in the order
// of its struct, and a test (package wiretest) that fills every field in turn
// and compares the two.
package wire

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Object appends one JSON object.
type Object struct {
	buf []byte
	err error
}

// Open begins an object behind b.
func Open(b []byte) Object { return Object{buf: append(b, '{')} }

// Close ends the object and gives all that was appended, or the first error.
func (o *Object) Close() ([]byte, error) { return append(o.buf, '}'), o.err }

// name appends the name of a field, and the comma before it.
func (o *Object) name(name string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, '"', ':')
}

// Text is a string.
func (o *Object) Text(name, v string) {
	o.name(name)
	o.buf = AppendText(o.buf, v)
}

// TextIf is a string that is left out when it is empty.
func (o *Object) TextIf(name, v string) {
	if v != "" {
		o.Text(name, v)
	}
}

// MemberIf is TextIf for a name that is no constant of the program.
func (o *Object) MemberIf(name, v string) {
	if v != "" {
		o.field(name)
		o.buf = AppendText(o.buf, v)
	}
}

// Int is a whole number.
func (o *Object) Int(name string, v int64) {
	o.name(name)
	o.buf = strconv.AppendInt(o.buf, v, 10)
}

// IntIf is a whole number that is left out when it is zero.
func (o *Object) IntIf(name string, v int64) {
	if v != 0 {
		o.Int(name, v)
	}
}

// TrueIf is a truth value that is left out when it is false.
func (o *Object) TrueIf(name string, v bool) {
	if v {
		o.name(name)
		o.buf = append(o.buf, "true"...)
	}
}

// Time is a time as encoding/json writes it.
func (o *Object) Time(name string, v time.Time) {
	o.name(name)
	b := append(o.buf, '"')
	b, err := v.AppendText(b)
	if err != nil {
		o.fail(err)
		return
	}
	o.buf = append(b, '"')
}

// TextsIf is a list of strings that is left out when it is empty.
func (o *Object) TextsIf(name string, list []string) {
	if len(list) == 0 {
		return
	}
	o.name(name)
	for i, v := range list {
		o.buf = AppendText(append(o.buf, "[,"[min(i, 1)]), v)
	}
	o.buf = append(o.buf, ']')
}

// Any is a value that is written seldom: by encoding/json. Whether it is left
// out is asked before.
func (o *Object) Any(name string, v any) {
	p, err := json.Marshal(v)
	if err != nil {
		o.fail(err)
		return
	}
	o.Raw(name, p)
}

// Raw is a value that is JSON already.
func (o *Object) Raw(name string, p []byte) {
	o.name(name)
	o.buf = append(o.buf, p...)
}

// Appender is a value that appends its own JSON.
type Appender interface {
	AppendJSON(b []byte) ([]byte, error)
}

// Put is a value that appends itself.
func (o *Object) Put(name string, v Appender) {
	o.name(name)
	o.append(v)
}

func (o *Object) append(v Appender) {
	b, err := v.AppendJSON(o.buf)
	if err != nil {
		o.fail(err)
		return
	}
	o.buf = b
}

// ListIf is a list of values that append themselves; it is left out when it is
// empty.
func ListIf[T Appender](o *Object, name string, list []T) {
	if len(list) == 0 {
		return
	}
	o.name(name)
	for i, v := range list {
		o.buf = append(o.buf, "[,"[min(i, 1)])
		o.append(v)
	}
	o.buf = append(o.buf, ']')
}

// ItemsIf is ListIf for values that append themselves by their address.
func ItemsIf[T any, P interface {
	*T
	Appender
}](o *Object, name string, list []T) {
	if len(list) == 0 {
		return
	}
	o.name(name)
	for i := range list {
		o.buf = append(o.buf, "[,"[min(i, 1)])
		o.append(P(&list[i]))
	}
	o.buf = append(o.buf, ']')
}

func (o *Object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// AppendText appends a string as encoding/json writes it.
func AppendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || special[c] {
			q, _ := json.Marshal(s) // a string always encodes
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// special tells of the ASCII characters that do not stand for themselves.
var special = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		t[c] = c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&'
	}
	return t
}()

// AnyIf is a value that is written seldom and left out when it is nil.
func AnyIf[T any](o *Object, name string, v *T) {
	if v != nil {
		o.Any(name, v)
	}
}

// MapIf is a map that is written seldom and left out when it is empty.
func MapIf[V any](o *Object, name string, m map[string]V) {
	if len(m) > 0 {
		o.Any(name, m)
	}
}

// SliceIf is a list that is written seldom and left out when it is empty.
func SliceIf[S ~[]T, T any](o *Object, name string, list S) {
	if len(list) > 0 {
		o.Any(name, list)
	}
}

// PutIf is a value that appends itself and is left out when it is nil.
func PutIf[T any, P interface {
	*T
	Appender
}](o *Object, name string, v P) {
	if v != nil {
		o.Put(name, v)
	}
}

// CountsIf is a map of numbers that is left out when it is empty.
func (o *Object) CountsIf(name string, m map[string]int) {
	if len(m) == 0 {
		return
	}
	o.name(name)
	in := Open(o.buf)
	for _, k := range Keys(m) {
		in.field(k)
		in.buf = strconv.AppendInt(in.buf, int64(m[k]), 10)
	}
	o.buf, _ = in.Close() // numbers always encode
}

// Keys are those of a map, sorted, as encoding/json writes them.
func Keys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// field is name for a name that is no constant of the program.
func (o *Object) field(name string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(AppendText(o.buf, name), ':')
}
