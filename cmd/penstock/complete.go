package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

// completeTimeout is how long a shell may wait for a list from the server.
const completeTimeout = 2 * time.Second

// completer lists what may stand as an argument; before holds the arguments
// in front of it. Each line is a value, a tab and a description.
type completer func(ctx context.Context, s *session, before []string) []string

// complete makes shell completion of positional arguments, one completer for
// each. It never prints: without a server there is nothing to complete.
func (a *app) complete(positions ...completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, before []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(before) >= len(positions) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		quiet := *a
		quiet.stdout, quiet.stderr, quiet.timeout = io.Discard, io.Discard, completeTimeout
		found := make(chan []string, 1)
		go func() { // connecting may take longer than the shell should wait
			var list []string
			_ = quiet.with(ctx, func(s *session) error {
				list = positions[len(before)](ctx, s, before)
				return nil
			})
			found <- list
		}()
		var fit []string
		select {
		case list := <-found:
			for _, line := range list {
				if strings.HasPrefix(line, prefix) {
					fit = append(fit, line)
				}
			}
		case <-ctx.Done():
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag.
func (a *app) completeFlag(c completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return a.complete(c)(cmd, nil, prefix)
	}
}

func completeRuns(ctx context.Context, s *session, _ []string) []string {
	var page events.RunList
	if _, err := s.ask(ctx, events.VerbList, events.ListRuns{Limit: 100}, &page); err != nil {
		return nil
	}
	var out []string
	for _, r := range page.Runs {
		out = append(out, r.ID+"\t"+oneLine(join(r.Workflow, status(r), r.State)))
	}
	return out
}

func completeWorkflows(ctx context.Context, s *session, _ []string) []string {
	var list events.Definitions
	if _, err := s.ask(ctx, events.VerbDefinitions, nil, &list); err != nil {
		return nil
	}
	var out []string
	for _, d := range list.Definitions {
		if d.Kind == "Workflow" {
			out = append(out, d.Name)
		}
	}
	return out
}

func completeStates(ctx context.Context, s *session, before []string) []string {
	var run events.RunView
	if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: before[0]}, &run); err != nil {
		return nil
	}
	var out []string
	seen := map[string]bool{}
	add := func(state string) {
		if !seen[state] {
			seen[state] = true
			out = append(out, state)
		}
	}
	for _, step := range run.Path {
		add(step.State)
	}
	for _, t := range run.Tasks {
		add(t.State)
	}
	return out
}

func completeApprovals(ctx context.Context, s *session, before []string) []string {
	var why events.WhyView
	if _, err := s.ask(ctx, events.VerbWhy, events.GetRun{Run: before[0]}, &why); err != nil {
		return nil
	}
	var out []string
	for _, r := range why.Waiting {
		if r.What == "approval" {
			out = append(out, r.State+"\t"+oneLine(r.Summary))
		}
	}
	return out
}

func completeEnvironments(ctx context.Context, s *session, _ []string) []string {
	var list events.Environments
	if _, err := s.ask(ctx, events.VerbEnvironments, nil, &list); err != nil {
		return nil
	}
	var out []string
	for _, e := range list.Environments {
		out = append(out, e.Name)
	}
	return out
}
