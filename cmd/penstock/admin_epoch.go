package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/events"
)

func (a *app) adminEpochCommand() *cobra.Command {
	var partition int
	var all, yes bool
	var reason string
	c := &cobra.Command{
		Use:   "new-epoch",
		Short: "Let partitions go on whose record was lost or changed",
		Long: `The record lies in 256 partitions. One of which records were lost or changed, by
a broken disk or an old copy, is stopped: nothing in it goes on, since it could
deploy on a forgotten approval. The others do.

Without --reason it shows which partitions are stopped, why, and what is lost as
far as the audit log tells. With --reason it has a partition go on from what
there is; what is lost, by whom and why that was accepted is in the audit log
before anything goes on (penstock audit log). Look at the runs it names, and at
what they have deployed, before they go on.`,
		Example: `  penstock admin new-epoch
  penstock admin new-epoch --partition 17 --reason "disk replaced; the runs were looked at"
  penstock admin new-epoch --all --reason "restored from the backup of Monday" --yes`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			one := cmd.Flags().Changed("partition")
			if reason != "" && one == all {
				return usagef("say which: --partition N, or --all that are stopped")
			}
			if one && (partition < 0 || partition >= events.Partitions) {
				return usagef("--partition is 0 to %d", events.Partitions-1)
			}
			var q events.NewEpoch
			if one {
				q.Partition = &partition
			}
			return a.with(cmd.Context(), func(s *session) error { return s.newEpoch(cmd.Context(), q, reason, yes) })
		},
	}
	f := c.Flags()
	f.IntVar(&partition, "partition", 0, "`NUMBER` of the partition")
	f.BoolVar(&all, "all", false, "all partitions that are stopped")
	f.StringVar(&reason, "reason", "", "`TEXT` that stands in the audit log: why it may go on")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// newEpoch shows what is stopped and, with a reason, has it go on.
func (s *session) newEpoch(ctx context.Context, q events.NewEpoch, reason string, yes bool) error {
	a := s.app
	ask := func(q events.NewEpoch) (list events.Epochs, err error) {
		_, err = s.askFor(ctx, max(a.timeout, partitionLimit), events.VerbNewEpoch, q, &list)
		return list, err
	}
	stopped, err := ask(q)
	if err != nil {
		return err
	}
	if reason == "" || len(stopped.Epochs) == 0 {
		if a.output == "json" {
			return a.printJSON(stopped)
		}
		if len(stopped.Epochs) == 0 {
			fmt.Fprintln(a.stdout, "no partition is stopped")
			return nil
		}
		printEpochs(a.stdout, stopped)
		return nil
	}
	if !yes {
		printEpochs(a.stderr, stopped)
		if !a.confirm("let " + count(len(stopped.Epochs), "partition") + " go on from what there is") {
			return &failure{exit: exitFailed, code: "not_confirmed", message: "nothing was changed"}
		}
	}
	var done events.Epochs
	for _, e := range stopped.Epochs {
		list, err := ask(events.NewEpoch{Partition: &e.Partition, Reason: reason, Confirm: true})
		if err != nil {
			return err
		}
		done.Epochs = append(done.Epochs, list.Epochs...)
	}
	if a.output == "json" {
		return a.printJSON(done)
	}
	printEpochs(a.stdout, done)
	return nil
}

func printEpochs(w io.Writer, list events.Epochs) {
	for _, e := range list.Epochs {
		what := "is stopped"
		if e.Resumed {
			what = "goes on"
		}
		fmt.Fprintf(w, "partition %d %s: %s\n", e.Partition, what, oneLine(strings.TrimPrefix(e.Stopped, fmt.Sprintf("partition %d: ", e.Partition))))
		for _, line := range e.Lost {
			fmt.Fprintf(w, "  lost   %s\n", oneLine(line))
		}
		for _, line := range e.Problems {
			fmt.Fprintf(w, "  found  %s\n", oneLine(line))
		}
	}
}
