package parse

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// abusive gives files that would take for ever, or all memory, if nothing
// bounded them.
func abusive() map[string]string {
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
	states := func(n int, body string) string {
		var b strings.Builder
		b.WriteString("apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  initial: s0\n  states:\n")
		for i := range n {
			fmt.Fprintf(&b, "    s%d: {%s}\n", i, strings.ReplaceAll(body, "NEXT", fmt.Sprintf("s%d", i+1)))
		}
		fmt.Fprintf(&b, "    s%d: {final: succeeded}\n", n)
		return b.String()
	}
	bomb := "\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("    a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	loops := "a0 != 0"
	for i := range 9 {
		loops = fmt.Sprintf("lists.range(10).all(a%d, %s)", i, loops)
	}
	return map[string]string{
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
		"10 MB":            config(strings.Repeat("x", 10<<20)),
		"10 MB of lines":   strings.Repeat("a: [1, 2, {b: c}]\n", 600_000),
		"alias bomb":       config(bomb),
		"alias of itself":  config("&a [*a, *a, *a]"),
		"maps as keys":     config(strings.Repeat("? {a: b}\n    : ", 30_000) + "x"),
		"10,000 states":    states(10_000, "wait: {for: 1s}, next: NEXT"),
		"states, no ends":  states(10_000, "wait: {for: 1s}"),
		"states, a circle": states(10_000, "wait: {for: 1s}, transitions: [{when: run.done, to: s0}, {to: NEXT}]"),
		"states, parallel": states(2_000, "parallel: {a: {task: test, with: {repository: r, commit: '${{ run.id }}'}}}, gate: [{name: g, require: a.passed > 0}], next: NEXT, onFail: NEXT"),
		"states, members":  states(3_000, `forEach: {in: '["a"]', as: m, do: {task: command, with: {run: ['${{ m }}']}}}, next: NEXT, onFail: NEXT`),
		"full of arms":     states(999, "wait: {for: 1s}, transitions: ["+strings.Repeat("{when: 'visits(\"s1\") < 3', to: NEXT}, ", 4)+"{to: NEXT}]"),
		"full of circles":  states(900, "wait: {for: 1s}, transitions: [{when: 'visits(\"s1\") < 3', to: s1}, {when: 'outcome == \"succeeded\"', to: s0}, {to: NEXT}]"),
		"full of events":   states(999, "wait: {for: 1s}, events: [{event: a, to: s0}, {event: b, to: s1}, {event: c, when: run.done, to: s2}], next: NEXT"),
		"full of reads":    states(900, "task: command, with: {run: ['${{ s7.?exitCode.orValue(1) + s9.exitCode }}']}, next: NEXT, onFail: NEXT"),
		"invariants":       strings.Replace(states(900, "wait: {for: 1s}, next: NEXT"), "spec:", "spec:\n  invariants: ["+strings.Repeat("{never: 'entered(\"s1\") && !entered(\"s2\") && entered(\"s3\")'}, ", 100)+"]", 1),
		"arms":             strings.Replace(states(1, "wait: {for: 1s}, transitions: [ARMS{to: NEXT}]"), "ARMS", strings.Repeat("{when: run.done, to: s1}, ", 20_000), 1),
		"binds in binds":   rule(strings.Repeat("cel.bind(x, 1, ", 40) + "true" + strings.Repeat(")", 40)),
		"10^9":             rule(loops),
		"a billion":        rule("lists.range(1000000000).all(i, i >= 0)"),
		"a wide list":      rule("[" + strings.Repeat("1,", 30_000) + "1].all(x, x > 0)"),
		"a wide map":       rule("{" + strings.Repeat(`"a":1,`, 10_000) + `"b":1} != {}`),
		"words":            strings.Replace(states(1, "wait: {for: 1s}, next: NEXT"), "spec:", "spec:\n  invariants: ["+strings.Repeat("{never: '!entered(\"x\") && outcome() == \"y\"'}, ", 10_000)+"]", 1),
		"inputs":           strings.Replace(states(1, "wait: {for: 1s}, next: NEXT"), "spec:", "spec:\n  inputs: {"+many(20_000, "i%d: {type: string, pattern: '^(a{1,50}){1,20}$'}, ")+"}", 1),
		"a dear pattern":   strings.Replace(states(1, "wait: {for: 1s}, next: NEXT"), "spec:", "spec:\n  inputs: {a: {type: string, pattern: '"+strings.Repeat("(a{1,99}", 100)+strings.Repeat("){1,99}", 100)+"'}}", 1),
	}
}

// many writes a text for each number.
func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestAbuseIsRefusedSoonAndSmall reads each of them: what is refused says why,
// and neither that nor what is large and sound takes long or much memory. All
// that is allocated on the way counts, though most of it is free again at once.
// The time is generous, because machines are busy.
func TestAbuseIsRefusedSoonAndSmall(t *testing.T) {
	sound := []string{"a wide list", "a wide map", "yaml keys", "yaml list", "negations", "ors", "full of events", "invariants"}
	for name, text := range abusive() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			set, problems := Files([]File{{Name: "f.yaml", Content: []byte(text)}})
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			if took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			most := uint64(256)
			if slices.Contains(sound, name) || strings.HasPrefix(name, "full of") {
				most = 2048 // what is proved of a workflow that is as large as one can be
			}
			if allocated := (after.TotalAlloc - before.TotalAlloc) >> 20; allocated > most {
				t.Errorf("it took %d MiB", allocated)
			}
			if slices.Contains(sound, name) != (len(problems) == 0 && len(set.Documents) == 1) || len(problems) > 2*maxProblems {
				t.Errorf("%d documents, %d problems", len(set.Documents), len(problems))
			}
			for _, p := range problems {
				if p.Message == "" || p.Code == "internal" || len(p.Message) > 1000 || len(p.Hint) > 1000 {
					t.Errorf("%.200s: %.2000s", p.Code, p)
				}
			}
		})
	}
}

// TestAThousandFilesAreAllGood leaves their time to BenchmarkFiles.
func TestAThousandFilesAreAllGood(t *testing.T) {
	if testing.Short() {
		t.Skip("many files")
	}
	if set, problems := Files(thousand(t)); len(problems) > 0 || len(set.Documents) != 1004 {
		t.Fatalf("%d documents\n%s", len(set.Documents), Text(problems))
	}
}
