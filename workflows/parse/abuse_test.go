package parse

import (
	"fmt"
	"strings"
	"testing"
)

// TestAbuseEnds reads what would take for ever, or all memory, if nothing
// bounded it. That it ends is the test.
func TestAbuseEnds(t *testing.T) {
	var distinct, keys, list strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&distinct, "${{ x%d }}é", i)
		fmt.Fprintf(&keys, "k%d: é, ", i)
		list.WriteString("é,")
	}
	rule := func(e string) string {
		return "apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec:\n  require:\n    - name: r\n      expression: |\n        " + e + "\n"
	}
	config := func(v string) string {
		return "apiVersion: penstock/v1\nkind: Environment\nmetadata: {name: e}\nspec:\n  config:\n    v: " + v + "\n"
	}
	channel := func(v string) string {
		return "apiVersion: penstock/v1\nkind: Channel\nmetadata: {name: c}\nspec:\n  templates:\n    v: '" + v + "'\n"
	}
	files := map[string]string{
		"parentheses":      rule(strings.Repeat("(", 50_000)),
		"brackets":         rule(strings.Repeat("[", 50_000)),
		"balanced":         rule(strings.Repeat("(", 20_000) + "1" + strings.Repeat(")", 20_000)),
		"negations":        rule(strings.Repeat("!", 50_000) + "run.done"),
		"sums":             rule(strings.Repeat("1+", 25_000) + "1 > 0"),
		"ternaries":        rule(strings.Repeat("run.done ? true : ", 3_000) + "false"),
		"selects":          rule("run" + strings.Repeat(".a", 25_000)),
		"maps":             rule(strings.Repeat("{1:", 15_000)),
		"macros":           rule(strings.Repeat("[1].all(x, ", 4_000) + "true" + strings.Repeat(")", 4_000)),
		"ors":              rule(strings.Repeat("run.done || ", 5_000) + "false"),
		"long":             rule(strings.Repeat("x", 900_000)),
		"regex":            rule(`run.id.matches("` + strings.Repeat("(a{1,99}", 100) + strings.Repeat("){1,99}", 100) + `")`),
		"distinct":         channel(distinct.String()),
		"open expressions": channel(strings.Repeat("${{", 300_000)),
		"same expressions": channel(strings.Repeat("${{ x }}", 100_000)),
		"yaml flow":        config(strings.Repeat("[", 400_000)),
		"yaml maps":        config(strings.Repeat("{a: ", 200_000)),
		"yaml list":        config("[" + list.String() + "]"),
		"yaml keys":        config("{" + keys.String() + "}"),
		"yaml tags":        config("[" + strings.Repeat("!x é,", 100_000) + "]"),
		"unknown keys":     strings.Replace(config("1"), "spec:", "spec: {"+keys.String()+"}\n#", 1),
		"documents":        strings.Repeat("a\n---\n", 100_000),
		"question marks":   config(strings.Repeat("? ", 200_000)),
		"dashes":           config("\n" + strings.Repeat("- ", 200_000)),
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			if set, problems := Files([]File{{Name: "f.yaml", Content: []byte(text)}}); len(set.Documents) == 0 && len(problems) == 0 {
				t.Error("neither a document nor a problem")
			}
		})
	}
}
