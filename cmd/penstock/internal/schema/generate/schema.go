package main

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// documents are the kinds of documents with the structs that hold them.
var documents = []struct {
	kind string
	typ  reflect.Type
}{
	{workflows.KindWorkflow, reflect.TypeFor[workflows.Workflow]()},
	{workflows.KindEnvironment, reflect.TypeFor[workflows.Environment]()},
	{workflows.KindRoles, reflect.TypeFor[workflows.Roles]()},
	{workflows.KindChannel, reflect.TypeFor[workflows.Channel]()},
	{workflows.KindTaskKind, reflect.TypeFor[workflows.TaskKind]()},
	{workflows.KindPolicy, reflect.TypeFor[workflows.Policy]()},
	{workflows.KindScenario, reflect.TypeFor[workflows.Scenario]()},
}

type object = map[string]any

// schema derives the schema from the structs of package workflows, so that it
// cannot know other keys than the parser.
func schema(m meanings) []byte {
	g := generator{meanings: m, defs: object{}}
	var kinds []string
	var choose []any
	for _, d := range documents {
		kinds = append(kinds, d.kind)
		s := g.structure(d.typ)
		properties := s["properties"].(object)
		properties["apiVersion"] = object{"const": workflows.APIVersion}
		properties["kind"] = object{"const": d.kind}
		g.defs[d.kind] = s
		choose = append(choose, object{
			"if":   object{"properties": object{"kind": object{"const": d.kind}}, "required": []string{"kind"}},
			"then": object{"$ref": "#/definitions/" + d.kind},
		})
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(object{ // maps, texts and numbers always encode
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "Penstock definitions " + workflows.APIVersion,
		"type": "object", "required": []string{"apiVersion", "kind", "metadata"},
		"properties": object{"apiVersion": object{"const": workflows.APIVersion, "description": "The version of the language."},
			"kind": object{"enum": kinds, "description": "What the document defines."}},
		"allOf":       choose,
		"definitions": g.defs,
	})
	return out.Bytes()
}

type generator struct {
	meanings meanings
	defs     object
}

var (
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
	exprType = reflect.TypeFor[workflows.Expr]()
	dataType = reflect.TypeFor[workflows.Data]()
)

// of gives the schema of a type. Structs become definitions of their own.
func (g *generator) of(t reflect.Type) object {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case exprType:
		return object{"type": []string{"string", "boolean", "number"}}
	case dataType, reflect.TypeFor[any]():
		return object{}
	case reflect.TypeFor[workflows.Duration]():
		return object{"type": []string{"string", "number"}, "pattern": `^(0|([0-9]+d)?([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h))*)$`}
	case reflect.TypeFor[[]*workflows.TaskAnswer]():
		one := g.of(t.Elem())
		return object{"anyOf": []any{one, object{"type": "array", "items": one}}}
	}
	if reflect.PointerTo(t).Implements(textType) {
		return object{"type": []string{"string", "number"}}
	}
	switch t.Kind() {
	case reflect.Struct:
		if _, known := g.defs[t.Name()]; !known {
			g.defs[t.Name()] = true // a struct that holds itself ends here
			g.defs[t.Name()] = g.structure(t)
		}
		return object{"$ref": "#/definitions/" + t.Name()}
	case reflect.Map:
		return object{"type": []string{"object", "null"}, "additionalProperties": g.of(t.Elem())}
	case reflect.Slice:
		return object{"type": "array", "items": g.of(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	}
	return object{"type": "string"}
}

func (g *generator) structure(t reflect.Type) object {
	properties := object{}
	var required []string
	g.fields(t, properties, &required)
	s := object{"type": "object", "properties": properties, "additionalProperties": false}
	if text := g.meanings[t.Name()]; text != "" {
		s["description"] = text
	}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (g *generator) fields(t reflect.Type, properties object, required *[]string) {
	for f := range t.Fields() {
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			g.fields(f.Type, properties, required)
			continue
		case name == "" || name == "-":
			continue
		}
		s := g.of(f.Type)
		text := g.meanings[t.Name()+"."+f.Name]
		at, of := s, f.Type
		for rule := range strings.SplitSeq(f.Tag.Get("validate"), ",") {
			key, value, _ := strings.Cut(rule, "=")
			if key == "dive" { // what follows is about the elements
				if at, _ = cmp.Or(at["items"], at["additionalProperties"]).(object); at == nil {
					break
				}
				of = of.Elem()
				continue
			}
			if key == "required" && of == f.Type {
				*required = append(*required, name)
			}
			limit(at, key, value, of.Kind())
		}
		narrow(s, f, text)
		properties[name] = described(s, g.hover(f.Type, text))
	}
}

// narrow adds what only the comment and the name of a field say.
func narrow(s object, f reflect.StructField, text string) {
	const types = `(string|int|double|bool|duration|timestamp|any|(list|map)\(.+\))`
	switch {
	case f.Name == "Waves":
		s["items"] = object{"anyOf": []any{object{"type": "integer", "minimum": 1}, object{"const": "rest"}}}
	case strings.HasPrefix(text, "a Type"):
		s["pattern"] = "^" + types + "$"
	case strings.HasPrefix(text, "name → Type"):
		s["additionalProperties"] = object{"type": "string", "pattern": "^" + types + `\??$`}
	}
}

// hover is the text that an editor shows for a key: what it means, and whether
// something in it is evaluated.
func (g *generator) hover(t reflect.Type, text string) string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch {
	case t == exprType && !strings.HasPrefix(text, "CEL"):
		return strings.TrimSuffix("CEL: "+text, ": ")
	case t == dataType:
		return strings.TrimSpace(text + " (${{ … }} in it holds CEL)")
	case text == "" && t.Kind() == reflect.Struct:
		return g.meanings[t.Name()]
	}
	return text
}

// described adds a description to a schema. What stands beside a $ref does not
// count in draft 7, so that goes below allOf.
func described(s object, text string) object {
	if text == "" {
		return s
	}
	if s["$ref"] != nil {
		return object{"allOf": []any{s}, "description": text}
	}
	s["description"] = text
	return s
}

// limit adds what a validate rule asks for to a schema.
func limit(s object, key, value string, kind reflect.Kind) {
	if s["$ref"] != nil {
		return
	}
	n, err := strconv.Atoi(value)
	switch {
	case key == "oneof" && kind == reflect.String:
		s["enum"] = strings.Fields(value)
	case key == "min" && err == nil && kind == reflect.Int:
		s["minimum"] = n
	case key == "max" && err == nil && kind == reflect.Int:
		s["maximum"] = n
	case key == "max" && err == nil && kind == reflect.String:
		s["maxLength"] = n
	case key == "min" && err == nil && kind == reflect.Slice:
		s["minItems"] = n
	}
}
