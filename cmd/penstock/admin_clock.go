package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/events"
)

func (a *app) adminClockCommand() *cobra.Command {
	var q events.AcceptClock
	accept := &cobra.Command{
		Use:   "accept",
		Short: "Say that the clocks are right, so that held timers go on",
		Long: `An engine whose clock has stepped, or which finds records that are ahead of its
clock, does not know what time it is. Until it does it holds all timers: no
approval expires there, no wait ends, no schedule fires. It goes on by itself
when the clock agrees again.

When the clock is right as it is, this says so to all engines. Time goes on
from the clock, or from the newest record where that is ahead; what is overdue
then fires at once. Look at "date" on every machine first. The reason, and who
gave it, is in the audit log.`,
		Example: `  penstock admin clock accept --reason "the clock was an hour behind since the repair; NTP has set it"`,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Reason == "" {
				return usagef("--reason is needed: why the clocks are right stands in the audit log")
			}
			return a.with(cmd.Context(), func(s *session) error { return s.acceptClock(cmd.Context(), q) })
		},
	}
	accept.Flags().StringVarP(&q.Reason, "reason", "m", "", "`TEXT` that stands in the audit log: why they are right")
	c := group("clock", "Look after the clocks of the engines", accept)
	c.Long = `What is done when an engine does not know what time it is.`
	return c
}

func (s *session) acceptClock(ctx context.Context, q events.AcceptClock) error {
	var done events.ClockAccepted
	if _, err := s.ask(ctx, events.VerbClockAccept, q, &done); err != nil {
		return err
	}
	if s.app.output == "json" {
		return s.app.printJSON(done)
	}
	for _, e := range done.Engines {
		if e.Held == "" {
			fmt.Fprintf(s.app.stdout, "engine %s: no timers were held\n", e.Instance)
			continue
		}
		fmt.Fprintf(s.app.stdout, "engine %s: timers go on; they were held: %s\n", e.Instance, oneLine(e.Held))
	}
	return nil
}
