package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

// testFlags are the flags of penstock test.
type testFlags struct {
	run      string
	verbose  bool
	junit    string
	coverMin int
	generate bool
	out      string
	mutate   bool
	strict   bool
}

func (a *app) testCommand() *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test FILE|DIR|-...",
		Short: "Play the scenarios of workflows, without a server",
		Long: `Plays scenarios: tests of workflows, in virtual time, on the core that decides
in the engine. Needs no server. Says what differs from what was expected, how
the run went, and how much of each workflow its scenarios came through.

Exits with 0 when all scenarios pass, with 1 when one fails or --cover-min is
not reached, and with 2 when the files are not valid.

--generate looks for transitions that no scenario takes and writes scenarios
that take them. --mutate changes the rules one by one and tells which changes
no scenario notices; with --strict it exits with 1 when there is one.`,
		Example: `  penstock test penstock/
  penstock test penstock/ -v --run 'second approver'
  penstock test penstock/ --cover-min 90 --junit report.xml
  penstock test penstock/ --generate --out penstock/generated_test.yaml
  penstock test penstock/ --mutate`,
		Args: func(cmd *cobra.Command, arg []string) error {
			if len(arg) == 0 {
				return usagef("penstock test needs FILE, DIR or -").withHint("penstock test penstock/")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, arg []string) error { return a.test(f, arg) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.run, "run", "", "only scenarios whose \"workflow: name\" matches `REGEX`")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "tell of each scenario how it went, and what is not covered")
	flags.StringVar(&f.junit, "junit", "", "write a JUnit report to `FILE` too")
	flags.IntVar(&f.coverMin, "cover-min", 0, "fail when less than `PERCENT` of a workflow is covered")
	flags.BoolVar(&f.generate, "generate", false, "write scenarios for transitions that are not covered")
	flags.StringVar(&f.out, "out", "", "where --generate writes: `FILE`, which must not be there yet (default: stdout)")
	flags.BoolVar(&f.mutate, "mutate", false, "change rules one by one and tell what no scenario notices")
	flags.BoolVar(&f.strict, "strict", false, "with --mutate: fail when a change is not noticed")
	return cmd
}

func (f *testFlags) check() (*regexp.Regexp, error) {
	switch {
	case f.coverMin < 0 || f.coverMin > 100:
		return nil, usagef("--cover-min %d: a percentage is from 0 to 100", f.coverMin)
	case f.out != "" && !f.generate:
		return nil, usagef("--out is where --generate writes; give both")
	case f.strict && !f.mutate:
		return nil, usagef("--strict goes with --mutate")
	case f.generate && f.mutate:
		return nil, usagef("--generate and --mutate are two things; give one of them")
	}
	if _, err := os.Stat(f.out); f.out != "" && err == nil {
		return nil, usagef("%s is there already; it is not overwritten", f.out)
	}
	only, err := regexp.Compile(f.run)
	if err != nil {
		return nil, usagef("--run %q is not a regular expression: %s", f.run, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return only, nil
}

// tested is what came of a test.
type tested struct {
	catalog  *workflows.Catalog
	results  []*scenario.Result // in the order of the files
	coverage []*scenario.Coverage
	failed   int

	mutants   int // that were tried
	survivors []*scenario.Mutant
}

func (a *app) test(f testFlags, arg []string) error {
	only, err := f.check()
	if err != nil {
		return err
	}
	files, err := a.definitionFiles(arg)
	if err != nil {
		return err
	}
	set, problems := parse.Files(files)
	if parse.Failed(problems) {
		return a.printChecked(files, set, problems)
	}
	t := playAll(set.Catalog(), only)
	if f.generate {
		t.uncovered()
		return a.generate(f, t)
	}
	if n := len(set.Catalog().Scenarios); len(t.results) == 0 && n > 0 {
		return usagef("--run %q fits none of the %s in %s", f.run, count(n, "scenario"), strings.Join(arg, ", ")).
			withHint(`it is compared with "workflow: name"; penstock test -v lists them`)
	}
	if len(t.results) == 0 {
		return usagef("there is no scenario in %s", strings.Join(arg, ", ")).withHint("a scenario is a document of kind Scenario; penstock init writes one")
	}
	if f.mutate && t.failed == 0 {
		t.tryMutants()
	}
	if f.junit != "" {
		if err := writeJUnit(f.junit, t); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return a.testJSON(f, t)
	}
	if err := a.testText(f, t); err != nil {
		return err
	}
	return t.verdict(f)
}

// playAll plays the scenarios whose names fit on all processors; the results
// are in the order of the files.
func playAll(c *workflows.Catalog, only *regexp.Regexp) *tested {
	var list []*workflows.Scenario
	for _, s := range c.Scenarios {
		if only.MatchString(s.Spec.Workflow + ": " + s.Metadata.Name) {
			list = append(list, s)
		}
	}
	t := &tested{catalog: c, results: make([]*scenario.Result, len(list))}
	onAll(len(list), func(i int) { t.results[i] = scenario.Play(c, list[i]) })
	byName := map[string]*scenario.Coverage{}
	for _, r := range t.results {
		name := r.Scenario.Spec.Workflow
		if byName[name] == nil {
			byName[name] = scenario.NewCoverage(c, name)
			t.coverage = append(t.coverage, byName[name])
		}
		byName[name].Add(r)
		if !r.Passed() {
			t.failed++
		}
	}
	slices.SortFunc(t.coverage, func(a, b *scenario.Coverage) int { return strings.Compare(a.Workflow, b.Workflow) })
	return t
}

// uncovered adds the workflows that have no scenario yet.
func (t *tested) uncovered() {
	for name := range t.catalog.Workflows {
		if !slices.ContainsFunc(t.coverage, func(c *scenario.Coverage) bool { return c.Workflow == name }) {
			t.coverage = append(t.coverage, scenario.NewCoverage(t.catalog, name))
		}
	}
	slices.SortFunc(t.coverage, func(a, b *scenario.Coverage) int { return strings.Compare(a.Workflow, b.Workflow) })
}

// onAll calls do for 0 … n-1 on all processors.
func onAll(n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}

// verdict is the failure of the command, if it is one.
func (t *tested) verdict(f testFlags) error {
	if t.failed > 0 {
		return &failure{exit: exitFailed, code: "failed", message: fmt.Sprintf("%d of %s failed", t.failed, count(len(t.results), "scenario"))}
	}
	if f.strict && len(t.survivors) > 0 {
		return &failure{exit: exitFailed, code: "unnoticed", message: fmt.Sprintf("%s in the rules that no scenario notices", count(len(t.survivors), "change"))}
	}
	var below []string
	for _, c := range t.coverage {
		if p := percent(c.Count("")); p < f.coverMin {
			below = append(below, fmt.Sprintf("%s %d %%", c.Workflow, p))
		}
	}
	if len(below) > 0 {
		fail := &failure{exit: exitFailed, code: "uncovered", message: fmt.Sprintf("less than %d %% is covered: %s", f.coverMin, strings.Join(below, ", "))}
		if !f.verbose {
			return fail.withHint("-v tells what is not covered; --generate writes scenarios")
		}
		return fail
	}
	return nil
}

func percent(some, all int) int {
	if all == 0 {
		return 100
	}
	return 100 * some / all
}

// testText tells people what came of it.
func (a *app) testText(f testFlags, t *tested) error {
	for _, r := range t.results {
		switch {
		case !r.Passed():
			a.printFailed(r)
		case f.verbose:
			fmt.Fprintf(a.stdout, "%s  %s: %s (%s)\n", paint(a.stdout, "ok", "ok  "), r.Scenario.Spec.Workflow, oneLine(r.Scenario.Metadata.Name), endText(r))
			a.printStory(r, "        ")
		}
	}
	covered := table{head: []string{"WORKFLOW", "SCENARIOS", "PASSED", "STATES", "TRANSITIONS", "RULES", "COVERED"}}
	for _, c := range t.coverage {
		passed := 0
		for _, r := range t.results {
			if r.Scenario.Spec.Workflow == c.Workflow && r.Passed() {
				passed++
			}
		}
		covered.add(c.Workflow, fmt.Sprint(c.Scenarios), fmt.Sprint(passed), ofText(c.Count(scenario.SortState)),
			ofText(c.Count(scenario.SortTransition)), ofText(c.Count(scenario.SortRule)), fmt.Sprintf("%d%%", percent(c.Count(""))))
	}
	covered.print(a.stdout, "")
	if f.verbose {
		a.printUncovered(t)
	}
	if f.mutate && t.failed == 0 {
		a.printMutants(t)
	}
	return nil
}

// generate writes scenarios for transitions that none takes yet. They go to
// stdout or to a file, what is told of them to stderr.
func (a *app) generate(f testFlags, t *tested) error {
	var b bytes.Buffer
	n, left := 0, 0
	for _, c := range t.coverage {
		var list []*workflows.Scenario
		for _, r := range t.results {
			if r.Scenario.Spec.Workflow == c.Workflow {
				list = append(list, r.Scenario)
			}
		}
		for _, g := range scenario.Generate(t.catalog, c.Workflow, list, onAll) {
			p, err := parse.EncodeScenario(g.Scenario)
			if err != nil {
				return err
			}
			if n++; n > 1 {
				b.WriteString("---\n")
			}
			b.Write(p)
			c.Add(scenario.Play(t.catalog, g.Scenario))
		}
		for _, it := range c.Items {
			if !it.Covered && it.Sort != scenario.SortRule {
				left++
				a.note("%s: found no scenario for %s %s", it.Pos, it.Sort, oneLine(it.Name))
			}
		}
	}
	switch {
	case n == 0 && left == 0:
		a.note("every state and transition is covered")
		return nil
	case n == 0:
		return &failure{exit: exitFailed, code: "failed", message: "no scenario was found"}
	case f.out == "":
		_, err := a.stdout.Write(b.Bytes())
		return err
	}
	file, err := os.OpenFile(f.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = file.Write(b.Bytes())
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return &failure{exit: exitFailed, code: "failed", message: err.Error()}
	}
	a.note("wrote %s to %s", count(n, "scenario"), f.out)
	return nil
}

func ofText(some, all int) string { return fmt.Sprintf("%d/%d", some, all) }

// endText is how a run ended, and when.
func endText(r *scenario.Result) string {
	switch {
	case r.At == "":
		return "not started"
	case r.Outcome == "":
		return "waits in " + r.At + " after " + trimTime(r.Took)
	}
	return r.Outcome + " after " + trimTime(r.Took)
}

// trimTime is a virtual time: exact, without parts that are nought.
func trimTime(d time.Duration) string {
	return trimZero(trimZero(d.String(), "0s"), "0m")
}

func (a *app) printFailed(r *scenario.Result) {
	fmt.Fprintf(a.stdout, "%s  %s: %s (%s)\n", paint(a.stdout, "problem", "FAIL"), r.Scenario.Spec.Workflow, oneLine(r.Scenario.Metadata.Name), r.Scenario.Origin.Pos)
	for _, f := range r.Failures {
		fmt.Fprintf(a.stdout, "  %s: %s\n", f.Pos, oneLine(f.Text))
		for _, line := range diff(f.Want, f.Got) {
			word := map[byte]string{'-': "ok", '+': "problem"}[line[0]]
			fmt.Fprintf(a.stdout, "      %s\n", paint(a.stdout, word, clean(line)))
		}
	}
	fmt.Fprintf(a.stdout, "  how it went:\n")
	a.printStory(r, "      ")
	if len(r.Waiting) > 0 {
		fmt.Fprintf(a.stdout, "  what it waits for:\n")
		for _, reason := range r.Waiting {
			fmt.Fprintf(a.stdout, "      %s: %s\n", oneLine(reason.State), oneLine(reason.Summary))
		}
	}
	fmt.Fprintln(a.stdout)
}

// storyLines is how much of a story is shown.
const storyLines = 200

// printStory tells what happened, each line with its virtual time.
func (a *app) printStory(r *scenario.Result, indent string) {
	for i, m := range r.Story {
		if i == storyLines {
			fmt.Fprintf(a.stdout, "%s… %d more\n", indent, len(r.Story)-i)
			return
		}
		state, text, w := m.Event.Data.State, m.Text, ""
		if m.Event.Type != "" {
			e := &events.Event{Type: m.Event.Type}
			text, w = describe(e, &m.Event.Data), word(e, &m.Event.Data)
			if text == "" {
				text = events.ShortType(m.Event.Type)
			}
		}
		if m.Run != "" {
			state = m.Run + "." + state
		}
		if state == "" {
			state = "-"
		}
		fmt.Fprintf(a.stdout, "%s+%-10s  %-14s  %s\n", indent, trimTime(m.At), oneLine(state), paint(a.stdout, w, oneLine(text)))
	}
}

// tryMutants changes the rules of each workflow one by one and plays its
// scenarios until one notices.
func (t *tested) tryMutants() {
	for _, c := range t.coverage {
		var list []*workflows.Scenario
		for _, r := range t.results {
			if r.Scenario.Spec.Workflow == c.Workflow {
				list = append(list, r.Scenario)
			}
		}
		mutants := scenario.Mutants(t.catalog, c.Workflow)
		noticed := make([]bool, len(mutants))
		onAll(len(mutants), func(i int) { noticed[i] = mutants[i].Noticed(list) })
		t.mutants += len(mutants)
		for i, m := range mutants {
			if !noticed[i] {
				t.survivors = append(t.survivors, m)
			}
		}
	}
}

func (a *app) printMutants(t *tested) {
	fmt.Fprintf(a.stdout, "\n%s to the rules, %d noticed\n", count(t.mutants, "change"), t.mutants-len(t.survivors))
	if len(t.survivors) > 0 {
		fmt.Fprintln(a.stdout, "no scenario notices:")
	}
	for _, m := range t.survivors {
		fmt.Fprintf(a.stdout, "  %s: %s\n", m.Pos, oneLine(m.What))
	}
}

func (a *app) printUncovered(t *tested) {
	for _, c := range t.coverage {
		first := true
		for _, it := range c.Items {
			if it.Covered {
				continue
			}
			if first {
				fmt.Fprintf(a.stdout, "\n%s, not covered:\n", c.Workflow)
				first = false
			}
			fmt.Fprintf(a.stdout, "  %s: %s %s\n", it.Pos, it.Sort, oneLine(it.Name))
		}
	}
}

// diff lines two lists up: "  same", "- wanted", "+ got".
func diff(want, got []string) []string {
	common := make([][]int, len(want)+1) // of the rests from i and j on: the longest list that both hold
	for i := range common {
		common[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); want[i] == got[j] {
				common[i][j] = 1 + common[i+1][j+1]
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			out = append(out, "  "+want[i])
			i, j = i+1, j+1
		case i < len(want) && (j == len(got) || common[i+1][j] >= common[i][j+1]):
			out = append(out, "- "+want[i])
			i++
		default:
			out = append(out, "+ "+got[j])
			j++
		}
	}
	return out
}

// testJSON writes all of it for programs.
func (a *app) testJSON(f testFlags, t *tested) error {
	if err := a.printJSON(reportOf(t)); err != nil {
		return err
	}
	return t.verdict(f)
}

// writeJUnit writes a report that continuous integration systems read.
func writeJUnit(name string, t *tested) error {
	p, err := junit(t)
	if err == nil {
		err = os.WriteFile(name, p, 0o644)
	}
	if err != nil {
		return &failure{exit: exitFailed, code: "failed", message: fmt.Sprintf("the report cannot be written: %s", err)}
	}
	return nil
}
