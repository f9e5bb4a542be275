// Package generate makes definitions at random, as the text of a file that a
// check finds nothing wrong with: for tests of what must hold for every
// workflow, whatever it looks like.
//
// A generated file is complete: it has the workflow "w", the kinds of its
// tasks and people with roles. Every state can be reached, every loop is
// bounded by visits(), and every way ends.
package generate

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"
)

// People are the users of a generated file, and what they hold: li holds two
// roles, zoe none.
var People = []string{"ana", "marta", "li", "jonas", "zoe"}

// Event types that generated workflows listen for; their data has the number k.
const (
	EventGo   = "com.acme.go"   // what wait states wait for
	EventStop = "com.acme.stop" // what takes states away from their work
)

// Preamble is what every generated file begins with. Tasks of the kind job may
// be done twice, those of the kind act not. All outputs are optional.
const Preamble = `apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  users: {ana: {}, marta: {}, li: {}, jonas: {}, zoe: {}}
  roles:
    manager: {users: [ana, marta, li]}
    lead: {users: [jonas, li]}
  permissions: [{roles: [manager, lead], allow: [run.start, run.approve, run.cancel, run.pause]}]
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: job}
spec: {runs: repeatable, inputs: {name: string?}, outputs: {n: int?, name: string?}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: act}
spec: {runs: once, inputs: {name: string?}, outputs: {n: int?, name: string?}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: e1}
---
`

// Workflow gives a file with a workflow w.
func Workflow(t *rapid.T) string {
	g := &generator{t: t, states: rapid.IntRange(1, 6).Draw(t, "states")}
	var b strings.Builder
	b.WriteString(Preamble + "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  initial: s1\n")
	clean := g.chance(5)
	if clean {
		b.WriteString("  onCancel: clean\n")
	}
	b.WriteString("  states:\n")
	for i := 1; i <= g.states; i++ {
		fmt.Fprintf(&b, "    s%d:\n%s", i, indent(6, g.state(i)))
	}
	if clean {
		fmt.Fprintf(&b, "    clean:\n%s", indent(6, g.clean()))
	}
	b.WriteString("    good: {final: succeeded}\n")
	if strings.Contains(b.String(), "bad\n") || strings.Contains(b.String(), "to: bad}") {
		b.WriteString("    bad: {final: failed}\n")
	}
	if g.chance(4) {
		fmt.Fprintf(&b, "  finally:\n    - {%s}\n", g.inline(g.task(false)))
		if g.chance(3) {
			fmt.Fprintf(&b, "    - {%s}\n", g.inline(g.task(false)))
		}
	}
	return b.String()
}

// generator keeps what later states may refer to.
type generator struct {
	t      *rapid.T
	states int
	tasks  []string // states before that are a task
	undone []string // states before that have something to undo
	now    int      // the state that is being made
}

// chance is true once in n times.
func (g *generator) chance(n int) bool { return rapid.IntRange(1, n).Draw(g.t, "chance") == n }

func (g *generator) of(list ...string) string { return rapid.SampledFrom(list).Draw(g.t, "of") }

func (g *generator) number(from, to int) int { return rapid.IntRange(from, to).Draw(g.t, "number") }

// state gives what stands below a state's name.
func (g *generator) state(i int) string {
	g.now = i
	kinds := []string{"task", "task", "task", "parallel", "parallel", "forEach", "approval", "wait", "wait", "deploy", "deploy"}
	if len(g.undone) > 0 {
		kinds = append(kinds, "compensate", "compensate")
	}
	var what string
	var outcomes []string
	switch kind := g.of(kinds...); kind {
	case "task":
		undo := g.chance(3)
		defer func() { g.tasks = append(g.tasks, fmt.Sprint("s", i)) }()
		what = g.lines(g.task(undo))
		outcomes = []string{"succeeded", "failed", "timedOut"}
		if strings.HasPrefix(what, "task: act") {
			outcomes = append(outcomes, "inconclusive")
		}
		if undo {
			defer func() { g.undone = append(g.undone, fmt.Sprint("s", i)) }()
		}
	case "deploy":
		what = g.deploy(i)
		outcomes = []string{"succeeded", "failed", "timedOut", "inconclusive"}
		defer func() { g.undone = append(g.undone, fmt.Sprint("s", i)) }()
	case "parallel":
		what = g.parallel(i)
		outcomes = []string{"succeeded", "failed", "timedOut"}
	case "forEach":
		what = g.forEach(i)
		outcomes = []string{"succeeded", "failed", "timedOut"}
	case "approval":
		what = g.approval()
		outcomes = []string{"succeeded", "rejected", "expired"}
	case "wait":
		what, outcomes = g.wait()
	case "compensate":
		what = "compensate: [" + strings.Join(g.undone, ", ") + "]\n"
		if g.chance(2) {
			what = "compensate: [" + g.of(g.undone...) + "]\n"
		}
		outcomes = []string{"succeeded", "failed"}
	}
	if g.chance(4) {
		what += fmt.Sprintf("events: [{event: %s, when: event.data.k > %d, to: %s}]\n", EventStop, g.number(0, 2), g.ahead(i))
	}
	return what + g.arms(i, outcomes)
}

// lines writes the keys of a flow mapping one below the other.
func (g *generator) lines(keys string) string { return strings.ReplaceAll(keys, ", @", "\n") + "\n" }

// task gives the keys of a task, in one line; undo says whether it can be undone.
func (g *generator) task(undo bool) string {
	keys := []string{"task: " + g.of("job", "act")}
	if g.chance(3) {
		keys = append(keys, "with: {name: x}")
	}
	if g.chance(3) {
		keys = append(keys, "startTimeout: 5m")
	}
	if g.chance(3) {
		keys = append(keys, "timeout: 10m")
	}
	if g.chance(2) {
		retry := fmt.Sprintf("retry: {attempts: %d, backoff: 10s", g.number(1, 3))
		if g.chance(3) {
			retry += ", when: '" + g.of(`error.code == "again"`, "attempt < 2 || error.retryable", "10 / (attempt - 1) > 0") + "'"
		}
		keys = append(keys, retry+"}")
	}
	if undo {
		keys = append(keys, "undo: {task: "+g.of("job", "act")+g.of("", ", timeout: 5m")+"}")
	}
	return strings.Join(keys, ", @")
}

// deploy gives a deployment, in steps or in one go. All are to one environment:
// with more, a check finds that runs could wait for each other.
func (g *generator) deploy(i int) string {
	what := fmt.Sprintf("deploy: {environment: %s, artifact: v%d, strategy: %s}\n", "e1", i,
		g.of("recreate", "canary", "canary, steps: [{weight: 10}, {weight: 100}]", "canary, steps: [{pause: 1m}, {weight: 50}, {weight: 100}]"))
	for _, key := range []string{"startTimeout: 5m", "timeout: 10m", "retry: {attempts: 2, backoff: 10s}"} {
		if g.chance(3) {
			what += key + "\n"
		}
	}
	return what
}

func (g *generator) inline(keys string) string { return strings.ReplaceAll(keys, ", @", ", ") }

func (g *generator) parallel(i int) string {
	var b strings.Builder
	b.WriteString("parallel:\n")
	n, undone := g.number(1, 3), false
	for k := 1; k <= n; k++ {
		undo := g.chance(4)
		undone = undone || undo
		fmt.Fprintf(&b, "  b%d: {%s}\n", k, g.inline(g.task(undo)))
	}
	if undone {
		defer func() { g.undone = append(g.undone, fmt.Sprint("s", i)) }()
	}
	join := g.of("", "", "all", "any", "race")
	if n == 1 {
		join = ""
	}
	if join != "" {
		b.WriteString("join: " + join + "\n")
	}
	if join == "" && g.chance(2) {
		fmt.Fprintf(&b, "gate: [{name: enough, require: '%s'}]\n", g.of("b1.?n.orValue(0) > 1", "10 / b1.?n.orValue(1) > 2"))
	}
	return b.String()
}

func (g *generator) forEach(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "forEach:\n  in: '%s'\n  as: m\n", g.of(`["a", "b", "c", "d"]`, `["a", "b"]`, `["x"]`, `["a"].filter(e, e == "b")`))
	undo := g.chance(3)
	fmt.Fprintf(&b, "  do: {%s}\n", g.inline(strings.Replace(g.task(undo), "name: x", "name: '${{ m }}'", 1)))
	if undo {
		defer func() { g.undone = append(g.undone, fmt.Sprint("s", i)) }()
	}
	if g.chance(3) {
		fmt.Fprintf(&b, "  maxParallel: %d\n", g.number(1, 2))
	}
	if g.chance(2) {
		b.WriteString("  waves: " + g.of("[1, rest]", "[1, 1]", "[2]", "[rest]") + "\n")
		if g.chance(2) {
			b.WriteString("  between: {wait: 5m}\n")
		}
	}
	if g.chance(2) {
		fmt.Fprintf(&b, "  stopAfterFailures: %d\n", g.number(0, 3))
	}
	return b.String()
}

func (g *generator) approval() string {
	var keys []string
	quorum := g.chance(2)
	if quorum {
		keys = append(keys, "quorum: "+g.of("[{role: manager, count: 1}]", "[{role: manager, count: 2}]", "[{role: manager, count: 1}, {role: lead, count: 1}]", "[{role: lead, count: 2}, {role: manager, count: 1}]"))
	}
	if !quorum || g.chance(3) {
		keys = append(keys, "rule: '"+g.of(`approvals.exists(a, "lead" in a.roles)`, "size(approvals) > 1", "size(approvals) > size(rejections)", "10 / size(approvals) < 11")+"'")
	}
	if g.chance(4) {
		keys = append(keys, "reject: '"+g.of("size(rejections) > 1", `rejections.exists(r, "lead" in r.roles)`, "10 / (size(rejections) - 1) > 0")+"'")
	}
	if g.chance(4) {
		keys = append(keys, "auto: '"+g.of("run.visit > 1", g.output()+" > 1", "10 / (run.visit - 1) > 0")+"'")
	}
	if g.chance(3) {
		keys = append(keys, "exclude: ["+g.of("starter", "ana", "starter, ana")+"]")
	}
	keys = append(keys, "expires: "+g.of("1h", "24h"))
	return "approval:\n" + indent(2, strings.Join(keys, "\n")+"\n")
}

func (g *generator) wait() (what string, outcomes []string) {
	switch g.of("for", "until", "event", "event") {
	case "for":
		return "wait: {for: " + g.of("5m", "1h") + "}\n", []string{"succeeded"}
	case "until":
		return "wait: {until: " + g.of(`run.startedAt + duration("1h")`, `now + duration("10m")`, `run.startedAt - duration("1h")`) + "}\n", []string{"succeeded"}
	}
	what, outcomes = "wait: {event: "+EventGo, []string{"succeeded"}
	if g.chance(2) {
		what += fmt.Sprintf(", when: event.data.k > %d", g.number(0, 2))
	}
	if g.chance(2) {
		what, outcomes = what+", timeout: 30m", append(outcomes, "timedOut")
	}
	return what + "}\n", outcomes
}

// somewhere puts a state before this one into a format.
func (g *generator) somewhere(format string) string {
	return fmt.Sprintf(format, g.number(1, max(1, g.now-1)))
}

// output is a number that a task before may have given.
func (g *generator) output() string {
	if len(g.tasks) == 0 {
		return "run.visit"
	}
	return g.of(g.tasks...) + ".?n.orValue(0)"
}

// clean is what is done after a cancel.
func (g *generator) clean() string {
	what := g.lines(g.task(false))
	if len(g.undone) > 0 && g.chance(2) {
		what = "compensate: [" + strings.Join(g.undone, ", ") + "]\n"
	}
	return what + "next: bad\nonFail: bad\n"
}

// ahead is a state or an end behind state i.
func (g *generator) ahead(i int) string {
	k := g.number(i+1, g.states+2)
	switch {
	case k <= g.states:
		return fmt.Sprint("s", k)
	case k == g.states+1:
		return "good"
	}
	return "bad"
}

func (g *generator) after(i int) string {
	if i < g.states {
		return fmt.Sprint("s", i+1)
	}
	return "good"
}

// arms gives where a state leads: always to the one behind it, and often elsewhere.
func (g *generator) arms(i int, outcomes []string) string {
	var b strings.Builder
	if g.chance(2) {
		b.WriteString("transitions:\n")
		for range g.number(0, 2) {
			fmt.Fprintf(&b, "  - {when: '%s', to: %s}\n", g.condition(outcomes), g.ahead(i))
		}
		if g.chance(3) {
			back := g.number(1, i)
			fmt.Fprintf(&b, "  - {when: 'visits(\"s%d\") < %d && %s', to: s%d}\n", back, g.number(2, 3), g.condition(outcomes), back)
		}
		if len(outcomes) > 1 && g.chance(3) {
			fmt.Fprintf(&b, "  - {when: 'outcome == \"succeeded\" && visits(\"s%d\") > 0', to: %s}\n  - {to: bad}\n", i, g.after(i))
		} else {
			fmt.Fprintf(&b, "  - {to: %s}\n", g.after(i))
		}
		return b.String()
	}
	fmt.Fprintf(&b, "next: %s\n", g.after(i))
	left := 0 // outcomes that onFail would take
	for _, o := range outcomes[1:] {
		key := map[string]string{"rejected": "onReject", "expired": "onExpire", "timedOut": "onTimeout", "inconclusive": "onInconclusive"}[o]
		if key != "" && g.chance(3) {
			fmt.Fprintf(&b, "%s: %s\n", key, g.ahead(i))
		} else {
			left++
		}
	}
	if left == 0 || g.chance(6) {
		return b.String() // an outcome without an arm ends the run
	}
	fmt.Fprintf(&b, "onFail: %s\n", g.of("bad", g.ahead(i)))
	return b.String()
}

// condition is one of a transition. Some can err.
func (g *generator) condition(outcomes []string) string {
	outcome := g.of(outcomes...)
	here := fmt.Sprintf(" && visits(\"s%d\") > 0", g.now) // which always holds, so that a check does not see that arms behind it are for nothing
	return g.of(fmt.Sprintf("outcome == \"%s\"", outcome)+here, fmt.Sprintf("outcome != \"%s\"", outcome)+here, `error.code == "again"`, g.output()+" > 1",
		g.somewhere("visits(\"s%d\") > 1"), fmt.Sprintf("outcome == \"%s\" && 10 / (visits(\"s%d\") - 1) > 0", outcome, g.now))
}

func indent(n int, text string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+pad) + "\n"
}
