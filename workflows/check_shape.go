package workflows

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/go-playground/validator/v10"
)

// shapes applies the validate tags. It is built once and safe to share.
var shapes = sync.OnceValue(func() *validator.Validate {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string {
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if option == "inline" {
			return inlined
		}
		return name
	})
	return v
})

// inlined stands in the validator's paths for structs whose keys stand in the parent.
const inlined = "inline~"

// shape checks what the validate tags say: what must be there, and which words
// and sizes are allowed.
func (k *check) shape(doc any) {
	err := shapes().Struct(doc)
	found, ok := errors.AsType[validator.ValidationErrors](err)
	if !ok {
		return
	}
	for _, e := range found {
		path := keyPath(e.Namespace())
		name := e.Field()
		switch e.Tag() {
		case "required":
			if e.Kind() == reflect.Int || e.Kind() == reflect.Int64 { // 0 and missing look alike
				k.value(path, "missing", "", "%s is missing or 0", name)
				continue
			}
			k.fault(path, "missing", "", "%s is missing", name)
		case "oneof":
			words := strings.Fields(e.Param())
			value := e.Value().(string)
			hint := "one of " + strings.Join(words, ", ")
			if near := Nearest(value, words); near != "" {
				hint = "did you mean " + near + "?"
			}
			k.value(path, "unknown-word", hint, "%s cannot be %s", name, value)
		case "min":
			if e.Kind() == reflect.Map || e.Kind() == reflect.Slice {
				k.fault(path, "too-few", "", "%s is empty, it needs %s or more", name, e.Param())
				continue
			}
			k.value(path, "too-small", "", "%s is %v, it is %s at least", name, e.Value(), e.Param())
		case "len":
			k.value(path, "wrong-size", "", "%s has %d, it needs exactly %s", name, reflect.ValueOf(e.Value()).Len(), e.Param())
		case "max":
			if e.Kind() == reflect.String {
				k.value(path, "too-long", "", "%s is longer than %s characters", name, e.Param())
				continue
			}
			k.value(path, "too-large", "", "%s is %v, it is %s at most", name, e.Value(), e.Param())
		default:
			k.value(path, "wrong-value", "", "%s breaks the rule %s", name, e.Tag())
		}
	}
}

// keyPath turns the validator's Workflow.spec.states[build].inline~.task into
// spec.states.build.task. Digits in brackets are the index of a list.
func keyPath(namespace string) string {
	_, rest, _ := strings.Cut(namespace, ".")
	path := ""
	for rest != "" {
		if rest[0] == '.' {
			rest = rest[1:]
			continue
		}
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				break
			}
			key := rest[1:end]
			if _, err := strconv.Atoi(key); err == nil {
				path += "[" + key + "]"
			} else {
				path = Join(path, key)
			}
			rest = rest[end+1:]
			continue
		}
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		if key := rest[:end]; key != inlined {
			path = Join(path, key)
		}
		rest = rest[end:]
	}
	return path
}
