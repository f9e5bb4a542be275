package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/graph"
	"github.com/spf13/cobra"
)

// drawings are the formats that graph knows.
var drawings = map[string]func(*workflows.Workflow, graph.Trace) string{"mermaid": graph.Mermaid, "dot": graph.DOT, "svg": graph.SVG}

// drawn is the output of graph as JSON.
type drawn struct {
	Workflow string `json:"workflow"`
	Format   string `json:"format"`
	Run      string `json:"run,omitempty"`
	Text     string `json:"text"`
}

func (a *app) graphCommand() *cobra.Command {
	var format, run, name string
	cmd := &cobra.Command{
		Use:   "graph [WORKFLOW|FILE|DIR|-]",
		Short: "Draw a workflow as Mermaid, DOT or SVG",
		Long: `Draws a workflow: its states, where they lead and on which outcome. Of a file
it needs no server, and the file need not be sound. A name is that of a
workflow in force. With --run the way of the run is marked, and where it is;
the drawing is then of the definition that the run was started with.

Mermaid shows as a picture on many forges and wikis, in a block marked mermaid.
SVG is a picture that stands alone, for light and dark pages.`,
		Example: `  penstock graph release.yaml
  penstock graph release --format svg > release.svg
  penstock graph --run k3f9 --format svg > k3f9.svg
  penstock graph release.yaml --format dot | dot -Tpng > release.png`,
		Args:              args("[WORKFLOW|FILE|DIR|-]"),
		ValidArgsFunction: a.complete(completeWorkflows),
		RunE: func(cmd *cobra.Command, arg []string) error {
			draw := drawings[format]
			if draw == nil {
				return usagef("--format %q: penstock graph knows mermaid, dot, svg", format)
			}
			if len(arg) == 0 && run == "" {
				return usagef("penstock graph needs WORKFLOW, FILE, DIR or -, or --run RUN").withHint("%s", cmd.UseLine())
			}
			w, trace, err := a.toDraw(cmd.Context(), strings.Join(arg, ""), run, name)
			if err != nil {
				return err
			}
			text := draw(w, trace)
			if a.output == "json" {
				return a.printJSON(drawn{Workflow: w.Metadata.Name, Format: format, Run: trace.Run, Text: text})
			}
			fmt.Fprint(a.stdout, text)
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "mermaid", "`FORMAT`: mermaid, dot or svg")
	cmd.Flags().StringVar(&run, "run", "", "mark the way of this `RUN`")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the workflow, where a file holds several")
	_ = cmd.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"mermaid", "dot", "svg"}, cobra.ShellCompDirectiveNoFileComp
	})
	_ = cmd.RegisterFlagCompletionFunc("run", a.completeFlag(completeRuns))
	return cmd
}

// toDraw gives the workflow that is meant and the way of the run, if one is named.
func (a *app) toDraw(ctx context.Context, arg, run, name string) (w *workflows.Workflow, t graph.Trace, err error) {
	if run == "" {
		w, _, err = a.workflowFrom(ctx, arg, name)
		return w, t, err
	}
	var view events.RunView
	err = a.with(ctx, func(s *session) error {
		if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil {
			return err
		}
		if arg != "" && isFile(arg) {
			return nil
		}
		if arg != "" && arg != view.Workflow {
			return usagef("run %s is one of %s, not of %s", view.ID, view.Workflow, arg)
		}
		w, err = s.pinned(ctx, view)
		return err
	})
	if err == nil && w == nil {
		w, _, err = a.workflowFrom(ctx, arg, name)
	}
	if err != nil {
		return nil, t, err
	}
	return w, traceOf(view), nil
}

// traceOf is the way of a run.
func traceOf(r events.RunView) graph.Trace {
	t := graph.Trace{Run: r.ID}
	for _, s := range r.Path {
		t.Path = append(t.Path, s.State)
	}
	if r.Status == "done" {
		if r.State != "" && !slices.Contains(t.Path, r.State) {
			t.Path = append(t.Path, r.State)
		}
		return t
	}
	t.Current = r.State
	return t
}
