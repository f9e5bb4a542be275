package main

import (
	"fmt"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why RUN",
		Short: "Say what a run waits for, or why it ended as it did",
		Long: `Says what a run waits for: the rule, what is there, what is missing, who can
give it and who cannot and why, and since when. For a run that has ended it
says how it came to its end.`,
		Example: `  penstock why k3f9
  penstock why k3f9 -o json | jq '.waiting[].missing'`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var why events.WhyView
				if _, err := s.ask(cmd.Context(), events.VerbWhy, events.GetRun{Run: arg[0]}, &why); err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(why)
				}
				fmt.Fprintf(a.stdout, "%s: %s\n", oneLine(why.Run.ID), paint(a.stdout, status(why.Run), oneLine(why.Short)))
				if from := origin(why.Run.Origin); from != "" {
					fmt.Fprintf(a.stdout, "  defined in %s\n", oneLine(from))
				}
				for _, line := range why.Ended {
					fmt.Fprintf(a.stdout, "  %s\n", oneLine(line))
				}
				a.printWaiting(why.Waiting)
				return nil
			})
		},
	}
}
