package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs RUN [STATE]",
		Short: "Show what the tasks of a run printed",
		Long: `Shows what the commands of a run's tasks printed: all of them, each line with
its state in front, or those of one state or branch (verify, verify.test).
With --follow it goes on while the run does.`,
		Example: `  penstock logs k3f9
  penstock logs k3f9 build
  penstock logs k3f9 verify.test --follow
  penstock logs k3f9 -o json | jq -r 'select(.stream == "stderr") | .text'`,
		Args:              args("RUN", "[STATE]"),
		ValidArgsFunction: a.complete(completeRuns, completeStates),
		RunE: func(cmd *cobra.Command, arg []string) error {
			q := events.ReadOutput{Run: arg[0]}
			if len(arg) > 1 {
				q.State = arg[1]
			}
			return a.with(cmd.Context(), func(s *session) error {
				ctx, cancel := a.follow(cmd.Context())
				defer cancel()
				err := s.logs(ctx, q, follow)
				if f, ok := context.Cause(ctx).(*failure); ok && err != nil {
					return f // --timeout
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	return cmd
}

// logs prints output until there is no more: for now, or with follow for good.
func (s *session) logs(ctx context.Context, q events.ReadOutput, follow bool) error {
	p := logPrinter{app: s.app, only: q.State, open: map[string]string{}}
	defer p.end("")
	printed := false
	for {
		if q.Wait = 0; follow {
			q.Wait = holdFor.Milliseconds()
		}
		var page events.Output
		limit := s.app.limit() + time.Duration(q.Wait)*time.Millisecond
		if _, err := s.askFor(ctx, limit, events.VerbOutput, q, &page); err != nil {
			return err
		}
		for _, c := range page.Chunks {
			printed = true
			if err := p.print(c); err != nil {
				return err
			}
		}
		q.After = max(q.After, page.Next)
		if len(page.Chunks) == 0 && (page.Done || !follow) {
			if printed {
				return nil
			}
			if err := s.knowsState(ctx, q); err != nil {
				return err
			}
			s.app.note("no output%s", prefixed(" of ", q.State))
			return nil
		}
	}
}

// knowsState refuses a state that the run was never in, as far as it has come.
func (s *session) knowsState(ctx context.Context, q events.ReadOutput) error {
	if q.State == "" {
		return nil
	}
	var run events.RunView
	if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: q.Run}, &run); err != nil {
		return err
	}
	state, _, _ := strings.Cut(q.State, ".")
	var been []string
	for _, step := range run.Path {
		if step.State == state {
			return nil
		}
		if !slices.Contains(been, step.State) {
			been = append(been, step.State)
		}
	}
	if slices.ContainsFunc(run.Tasks, func(t events.TaskView) bool { return t.State == q.State }) {
		return nil
	}
	return &failure{exit: exitNotFound, code: events.CodeNotFound,
		message: fmt.Sprintf("run %s was not in a state %q; it was in: %s", run.ID, q.State, strings.Join(been, ", "))}
}

// logPrinter turns chunks, which may end anywhere, into whole lines, so that
// the lines of tasks that run side by side do not mix.
type logPrinter struct {
	app   *app
	only  string            // the state that was asked for: its lines need no name
	open  map[string]string // by stream of a task: the line that has not ended
	order []string
}

func (p *logPrinter) print(c events.OutputChunk) error {
	if p.app.output == "json" {
		return p.app.printLine(c)
	}
	key := c.State + "\x00" + c.Task + "\x00" + c.Stream
	text := p.open[key] + c.Text
	for {
		line, rest, ended := strings.Cut(text, "\n")
		if !ended {
			break
		}
		p.line(c.State, line)
		text = rest
	}
	if _, known := p.open[key]; !known {
		p.order = append(p.order, key)
	}
	p.open[key] = text
	if c.End {
		p.end(c.State + "\x00" + c.Task + "\x00")
	}
	if c.Truncated {
		p.line(c.State, "(the output was longer than its limit; the rest was not kept)")
	}
	return nil
}

// end prints the lines of a task, or with "" of all, that never ended.
func (p *logPrinter) end(task string) {
	p.order = slices.DeleteFunc(p.order, func(key string) bool {
		if !strings.HasPrefix(key, task) {
			return false
		}
		if text := p.open[key]; text != "" {
			state, _, _ := strings.Cut(key, "\x00")
			p.line(state, text)
		}
		delete(p.open, key)
		return true
	})
}

func (p *logPrinter) line(state, text string) {
	text = strings.TrimSuffix(text, "\r")
	if terminal(p.app.stdout) {
		text = clean(text) // a program's output must not steer the terminal
	}
	if state != p.only {
		text = oneLine(state) + " | " + text
	}
	fmt.Fprintln(p.app.stdout, text)
}
