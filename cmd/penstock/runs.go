package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

// statuses is what --status takes: where a run is, or how it ended.
var statuses = []string{"running", "waiting", "done", events.Succeeded, events.Failed, events.Rejected,
	events.Expired, events.Cancelled, events.Superseded}

func (a *app) runsCommand() *cobra.Command {
	var q events.ListRuns
	var all bool
	cmd := &cobra.Command{
		Use:     "runs [WORKFLOW]",
		Aliases: []string{"list"},
		Short:   "List runs, newest first",
		Example: `  penstock runs
  penstock runs checkout-release --status waiting
  penstock runs --status failed --limit 200 -o json`,
		Args:              args("[WORKFLOW]"),
		ValidArgsFunction: a.complete(completeWorkflows),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if len(arg) > 0 {
				q.Workflow = arg[0]
			}
			if q.Limit < 1 || q.Limit > 1000 {
				return usagef("--limit %d: want 1 to 1000", q.Limit)
			}
			if q.Status != "" && !slices.Contains(statuses, q.Status) {
				return usagef("--status %q: want one of %s", q.Status, strings.Join(statuses, ", "))
			}
			return a.with(cmd.Context(), func(s *session) error {
				var page, list events.RunList
				for {
					page = events.RunList{}
					if _, err := s.ask(cmd.Context(), events.VerbList, q, &page); err != nil {
						return err
					}
					list.Runs = append(list.Runs, page.Runs...)
					if list.Next = page.Next; !all || page.Next == "" {
						return a.printRuns(list)
					}
					q.Cursor = page.Next
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Status, "status", "", "only runs that are `STATUS`: running, waiting, done, or an outcome such as failed")
	f.IntVar(&q.Limit, "limit", 50, "how many, at most 1000")
	f.StringVar(&q.Cursor, "cursor", "", "go on after the list that named this `CURSOR`")
	f.BoolVar(&all, "all", false, "all of them, however many")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) printRuns(list events.RunList) error {
	if list.Runs == nil {
		list.Runs = []events.RunView{} // a list in JSON, not null
	}
	if a.output == "json" {
		return a.printJSON(list)
	}
	if len(list.Runs) == 0 {
		a.note("no runs")
		return nil
	}
	t := table{head: []string{"RUN", "WORKFLOW", "STATUS", "STATE", "BY", "AGE", "TITLE"}}
	for _, r := range list.Runs {
		t.add(r.ID, r.Workflow, status(r), r.State, r.RequestedBy, short(a.now().Sub(r.StartedAt)), r.Title)
	}
	t.print(a.stdout, "")
	if list.Next != "" {
		a.note("hint: there are more: --cursor %s, --limit, or --all", list.Next)
	}
	return nil
}

// status is one word for where a run is: its outcome when it is done.
func status(r events.RunView) string { return cmp.Or(r.Outcome, r.Status) }
