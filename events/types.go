package events

import (
	"encoding/json"
	"strings"
	"time"
)

// TypePrefix begins the type of every event that Penstock emits; the type
// ends in ".v1". Types are stable: fields of their data are added, never
// renamed, and what cannot be said so becomes ".v2" beside it.
const TypePrefix = "dev.penstock."

// Types of the events that Penstock emits. Their data is a Happening, with
// the fields that each comment names beside Run, Workflow, Title and Record.
const (
	RunStarted  = "dev.penstock.run.started.v1"  // Inputs, RequestedBy, Cause
	RunFinished = "dev.penstock.run.finished.v1" // Outcome, State, DurationMs, Error
	RunHeld     = "dev.penstock.run.held.v1"     // State, Reason: a rule that decides where to go could not be evaluated
	RunAuthors  = "dev.penstock.run.authors.v1"  // Authors: who wrote the change, as far as known
	RunPaused   = "dev.penstock.run.paused.v1"   // State, By, Reason: nothing new begins
	RunResumed  = "dev.penstock.run.resumed.v1"  // State, By, Reason: it goes on
	RunRetried  = "dev.penstock.run.retried.v1"  // State, To, By, Reason: it begins again at To
	RunPaged    = "dev.penstock.run.paged.v1"    // State, Outcome, Roles: an end that calls somebody

	RunHeard     = "dev.penstock.run.heard.v1"     // State, Cause, To, Reason: an event came that the run listens for
	ChildStarted = "dev.penstock.child.started.v1" // State, Child, Kind: the run waits for a run of another workflow
	MemberLeft   = "dev.penstock.member.left.v1"   // State, Environment, Reason: a member of forEach was left out

	KeyQueued   = "dev.penstock.key.queued.v1"   // State, Key: the run waits for its concurrency key
	KeyGranted  = "dev.penstock.key.granted.v1"  // State, Key, Grant
	KeyReleased = "dev.penstock.key.released.v1" // Key, Grant

	StateEntered = "dev.penstock.state.entered.v1" // State, Visit; Kind of its task, where that is published with it
	StateLeft    = "dev.penstock.state.left.v1"    // State, Visit, Outcome, To, Outputs, Error

	TaskQueued   = "dev.penstock.task.queued.v1"   // State, Kind, Attempt; not beside a StateEntered that says it
	TaskStarted  = "dev.penstock.task.started.v1"  // State, Kind, Attempt, Worker; not of one that begins at once and soon ends
	TaskFinished = "dev.penstock.task.finished.v1" // State, Kind, Attempt, Outcome, Outputs, Error, DurationMs
	TaskRetrying = "dev.penstock.task.retrying.v1" // State, Kind, Attempt (the next one), Error, At
	TaskRefused  = "dev.penstock.task.refused.v1"  // State, Reason: a report about an attempt that is not current

	GateEvaluated = "dev.penstock.gate.evaluated.v1" // State, Outcome, Reasons, Warnings

	ApprovalRequested = "dev.penstock.approval.requested.v1" // State, Environments, Missing, Content, Deadline
	ApprovalDecided   = "dev.penstock.approval.decided.v1"   // State, By, Roles, Decision, Comment, Missing
	ApprovalRefused   = "dev.penstock.approval.refused.v1"   // State, By, Decision, Reason: it does not count
	ApprovalStale     = "dev.penstock.approval.stale.v1"     // State, By, Reasons: what changed, Content: what there is now
	ApprovalReminded  = "dev.penstock.approval.reminded.v1"  // State, Missing, Content, Deadline
	ApprovalEscalated = "dev.penstock.approval.escalated.v1" // State, Roles: who is told, Missing, Content, By where a person did it
	ApprovalClosed    = "dev.penstock.approval.closed.v1"    // State, Outcome, Reason

	CommandRefused = "dev.penstock.command.refused.v1" // By, Reason: a cancel or other command that was not allowed

	EnvironmentGranted  = "dev.penstock.environment.granted.v1"  // Environment, Grant, State
	EnvironmentQueued   = "dev.penstock.environment.queued.v1"   // State, Environment
	EnvironmentDeployed = "dev.penstock.environment.deployed.v1" // State, Environment, Grant, Artifact, URL
	EnvironmentReleased = "dev.penstock.environment.released.v1" // Environment, Grant
	EnvironmentClosed   = "dev.penstock.environment.closed.v1"   // State, Environment, Reason, Deadline: when it opens, as far as known
	EnvironmentOpened   = "dev.penstock.environment.opened.v1"   // State, Environment: a run that waited for it goes on
	EnvironmentHeld     = "dev.penstock.environment.held.v1"     // Environment, By, Reason, Deadline
	EnvironmentUnheld   = "dev.penstock.environment.unheld.v1"   // Environment, By, Reason
	GlassBroken         = "dev.penstock.glass.broken.v1"         // Environment, By, Reason, ReviewBy

	DeploymentStep   = "dev.penstock.deployment.step.v1"   // State, Environment, Reason: the step that begins
	DeploymentJudged = "dev.penstock.deployment.judged.v1" // State, Environment, Outcome, Reasons: what an analysis has seen of each metric
	EffectUndone     = "dev.penstock.effect.undone.v1"     // State, Environment, Artifact: what is deployed there again

	EventMatched = "dev.penstock.event.matched.v1" // Cause, Runs, Reasons
	EventIgnored = "dev.penstock.event.ignored.v1" // Cause, Reasons: why nothing matched
	EventRefused = "dev.penstock.event.refused.v1" // Cause, Reasons: not an event, or a trigger's rule or inputs failed

	DefinitionApplied     = "dev.penstock.definition.applied.v1"     // By, Definitions, Commit, Author, Warnings: what the change weakens
	DefinitionRemoved     = "dev.penstock.definition.removed.v1"     // By, Definitions, Commit, Author, Warnings: those that were in force and are not any more
	DefinitionRefused     = "dev.penstock.definition.refused.v1"     // By, Reasons (one line for each problem), Commit, Author
	DefinitionRecovered   = "dev.penstock.definition.recovered.v1"   // By, Commit, Author: a source that was refused or unreachable is good again
	DefinitionUnreachable = "dev.penstock.definition.unreachable.v1" // By, Reason, Commit (the newest that was read): what came from it stays in force

	StoreFrozen    = "dev.penstock.store.frozen.v1"    // By (the stream), Reason: it takes no writes
	StoreRecovered = "dev.penstock.store.recovered.v1" // By (the stream): it takes writes again

	PartitionStopped = "dev.penstock.partition.stopped.v1" // Reason: a partition's record is not what it was, and nothing goes on there
	PartitionResumed = "dev.penstock.partition.resumed.v1" // By, Reason, Reasons: what is lost; Runs: whose records
	ClockStepped     = "dev.penstock.clock.stepped.v1"     // Reason: timers are held, since nobody knows what time it is

	Notification       = "dev.penstock.notification.v1"        // Channel, Text, State, Outcome, Missing, Content, Reason (why one that was sent before is sent again: "reminder", "escalated to …")
	NotificationFailed = "dev.penstock.notification.failed.v1" // Channel, Error
)

// ScheduleFired is the type of the event that a trigger's expressions see when
// its time has come: Data is {"at": the time, "head": commit of the workflow's
// file, where it has one}. It stands in records only.
const ScheduleFired = "dev.penstock.schedule.fired.v1"

// Reminder is the Reason of a Notification that tells again what was told before.
const Reminder = "reminder"

// Types lists every type of event that is emitted, in the order of the documentation.
func Types() []string {
	return []string{RunStarted, RunFinished, RunHeld, RunAuthors, RunPaused, RunResumed, RunRetried, RunPaged, RunHeard,
		ChildStarted, MemberLeft, KeyQueued, KeyGranted, KeyReleased, StateEntered, StateLeft, TaskQueued, TaskStarted, TaskFinished,
		TaskRetrying, TaskRefused, GateEvaluated, ApprovalRequested, ApprovalDecided, ApprovalRefused, ApprovalStale, ApprovalReminded, ApprovalEscalated, ApprovalClosed,
		CommandRefused, EnvironmentGranted, EnvironmentQueued, EnvironmentDeployed, EnvironmentReleased,
		EnvironmentClosed, EnvironmentOpened, EnvironmentHeld, EnvironmentUnheld, GlassBroken, DeploymentStep,
		DeploymentJudged, EffectUndone, EventMatched,
		EventIgnored, EventRefused,
		DefinitionApplied, DefinitionRemoved, DefinitionRefused, DefinitionRecovered, DefinitionUnreachable,
		StoreFrozen, StoreRecovered,
		PartitionStopped, PartitionResumed, ClockStepped,
		Notification, NotificationFailed}
}

// ShortType is a type without prefix and version: "run.started".
func ShortType(typ string) string {
	return strings.TrimSuffix(strings.TrimPrefix(typ, TypePrefix), ".v1")
}

// Happening is the data of every event that Penstock emits. Which fields are
// set is said at the types.
type Happening struct {
	Run      string `json:"run,omitempty"`
	Workflow string `json:"workflow,omitempty"`
	Title    string `json:"title,omitempty"`
	Record   int64  `json:"record,omitempty"` // version of the run's record that this stands in
	State    string `json:"state,omitempty"`  // path: "verify.test" for a branch
	Visit    int    `json:"visit,omitempty"`
	To       string `json:"to,omitempty"`
	Outcome  string `json:"outcome,omitempty"`

	Kind       string         `json:"kind,omitempty"`
	Attempt    int            `json:"attempt,omitempty"`
	Worker     string         `json:"worker,omitempty"`
	Inputs     map[string]any `json:"inputs,omitempty"`
	Outputs    map[string]any `json:"outputs,omitempty"`
	Error      *TaskError     `json:"error,omitempty"`
	DurationMs int64          `json:"durationMs,omitempty"`
	At         *time.Time     `json:"at,omitempty"` // when it will be

	RequestedBy string     `json:"requestedBy,omitempty"` // a user, or "event:<publisher>" of the event that started it
	Authors     []string   `json:"authors,omitempty"`
	By          string     `json:"by,omitempty"`
	Roles       []string   `json:"roles,omitempty"`
	Decision    string     `json:"decision,omitempty"`
	Comment     string     `json:"comment,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Reasons     []string   `json:"reasons,omitempty"`
	Warnings    []string   `json:"warnings,omitempty"`
	Missing     []string   `json:"missing,omitempty"` // what an approval still needs, in words
	Content     string     `json:"content,omitempty"` // digest of what an approval is bound to; send it with the decision
	Deadline    *time.Time `json:"deadline,omitempty"`
	ReviewBy    *time.Time `json:"reviewBy,omitempty"` // until when somebody else must have looked at it

	Environment  string   `json:"environment,omitempty"`
	Environments []string `json:"environments,omitempty"`
	Grant        int64    `json:"grant,omitempty"`
	Artifact     string   `json:"artifact,omitempty"`
	URL          string   `json:"url,omitempty"`

	Key   string `json:"key,omitempty"`   // a concurrency key
	Child string `json:"child,omitempty"` // a run that this one waits for

	Cause       *Cause   `json:"cause,omitempty"`
	Runs        []string `json:"runs,omitempty"`
	Definitions []string `json:"definitions,omitempty"` // "Workflow/checkout-release sha256:…"
	Commit      string   `json:"commit,omitempty"`      // of a repository of definitions
	Author      string   `json:"author,omitempty"`      // of that commit, by address
	Channel     string   `json:"channel,omitempty"`
	Text        string   `json:"text,omitempty"`

	Why []WaitReason `json:"why,omitempty"` // what the run waits for, as penstock why says it, cut to a few kilobytes
}

// Cause names the event that something goes back to.
type Cause struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Type   string `json:"type"`
}

// DecodeHappening reads the data of an event that Penstock emitted.
func DecodeHappening(e *Event) (*Happening, error) {
	var h Happening
	if err := json.Unmarshal(e.Data, &h); err != nil {
		return nil, err
	}
	return &h, nil
}
