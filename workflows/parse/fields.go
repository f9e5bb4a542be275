package parse

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// fields gives the keys of a struct and the index of the field of each.
func fields(t reflect.Type) map[string][]int {
	if known, ok := fieldCache.Load(t); ok {
		return known.(map[string][]int)
	}
	out := map[string][]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			for key, index := range fields(f.Type) {
				out[key] = append([]int{i}, index...)
			}
		case name != "" && name != "-":
			out[name] = []int{i}
		}
	}
	fieldCache.Store(t, out)
	return out
}

var fieldCache sync.Map // reflect.Type → map[string][]int

func (d *decoder) structure(at, n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.wrong(at, n, path, "a mapping with "+listed(slices.Sorted(maps.Keys(fields(v.Type())))), "")
		return
	}
	known := fields(v.Type())
	for key, value := range d.pairs(n, path) {
		at := workflows.Join(path, key.Value)
		index, ok := known[key.Value]
		if !ok {
			d.unknownKey(n, key, v.Type(), at)
			continue
		}
		d.places[at] = place{key: key, value: value}
		field := v.FieldByIndex(index)
		if isNull(value) && field.Kind() == reflect.Pointer {
			d.fault(value, at, "empty-value", key.Value+" has no value", "give it one, or leave the key out")
			continue
		}
		d.value(value, field, at)
	}
}

func (d *decoder) unknownKey(parent, key *yaml.Node, t reflect.Type, path string) {
	keys := slices.Sorted(maps.Keys(fields(t)))
	hint := "known here: " + strings.Join(keys, ", ")
	if near := workflows.Nearest(key.Value, keys); near != "" {
		hint = "did you mean " + near + "?"
	}
	if parent.Style&yaml.FlowStyle != 0 && slices.ContainsFunc(parent.Content, func(n *yaml.Node) bool { return isExprKey(n.Value) }) &&
		strings.ContainsAny(key.Value, "()[]\"'&|=<> ") {
		hint = "a comma ends a value in { … }: " + quoteHint
	}
	d.fault(key, path, "unknown-key", fmt.Sprintf("unknown key %s", key.Value), hint)
}

// exprKeys are the keys that hold CEL.
var exprKeys = []string{"when", "require", "warn", "rule", "expression", "reject", "auto", "pass", "fail", "until", "never", "in"}

func isExprKey(key string) bool { return slices.Contains(exprKeys, key) }

const quoteHint = "write the expression in quotes, or on the next line after >-"

var exprLine = regexp.MustCompile(`(?:^|[\s{,-])(?:when|require|warn|rule|expression|reject|auto|pass|fail|until|never|in)\s*:\s*[^\s>|'{]`)

// syntaxHint says what to do about a line that YAML cannot read.
func syntaxHint(line string) string {
	switch {
	case exprLine.MatchString(line):
		return quoteHint
	case strings.Contains(line, "${{"):
		return "put text that holds ${{ … }} in quotes"
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "indent with spaces, not with tabs"
	}
	return ""
}

// listed joins words for people: "a, b and c".
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
