package main

import (
	"fmt"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) cancelCommand() *cobra.Command {
	var c events.CancelRun
	cmd := &cobra.Command{
		Use:   "cancel RUN",
		Short: "Cancel a run",
		Long: `Cancels a run. Tasks that run are told to stop, a deployment that has begun is
undone, and what the workflow does finally is done.`,
		Example:           `  penstock cancel k3f9 --reason "wrong commit"`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var run events.RunView
				if _, err := s.ask(cmd.Context(), events.VerbGet, events.GetRun{Run: arg[0]}, &run); err != nil {
					return err
				}
				c.ID, c.Run = commandID(), run.ID
				answer, err := s.ask(cmd.Context(), events.VerbCancel, c, nil)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(map[string]any{"run": run.ID, "record": answer.Record, "status": answer.Status})
				}
				fmt.Fprintf(a.stdout, "cancelled %s (record %d)\n", oneLine(run.ID), answer.Record)
				a.note("hint: penstock watch %s shows how it stops", run.ID)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&c.Reason, "reason", "m", "", "`TEXT` that is recorded with it")
	return cmd
}
