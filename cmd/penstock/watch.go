package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

// holdFor is how long the engine is asked to hold a request for something new.
const holdFor = 10 * time.Second

func (a *app) watchCommand() *cobra.Command {
	var exitStatus bool
	cmd := &cobra.Command{
		Use:   "watch RUN",
		Short: "Follow a run from its start to its end, one line for each event",
		Long: `Prints what happened to a run, one line for each event, and goes on until the
run has ended. Exits with 7 when it ends otherwise than succeeded. With
--exit-status it stops with 6 as soon as the run waits for people.`,
		Example: `  penstock watch k3f9
  penstock watch k3f9 -o json | jq -r .type`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var run events.RunView
				if _, err := s.ask(cmd.Context(), events.VerbGet, events.GetRun{Run: arg[0]}, &run); err != nil {
					return err
				}
				return s.watch(cmd.Context(), run.ID, exitStatus)
			})
		},
	}
	cmd.Flags().BoolVar(&exitStatus, "exit-status", false, "exit with 6 when the run waits for people")
	return cmd
}

// watch prints the events of a run until it has ended, or, with stopWaiting,
// until it waits for people. What it returns is the command's exit status.
func (s *session) watch(ctx context.Context, run string, stopWaiting bool) error {
	ctx, cancel := s.app.follow(ctx)
	defer cancel()
	err := s.watchPages(ctx, run, stopWaiting)
	if ctx.Err() == nil {
		return err
	}
	goesOn := fmt.Sprintf("run %s goes on; penstock watch %s", run, run)
	if f, ok := errors.AsType[*failure](context.Cause(ctx)); ok { // --timeout
		return f.withHint("%s", goesOn)
	}
	return (&failure{exit: exitInterrupt, code: "interrupted", message: "interrupted"}).withHint("%s", goesOn)
}

// settle is how long events may come after the status that they led to.
const settle = 2 * time.Second

// watchPages reads page after page. The status is asked for before a page is
// read, so that what is read after the status of an ended run holds its end.
func (s *session) watchPages(ctx context.Context, run string, stopWaiting bool) error {
	q := events.ReadEvents{Run: run}
	for seen := false; ; {
		var view events.RunView
		if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil {
			return err
		}
		ended := view.Status == "done"
		resting := stopWaiting && view.Status == "waiting"
		switch {
		case ended && seen:
			q.Wait = 0
		case ended || resting:
			q.Wait = settle.Milliseconds()
		default:
			q.Wait = holdFor.Milliseconds()
		}
		n, finished, err := s.printPage(ctx, &q)
		if err != nil {
			return err
		}
		seen = seen || finished
		if n == 0 && (ended || resting) {
			return runStatus(view, stopWaiting)
		}
	}
}

// printPage prints one page and moves the cursor of q behind it. finished
// says that it held the end of the run.
func (s *session) printPage(ctx context.Context, q *events.ReadEvents) (n int, finished bool, err error) {
	var page events.EventPage
	limit := s.app.limit() + time.Duration(q.Wait)*time.Millisecond
	if _, err := s.askFor(ctx, limit, events.VerbEvents, *q, &page); err != nil {
		return 0, false, err
	}
	for i := range page.Events {
		e := &page.Events[i]
		finished = finished || e.Type == events.RunFinished
		if err := s.app.printEvent(e, false); err != nil {
			return n, finished, err
		}
	}
	q.After = max(q.After, page.Next)
	return len(page.Events), finished, nil
}

// printEvent prints an event: as a line of JSON, or for people. What only
// repeats another event's news is left out for people.
func (a *app) printEvent(e *events.Event, withRun bool) error {
	if a.output == "json" {
		return a.printLine(e)
	}
	if !withRun && (e.Type == events.TaskQueued || e.Type == events.StateEntered) {
		return nil
	}
	_, err := fmt.Fprintln(a.stdout, a.eventLine(e, withRun))
	return err
}
