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
	return group("audit", "Show and verify the record", a.auditShowCommand(), a.auditVerifyCommand(), a.auditLogCommand())
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

func (a *app) auditLogCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log",
		Short: "Show what was done or refused without a record",
		Long: `Shows what stands in the audit log beside the records, oldest first: commands
that were refused, credentials that were made and revoked, definitions that were
put in force, and partitions that were let go on after a loss.`,
		Example: `  penstock audit log
  penstock audit log -o json | jq '.entries[] | select(.code == "denied")'`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var all events.AuditPage
				for q := (events.ReadAudit{}); ; {
					var page events.AuditPage
					if _, err := s.ask(cmd.Context(), events.VerbAuditLog, q, &page); err != nil {
						return err
					}
					all.Entries = append(all.Entries, page.Entries...)
					if q.After = page.Next; q.After == 0 {
						break
					}
				}
				if a.output == "json" {
					return a.printJSON(all)
				}
				for _, e := range all.Entries {
					fmt.Fprintf(a.stdout, "%s  %s\n", stamp(e.Time), oneLine(entryText(e)))
					for _, line := range e.Lost {
						fmt.Fprintf(a.stdout, "        lost   %s\n", oneLine(line))
					}
				}
				return nil
			})
		},
	}
}

// entryText is an entry of the audit log in one line.
func entryText(e events.AuditEntry) string {
	answer := e.Status
	if e.Code != "" {
		answer = e.Code
	}
	if e.Partition != nil {
		return join(fmt.Sprintf("partition %d goes on", *e.Partition), prefixed("by ", e.By), "–", e.Reason, prefixed("it was stopped: ", e.What))
	}
	more := ""
	if e.Count > 1 {
		more = fmt.Sprintf("(one of %d)", e.Count)
	}
	return join(e.Verb, prefixed("by ", e.By), answer, more, e.What, prefixed("because ", e.Reason))
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "verify [RUN]",
		Short: "Prove that the record of a run, or of everything, is whole and that its rules gave what it says",
		Long: `Has the server fold the run again from its records, check the chain of their
hashes and evaluate every rule again on what it had read. With --all it does so
for every run, environment, event, concurrency key and schedule there is, proves
that the audit log is in order and without a gap, and that it and the store have
the same records. Exits with 1 when anything does not fit.`,
		Example: `  penstock audit verify k3f9
  penstock audit verify --all`,
		Args: func(cmd *cobra.Command, arg []string) error {
			if all {
				return args()(cmd, arg)
			}
			return args("RUN")(cmd, arg)
		},
		ValidArgsFunction: a.complete(completeRuns),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				if all {
					return s.verifyAll(cmd.Context())
				}
				var v events.Verification
				if _, err := s.ask(cmd.Context(), events.VerbVerify, events.GetRun{Run: arg[0]}, &v); err != nil {
					return err
				}
				return a.printVerification(v)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "verify everything there is, and the audit log")
	return c
}

// partitionLimit is how long the server may take for one partition.
const partitionLimit = 30 * time.Minute

// verifyAll has the audit log verified, and then one partition after the other.
func (s *session) verifyAll(ctx context.Context) error {
	var sum events.AuditReport
	verify := func(q events.VerifyAudit) error {
		var r events.AuditReport
		if _, err := s.askFor(ctx, max(s.app.timeout, partitionLimit), events.VerbAuditVerify, q, &r); err != nil {
			return err
		}
		if q.Partition != nil {
			sum.Records += r.Records
			sum.Aggregates += r.Aggregates
			sum.Decisions += r.Decisions
		} else {
			sum.Messages = r.Messages
		}
		sum.Problems = append(sum.Problems, r.Problems...)
		sum.Known = append(sum.Known, r.Known...)
		return nil
	}
	err := verify(events.VerifyAudit{})
	for vp := 0; vp < events.Partitions && err == nil; vp++ {
		err = verify(events.VerifyAudit{Partition: &vp})
	}
	if err != nil {
		return err
	}
	sum.OK = len(sum.Problems) == 0
	return s.app.printReport(sum)
}

func (a *app) printReport(r events.AuditReport) error {
	if a.output == "json" {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		verdict := paint(a.stdout, "ok", "verified")
		if !r.OK {
			verdict = paint(a.stdout, "problem", "NOT verified")
		}
		fmt.Fprintf(a.stdout, "%s  %s of %s, %s evaluated again; %s of the audit log\n", verdict, count(r.Records, "record"),
			count(r.Aggregates, "aggregate"), count(r.Decisions, "rule"), count(r.Messages, "message"))
		for _, p := range r.Problems {
			fmt.Fprintf(a.stdout, "  %s\n", oneLine(p))
		}
		for _, k := range r.Known {
			fmt.Fprintf(a.stdout, "  known: %s\n", oneLine(k))
		}
	}
	if !r.OK {
		return &failure{exit: exitFailed, code: "not_verified", message: fmt.Sprintf("the record has %s", count(len(r.Problems), "problem"))}
	}
	return nil
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
