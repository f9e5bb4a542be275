package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) runCommand() *cobra.Command {
	var inputs []string
	var file, id string
	var wait, exitStatus bool
	cmd := &cobra.Command{
		Use:   "run WORKFLOW",
		Short: "Start a run of a workflow",
		Long: `Starts a run of a workflow.

--input gives an input as text. The server reads it by the type that the
workflow declares: text for a string, JSON for everything else (--input
replicas=3, --input 'regions=["eu","us"]'). --inputs reads all of them from a
JSON file, "-" is stdin; --input goes before it.

With --wait the command follows the run to its end and exits with 7 when it
ends otherwise than succeeded. With --exit-status it also stops, with 6, as
soon as the run waits for people. --id makes the start repeatable: a second
start with the same id is the same run.`,
		Example: `  penstock run release --input commit=$(git rev-parse HEAD)
  penstock run release --inputs inputs.json --wait
  penstock run release --input commit=$SHA --id ci-$BUILD_NUMBER --wait --exit-status --timeout 30m`,
		Args:              args("WORKFLOW"),
		ValidArgsFunction: a.complete(completeWorkflows),
		RunE: func(cmd *cobra.Command, arg []string) error {
			values, err := a.readInputs(file, inputs)
			if err != nil {
				return err
			}
			if id == "" {
				id = record.Derive(commandID())
			}
			start := events.StartRun{ID: id, Workflow: arg[0], Inputs: values}
			return a.with(cmd.Context(), func(s *session) error {
				var run events.RunView
				answer, err := s.ask(cmd.Context(), events.VerbStart, start, &run)
				if err != nil {
					return err
				}
				if wait || exitStatus {
					a.startedNote(answer, run)
					return s.watch(cmd.Context(), run.ID, exitStatus)
				}
				return a.started(answer, run)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&inputs, "input", "i", nil, "an input as `NAME=VALUE`; may be repeated")
	f.StringVar(&file, "inputs", "", "JSON `FILE` with inputs, - for stdin")
	f.StringVar(&id, "id", "", "`ID` of the run; the same id is the same run (default: a new one)")
	f.BoolVarP(&wait, "wait", "w", false, "follow the run to its end")
	f.BoolVar(&exitStatus, "exit-status", false, "like --wait, and exit with 6 when the run waits for people")
	return cmd
}

func (a *app) started(answer events.Answer, run events.RunView) error {
	if a.output == "json" {
		return a.printJSON(run)
	}
	a.startedNote(answer, run)
	fmt.Fprintln(a.stdout, run.ID)
	a.note("hint: penstock watch %s", run.ID)
	return nil
}

func (a *app) startedNote(answer events.Answer, run events.RunView) {
	verb := "started"
	if answer.Status == events.StatusAlready {
		verb = "was started before:"
	}
	a.note("%s run %s of %s", verb, oneLine(run.ID), oneLine(run.Workflow))
}

// readInputs reads the JSON object in file, if any, and puts the NAME=VALUE
// pairs over it, as text.
func (a *app) readInputs(file string, pairs []string) (map[string]any, error) {
	inputs := map[string]any{}
	if file != "" {
		p, err := a.readFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(p, &inputs); err != nil {
			return nil, usagef("--inputs %s: not a JSON object: %s", file, err)
		}
	}
	for _, pair := range pairs {
		name, text, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--input %q: want NAME=VALUE", pair)
		}
		inputs[name] = text
	}
	return inputs, nil
}

// readFile reads a file, or stdin for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.stdin)
	}
	p, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("%s", err)
	}
	return p, nil
}
