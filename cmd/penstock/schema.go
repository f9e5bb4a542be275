package main

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
	"github.com/spf13/cobra"
)

// schemaFile is the name under which init writes the schema, for the line
// "# yaml-language-server: $schema=" at the top of the files beside it.
const schemaFile = "penstock.schema.json"

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of definitions, for editors",
		Long: `Prints the JSON Schema (draft 7) of definition files. An editor with a YAML
language server completes and underlines with it. It knows the keys; penstock
check knows all the rest.`,
		Example: "  penstock schema > penstock/" + schemaFile,
		Args:    args(),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(schemaJSON())
			return err
		},
	}
}

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
	{workflows.KindScenario, reflect.TypeFor[workflows.Scenario]()},
}

// schemaJSON derives the schema from the structs of package workflows, so
// that it cannot know other keys than the parser.
func schemaJSON() []byte {
	g := schemaGenerator{defs: map[string]any{}}
	var kinds []string
	var choose []any
	for _, d := range documents {
		kinds = append(kinds, d.kind)
		s := g.structure(d.typ)
		s["properties"].(map[string]any)["apiVersion"] = map[string]any{"const": workflows.APIVersion}
		s["properties"].(map[string]any)["kind"] = map[string]any{"const": d.kind}
		g.defs[d.kind] = s
		choose = append(choose, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"kind": map[string]any{"const": d.kind}}, "required": []string{"kind"}},
			"then": map[string]any{"$ref": "#/definitions/" + d.kind},
		})
	}
	out, _ := json.MarshalIndent(map[string]any{ // maps, texts and numbers always encode
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "Penstock definitions " + workflows.APIVersion,
		"type": "object", "required": []string{"apiVersion", "kind", "metadata"},
		"properties":  map[string]any{"apiVersion": map[string]any{"const": workflows.APIVersion}, "kind": map[string]any{"enum": kinds}},
		"allOf":       choose,
		"definitions": g.defs,
	}, "", "  ")
	return append(out, '\n')
}

type schemaGenerator struct{ defs map[string]any }

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// of gives the schema of a type. Structs become definitions of their own.
func (g *schemaGenerator) of(t reflect.Type) any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[workflows.Expr]():
		return map[string]any{"type": []string{"string", "boolean", "number"}, "description": "CEL"}
	case reflect.TypeFor[workflows.Data](), reflect.TypeFor[any]():
		return map[string]any{}
	case reflect.TypeFor[[]*workflows.TaskAnswer]():
		one := g.of(t.Elem())
		return map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one}}}
	}
	if reflect.PointerTo(t).Implements(textType) {
		return map[string]any{"type": []string{"string", "number"}}
	}
	switch t.Kind() {
	case reflect.Struct:
		if _, known := g.defs[t.Name()]; !known {
			g.defs[t.Name()] = true // a struct that holds itself ends here
			g.defs[t.Name()] = g.structure(t)
		}
		return map[string]any{"$ref": "#/definitions/" + t.Name()}
	case reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": g.of(t.Elem())}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.of(t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	}
	return map[string]any{"type": "string"}
}

func (g *schemaGenerator) structure(t reflect.Type) map[string]any {
	properties := map[string]any{}
	var required []string
	g.fields(t, properties, &required)
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (g *schemaGenerator) fields(t reflect.Type, properties map[string]any, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			g.fields(f.Type, properties, required)
			continue
		case name == "" || name == "-":
			continue
		}
		s := g.of(f.Type)
		for rule := range strings.SplitSeq(f.Tag.Get("validate"), ",") {
			key, value, _ := strings.Cut(rule, "=")
			if key == "dive" {
				break // what follows is about the elements
			}
			if key == "required" {
				*required = append(*required, name)
			}
			limit(s, key, value, f.Type.Kind())
		}
		properties[name] = s
	}
}

// limit adds what a validate rule asks for to a schema.
func limit(schema any, key, value string, kind reflect.Kind) {
	s, ok := schema.(map[string]any)
	if !ok || s["$ref"] != nil {
		return
	}
	n, err := strconv.Atoi(value)
	switch {
	case key == "oneof":
		s["enum"] = strings.Fields(value)
	case key == "min" && err == nil && kind == reflect.Int:
		s["minimum"] = n
	case key == "max" && err == nil && kind == reflect.Int:
		s["maximum"] = n
	case key == "max" && err == nil && kind == reflect.String:
		s["maxLength"] = n
	}
}
