package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/spf13/cobra"
)

func (a *app) eventsCommand() *cobra.Command {
	c := group("events", "Publish and follow events", a.publishCommand(), a.followCommand())
	c.Aliases = []string{"event"}
	return c
}

func (a *app) followCommand() *cobra.Command {
	var o bus.FollowOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "follow",
		Short: "Follow what happens, one line for each event",
		Long: `Prints what happens from now on, one line for each event, until it is stopped;
nothing is missed after a lost connection. With -o json each line is the event
itself, a CloudEvent in structured JSON.

--type takes full types or short ones (run.finished); a final * stands for any
rest (approval.*). --all begins with the oldest event that is kept.`,
		Example: `  penstock events follow
  penstock events follow --type 'approval.*' --type run.finished
  penstock events follow --run k3f9 -o json | jq .data`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all && o.After > 0 {
				return usagef("--all and --after both say where to begin; give one of them")
			}
			return a.with(cmd.Context(), func(s *session) error { return s.followEvents(cmd.Context(), o, all) })
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Types, "type", nil, "only events of this `TYPE`; may be repeated")
	f.StringVar(&o.Run, "run", "", "only events of this `RUN`")
	f.StringVar(&o.Workflow, "workflow", "", "only events of runs of this `WORKFLOW`")
	f.StringVar(&o.Environment, "environment", "", "only events of this `ENVIRONMENT`")
	f.Uint64Var(&o.After, "after", 0, "begin after this `CURSOR`")
	f.BoolVar(&all, "all", false, "begin with the oldest event that is kept")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(shortTypes(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("run", a.completeFlag(completeRuns))
	_ = cmd.RegisterFlagCompletionFunc("workflow", a.completeFlag(completeWorkflows))
	return cmd
}

func shortTypes() []string {
	var out []string
	for _, t := range events.Types() {
		out = append(out, events.ShortType(t))
	}
	return out
}

func (s *session) followEvents(ctx context.Context, o bus.FollowOptions, all bool) error {
	if o.Run != "" { // the whole id of an abbreviated one
		var run events.RunView
		if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: o.Run}, &run); err != nil {
			return err
		}
		o.Run = run.ID
	}
	ctx, cancel := s.app.follow(ctx)
	defer cancel()
	if all {
		after, err := s.printKept(ctx, o)
		if err != nil {
			return s.followEnd(ctx, err)
		}
		o.After = after
	}
	return s.followEnd(ctx, s.conn.Follow(ctx, o, func(_ context.Context, e *events.Event) error {
		return s.app.printEvent(e, true)
	}))
}

// followEnd gives the reason why a context of follow ended.
func (s *session) followEnd(ctx context.Context, err error) error {
	if f, ok := errors.AsType[*failure](context.Cause(ctx)); ok {
		return f
	}
	return err
}

// printKept prints the events that are kept and gives the cursor behind them.
func (s *session) printKept(ctx context.Context, o bus.FollowOptions) (uint64, error) {
	q := events.ReadEvents{Run: o.Run, Types: o.Types}
	for {
		var page events.EventPage
		if _, err := s.ask(ctx, events.VerbEvents, q, &page); err != nil {
			return 0, err
		}
		for i := range page.Events {
			e := &page.Events[i]
			if !fits(o, e) {
				continue
			}
			if err := s.app.printEvent(e, true); err != nil {
				return 0, err
			}
		}
		if page.Next <= q.After {
			return q.After, nil
		}
		q.After = page.Next
	}
}

// fits reports whether an event is of the workflow and environment that are
// asked for; type and run the engine has looked at.
func fits(o bus.FollowOptions, e *events.Event) bool {
	if o.Workflow == "" && o.Environment == "" {
		return true
	}
	h, err := events.DecodeHappening(e)
	if err != nil || !strings.HasPrefix(e.Type, events.TypePrefix) {
		return false
	}
	return (o.Workflow == "" || h.Workflow == o.Workflow) &&
		(o.Environment == "" || h.Environment == o.Environment || slices.Contains(h.Environments, o.Environment))
}
