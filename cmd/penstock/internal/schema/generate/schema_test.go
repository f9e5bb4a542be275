package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const root = "../../../../.."

func generated(t *testing.T) []byte {
	t.Helper()
	m, err := readMeanings(filepath.Join(root, "workflows"))
	if err != nil {
		t.Fatal(err)
	}
	return schema(m)
}

func TestTheCommittedSchemaIsFresh(t *testing.T) {
	committed, err := os.ReadFile("../penstock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(committed, generated(t)) {
		t.Error("run go generate ./cmd/penstock/internal/schema")
	}
}

func TestEveryKeySaysWhatItMeansAndWhetherItIsEvaluated(t *testing.T) {
	m, err := readMeanings(filepath.Join(root, "workflows"))
	if err != nil {
		t.Fatal(err)
	}
	g := generator{meanings: m, defs: object{}}
	for _, d := range documents {
		g.of(d.typ)
	}
	if len(g.defs) < 40 {
		t.Errorf("only %d definitions", len(g.defs))
	}
	for name, def := range g.defs {
		for key, property := range def.(object)["properties"].(object) {
			if text, _ := property.(object)["description"].(string); text == "" {
				t.Errorf("the key %s of %s has no comment: write one in package workflows", key, name)
			}
		}
	}
	for name, def := range g.defs {
		for key, property := range def.(object)["properties"].(object) {
			p := property.(object)
			types, several := p["type"].([]string)
			isExpr := several && reflect.DeepEqual(types, []string{"string", "boolean", "number"})
			if text, _ := p["description"].(string); isExpr && !strings.HasPrefix(text, "CEL") {
				t.Errorf("%s of %s is CEL and does not say so: %s", key, name, text)
			}
		}
	}
}

// What editors know is draft 7: they take newer words for mistakes, or not at all.
func TestTheSchemaKeepsToTheWordsOfDraft7(t *testing.T) {
	for _, word := range []string{"$defs", "unevaluatedProperties", "prefixItems", "dependentRequired", "dependentSchemas", "$anchor", "$dynamicRef", "minContains", "deprecated"} {
		if bytes.Contains(generated(t), []byte(`"`+word+`":`)) {
			t.Errorf("the schema has %s", word)
		}
	}
}
