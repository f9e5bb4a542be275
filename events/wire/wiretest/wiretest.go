// Package wiretest holds what types that append their own JSON against
// encoding/json.
package wiretest

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events/wire"
)

// Same fills the fields of a T one at a time, and all of them together, and
// fails the test where what T appends differs from what json.Marshal gives.
// So a field that was added to the struct, and not to AppendJSON, is found.
func Same[T any, P interface {
	*T
	wire.Appender
}](t testing.TB) {
	t.Helper()
	typ := reflect.TypeFor[T]()
	compare(t, P(new(T)), typ.Name()+" without anything")
	all := new(T)
	for i := range typ.NumField() {
		one := new(T)
		fill(reflect.ValueOf(one).Elem().Field(i), 0)
		compare(t, P(one), typ.Name()+" with "+typ.Field(i).Name)
		fill(reflect.ValueOf(all).Elem().Field(i), 0)
	}
	compare(t, P(all), typ.Name()+" with everything")
}

func compare(t testing.TB, v wire.Appender, what string) {
	t.Helper()
	want, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got, err := v.AppendJSON([]byte("before it "))
	if err != nil || string(got) != "before it "+string(want) {
		t.Errorf("%s: appended %s, %v, want %s", what, got, err, want)
	}
}

// text has everything in it that JSON writes in another way.
const text = "a<b> & \"c\"\\\n\u2028é\xff"

// maxDepth is how deep structs in structs are filled.
const maxDepth = 4

// fill gives v, and what is in it, a value that is not left out.
func fill(v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 26, 8, 0, 0, 120_000_000, time.UTC)))
		return
	case json.RawMessage:
		v.Set(reflect.ValueOf(json.RawMessage(`{"raw":[1,"x"]}`)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-12_345_678)
	case reflect.Float64:
		v.SetFloat(0.25)
	case reflect.Interface:
		v.Set(reflect.ValueOf([]any{text, 7.5, true, nil, map[string]any{"$k": "v", "a": int64(1)}}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth+1)
		fill(v.Index(1), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"b", text, "a"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, depth+1)
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && depth < maxDepth {
				fill(v.Field(i), depth+1)
			}
		}
	}
}
