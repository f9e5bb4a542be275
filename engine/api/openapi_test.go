package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// described is the document that is served, as plain JSON.
func described(t *testing.T) map[string]any {
	t.Helper()
	w := call(t, New(options(&fake{})), "", "GET /openapi.json", "")
	if got := w.Header().Get("Content-Type"); w.Code != 200 || got != "application/openapi+json" {
		t.Fatalf("%d %s", w.Code, got)
	}
	var doc map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func describedPaths(t *testing.T) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for path, item := range described(t)["paths"].(map[string]any) {
		out[path] = item.(map[string]any)
	}
	return out
}

// walk calls visit for every object below v, with its place.
func walk(v any, place string, visit func(place string, o map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(place, v)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			walk(v[k], place+"/"+k, visit)
		}
	case []any:
		for i, e := range v {
			walk(e, fmt.Sprintf("%s/%d", place, i), visit)
		}
	}
}

func TestTheDescriptionIsOpenAPI31AndHoldsTogether(t *testing.T) {
	doc := described(t)
	if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1.") {
		t.Errorf("openapi %q", v)
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	used := map[string]bool{}
	walk(doc, "#", func(place string, o map[string]any) {
		ref, ok := o["$ref"].(string)
		if !ok {
			return
		}
		name, local := strings.CutPrefix(ref, "#/components/schemas/")
		if !local || schemas[name] == nil {
			t.Errorf("%s: reference %s leads nowhere", place, ref)
		}
		used[name] = true
	})
	for name := range schemas {
		if !used[name] {
			t.Errorf("schema %s is used by nothing", name)
		}
	}
}

func TestTheDescriptionHasEveryRoute(t *testing.T) {
	paths := describedPaths(t)
	for route := range routes {
		method, path, _ := strings.Cut(strings.Replace(route, "/r1", "/{run}", 1), " ")
		path, _, _ = strings.Cut(path, "?")
		if path != "/nowhere" && paths[path][strings.ToLower(method)] == nil {
			t.Errorf("%s is not described", route)
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/openapi.json"} {
		if paths[path]["get"] == nil {
			t.Errorf("%s is not described", path)
		}
	}
}

func TestEveryOperationIsDescribedInFull(t *testing.T) {
	seen := map[string]bool{}
	for path, item := range describedPaths(t) {
		for method, v := range item {
			op, place := v.(map[string]any), method+" "+path
			id, _ := op["operationId"].(string)
			if id == "" || seen[id] {
				t.Errorf("%s: operation id %q", place, id)
			}
			seen[id] = true
			for _, key := range []string{"summary", "description", "tags"} {
				if op[key] == nil {
					t.Errorf("%s has no %s", place, key)
				}
			}
			params, _ := op["parameters"].([]any)
			hasRun := false
			for _, p := range params {
				p := p.(map[string]any)
				if p["description"] == nil || p["description"] == "" {
					t.Errorf("%s: parameter %v has no description", place, p["name"])
				}
				hasRun = hasRun || p["name"] == "run" && p["in"] == "path" && p["required"] == true
			}
			if strings.Contains(path, "{run}") != hasRun {
				t.Errorf("%s: the run of the path is not a parameter", place)
			}
			bodies(t, place, op)
		}
	}
}

// bodies checks that every body of an operation has a schema, and those of
// success an example.
func bodies(t *testing.T, place string, op map[string]any) {
	t.Helper()
	good := false
	if req, ok := op["requestBody"].(map[string]any); ok {
		content(t, place+" request", req, true)
	}
	for status, v := range op["responses"].(map[string]any) {
		resp := v.(map[string]any)
		if resp["description"] == nil || resp["description"] == "" {
			t.Errorf("%s: response %s has no description", place, status)
		}
		ok := strings.HasPrefix(status, "2")
		good = good || ok
		content(t, place+" "+status, resp, ok)
	}
	if !good {
		t.Errorf("%s has no response of success", place)
	}
}

func content(t *testing.T, place string, holder map[string]any, wantExample bool) {
	t.Helper()
	media, _ := holder["content"].(map[string]any)
	if len(media) == 0 {
		t.Errorf("%s has no content", place)
	}
	for name, v := range media {
		m := v.(map[string]any)
		if m["schema"] == nil || wantExample && m["example"] == nil {
			t.Errorf("%s: %s has no schema or no example", place, name)
		}
	}
}

func TestEveryFieldIsDescribed(t *testing.T) {
	schemas := described(t)["components"].(map[string]any)["schemas"].(map[string]any)
	for name, v := range schemas {
		s := v.(map[string]any)
		if s["description"] == nil {
			t.Errorf("schema %s has no description", name)
		}
		properties, _ := s["properties"].(map[string]any)
		for field, p := range properties {
			if d, _ := p.(map[string]any)["description"].(string); d == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
		for field := range fieldMeanings[name] {
			if properties[field] == nil {
				t.Errorf("%s.%s is described and not there", name, field)
			}
		}
	}
	for name := range fieldMeanings {
		if schemas[name] == nil {
			t.Errorf("%s is described and not there", name)
		}
	}
}

func TestExamplesHaveOnlyFieldsThatThereAre(t *testing.T) {
	doc := described(t)
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	checked := 0
	walk(doc["paths"], "#/paths", func(place string, o map[string]any) {
		schema, _ := o["schema"].(map[string]any)
		ref, _ := schema["$ref"].(string)
		value, _ := o["example"].(map[string]any)
		s, _ := schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any)
		if s == nil || value == nil {
			return
		}
		checked++
		properties := s["properties"].(map[string]any)
		for field := range value {
			if properties[field] == nil {
				t.Errorf("%s: the example has %s, which %s has not", place, field, ref)
			}
		}
		required, _ := s["required"].([]any)
		for _, field := range required {
			if value[field.(string)] == nil {
				t.Errorf("%s: the example lacks %s", place, field)
			}
		}
	})
	if checked < 15 {
		t.Errorf("only %d examples were found", checked)
	}
}

func TestPublicRoutesSayThatTheyTakeNoToken(t *testing.T) {
	doc := described(t)
	if doc["security"] == nil {
		t.Fatal("the API does not say that it takes a token")
	}
	for path, item := range describedPaths(t) {
		for method, v := range item {
			route := strings.ToUpper(method) + " " + path
			security, own := v.(map[string]any)["security"].([]any)
			free := own && slices.ContainsFunc(security, func(s any) bool { return len(s.(map[string]any)) == 0 })
			if want := slices.Contains(public, route) || route == "GET /metrics"; free != want {
				t.Errorf("%s: without a token %t, want %t", route, free, want)
			}
		}
	}
}
