package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) getCommand() *cobra.Command {
	var exitStatus bool
	cmd := &cobra.Command{
		Use:   "get RUN",
		Short: "Show a run: where it is, what it did, what it waits for",
		Long: `Shows a run. RUN is its id, or the beginning of it as long as that fits one
run only; that holds for every command that takes a RUN.`,
		Example: `  penstock get k3f9
  penstock get k3f9 -o json | jq .path
  penstock get k3f9 --exit-status    # 6 when it waits for people, 7 when it failed`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var run events.RunView
				if _, err := s.ask(cmd.Context(), events.VerbGet, events.GetRun{Run: arg[0]}, &run); err != nil {
					return err
				}
				if a.output == "json" {
					if err := a.printJSON(run); err != nil {
						return err
					}
				} else {
					a.printRun(run)
				}
				if exitStatus {
					return runStatus(run, true)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&exitStatus, "exit-status", false, "exit with 6 when the run waits for people, 7 when it ended otherwise than succeeded")
	return cmd
}

func (a *app) printRun(r events.RunView) {
	w := a.stdout
	ended := ""
	if r.EndedAt != nil {
		ended = stamp(*r.EndedAt) + ", after " + short(r.EndedAt.Sub(r.StartedAt))
	}
	fields(w, "", "Run", r.ID, "Title", r.Title, "Workflow", join(r.Workflow, list("", nonEmpty(digest(r.Definition)))),
		"From", origin(r.Origin), "Status", status(r), "State", r.State, "Parent", r.Parent, "Children", strings.Join(r.Children, ", "), "Requested", r.RequestedBy, "Authors", strings.Join(r.Authors, ", "),
		"Cause", strings.Trim(causeText(r.Cause), "()"), "Started", stamp(r.StartedAt)+" ("+short(a.now().Sub(r.StartedAt))+" ago)",
		"Ended", ended, "Records", strconv.FormatInt(r.Records, 10))
	if len(r.Inputs) > 0 {
		fmt.Fprintln(w, "\nInputs:")
		fields(w, "  ", pairs("", r.Inputs, value)...)
	}
	if len(r.Outputs) > 0 {
		fmt.Fprintln(w, "\nOutputs:")
		fields(w, "  ", pairs("", r.Outputs, value)...)
	}
	a.printPath(r.Path)
	a.printTasks(r.Tasks)
	a.printWaiting(r.Waiting)
}

// origin is where a definition came from: "penstock/release.yaml of
// git+https://… at 1f2e3d4c5b6a, by ana@acme.example".
func origin(o *events.Origin) string {
	if o == nil {
		return ""
	}
	text := o.File
	if o.Source != "" {
		text = join(o.File, "of "+o.Source)
	}
	if o.Commit != "" {
		text += " at " + commit(o.Commit)
	}
	if o.Author != "" {
		text += ", by " + o.Author
	}
	return text
}

// commit is the beginning of a commit's name.
func commit(name string) string { return name[:min(len(name), 12)] }

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (a *app) printPath(path []events.Step) {
	if len(path) == 0 {
		return
	}
	t := table{head: []string{"STATE", "OUTCOME", "ENTERED", "TOOK", "RESULT"}}
	for _, s := range path {
		state, outcome, took := s.State, s.Outcome, ""
		if s.Visit > 1 {
			state += " #" + strconv.Itoa(s.Visit)
		}
		if s.LeftAt != nil {
			took = short(s.LeftAt.Sub(s.EnteredAt))
		} else if outcome == "" {
			outcome = "…"
		}
		t.add(state, outcome, stamp(s.EnteredAt), took, join(values(s.Outputs), errorText(s.Error)))
	}
	fmt.Fprintln(a.stdout, "\nPath:")
	t.print(a.stdout, "  ")
}

func (a *app) printTasks(tasks []events.TaskView) {
	if len(tasks) == 0 {
		return
	}
	t := table{head: []string{"STATE", "KIND", "ATTEMPT", "STATUS", "WORKER", "RUNNING", "NOTE"}}
	for _, k := range tasks {
		status, running := k.Status, ""
		if k.Outcome != "" {
			status = k.Outcome
		} else if k.StartedAt != nil {
			running = short(a.now().Sub(*k.StartedAt))
		}
		t.add(k.State, k.Kind, strconv.Itoa(k.Attempt), status, k.Worker, running, join(k.Progress, prefixed("run ", k.Child), errorText(k.Error)))
	}
	fmt.Fprintln(a.stdout, "\nTasks:")
	t.print(a.stdout, "  ")
}

// printWaiting says what a run waits for, one block for each thing.
func (a *app) printWaiting(waiting []events.WaitReason) {
	for _, r := range waiting {
		fmt.Fprintf(a.stdout, "\n%s: %s\n", oneLine(r.State), paint(a.stdout, "waiting", oneLine(r.Summary)))
		lines := []string{"rule", r.Rule, "missing", strings.Join(r.Missing, "; "), "have", strings.Join(r.Have, "; "),
			"can", strings.Join(r.Can, ", "), "cannot", strings.Join(r.Cannot, "; "), "since", a.moment(r.Since, "ago"),
			"until", a.moment(r.Until, "left"), "content", r.Content}
		for _, next := range r.Next {
			lines = append(lines, "try", next)
		}
		fields(a.stdout, "  ", lines...)
	}
}

// moment is a time with its distance from now: "… (3m12s ago)", "… (2h left)".
func (a *app) moment(t *time.Time, word string) string {
	if t == nil {
		return ""
	}
	return stamp(*t) + " (" + short(t.Sub(a.now()).Abs()) + " " + word + ")"
}

// runStatus is the failure that a run's status stands for in an exit code, or
// nil. waiting says whether a wait for people is one.
func runStatus(r events.RunView, waiting bool) error {
	switch {
	case r.Status == "waiting" && waiting:
		return (&failure{exit: exitWaiting, code: "waiting", message: "run " + r.ID + " waits for people in " + r.State}).
			withHint("penstock why %s", r.ID)
	case r.Status == "done" && r.Outcome != events.Succeeded:
		return (&failure{exit: exitRunFailed, code: "run_failed", message: "run " + r.ID + " ended: " + r.Outcome}).
			withHint("penstock why %s", r.ID)
	}
	return nil
}
