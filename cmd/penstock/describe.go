package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// describe says in one line what an event of Penstock tells, without its
// time, run and state.
func describe(e *events.Event, h *events.Happening) string {
	switch e.Type {
	case events.RunStarted:
		return join("started by", h.RequestedBy, causeText(h.Cause))
	case events.RunFinished:
		return join("run", h.Outcome, took(h), errorText(h.Error))
	case events.RunHeld:
		return join("held:", h.Reason)
	case events.RunAuthors:
		return join("authors:", strings.Join(h.Authors, ", "))
	case events.RunPaused:
		return join("paused by", h.By, quoted(h.Reason))
	case events.RunResumed:
		return join("goes on, says", h.By, quoted(h.Reason))
	case events.RunRetried:
		return join("begins again", arrow(h.To), "by", h.By, quoted(h.Reason))
	case events.RunPaged:
		return join("calls", strings.Join(h.Roles, ", "))
	case events.RunHeard:
		return join("heard an event", causeText(h.Cause), arrow(h.To), prefixed("– ", h.Reason))
	case events.StateEntered:
		visit := ""
		if h.Visit > 1 {
			visit = ", visit " + strconv.Itoa(h.Visit)
		}
		if h.Kind != "" {
			return join("entered"+visit+":", h.Kind, "task queued")
		}
		return "entered" + visit
	case events.StateLeft:
		return join(h.Outcome, arrow(h.To), errorText(h.Error))
	case events.TaskQueued:
		return join(h.Kind, "task queued", attempt(h))
	case events.TaskStarted:
		return join(h.Kind, "task started", attempt(h), prefixed("by ", h.Worker))
	case events.TaskFinished:
		return join(h.Kind, "task", h.Outcome, attempt(h), took(h), values(h.Outputs), errorText(h.Error))
	case events.TaskRetrying:
		return join(h.Kind, "task is tried again, attempt", strconv.Itoa(h.Attempt), errorText(h.Error))
	case events.TaskRefused:
		return join("a report of a worker was refused:", h.Reason)
	case events.GateEvaluated:
		return join("gate", h.Outcome, list("", h.Reasons), list("warning: ", h.Warnings))
	}
	return describeDecision(e, h)
}

func describeDecision(e *events.Event, h *events.Happening) string {
	switch e.Type {
	case events.ApprovalRequested:
		return join("waits for approval:", strings.Join(h.Missing, "; "), until(h.Deadline))
	case events.ApprovalDecided:
		return join(h.Decision, "by", h.By, quoted(h.Comment), list("still missing: ", h.Missing))
	case events.ApprovalRefused:
		return join("decision", quoted(h.Decision), "of", h.By, "refused:", h.Reason)
	case events.ApprovalClosed:
		return join("approval", h.Outcome, prefixed("– ", h.Reason))
	case events.CommandRefused:
		return join("command of", h.By, "refused:", h.Reason)
	case events.ApprovalStale:
		return join("what", h.By, h.Decision, "has changed:", strings.Join(h.Reasons, "; "))
	case events.ApprovalReminded:
		return join("still waits for approval:", strings.Join(h.Missing, "; "), until(h.Deadline))
	case events.ApprovalEscalated:
		return join("approval is escalated to", strings.Join(h.Roles, ", "), prefixed("by ", h.By))
	case events.EnvironmentClosed:
		return join("environment", h.Environment, "lets nothing in:", h.Reason, until(h.Deadline))
	case events.EnvironmentOpened:
		return join("environment", h.Environment, "is open")
	case events.EnvironmentHeld:
		return join("environment", h.Environment, "is held by", h.By, quoted(h.Reason), until(h.Deadline))
	case events.EnvironmentUnheld:
		return join("a hold of environment", h.Environment, "is over", prefixed("by ", h.By), prefixed("– ", h.Reason))
	case events.GlassBroken:
		return join(h.By, "broke the glass of environment", h.Environment, quoted(h.Reason))
	case events.DeploymentStep:
		return join("deployment to", h.Environment+":", h.Reason)
	case events.DeploymentJudged:
		return join("analysis", h.Outcome, prefixed("– ", h.Reason), list("", h.Reasons))
	case events.EffectUndone:
		return join("took back what it had done", prefixed("in environment ", h.Environment), prefixed("– now ", digest(h.Artifact)))
	case events.EnvironmentGranted:
		return join("has environment", h.Environment)
	case events.EnvironmentQueued:
		return join("waits for environment", h.Environment, prefixed("– ", h.Reason))
	case events.EnvironmentDeployed:
		return join("deployed", digest(h.Artifact), "to", h.Environment, h.URL)
	case events.EnvironmentReleased:
		return join("gave environment", h.Environment, "back")
	case events.ChildStarted:
		return join("waits for run", h.Child)
	case events.MemberLeft:
		return join("was left out:", h.Reason)
	case events.KeyQueued:
		return join("waits for the concurrency key", h.Key)
	case events.KeyGranted:
		return join("has the concurrency key", h.Key)
	case events.KeyReleased:
		return join("gave the concurrency key", h.Key, "back")
	case events.EventMatched:
		return join("event started", strings.Join(h.Runs, ", "), causeText(h.Cause))
	case events.EventIgnored:
		return join("event started nothing:", strings.Join(h.Reasons, "; "), causeText(h.Cause))
	case events.EventRefused:
		return join("event refused:", strings.Join(h.Reasons, "; "), causeText(h.Cause))
	case events.DefinitionApplied:
		return join("in force"+atCommit(h)+":", strings.Join(shortDigests(h.Definitions), ", "), list("weaker: ", h.Warnings))
	case events.DefinitionRemoved:
		return join("not in force any more"+atCommit(h)+":", strings.Join(shortDigests(h.Definitions), ", "), list("weaker: ", h.Warnings))
	case events.DefinitionRefused:
		return join("refused"+atCommit(h)+":", strings.Join(h.Reasons, "; "))
	case events.DefinitionRecovered:
		return join("good again"+atCommit(h)+":", h.By)
	case events.DefinitionUnreachable:
		return join("cannot be read:", h.By+":", h.Reason)
	case events.StoreFrozen:
		return join("the store takes no writes:", h.Reason)
	case events.StoreRecovered:
		return join("the store takes writes again:", h.By)
	case events.PartitionStopped:
		return join("nothing goes on in a part of the record:", h.Reason)
	case events.PartitionResumed:
		return join(h.By, "has let a part of the record go on:", h.Reason)
	case events.ClockStepped:
		return join("no timer fires:", h.Reason)
	case events.Notification:
		return join("notified", h.Channel+":", h.Text)
	case events.NotificationFailed:
		return join("could not notify", h.Channel+":", errorText(h.Error))
	}
	return join(e.Source, e.Subject)
}

// word is the word of an event that says how it went, for its colour.
func word(e *events.Event, h *events.Happening) string {
	switch e.Type {
	case events.RunHeld, events.RunPaused, events.ApprovalRequested, events.TaskRetrying, events.EnvironmentQueued, events.EnvironmentClosed, events.KeyQueued, events.ClockStepped:
		return "waiting"
	case events.TaskRefused, events.ApprovalRefused, events.CommandRefused, events.EventRefused,
		events.DefinitionRefused, events.DefinitionUnreachable, events.StoreFrozen, events.PartitionStopped, events.NotificationFailed:
		return "refused"
	case events.ApprovalDecided:
		return h.Decision
	}
	return h.Outcome
}

// eventLine is an event on one line: time, run where wanted, state, what.
func (a *app) eventLine(e *events.Event, withRun bool) string {
	h, err := events.DecodeHappening(e)
	if err != nil || !strings.HasPrefix(e.Type, events.TypePrefix) {
		return fmt.Sprintf("%s  %s  %s", stamp(e.Time), oneLine(e.Type), oneLine(join(e.Source, e.Subject, e.ID)))
	}
	var b strings.Builder
	b.WriteString(stamp(e.Time) + "  ")
	if withRun {
		fmt.Fprintf(&b, "%-16s  ", oneLine(cmp.Or(h.Run, "-")))
	}
	fmt.Fprintf(&b, "%-14s  ", oneLine(cmp.Or(h.State, "-")))
	b.WriteString(paint(a.stdout, word(e, h), oneLine(describe(e, h))))
	return b.String()
}

// atCommit is " at 1f2e3d4c5b6a by ana@acme.example" of a source of definitions.
func atCommit(h *events.Happening) string {
	if h.Commit == "" {
		return ""
	}
	return join(" at "+commit(h.Commit), prefixed("by ", h.Author))
}

// shortDigests shortens the digests behind names: "Workflow/release sha256:…".
func shortDigests(definitions []string) []string {
	var out []string
	for _, d := range definitions {
		if at := strings.LastIndexByte(d, ' '); at > 0 {
			d = d[:at+1] + digest(d[at+1:])
		}
		out = append(out, d)
	}
	return out
}

// join joins the parts that are not empty with spaces.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(clean(s))
}

func list(head string, items []string) string {
	if len(items) == 0 {
		return ""
	}
	return "(" + head + strings.Join(items, "; ") + ")"
}

func arrow(to string) string { return prefixed("→ ", to) }

func attempt(h *events.Happening) string {
	if h.Attempt < 2 {
		return ""
	}
	return "(attempt " + strconv.Itoa(h.Attempt) + ")"
}

func took(h *events.Happening) string {
	if h.DurationMs <= 0 {
		return ""
	}
	return "in " + short(time.Duration(h.DurationMs)*time.Millisecond)
}

func until(t *time.Time) string {
	if t == nil {
		return ""
	}
	return "until " + stamp(*t)
}

func errorText(e *events.TaskError) string {
	if e == nil {
		return ""
	}
	return "[" + e.Code + "] " + e.Message
}

func causeText(c *events.Cause) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("(%s %s from %s)", c.Type, c.ID, c.Source)
}
