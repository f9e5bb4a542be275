package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
	"github.com/spf13/cobra"
)

// shownDefinition is the output of show as JSON.
type shownDefinition struct {
	events.DefinitionText
	Expanded bool `json:"expanded"`
}

func (a *app) showCommand() *cobra.Command {
	var expanded bool
	var name string
	cmd := &cobra.Command{
		Use:   "show WORKFLOW|FILE|DIR|-",
		Short: "Print a workflow, as it is written or written out",
		Long: `Prints the definition of a workflow: as it is written, or with --expanded as it
is understood. That is YAML which still reads back and means the same, with
what stands in no file marked by a comment that begins with +: defaults, arms
as transitions with their outcomes, the steps of a deployment, a quorum and who
can fill it, and what the environments and policies require that apply.

Of a file it needs no server; what is in other files is then not known, so name
the folder. A name is that of a workflow in force.`,
		Example: `  penstock show release
  penstock show penstock/ --expanded
  penstock show penstock/ --name release --expanded | less`,
		Args:              args("WORKFLOW|FILE|DIR|-"),
		ValidArgsFunction: a.complete(completeWorkflows),
		RunE: func(cmd *cobra.Command, arg []string) error {
			w, set, err := a.workflowFrom(cmd.Context(), arg[0], name)
			if err != nil {
				return err
			}
			shown := shownDefinition{DefinitionText: textOf(set, w), Expanded: expanded}
			if expanded {
				if shown.Text, err = writtenOut(set, w); err != nil {
					return err
				}
			}
			if a.output == "json" {
				return a.printJSON(shown)
			}
			a.printShown(shown)
			return nil
		},
	}
	cmd.Flags().BoolVar(&expanded, "expanded", false, "write out what is short, and what is not written at all")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the workflow, where a file holds several")
	return cmd
}

func documentIn(set *parse.Set, w *workflows.Workflow) parse.Document {
	for _, d := range set.Documents {
		if d.Kind == workflows.KindWorkflow && d.Name == w.Metadata.Name {
			return d
		}
	}
	return parse.Document{} // unreachable: what is in the catalog of a set is in the set
}

func textOf(set *parse.Set, w *workflows.Workflow) events.DefinitionText {
	d := documentIn(set, w)
	return events.DefinitionText{Definition: events.Definition{Kind: d.Kind, Name: d.Name, Digest: d.Digest, File: d.Origin.Pos.File,
		Source: d.Origin.Source, Commit: d.Origin.Commit, Author: d.Origin.Author}, Line: d.Origin.Pos.Line, Text: string(d.Source)}
}

func writtenOut(set *parse.Set, w *workflows.Workflow) (string, error) {
	out, err := parse.Annotate(documentIn(set, w), workflows.Expand(set.Catalog(), w))
	return string(out), err
}

// printShown prints a definition under a comment that says what it is.
func (a *app) printShown(d shownDefinition) {
	from := cmp.Or(d.File, "stdin")
	if d.Line > 1 {
		from += fmt.Sprintf(":%d", d.Line)
	}
	if d.Source != "" {
		from += ", of " + d.Source
	}
	fmt.Fprintf(a.stdout, "# Workflow %s, %s, from %s\n", oneLine(d.Name), digest(d.Digest), oneLine(from))
	if d.Commit != "" || d.Author != "" {
		fmt.Fprintf(a.stdout, "# %s\n", oneLine(join(prefixed("commit ", d.Commit), prefixed("by ", d.Author))))
	}
	if d.Expanded {
		fmt.Fprintf(a.stdout, "# As it is understood: what begins with %q stands in no file.\n", strings.TrimSpace(parse.Added))
	}
	fmt.Fprint(a.stdout, clean(d.Text))
}
