package main

import (
	"context"
	"fmt"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) pauseCommand() *cobra.Command {
	var p events.PauseRun
	cmd := &cobra.Command{
		Use:   "pause RUN",
		Short: "Pause a run: nothing new begins",
		Long: `Pauses a run. Nothing new begins: no state is entered, no task is given to a
worker, nothing is tried again. What runs finishes, people may approve and
reject, and the time of an approval goes on.`,
		Example:           `  penstock pause k3f9 --reason "the incident first"`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.order(cmd.Context(), events.VerbPause, arg[0], "paused", func(run string) any {
				p.ID, p.Run = commandID(), run
				return p
			})
		},
	}
	cmd.Flags().StringVarP(&p.Reason, "reason", "m", "", "`TEXT` that is recorded with it")
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	var p events.PauseRun
	cmd := &cobra.Command{
		Use:               "resume RUN",
		Short:             "Let a paused run go on",
		Long:              `Lets a paused run go on from where it is.`,
		Example:           `  penstock resume k3f9`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.order(cmd.Context(), events.VerbResume, arg[0], "resumed", func(run string) any {
				p.ID, p.Run = commandID(), run
				return p
			})
		},
	}
	cmd.Flags().StringVarP(&p.Reason, "reason", "m", "", "`TEXT` that is recorded with it")
	return cmd
}

func (a *app) retryCommand() *cobra.Command {
	var r events.RetryRun
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "Let a run that has ended, or is held, begin again",
		Long: `Lets a run begin again at a state: the same run, with the definition that it
was started with and the results that it has. It must have ended, or be held by
a rule that cannot be evaluated. Without --from it begins at the last state that
it was in and that is no end. What that state needs must be there, and no
approval and no gate on the way there is passed over.`,
		Example: `  penstock retry k3f9
  penstock retry k3f9 --from staging --reason "the cluster is back"`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.order(cmd.Context(), events.VerbRetry, arg[0], "retried", func(run string) any {
				r.ID, r.Run = commandID(), run
				return r
			})
		},
	}
	cmd.Flags().StringVar(&r.From, "from", "", "`STATE` to begin at")
	cmd.Flags().StringVarP(&r.Reason, "reason", "m", "", "`TEXT` that is recorded with it")
	return cmd
}

// order gives a command to a run, once, and says that it was done.
func (a *app) order(ctx context.Context, verb, prefix, done string, request func(run string) any) error {
	return a.with(ctx, func(s *session) error {
		var run events.RunView
		if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: prefix}, &run); err != nil {
			return err
		}
		answer, err := s.ask(ctx, verb, request(run.ID), nil)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(map[string]any{"run": run.ID, "record": answer.Record, "status": answer.Status})
		}
		fmt.Fprintf(a.stdout, "%s %s (record %d)\n", done, oneLine(run.ID), answer.Record)
		a.note("hint: penstock watch %s shows how it goes on", run.ID)
		return nil
	})
}
