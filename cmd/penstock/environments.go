package main

import (
	"fmt"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) environmentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "environments",
		Aliases: []string{"environment", "env"},
		Short:   "List environments: what is deployed there, who has the lock, who waits",
		Example: `  penstock environments
  penstock environments -o json | jq '.environments[] | {name, url}'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if len(arg) > 0 {
				return unknownCommand(cmd, arg[0])
			}
			return a.with(cmd.Context(), func(s *session) error {
				list := events.Environments{Environments: []events.EnvironmentView{}}
				if _, err := s.ask(cmd.Context(), events.VerbEnvironments, nil, &list); err != nil {
					return err
				}
				return a.printEnvironments(list)
			})
		},
	}
	cmd.AddCommand(a.freeCommand())
	return cmd
}

func (a *app) printEnvironments(list events.Environments) error {
	if a.output == "json" {
		return a.printJSON(list)
	}
	if len(list.Environments) == 0 {
		a.note("no environments are defined")
		return nil
	}
	t := table{head: []string{"ENVIRONMENT", "DEPLOYED", "BY RUN", "AGE", "URL", "LOCK", "WAITING", "CLOSED"}}
	for _, e := range list.Environments {
		age := ""
		if e.At != nil {
			age = short(a.now().Sub(*e.At))
		}
		t.add(e.Name, digest(e.Artifact), e.Run, age, e.URL, e.Holder, strings.Join(e.Queue, ","), closedText(e))
	}
	t.print(a.stdout, "")
	return nil
}

// closedText says why an environment lets nothing in, and until when.
func closedText(e events.EnvironmentView) string {
	if e.Closed == "" || e.Until == nil {
		return e.Closed
	}
	return e.Closed + ", until " + stamp(*e.Until)
}

func (a *app) freeCommand() *cobra.Command {
	f := events.FreeEnvironment{}
	cmd := &cobra.Command{
		Use:   "free ENVIRONMENT",
		Short: "Take the lock from a run that ended without knowing what it left there",
		Long: `Takes the lock of an environment from a run that has ended and does not know
what it left there, so that the next run may deploy. Look at the environment
first: what is wrong there stays wrong. The decision is on record.`,
		Example:           `  penstock environments free production --reason "checked by hand, the old release runs"`,
		Args:              args("ENVIRONMENT"),
		ValidArgsFunction: a.complete(completeEnvironments),
		RunE: func(cmd *cobra.Command, arg []string) error {
			f.ID, f.Environment = commandID(), arg[0]
			return a.with(cmd.Context(), func(s *session) error {
				answer, err := s.ask(cmd.Context(), events.VerbEnvFree, f, nil)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(map[string]any{"environment": f.Environment, "record": answer.Record, "status": answer.Status})
				}
				fmt.Fprintf(a.stdout, "%s is free (record %d)\n", oneLine(f.Environment), answer.Record)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&f.Reason, "reason", "m", "", "`TEXT` that is recorded with it")
	return cmd
}
