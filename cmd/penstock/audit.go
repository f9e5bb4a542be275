package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Show and verify the record of a run", a.auditShowCommand(), a.auditVerifyCommand())
}

func (a *app) auditShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show RUN",
		Short: "Show every record of a run: who or what caused it, what was decided, what happened",
		Long: `Shows the records of a run, oldest first. Every record is one transition: its
cause, the rules that were evaluated with what they read and gave, and what
happened. With -o json they stand as they are stored, with their hashes.`,
		Example: `  penstock audit show k3f9
  penstock audit show k3f9 -o json | jq '.records[].record.dec'`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				list, err := s.records(cmd.Context(), arg[0])
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(list)
				}
				return a.printRecords(list)
			})
		},
	}
}

// records gets all records of a run, as many answers as that takes.
func (s *session) records(ctx context.Context, run string) (all events.Records, err error) {
	for q := (events.GetRun{Run: run}); ; {
		var page events.Records
		if _, err := s.ask(ctx, events.VerbRecords, q, &page); err != nil {
			return all, err
		}
		all.Records = append(all.Records, page.Records...)
		if page.Next <= q.After {
			return all, nil
		}
		q.After = page.Next
	}
}

func (a *app) printRecords(list events.Records) error {
	for _, stored := range list.Records {
		r, err := record.Decode(stored.Record)
		if err != nil {
			return fmt.Errorf("record %d: %w", stored.Seq, err)
		}
		fmt.Fprintf(a.stdout, "%4d  %s  %s  %s\n", r.V, stamp(time.UnixMilli(r.T)), digest("sha256:"+stored.Hash), oneLine(causeOf(r)))
		for _, d := range r.Decisions {
			fmt.Fprintf(a.stdout, "        rule   %s\n", oneLine(decisionText(d)))
		}
		for _, ev := range r.Events {
			e := events.Event{Type: ev.Type}
			fmt.Fprintf(a.stdout, "        event  %s\n", oneLine(join(events.ShortType(ev.Type), ev.Data.State, describe(&e, &ev.Data))))
		}
		for _, t := range r.Tasks {
			fmt.Fprintf(a.stdout, "        task   %s\n", oneLine(join(t.State, t.Kind, "attempt", strconv.Itoa(t.Attempt), t.ID)))
		}
	}
	return nil
}

// causeOf says what caused a record and how it was answered.
func causeOf(r *record.Record) string {
	what := r.In.Kind
	switch {
	case r.In.Decide != nil:
		what = join(what, r.In.Decide.Decision, r.In.Decide.State, quoted(r.In.Decide.Comment))
	case r.In.Attempt != nil:
		what = join(what, r.In.Attempt.Task)
	case r.In.Cancel != nil:
		what = join(what, quoted(r.In.Cancel.Reason))
	case r.In.Pause != nil:
		what = join(what, quoted(r.In.Pause.Reason))
	case r.In.Retry != nil:
		what = join(what, r.In.Retry.From, quoted(r.In.Retry.Reason))
	case r.In.Signal != nil:
		what = join(what, causeText(&r.In.Signal.Cause))
	case r.In.Child != nil:
		what = join(what, r.In.Child.Run, r.In.Child.Outcome)
	case r.In.Key != nil:
		what = join(what, r.In.Key.Key, r.In.Key.Reason)
	}
	answer := ""
	if s := r.Answer.Status; s != "" && s != events.StatusApplied {
		answer = join("–", s, prefixed("because ", r.Answer.Reason))
	}
	return join(what, prefixed("by ", r.In.By), answer)
}

func decisionText(d record.Decision) string {
	gave := "gave " + value(d.Value)
	if d.Error != "" {
		gave = "failed: " + d.Error
	}
	return join(d.Of, d.Rule+":", strings.TrimSpace(d.Source), gave, list("read ", nonEmpty(values(d.Inputs))))
}

func (a *app) auditVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify RUN",
		Short: "Prove that the record of a run is whole and that its rules gave what it says",
		Long: `Has the server fold the run again from its records, check the chain of their
hashes and evaluate every rule again on what it had read. Exits with 1 when
anything does not fit.`,
		Example:           `  penstock audit verify k3f9`,
		Args:              args("RUN"),
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var v events.Verification
				if _, err := s.ask(cmd.Context(), events.VerbVerify, events.GetRun{Run: arg[0]}, &v); err != nil {
					return err
				}
				return a.printVerification(v)
			})
		},
	}
}

func (a *app) printVerification(v events.Verification) error {
	if a.output == "json" {
		if err := a.printJSON(v); err != nil {
			return err
		}
	} else {
		verdict := paint(a.stdout, "ok", "verified")
		if !v.OK {
			verdict = paint(a.stdout, "problem", "NOT verified")
		}
		fmt.Fprintf(a.stdout, "%s  %s: %s, %s evaluated again, head %s\n", verdict, oneLine(v.Run), count(v.Records, "record"),
			count(v.Decisions, "rule"), digest("sha256:"+v.Head))
		for _, p := range v.Problems {
			fmt.Fprintf(a.stdout, "  %s\n", oneLine(p))
		}
	}
	if !v.OK {
		return &failure{exit: exitFailed, code: "not_verified", message: fmt.Sprintf("the record of run %s has %s", v.Run, count(len(v.Problems), "problem"))}
	}
	return nil
}
