// Package workflows holds definitions as data: workflows, environments, roles,
// channels, task kinds and scenarios, as they stand in files (docs/language.md),
// and the checks that need nothing but the definitions themselves.
//
// The structs have the shape of the files: yaml tags name the keys, validate
// tags the structural rules. Short forms stay as they were written; methods
// give their meaning (State.Arms). Expressions are held as source with their
// position and as a Program, which package parse supplies; this package knows
// neither YAML nor CEL.
//
// A definition is immutable once parsed and may be shared by goroutines.
package workflows

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// APIVersion is the one version of the language.
const APIVersion = "penstock/v1"

// Kinds of documents.
const (
	KindWorkflow    = "Workflow"
	KindEnvironment = "Environment"
	KindRoles       = "Roles"
	KindChannel     = "Channel"
	KindTaskKind    = "TaskKind"
	KindPolicy      = "Policy"
	KindScenario    = "Scenario"
)

// Pos is a place in a file. Line and Column count from 1; Column counts the
// bytes of the line before the place, plus one.
type Pos struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Metadata names a document.
type Metadata struct {
	Name        string            `yaml:"name" json:"name" validate:"required,max=200"` // what others call it
	Labels      map[string]string `yaml:"labels" json:"labels,omitempty"`               // words that policies, selectors and expressions read
	Description string            `yaml:"description" json:"description,omitempty"`     // what it is for
}

// Origin says where a document came from. It is not part of its digest.
type Origin struct {
	Digest string `yaml:"-" json:"digest"`           // sha256:<hex> of the document's source text
	Pos    Pos    `yaml:"-" json:"pos"`              // where the document begins
	Source string `yaml:"-" json:"source,omitempty"` // "folder:/etc/penstock", "apply:release.yaml", "git+https://…#main:penstock"; empty where nobody said
	Commit string `yaml:"-" json:"commit,omitempty"` // of a Git repository
	Author string `yaml:"-" json:"author,omitempty"` // of that commit, by address; whoever applied it
	// Places tells where the keys of the document stand, by their paths.
	Places map[string]Pos `yaml:"-" json:"-"`
}

// Place gives the place of the key at a path, or of the nearest one above it.
func (o *Origin) Place(path string) Pos {
	for ; path != ""; path = Parent(path) {
		if at, ok := o.Places[path]; ok {
			return at
		}
	}
	return o.Pos
}

// Workflow is a state machine that takes a change somewhere.
type Workflow struct {
	Metadata Metadata     `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     WorkflowSpec `yaml:"spec" json:"spec" validate:"required"`
	Origin   Origin       `yaml:"-" json:"origin"`
}

// WorkflowSpec is the body of a Workflow.
type WorkflowSpec struct {
	Title       *Data              `yaml:"title" json:"title,omitempty"`     // data: what people call a run; the default is its name and id
	Inputs      map[string]*Input  `yaml:"inputs" json:"inputs,omitempty"`   // typed: they become CEL types
	Outputs     map[string]*Output `yaml:"outputs" json:"outputs,omitempty"` // typed: what a parent run reads of this one when it has succeeded
	Triggers    []*Trigger         `yaml:"triggers" json:"triggers,omitempty" validate:"dive"`
	Concurrency *Concurrency       `yaml:"concurrency" json:"concurrency,omitempty"`   // one run at a time for each key
	Initial     string             `yaml:"initial" json:"initial" validate:"required"` // the state that a run begins in
	States      map[string]*State  `yaml:"states" json:"states" validate:"required,min=1,dive"`
	OnCancel    string             `yaml:"onCancel" json:"onCancel,omitempty"` // the state that a cancelled run goes to; without it the run ends, and what it left unfinished in an environment is undone
	Finally     []*Finally         `yaml:"finally" json:"finally,omitempty" validate:"dive"`
	Notify      []*NotifyRule      `yaml:"notify" json:"notify,omitempty" validate:"dive"`
	Invariants  []*Invariant       `yaml:"invariants" json:"invariants,omitempty" validate:"dive"` // proved when the file is checked, asserted when it runs
}

// Input is a typed input of a workflow. It is required unless it has a default.
type Input struct {
	Type        string `yaml:"type" json:"type" validate:"required"`     // a Type
	Pattern     string `yaml:"pattern" json:"pattern,omitempty"`         // RE2, for strings; must match the whole value where anchored
	Enum        []any  `yaml:"enum" json:"enum,omitempty"`               // the values that it can have
	Default     any    `yaml:"default" json:"default,omitempty"`         // without one the input is required
	Description string `yaml:"description" json:"description,omitempty"` // what people read
}

// Output is a typed result of a run, made when the run succeeds.
type Output struct {
	Type        string `yaml:"type" json:"type" validate:"required"`     // a Type
	Value       *Data  `yaml:"value" json:"value" validate:"required"`   // data over inputs, run and states
	Description string `yaml:"description" json:"description,omitempty"` // what people read
}

// Trigger starts a run for an event, or by the clock. Exactly one of Event and
// Schedule is set.
type Trigger struct {
	Event    string           `yaml:"event" json:"event,omitempty"`       // event type; a final * matches any rest
	Schedule *Schedule        `yaml:"schedule" json:"schedule,omitempty"` // by the clock
	When     *Expr            `yaml:"when" json:"when,omitempty"`         // CEL over event
	Inputs   map[string]*Data `yaml:"inputs" json:"inputs,omitempty"`     // data over event
}

// Schedule is a time that comes again.
type Schedule struct {
	Cron     string `yaml:"cron" json:"cron" validate:"required"` // five fields: minute hour day month weekday
	Timezone string `yaml:"timezone" json:"timezone,omitempty"`   // IANA name; UTC
}

// Concurrency lets one run at a time go on for each key. Keys are one
// namespace for the whole installation.
type Concurrency struct {
	Key    *Data  `yaml:"key" json:"key" validate:"required"`                                               // data over inputs and run
	Policy string `yaml:"policy" json:"policy,omitempty" validate:"omitempty,oneof=queue supersede reject"` // queue: wait in order; supersede: take the place of those that wait; reject: end rejected
}

// Policies of a concurrency key.
const (
	PolicyQueue     = "queue"
	PolicySupersede = "supersede"
	PolicyReject    = "reject"
)

// Invariant is a condition over the way of a run that must never hold.
type Invariant struct {
	Never   *Expr  `yaml:"never" json:"never" validate:"required"` // CEL over entered(), approved(), outcome() and labels
	Message string `yaml:"message" json:"message,omitempty"`       // what people read when it is broken
}

// Body is what is done at one place: a task, a deployment or a child run.
// Exactly one of Task, Deploy and Workflow is set.
type Body struct {
	Activity `yaml:",inline"` // task, with, environment, outputs, timeouts, retry, undo

	Deploy   *Deploy `yaml:"deploy" json:"deploy,omitempty"`
	Workflow *Child  `yaml:"workflow" json:"workflow,omitempty"`
}

// State is one state. Exactly one of Task, Deploy, Workflow, Parallel, ForEach,
// Approval, Wait, Compensate and Final is set.
type State struct {
	Name  string `yaml:"-" json:"name"`  // the key it stands under
	Index int    `yaml:"-" json:"index"` // its place in the file, from 0

	Body `yaml:",inline"`

	Parallel   map[string]*Branch `yaml:"parallel" json:"parallel,omitempty" validate:"dive"`
	Join       string             `yaml:"join" json:"join,omitempty" validate:"omitempty,oneof=all any race"` // of parallel; all: every branch succeeds; any: one is enough, the others run on until then; race: the first to end decides, the rest is cancelled
	ForEach    *ForEach           `yaml:"forEach" json:"forEach,omitempty"`
	Gate       []*Requirement     `yaml:"gate" json:"gate,omitempty" validate:"dive"`
	Approval   *Approval          `yaml:"approval" json:"approval,omitempty"`
	Wait       *Wait              `yaml:"wait" json:"wait,omitempty"`
	Compensate []string           `yaml:"compensate" json:"compensate,omitempty"`                                                              // states whose effects are undone, in reverse of the record
	Final      string             `yaml:"final" json:"final,omitempty" validate:"omitempty,oneof=succeeded failed rejected expired cancelled"` // the outcome that the run ends with here
	Page       string             `yaml:"page" json:"page,omitempty"`                                                                          // of final: the role that is called

	Events         []*EventArm   `yaml:"events" json:"events,omitempty" validate:"dive"` // taken as soon as such an event comes while the run is here
	Next           string        `yaml:"next" json:"next,omitempty"`                     // where succeeded leads
	OnFail         string        `yaml:"onFail" json:"onFail,omitempty"`                 // where every other outcome without an arm leads, except cancelled and superseded
	OnReject       string        `yaml:"onReject" json:"onReject,omitempty"`             // where rejected leads
	OnExpire       string        `yaml:"onExpire" json:"onExpire,omitempty"`             // where expired leads
	OnTimeout      string        `yaml:"onTimeout" json:"onTimeout,omitempty"`           // where timedOut leads
	OnInconclusive string        `yaml:"onInconclusive" json:"onInconclusive,omitempty"` // where inconclusive leads
	Transitions    []*Transition `yaml:"transitions" json:"transitions,omitempty" validate:"dive"`
}

// Activity is a task and how to run it.
type Activity struct {
	Task         string            `yaml:"task" json:"task,omitempty"` // a task kind
	With         map[string]*Data  `yaml:"with" json:"with,omitempty"`
	Environment  string            `yaml:"environment" json:"environment,omitempty"`     // below forEach it may be ${{ NAME }}, the name of the member
	Secrets      []string          `yaml:"secrets" json:"secrets,omitempty"`             // names of secrets of the environment that the worker needs
	Pool         string            `yaml:"pool" json:"pool,omitempty" validate:"max=63"` // which workers; "default"
	Outputs      map[string]string `yaml:"outputs" json:"outputs,omitempty"`             // name → Type, a subset of what the kind declares
	StartTimeout Duration          `yaml:"startTimeout" json:"startTimeout,omitempty"`   // how long it may wait for a worker; the outcome is timedOut then
	Timeout      Duration          `yaml:"timeout" json:"timeout,omitempty"`             // how long an attempt may run; the outcome is timedOut then
	Retry        *Retry            `yaml:"retry" json:"retry,omitempty"`
	Undo         *Undo             `yaml:"undo" json:"undo,omitempty"` // what takes the task's effects back
}

// Undo is a task that takes back what another one did. It works on the same
// environment and pool, with the same secrets.
type Undo struct {
	Task    string           `yaml:"task" json:"task" validate:"required"` // a task kind
	With    map[string]*Data `yaml:"with" json:"with,omitempty"`           // data over what with sees, and the task's own outputs as optional
	Timeout Duration         `yaml:"timeout" json:"timeout,omitempty"`     // how long an attempt may run
}

// Branch is one branch of a parallel state.
type Branch struct {
	Name  string `yaml:"-" json:"name"`
	Index int    `yaml:"-" json:"index"`
	Body  `yaml:",inline"`
}

// Child is a run of another workflow that this one waits for. A cancel of the
// parent cancels it.
type Child struct {
	Name   string           `yaml:"name" json:"name" validate:"required"` // the workflow
	Inputs map[string]*Data `yaml:"inputs" json:"inputs,omitempty"`
}

// ForEach does one body for each member of a list, in waves. Its results are
// a map by member. Exactly one of In and Environments is set.
type ForEach struct {
	In                *Expr     `yaml:"in" json:"in,omitempty"`                                                // CEL: a list of distinct texts
	Environments      *Selector `yaml:"environments" json:"environments,omitempty"`                            // the environments with these labels, by name
	As                string    `yaml:"as" json:"as" validate:"required"`                                      // what the body calls the member
	Do                *Body     `yaml:"do" json:"do" validate:"required"`                                      // done for each member
	MaxParallel       int       `yaml:"maxParallel" json:"maxParallel,omitempty" validate:"min=0,max=1000"`    // at a time; 0: a whole wave
	Waves             []any     `yaml:"waves" json:"waves,omitempty"`                                          // sizes, the last one may be "rest"; without it there is one wave
	Between           *Between  `yaml:"between" json:"between,omitempty"`                                      // what happens between two waves
	OnHold            string    `yaml:"onHold" json:"onHold,omitempty" validate:"omitempty,oneof=wait skip"`   // a member whose environment is frozen or held: wait for it (default), or leave it out
	StopAfterFailures int       `yaml:"stopAfterFailures" json:"stopAfterFailures,omitempty" validate:"min=0"` // at this many nothing new starts; 0 is 1
}

// Selector selects environments by their labels: all of them must match.
type Selector struct {
	Labels map[string]string `yaml:"labels" json:"labels" validate:"required,min=1"` // all of them must match
}

// Between is a pause between two waves.
type Between struct {
	Wait Duration `yaml:"wait" json:"wait" validate:"required"` // how long
}

// EventArm leaves a state when an event comes.
type EventArm struct {
	Event string `yaml:"event" json:"event" validate:"required"` // event type; a final * matches any rest
	When  *Expr  `yaml:"when" json:"when,omitempty"`             // CEL over event, inputs, run and states
	To    string `yaml:"to" json:"to" validate:"required"`       // the state that the run goes to
}

// Retry says how often and when to try a failed attempt again.
type Retry struct {
	Attempts int      `yaml:"attempts" json:"attempts" validate:"required,min=1,max=100"` // in all, the first included
	Backoff  Duration `yaml:"backoff" json:"backoff,omitempty"`                           // before the second; doubles
	Max      Duration `yaml:"max" json:"max,omitempty"`                                   // longest backoff
	When     *Expr    `yaml:"when" json:"when,omitempty"`                                 // CEL over error and attempt
}

// Requirement is a line of a gate.
type Requirement struct {
	Name    string `yaml:"name" json:"name" validate:"required"` // what people call the line
	Require *Expr  `yaml:"require" json:"require,omitempty"`
	Warn    *Expr  `yaml:"warn" json:"warn,omitempty"`
	Message *Data  `yaml:"message" json:"message,omitempty"`
}

// Approval is a wait for people.
type Approval struct {
	Environments []string `yaml:"environments" json:"environments,omitempty"` // their require rules are ANDed in
	Quorum       []*Seat  `yaml:"quorum" json:"quorum,omitempty" validate:"dive"`
	Rule         *Expr    `yaml:"rule" json:"rule,omitempty"`       // CEL, ANDed with the quorum
	Reject       *Expr    `yaml:"reject" json:"reject,omitempty"`   // CEL: when rejections end the approval; without it any rejection does
	Auto         *Expr    `yaml:"auto" json:"auto,omitempty"`       // CEL: where it holds, quorum and rule are not needed; what environments require still is
	Exclude      []string `yaml:"exclude" json:"exclude,omitempty"` // authors | starter | user names
	Binds        []string `yaml:"binds" json:"binds,omitempty"`     // paths of values, "build.digest"
	Expires      Duration `yaml:"expires" json:"expires,omitempty"` // how long it may wait for people; without it for ever
	Remind       *Remind  `yaml:"remind" json:"remind,omitempty"`
	Message      *Data    `yaml:"message" json:"message,omitempty"`
}

// Remind says when people are told again that an approval waits.
type Remind struct {
	Every    Duration  `yaml:"every" json:"every,omitempty"` // how often; without it never
	Escalate *Escalate `yaml:"escalate" json:"escalate,omitempty"`
}

// Escalate tells another role. It does not change who may approve.
type Escalate struct {
	After Duration `yaml:"after" json:"after" validate:"required"` // how long after the approval was asked for
	To    string   `yaml:"to" json:"to" validate:"required"`       // a role
}

// Seat is a part of a quorum: Count distinct people who hold Role.
type Seat struct {
	Role  string `yaml:"role" json:"role" validate:"required"`                 // the role that they hold
	Count int    `yaml:"count" json:"count" validate:"required,min=1,max=100"` // how many people
}

// Wait is a sleep, or a wait for an event. Exactly one of For, Until and Event is set.
type Wait struct {
	For     Duration `yaml:"for" json:"for,omitempty"`         // how long
	Until   *Expr    `yaml:"until" json:"until,omitempty"`     // CEL: a timestamp
	Event   string   `yaml:"event" json:"event,omitempty"`     // event type; a final * matches any rest
	When    *Expr    `yaml:"when" json:"when,omitempty"`       // of Event: CEL over event, inputs, run and states
	Timeout Duration `yaml:"timeout" json:"timeout,omitempty"` // of Event: the outcome is timedOut then
}

// Deploy brings an artifact to an environment by a strategy, or goes on with a
// deployment that another state has begun (Resume).
type Deploy struct {
	Environment string           `yaml:"environment" json:"environment,omitempty"`                                                         // below forEach it may be ${{ NAME }}, the name of the member
	Strategy    string           `yaml:"strategy" json:"strategy,omitempty" validate:"omitempty,oneof=recreate blue-green rolling canary"` // how the new version takes the place of the old one
	Artifact    *Data            `yaml:"artifact" json:"artifact,omitempty"`
	With        map[string]*Data `yaml:"with" json:"with,omitempty"`
	Steps       []*Step          `yaml:"steps" json:"steps,omitempty" validate:"dive"`       // of canary: one after the other
	Analysis    []*Metric        `yaml:"analysis" json:"analysis,omitempty" validate:"dive"` // what analyze steps look at
	Resume      string           `yaml:"resume" json:"resume,omitempty"`                     // the state whose unfinished deployment goes on behind the step that it stopped at
}

// Step is one step of a deployment. Exactly one of the fields is set.
type Step struct {
	Weight  int      `yaml:"weight" json:"weight,omitempty" validate:"min=0,max=100"` // per cent of the traffic that the new version gets
	Pause   Duration `yaml:"pause" json:"pause,omitempty"`                            // wait
	Analyze Duration `yaml:"analyze" json:"analyze,omitempty"`                        // judge the metrics for so long
}

// Metric is a measurement that is judged while a deployment is analyzed.
type Metric struct {
	Name     string            `yaml:"name" json:"name" validate:"required"`                         // what people call it
	Query    map[string]string `yaml:"query" json:"query" validate:"required,len=1"`                 // provider → query: {prometheus: 'job:http_errors:ratio5m'}
	Every    Duration          `yaml:"every" json:"every" validate:"required"`                       // between two samples
	Pass     *Expr             `yaml:"pass" json:"pass" validate:"required"`                         // CEL over value, samples, baseline, elapsed
	Fail     *Expr             `yaml:"fail" json:"fail,omitempty"`                                   // CEL; without it what does not pass fails; neither is inconclusive
	Failures int               `yaml:"failures" json:"failures,omitempty" validate:"min=0,max=1000"` // how many samples may fail before the analysis has failed; 0: the first one that fails
}

// Transition is an arm: taken when the outcome is one of Outcomes (any where
// empty) and When holds (where set). First match wins.
type Transition struct {
	When *Expr  `yaml:"when" json:"when,omitempty"`
	To   string `yaml:"to" json:"to" validate:"required"` // the state that the run goes to

	Outcomes []string `yaml:"-" json:"outcomes,omitempty"` // set by Arms for short forms
	Except   []string `yaml:"-" json:"except,omitempty"`
	Key      string   `yaml:"-" json:"key,omitempty"` // the key it was written as, "onFail"
}

// Finally is a task that runs at the end of a run, whatever the end.
type Finally struct {
	Activity `yaml:",inline"`
}

// NotifyRule sends a notification when a condition becomes true.
type NotifyRule struct {
	When     *Expr  `yaml:"when" json:"when" validate:"required"`       // CEL over state, outcome, run, inputs
	Channel  string `yaml:"channel" json:"channel" validate:"required"` // where it is sent
	Template string `yaml:"template" json:"template,omitempty"`         // a template of the channel
}

// Ordered gives the states in the order of the file.
func (w *Workflow) Ordered() []*State {
	return slices.SortedFunc(maps.Values(w.Spec.States), func(a, b *State) int { return cmp.Compare(a.Index, b.Index) })
}

// Branches gives the branches of a parallel state in the order of the file.
func (s *State) Branches() []*Branch {
	return slices.SortedFunc(maps.Values(s.Parallel), func(a, b *Branch) int { return cmp.Compare(a.Index, b.Index) })
}

// Kind tells what the state does: "task", "deploy", "workflow", "parallel",
// "forEach", "approval", "wait", "compensate" or "final".
func (s *State) Kind() string {
	switch {
	case s.Parallel != nil:
		return "parallel"
	case s.ForEach != nil:
		return "forEach"
	case s.Approval != nil:
		return "approval"
	case s.Wait != nil:
		return "wait"
	case s.Compensate != nil:
		return "compensate"
	case s.Final != "":
		return "final"
	}
	return s.Body.Kind()
}

// Kind tells what the body does: "task", "deploy" or "workflow".
func (b *Body) Kind() string {
	switch {
	case b.Deploy != nil:
		return "deploy"
	case b.Workflow != nil:
		return "workflow"
	}
	return "task"
}

// MemberName gives the name that stands for an environment in a body: itself,
// or the member where it is written as ${{ as }}.
func MemberName(environment, as, member string) string {
	if inner, ok := strings.CutPrefix(strings.TrimSpace(environment), "${{"); ok && as != "" {
		if inner, ok = strings.CutSuffix(inner, "}}"); ok && strings.TrimSpace(inner) == as {
			return member
		}
	}
	return environment
}

// Arms gives the transitions of the state in the order in which they are
// tried: the written ones, then the short forms.
func (s *State) Arms() []*Transition {
	arms := slices.Clone(s.Transitions)
	short := func(key, to string, outcomes ...string) {
		if to != "" {
			arms = append(arms, &Transition{To: to, Outcomes: outcomes, Key: key})
		}
	}
	short("next", s.Next, "succeeded")
	short("onReject", s.OnReject, "rejected")
	short("onExpire", s.OnExpire, "expired")
	short("onTimeout", s.OnTimeout, "timedOut")
	short("onInconclusive", s.OnInconclusive, "inconclusive")
	if s.OnFail != "" {
		arms = append(arms, &Transition{To: s.OnFail, Except: []string{"succeeded", "cancelled", "superseded"}, Key: "onFail"})
	}
	return arms
}

// Takes reports whether the arm is for the outcome, leaving When aside.
func (t *Transition) Takes(outcome string) bool {
	if len(t.Outcomes) > 0 {
		return slices.Contains(t.Outcomes, outcome)
	}
	return !slices.Contains(t.Except, outcome)
}

// Outcomes gives the outcomes that a state of this kind can have.
func (s *State) Outcomes() []string {
	switch s.Kind() {
	case "approval":
		return []string{"succeeded", "rejected", "expired", "cancelled"}
	case "wait":
		if s.Wait.Event != "" && s.Wait.Timeout > 0 {
			return []string{"succeeded", "timedOut", "cancelled"}
		}
		return []string{"succeeded", "cancelled"}
	case "workflow":
		return RunOutcomes()
	case "parallel", "forEach":
		return []string{"succeeded", "failed", "timedOut", "cancelled"}
	case "compensate":
		return []string{"succeeded", "failed", "cancelled"}
	case "final":
		return nil
	}
	return []string{"succeeded", "failed", "inconclusive", "timedOut", "cancelled"}
}

// Duration is a time.Duration written as in Go, with "d" for 24 hours ("1d", "90s").
type Duration time.Duration
