package main

import (
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

// kinds is what a definition can be.
var kinds = []string{"Workflow", "Environment", "Policy", "Roles", "Channel", "TaskKind", "Scenario"}

func (a *app) definitionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "definitions [KIND]",
		Aliases: []string{"defs"},
		Short:   "List the definitions in force",
		Long: `Lists the definitions in force, with where each came from: folder: and a path,
or the address of a Git repository, which the server watches; apply: and a name
for what somebody applied. COMMIT is the last one that changed the file, and
AUTHOR who wrote that, or who applied it.`,
		Example: `  penstock definitions
  penstock definitions workflow -o json`,
		Args:      args("[KIND]"),
		ValidArgs: kinds,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if len(arg) > 0 && !slices.ContainsFunc(kinds, func(k string) bool { return strings.EqualFold(k, arg[0]) }) {
				return usagef("there is no kind %q; the kinds are %s", arg[0], strings.Join(kinds, ", "))
			}
			return a.with(cmd.Context(), func(s *session) error {
				list := events.Definitions{}
				if _, err := s.ask(cmd.Context(), events.VerbDefinitions, nil, &list); err != nil {
					return err
				}
				list.Definitions = slices.DeleteFunc(list.Definitions, func(d events.Definition) bool {
					return len(arg) > 0 && !strings.EqualFold(d.Kind, arg[0])
				})
				return a.printDefinitions(list, len(arg) > 0)
			})
		},
	}
}

// printDefinitions shows list; some says that it may leave out other kinds.
func (a *app) printDefinitions(list events.Definitions, some bool) error {
	if list.Definitions == nil {
		list.Definitions = []events.Definition{}
	}
	if a.output == "json" {
		return a.printJSON(list)
	}
	if len(list.Definitions) == 0 && some {
		a.note("no definitions of that kind are in force")
		return nil
	}
	if len(list.Definitions) == 0 {
		a.note("no definitions are in force")
		a.note("hint: penstock init writes some, penstock apply -f DIR puts them in force")
		return nil
	}
	t := table{head: []string{"KIND", "NAME", "DIGEST", "FILE", "SOURCE", "COMMIT", "AUTHOR"}}
	for _, d := range list.Definitions {
		t.add(d.Kind, d.Name, digest(d.Digest), d.File, d.Source, commit(d.Commit), d.Author)
	}
	t.print(a.stdout, "")
	return nil
}
