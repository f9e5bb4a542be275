package main

import (
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) definitionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "definitions [KIND]",
		Aliases: []string{"defs"},
		Short:   "List the definitions in force",
		Example: `  penstock definitions
  penstock definitions workflow -o json`,
		Args:      args("[KIND]"),
		ValidArgs: []string{"Workflow", "Environment", "Roles", "Channel", "TaskKind"},
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				list := events.Definitions{}
				if _, err := s.ask(cmd.Context(), events.VerbDefinitions, nil, &list); err != nil {
					return err
				}
				list.Definitions = slices.DeleteFunc(list.Definitions, func(d events.Definition) bool {
					return len(arg) > 0 && !strings.EqualFold(d.Kind, arg[0])
				})
				return a.printDefinitions(list)
			})
		},
	}
}

func (a *app) printDefinitions(list events.Definitions) error {
	if list.Definitions == nil {
		list.Definitions = []events.Definition{}
	}
	if a.output == "json" {
		return a.printJSON(list)
	}
	if len(list.Definitions) == 0 {
		a.note("no definitions are in force")
		a.note("hint: penstock init writes some, penstock apply -f DIR puts them in force")
		return nil
	}
	t := table{head: []string{"KIND", "NAME", "DIGEST", "FILE"}}
	for _, d := range list.Definitions {
		t.add(d.Kind, d.Name, digest(d.Digest), d.File)
	}
	t.print(a.stdout, "")
	return nil
}
