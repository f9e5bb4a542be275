package parse

import (
	"strings"
	"testing"
)

// misspelt writes a title and a condition into a file; § stands before the
// place of the field that there is not.
func misspelt(t *testing.T, name, title, condition string) {
	t.Helper()
	text := "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n" + title + "\n  inputs: {commit: {type: string}, n: {type: int}}\n  initial: a\n  states:\n    a:\n      wait: {for: 1m}\n" +
		"      transitions:\n" + condition + "\n        - {to: b}\n    b: {final: succeeded}\n"
	before, _, ok := strings.Cut(text, "§")
	if !ok {
		t.Fatalf("%s: nothing is marked", name)
	}
	line, column := 1+strings.Count(before, "\n"), len(before)-strings.LastIndex(before, "\n")
	_, problems := Files([]File{{Name: "w.yaml", Content: []byte(strings.Replace(text, "§", "", 1))}})
	if len(problems) != 1 || problems[0].Code != "unknown-field" || problems[0].Pos.Line != line || problems[0].Pos.Column != column {
		t.Errorf("%s: want one unknown field at %d:%d, got\n%s", name, line, column, Text(problems))
		return
	}
	if !strings.HasPrefix(problems[0].Message, "there is no field comit") || !strings.Contains(problems[0].Hint, "commit") {
		t.Errorf("%s: %s", name, problems[0])
	}
}

func TestAMisspeltFieldIsFoundWhereItStands(t *testing.T) {
	tests := map[string]string{
		"plain":                          `        - {when: inputs.§comit == "x", to: b}`,
		"plain behind others":            `        - {when: inputs.commit != "" && inputs.n > 0 && inputs.§comit == "x", to: b}`,
		"behind letters of two bytes":    `        - {when: inputs.commit == "é€𝄞" || inputs.§comit == "x", to: b}`,
		"single quotes":                  `        - {when: 'inputs.commit != "it''s" && inputs.§comit == ""', to: b}`,
		"double quotes":                  `        - {when: "inputs.commit != \"a\\n\" && inputs.§comit == \"\"", to: b}`,
		"double quotes, escapes":         `        - {when: "inputs.commit != '\u00e9\x41\U0001D11E' && inputs.§comit == ''", to: b}`,
		"plain over lines":               "        - when: inputs.commit != \"\"\n            && inputs.n > 0\n\n            && inputs.§comit == \"\"\n          to: b",
		"single quotes over lines":       "        - when: 'inputs.commit != \"\"\n            && inputs.n > 0\n\n            && inputs.§comit == \"\"'\n          to: b",
		"double quotes over lines":       "        - when: \"inputs.commit != ''\n            && inputs.n > 0\n\n            && inputs.§comit == ''\"\n          to: b",
		"double quotes, escaped break":   "        - when: \"inputs.commit != ''\\\n            \\ && inputs.n > 0\\\n            \\ && inputs.§comit == ''\"\n          to: b",
		"folded":                         "        - when: >-\n            inputs.commit != \"\" &&\n            inputs.§comit == \"\"\n          to: b",
		"folded, first line":             "        - when: >-\n            inputs.§comit == \"\" &&\n            inputs.commit == \"\"\n          to: b",
		"folded, kept":                   "        - when: >+\n            inputs.commit != \"\" &&\n            inputs.§comit == \"\"\n\n          to: b",
		"folded, with empty lines":       "        - when: >\n            inputs.commit != \"\" &&\n\n\n            inputs.§comit == \"\"\n          to: b",
		"folded, further in":             "        - when: >\n            inputs.commit != \"\" &&\n              inputs.n > 0 &&\n                inputs.§comit == \"\"\n          to: b",
		"folded, same line again":        "        - when: >-\n            inputs.n > 0 &&\n            inputs.n > 0 &&\n            inputs.n > 0 && inputs.§comit == \"\"\n          to: b",
		"folded, a line in another":      "        - when: >-\n            inputs.n > 0 &&\n            inputs.n > 0 && inputs.commit == \"a\" &&\n            inputs.§comit == \"a\"\n          to: b",
		"literal":                        "        - when: |\n            inputs.commit != \"\"\n            && inputs.§comit == \"\"\n          to: b",
		"literal, stripped":              "        - when: |-\n            inputs.commit != \"\"\n            && inputs.§comit == \"\"\n          to: b",
		"literal, indentation given":     "        - when: |2\n            inputs.commit != \"\"\n            && inputs.§comit == \"\"\n          to: b",
		"literal, a comment in CEL":      "        - when: |\n            // the commit\n            inputs.commit != \"\" // is there\n            && inputs.§comit == \"\"\n          to: b",
		"literal, letters of many bytes": "        - when: |\n            inputs.commit != \"é€𝄞\"\n            && \"é\" != \"\" && inputs.§comit == \"\"\n          to: b",
		"a comment behind the bar":       "        - when: | # quite so\n            inputs.§comit == \"\"\n          to: b",
		"optional":                       `        - {when: 'inputs.?§comit.orValue("") == "x"', to: b}`,
		"has":                            `        - {when: has(inputs.§comit), to: b}`,
		"within a macro":                 `        - {when: '["a"].exists(x, x == inputs.§comit)', to: b}`,
	}
	for name, condition := range tests {
		misspelt(t, name, "", condition)
	}
}

func TestAMisspeltFieldInTextIsFoundWhereItStands(t *testing.T) {
	tests := map[string]string{
		"plain":                     `  title: release ${{ inputs.§comit }}`,
		"plain over lines":          "  title: release\n    of ${{ inputs.n }}\n    ${{ inputs.§comit }}",
		"single quotes":             `  title: 'it''s ${{ inputs.commit }} and ${{ inputs.§comit }}'`,
		"double quotes":             `  title: "\"é\" \t ${{ inputs.commit }} and ${{ inputs.§comit }}"`,
		"folded":                    "  title: >-\n    release\n\n    of ${{ inputs.commit }} ${{\n    inputs.§comit }}",
		"literal":                   "  title: |\n    release ${{ inputs.commit }}\n      of ${{ inputs.§comit }}",
		"the same text before":      "  title: |\n    inputs.comit ${{ inputs.commit }}\n    inputs.comit ${{ inputs.§comit }}",
		"an expression over lines":  "  title: |\n    ${{ inputs.commit +\n        inputs.commit\n        + inputs.§comit }}",
		"behind braces of a map":    `  title: '${{ {"a": {"b": inputs.commit}}["a"]["b"] + inputs.§comit }}'`,
		"behind an escaped newline": `  title: "a\n${{ inputs.§comit }}"`,
	}
	for name, title := range tests {
		misspelt(t, name, title, "")
	}
}
