package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/spf13/cobra"
)

// decisionLife is how long a decision may be on its way before it must not
// count any more. People decide on what they see now.
const decisionLife = 5 * time.Minute

func (a *app) approveCommand() *cobra.Command {
	cmd := a.decideCommand(events.Approve)
	cmd.Use = "approve RUN [STATE]"
	cmd.Short = "Approve what a run waits for"
	cmd.Example = `  penstock approve k3f9
  penstock approve k3f9 approve --comment "canary looks good" --yes
  penstock approve k3f9 --not-before 2h
  penstock approve k3f9 --credential marta.json`
	return cmd
}

func (a *app) requestChangesCommand() *cobra.Command {
	cmd := a.decideCommand(events.RequestChanges)
	cmd.Use = "request-changes RUN [STATE]"
	cmd.Short = "Hold an approval up until you approve, or take it back"
	cmd.Example = `  penstock request-changes k3f9 --comment "the migration is missing"`
	return cmd
}

func (a *app) withdrawCommand() *cobra.Command {
	cmd, _ := a.wordCommand(events.Withdraw)
	cmd.Use = "withdraw RUN [STATE]"
	cmd.Short = "Take back what you said of an approval that is open"
	cmd.Long = `Takes your last word on an approval back: it is as if you had not decided. An
approval that is complete is over, and nothing of it can be taken back.`
	cmd.Example = `  penstock withdraw k3f9`
	return cmd
}

func (a *app) escalateCommand() *cobra.Command {
	cmd, _ := a.wordCommand(events.Escalate)
	cmd.Use = "escalate RUN [STATE]"
	cmd.Short = "Have others told now that an approval waits"
	cmd.Long = `Tells at once those whom the workflow wants to be told when an approval waits
too long (remind.escalate.to). Who may approve is not changed by it.`
	cmd.Example = `  penstock escalate k3f9 --comment "the customer waits"`
	return cmd
}

func (a *app) delegateCommand() *cobra.Command {
	cmd, d := a.wordCommand(events.Delegate)
	cmd.Use = "delegate RUN [STATE] --to USER"
	cmd.Short = "Let somebody else decide in your place"
	cmd.Long = `Lets another person decide in this approval with your roles. You do not decide in
it any more, unless you take that back (penstock withdraw). Who may not decide in
it, such as an author of the change, may not be named.`
	cmd.Example = `  penstock delegate k3f9 --to li --comment "back on Monday"`
	cmd.Flags().StringVar(&d.To, "to", "", "`USER` who decides instead")
	return cmd
}

// wordCommand is a command for what is said of an approval and is not about
// its content.
func (a *app) wordCommand(decision string) (*cobra.Command, *events.Decide) {
	d := &events.Decide{Decision: decision, Via: "cli"}
	cmd := &cobra.Command{
		Args:              args("RUN", "[STATE]"),
		ValidArgsFunction: a.complete(completeRuns, completeApprovals),
		RunE: func(cmd *cobra.Command, arg []string) error {
			d.Run = arg[0]
			if len(arg) > 1 {
				d.State = arg[1]
			}
			if decision == events.Delegate && d.To == "" {
				return usagef("say who decides instead: --to USER")
			}
			return a.with(cmd.Context(), func(s *session) error { return s.word(cmd.Context(), *d) })
		},
	}
	cmd.Flags().StringVarP(&d.Comment, "comment", "m", "", "`TEXT` that is recorded with it")
	return cmd, d
}

// word sends a decision that is not about the content of an approval.
func (s *session) word(ctx context.Context, d events.Decide) error {
	var why events.WhyView
	if _, err := s.ask(ctx, events.VerbWhy, events.GetRun{Run: d.Run}, &why); err != nil {
		return err
	}
	open, err := openApproval(why, d.State)
	if err != nil {
		return err
	}
	d.Run, d.State = why.Run.ID, open.State
	d.ID, d.NotAfter = commandID(), s.app.now().Add(decisionLife).UTC()
	answer, err := s.ask(ctx, events.VerbDecide, d, nil)
	if err != nil {
		return decideHint(err, d)
	}
	return s.decided(ctx, d, answer)
}

func (a *app) rejectCommand() *cobra.Command {
	cmd := a.decideCommand(events.Reject)
	cmd.Use = "reject RUN [STATE]"
	cmd.Short = "Reject what a run waits for"
	cmd.Example = `  penstock reject k3f9 --comment "the migration is missing"`
	return cmd
}

func (a *app) decideCommand(decision string) *cobra.Command {
	d := events.Decide{Decision: decision, Via: "cli"}
	var yes bool
	var notBefore string
	cmd := &cobra.Command{
		Long: `Shows what is to be decided and sends the decision, bound to exactly that: when
it changes in between, the decision is refused and the run's state stays as it
is. On a terminal it asks first, unless --yes is given, or --content, the
digest that a notification or penstock why showed. Of lists in results it shows
the length; penstock get RUN -o json has everything.

STATE is needed only when more than one approval is open. Exits with 4 when
you are not allowed to decide, with the reason.`,
		Args:              args("RUN", "[STATE]"),
		ValidArgsFunction: a.complete(completeRuns, completeApprovals),
		RunE: func(cmd *cobra.Command, arg []string) error {
			d.Run = arg[0]
			if len(arg) > 1 {
				d.State = arg[1]
			}
			if notBefore != "" {
				from, err := a.later(notBefore)
				if err != nil {
					return err
				}
				d.Decision, d.NotBefore = events.Defer, from
			}
			return a.with(cmd.Context(), func(s *session) error { return s.decide(cmd.Context(), d, yes) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&d.Comment, "comment", "m", "", "`TEXT` that is recorded with the decision")
	f.StringVar(&d.Content, "content", "", "`DIGEST` of what you decide on, as it was shown")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	if decision == events.Approve {
		f.StringVar(&notBefore, "not-before", "", "the approval counts from this `TIME` on: 2026-11-23T18:00:00Z, or 2h from now")
	}
	return cmd
}

// later reads a time, or how far it is from now.
func (a *app) later(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), nil
	}
	d, err := workflows.ParseDuration(s)
	if err != nil {
		return time.Time{}, usagef("%q is neither a time such as 2026-11-23T18:00:00Z nor a duration such as 2h", s)
	}
	return a.now().Add(d.D()).UTC().Truncate(time.Second), nil
}

func (s *session) decide(ctx context.Context, d events.Decide, yes bool) error {
	var why events.WhyView
	if _, err := s.ask(ctx, events.VerbWhy, events.GetRun{Run: d.Run}, &why); err != nil {
		return err
	}
	open, err := openApproval(why, d.State)
	if err != nil {
		return err
	}
	d.Run, d.State = why.Run.ID, open.State
	// What is shown is read after the digest that the decision names: when
	// something changes in between, the digest is the older one, and the
	// decision is refused.
	var run events.RunView
	if _, err := s.ask(ctx, events.VerbGet, events.GetRun{Run: d.Run}, &run); err != nil {
		return err
	}
	shown := d.Content != ""
	if !shown {
		d.Content = open.Content
	}
	s.app.showApproval(run, open)
	if !yes && !shown && terminal(s.app.stdin) && terminal(s.app.stderr) && !s.app.confirm(decisionVerb(d.Decision)) {
		return &failure{exit: exitFailed, code: "not_confirmed", message: "nothing was sent"}
	}
	d.ID, d.NotAfter = commandID(), s.app.now().Add(decisionLife).UTC()
	answer, err := s.ask(ctx, events.VerbDecide, d, nil)
	if err != nil {
		return decideHint(err, d)
	}
	return s.decided(ctx, d, answer)
}

// decisionVerb is the command that makes a decision.
func decisionVerb(decision string) string {
	return map[string]string{events.Approve: "approve", events.Defer: "approve", events.Reject: "reject", events.RequestChanges: "request-changes",
		events.Withdraw: "withdraw", events.Delegate: "delegate", events.Escalate: "escalate"}[decision]
}

// madeText is a decision that was made, in words.
func madeText(d events.Decide) string {
	switch d.Decision {
	case events.Defer:
		return "approved from " + stamp(d.NotBefore) + " on:"
	case events.RequestChanges:
		return "asked for changes to"
	case events.Delegate:
		return "left to " + d.To + ":"
	}
	return d.Decision
}

// openApproval picks the approval that is meant.
func openApproval(why events.WhyView, state string) (events.WaitReason, error) {
	open := slices.DeleteFunc(slices.Clone(why.Waiting), func(r events.WaitReason) bool { return r.What != "approval" })
	var names []string
	for _, r := range open {
		if r.State == state || state == "" && len(open) == 1 {
			return r, nil
		}
		names = append(names, r.State)
	}
	run := why.Run
	switch {
	case run.Status == "done":
		return events.WaitReason{}, (&failure{exit: exitFailed, code: events.CodeConflict,
			message: fmt.Sprintf("run %s has ended (%s); there is nothing to decide", run.ID, run.Outcome)}).withHint("penstock why %s", run.ID)
	case len(open) == 0:
		return events.WaitReason{}, (&failure{exit: exitFailed, code: events.CodeConflict,
			message: fmt.Sprintf("run %s waits for no approval; it is in %s", run.ID, run.State)}).withHint("penstock why %s", run.ID)
	case state == "":
		return events.WaitReason{}, usagef("run %s waits for %d approvals; name one of: %s", run.ID, len(open), strings.Join(names, ", "))
	}
	return events.WaitReason{}, &failure{exit: exitNotFound, code: events.CodeNotFound,
		message: fmt.Sprintf("run %s waits for no approval in %q, but in: %s", run.ID, state, strings.Join(names, ", "))}
}

// showApproval says on stderr what the decision is about.
func (a *app) showApproval(run events.RunView, r events.WaitReason) {
	shown := []string{"Run", run.ID, "Title", run.Title, "Workflow", run.Workflow, "Approval", r.State,
		"Requested", run.RequestedBy, "Authors", strings.Join(run.Authors, ", ")}
	shown = append(shown, pairs("inputs.", run.Inputs, whole)...)
	for _, step := range run.Path {
		shown = append(shown, pairs(step.State+".", step.Outputs, brief)...)
	}
	fields(a.stderr, "", append(shown, "Rule", r.Rule, "Have", strings.Join(r.Have, "; "),
		"Missing", strings.Join(r.Missing, "; "), "Until", a.moment(r.Until, "left"), "Content", r.Content)...)
}

func (a *app) confirm(verb string) bool {
	fmt.Fprintf(a.stderr, "%s? [y/N] ", verb)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes"
}

func decideHint(err error, d events.Decide) error {
	f := asFailure(context.Background(), err)
	if f.hint != "" {
		return f
	}
	switch f.exit {
	case exitDenied:
		return f.withHint("who can: penstock why %s\nas somebody else: penstock %s %s %s --credential FILE", d.Run, decisionVerb(d.Decision), d.Run, d.State)
	case exitFailed:
		return f.withHint("penstock why %s", d.Run)
	}
	return f
}

// decided says what came of an accepted decision. The run may have gone on
// since; when it cannot be asked, the decision stands all the same.
func (s *session) decided(ctx context.Context, d events.Decide, answer events.Answer) error {
	var why events.WhyView
	_, err := s.ask(ctx, events.VerbWhy, events.GetRun{Run: d.Run}, &why)
	if s.app.output == "json" {
		out := map[string]any{"decision": d.Decision, "run": d.Run, "state": d.State, "record": answer.Record, "status": answer.Status}
		if err == nil {
			out["why"] = why
		}
		return s.app.printJSON(out)
	}
	fmt.Fprintf(s.app.stdout, "%s %s of %s (record %d)\n", paint(s.app.stdout, d.Decision, oneLine(madeText(d))), oneLine(d.State), oneLine(d.Run), answer.Record)
	if err != nil {
		s.app.note("penstock why %s says what is still missing", d.Run)
		return nil
	}
	for _, r := range why.Waiting {
		if r.What == "approval" && r.State == d.State {
			fmt.Fprintf(s.app.stdout, "still missing: %s\n", oneLine(strings.Join(r.Missing, "; ")))
			return nil
		}
	}
	if why.Run.Status == "done" {
		fmt.Fprintf(s.app.stdout, "the approval is closed, and the run has ended: %s\n", oneLine(why.Run.Outcome))
		return nil
	}
	fmt.Fprintf(s.app.stdout, "the approval is closed; the run is in %s\n", oneLine(why.Run.State))
	return nil
}
