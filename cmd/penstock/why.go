package main

import (
	"fmt"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) whyCommand() *cobra.Command {
	var at int64
	cmd := &cobra.Command{
		Use:   "why RUN",
		Short: "Say what a run waits for, or why it went where it went",
		Long: `Says what a run waits for: each rule with the values that it read, what is
there, what is missing, what is left to be decided, who can give it and who
cannot and why, and until when. For a run that has ended it says how it came to
its end.

With --at it explains one record, of a run that has ended too: what came in,
every condition that was evaluated on what it read then, and where the run
went. penstock audit show RUN lists the records.`,
		Example: `  penstock why k3f9
  penstock why k3f9 --at 14
  penstock why k3f9 -o json | jq '.waiting[].missing'`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if cmd.Flags().Changed("at") && at < 1 {
				return usagef("records are numbered from 1")
			}
			return a.with(cmd.Context(), func(s *session) error {
				var why events.WhyView
				if _, err := s.ask(cmd.Context(), events.VerbWhy, events.GetRun{Run: arg[0], At: at}, &why); err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(why)
				}
				a.printWhy(why)
				return nil
			})
		},
	}
	cmd.Flags().Int64Var(&at, "at", 0, "explain the record with this `NUMBER`")
	return cmd
}

func (a *app) printWhy(why events.WhyView) {
	if why.At != nil {
		a.printRecordWhy(why)
		return
	}
	fmt.Fprintf(a.stdout, "%s %s: %s\n", oneLine(why.Run.ID), oneLine(why.Run.Title), paint(a.stdout, status(why.Run), oneLine(why.Short)))
	if from := origin(why.Run.Origin); from != "" {
		fmt.Fprintf(a.stdout, "  defined in %s\n", oneLine(from))
	}
	for _, line := range why.Ended {
		fmt.Fprintf(a.stdout, "  %s\n", oneLine(line))
	}
	for _, r := range why.Waiting {
		a.printReason(r)
	}
	if len(why.Ended) > 0 {
		a.note("penstock why %s --at NUMBER says why it went where it went; the last of its records is %d", why.Run.ID, why.Run.Records)
	}
}

// printReason is one thing that a run waits for, with its rules in full.
func (a *app) printReason(r events.WaitReason) {
	fmt.Fprintf(a.stdout, "\n%s: %s\n", oneLine(r.State), paint(a.stdout, "waiting", oneLine(r.Summary)))
	for _, rule := range r.Rules {
		a.printRule(rule)
	}
	list := func(name string, lines []string) {
		for i, line := range lines {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(a.stdout, "  %-9s%s\n", name, oneLine(line))
		}
	}
	if len(r.Rules) == 0 {
		list("rule:", nonEmpty(r.Rule))
		list("missing:", r.Missing)
	}
	list("have:", r.Have)
	list("can:", nonEmpty(strings.Join(r.Can, ", ")))
	list("cannot:", r.Cannot)
	list("since:", nonEmpty(a.moment(r.Since, "ago")))
	list("until:", nonEmpty(a.moment(r.Until, "left")))
	list("content:", nonEmpty(r.Content))
	list("try:", r.Next)
}

// verdict says how a rule stands.
func verdict(r events.RuleReason) string {
	switch {
	case r.Error != "":
		return "cannot be evaluated"
	case r.Value == true:
		return "holds"
	case r.Value == false:
		return "does not hold"
	}
	return value(r.Value)
}

// ruleMeanings say what the conditions of an approval are for.
var ruleMeanings = map[string]string{"auto": "where it holds, nobody needs to approve", "reject": "where it holds, rejections end it"}

// printRule shows a rule: how it stands, what it read, what it needs.
func (a *app) printRule(r events.RuleReason) {
	word := verdict(r)
	colour := map[string]string{"holds": "ok", "does not hold": "waiting"}[word]
	if r.Error != "" {
		colour = "problem"
	}
	name := r.Name
	if meaning := ruleMeanings[name]; meaning != "" {
		name += " (" + meaning + ")"
	}
	fmt.Fprintf(a.stdout, "  %s %s", oneLine(name), paint(a.stdout, colour, word))
	if r.Missing != "" {
		fmt.Fprintf(a.stdout, ": %s", oneLine(r.Missing))
	}
	fmt.Fprintf(a.stdout, "\n    %s\n", oneLine(r.Source))
	if r.Error != "" {
		fmt.Fprintf(a.stdout, "    error: %s\n", oneLine(r.Error))
	}
	a.printParts(r.Parts)
	if r.Residual != "" && r.Value != true && r.Residual != r.Source {
		fmt.Fprintf(a.stdout, "    still to be decided: %s\n", oneLine(r.Residual))
	}
	if r.At != "" {
		fmt.Fprintf(a.stdout, "    in %s, %s\n", oneLine(r.Of), oneLine(r.At))
	}
}

// maxRuleParts is how many parts of a rule are shown; -o json has them all.
const maxRuleParts = 12

// printParts shows what the parts of a rule gave, the whole left aside.
func (a *app) printParts(parts []events.EvaluationPart) {
	shown := 0
	for _, p := range parts {
		if p.Depth == 0 {
			continue
		}
		if shown++; shown > maxRuleParts {
			fmt.Fprintf(a.stdout, "      … %d more parts; -o json has them\n", len(parts)-1-maxRuleParts)
			return
		}
		v := brief(p.Value)
		if p.Error != "" {
			v = "error: " + oneLine(p.Error)
		}
		fmt.Fprintf(a.stdout, "    %s%s = %s\n", strings.Repeat("  ", p.Depth), oneLine(p.Source), v)
	}
}

// printRecordWhy says why a record says what it says.
func (a *app) printRecordWhy(why events.WhyView) {
	at := why.At
	fmt.Fprintf(a.stdout, "%s %s, record %d of %s\n", oneLine(why.Run.ID), oneLine(why.Run.Title), at.Record, stamp(at.Time))
	fmt.Fprintf(a.stdout, "  %s\n", oneLine(at.Cause))
	if at.Answer != "" {
		fmt.Fprintf(a.stdout, "  %s\n", paint(a.stdout, "refused", oneLine(at.Answer)))
	}
	section := func(name string, some bool) {
		if some {
			fmt.Fprintf(a.stdout, "\n%s\n", name)
		}
	}
	section("What was decided:", len(at.Decisions) > 0)
	for _, r := range at.Decisions {
		a.printRule(r)
	}
	section("What happened:", len(at.Happened) > 0)
	for _, line := range at.Happened {
		fmt.Fprintf(a.stdout, "  %s\n", oneLine(line))
	}
	section("What it waited for then:", len(why.Waiting) > 0)
	for _, r := range why.Waiting {
		fmt.Fprintf(a.stdout, "  %s: %s\n", oneLine(r.State), oneLine(r.Summary))
	}
}
