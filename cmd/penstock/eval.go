package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

// evalFlags are the flags of penstock eval.
type evalFlags struct {
	run, file, scenario, at, environment string
}

func (a *app) evalCommand() *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval EXPRESSION",
		Short: "Try an expression on a run, or on a scenario",
		Long: `Evaluates a CEL expression and shows its value, and the value of each part. It
may read everything that expressions of the workflow may read in any position;
--environment adds what the rules of that environment read.

With --run it is evaluated by the server on what the run knows now. With --file
a scenario is played, without a server, and the expression is evaluated at its
end, or --at a time after its start; definitions are read from the folder of the
file.`,
		Example: `  penstock eval 'verify.test.passed >= 9 * verify.test.failed' --run k3f9
  penstock eval 'approvals.map(a, a.user)' --file penstock/release_test.yaml --at 90m
  penstock eval 'run.authors' --file penstock/release_test.yaml --scenario 'second approver'`,
		Args: args("EXPRESSION"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if (f.run == "") == (f.file == "") {
				return usagef("penstock eval needs --run RUN or --file SCENARIO, one of them").withHint("%s", cmd.UseLine())
			}
			if f.run != "" && (f.at != "" || f.scenario != "") {
				return usagef("--at and --scenario go with --file")
			}
			if f.file != "" {
				return a.evalScenario(f, arg[0])
			}
			return a.with(cmd.Context(), func(s *session) error {
				var out events.Evaluation
				if _, err := s.ask(cmd.Context(), events.VerbEval, events.EvalRun{Run: f.run, Expression: arg[0], Environment: f.environment}, &out); err != nil {
					return err
				}
				return a.printEvaluation(out)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.run, "run", "", "evaluate on this `RUN`")
	flags.StringVar(&f.file, "file", "", "evaluate on a scenario of this `FILE`")
	flags.StringVar(&f.scenario, "scenario", "", "which one, where the file has several: a part of its `NAME`")
	flags.StringVar(&f.at, "at", "", "this `DURATION` after the start of the scenario (default: at its end)")
	flags.StringVar(&f.environment, "environment", "", "as the rules of this `ENVIRONMENT` see it: env, artifact")
	_ = cmd.RegisterFlagCompletionFunc("run", a.complete(completeRuns))
	return cmd
}

func (a *app) evalScenario(f evalFlags, expression string) error {
	until := workflows.Duration(-1)
	if f.at != "" {
		var err error
		if until, err = workflows.ParseDuration(f.at); err != nil {
			return usagef("--at: %s", err)
		}
	}
	info, err := os.Stat(f.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usagef("%s: there is no such file", f.file)
	case err != nil || info.IsDir():
		return usagef("%s: --file wants a file with a scenario", f.file)
	}
	files, err := a.definitionFiles([]string{filepath.Dir(f.file)})
	if err != nil {
		return err
	}
	set, problems := parse.Files(files)
	name := filepath.ToSlash(filepath.Clean(f.file))
	s, err := chosen(set.Catalog(), name, f.scenario)
	if err != nil {
		if parse.Failed(problems) {
			return a.printChecked(files, set, problems)
		}
		return err
	}
	c := set.Catalog()
	if f.environment != "" && c.Environments[f.environment] == nil {
		return usagef("there is no environment %q", f.environment)
	}
	p, problems := parse.Expression(c, c.Workflows[s.Spec.Workflow], expression)
	if p == nil {
		out := events.Evaluation{}
		for _, problem := range problems {
			out.Problems = append(out.Problems, parse.Caret(problem))
		}
		return a.printEvaluation(out)
	}
	out, err := scenario.PlayUntil(c, s, time.Duration(until)).Evaluate(p, f.environment)
	if err != nil {
		return usagef("%s", err)
	}
	return a.printEvaluation(out)
}

// chosen finds the one scenario of a file whose name has a part.
func chosen(c *workflows.Catalog, file, part string) (*workflows.Scenario, error) {
	var list []*workflows.Scenario
	var names []string
	for _, s := range c.Scenarios {
		if filepath.ToSlash(filepath.Clean(s.Origin.Pos.File)) == file && strings.Contains(s.Metadata.Name, part) {
			list, names = append(list, s), append(names, s.Metadata.Name)
		}
	}
	if i := slices.Index(names, part); i >= 0 {
		return list[i], nil
	}
	switch {
	case len(list) == 1:
		return list[0], nil
	case len(list) > 1:
		return nil, usagef("%s has several scenarios: %s", file, strings.Join(names, "; ")).withHint("--scenario NAME says which one")
	case part != "":
		return nil, usagef("%s has no scenario %q", file, part)
	}
	return nil, usagef("%s has no scenario", file)
}

// printEvaluation shows a value, and below it the values of its parts.
func (a *app) printEvaluation(e events.Evaluation) error {
	if len(e.Problems) > 0 {
		return &failure{exit: exitUsage, code: "invalid", message: "this is not an expression here: " + clean(strings.Join(e.Problems, "\n"))}
	}
	if a.output == "json" {
		if err := a.printJSON(e); err != nil {
			return err
		}
	} else {
		if e.Error == "" {
			fmt.Fprintln(a.stdout, whole(e.Value))
		}
		t := table{head: []string{"PART", "VALUE"}}
		for _, p := range e.Parts {
			v := whole(p.Value)
			if p.Error != "" {
				v = "error: " + p.Error
			}
			if p.Depth > 0 || e.Error != "" {
				t.rows = append(t.rows, []string{strings.Repeat("  ", p.Depth) + oneLine(p.Source), v})
			}
		}
		if e.Error == "" && len(t.rows) > 0 {
			fmt.Fprintln(a.stdout)
		}
		if len(t.rows) > 0 {
			t.print(a.stdout, "")
		}
	}
	if e.Error != "" {
		f := &failure{exit: exitFailed, code: "rule_error", message: "the expression has no value: " + clean(e.Error)}
		if name, ok := strings.CutPrefix(e.Error, "no such attribute(s): "); ok && (name == "env" || name == "artifact") {
			return f.withHint("--environment ENVIRONMENT: %s is what the rules of an environment read", name)
		}
		return f
	}
	return nil
}
