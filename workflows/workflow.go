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
	Name        string            `yaml:"name" json:"name" validate:"required,max=200"`
	Labels      map[string]string `yaml:"labels" json:"labels,omitempty"`
	Description string            `yaml:"description" json:"description,omitempty"`
}

// Origin says where a document came from. It is not part of its digest.
type Origin struct {
	Digest string `yaml:"-" json:"digest"` // sha256:<hex> of the document's source text
	Pos    Pos    `yaml:"-" json:"pos"`    // where the document begins
	Commit string `yaml:"-" json:"commit,omitempty"`
	Author string `yaml:"-" json:"author,omitempty"`
}

// Workflow is a state machine that takes a change somewhere.
type Workflow struct {
	Metadata Metadata     `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     WorkflowSpec `yaml:"spec" json:"spec" validate:"required"`
	Origin   Origin       `yaml:"-" json:"origin"`
}

// WorkflowSpec is the body of a Workflow.
type WorkflowSpec struct {
	Title    *Data             `yaml:"title" json:"title,omitempty"`   // data: what people call a run; the default is its name and id
	Inputs   map[string]*Input `yaml:"inputs" json:"inputs,omitempty"` // typed: they become CEL types
	Triggers []*Trigger        `yaml:"triggers" json:"triggers,omitempty" validate:"dive"`
	Initial  string            `yaml:"initial" json:"initial" validate:"required"`
	States   map[string]*State `yaml:"states" json:"states" validate:"required,min=1,dive"`
	Finally  []*Finally        `yaml:"finally" json:"finally,omitempty" validate:"dive"`
	Notify   []*NotifyRule     `yaml:"notify" json:"notify,omitempty" validate:"dive"`
}

// Input is a typed input of a workflow. It is required unless it has a default.
type Input struct {
	Type        string `yaml:"type" json:"type" validate:"required"` // a Type
	Pattern     string `yaml:"pattern" json:"pattern,omitempty"`     // RE2, for strings; must match the whole value where anchored
	Enum        []any  `yaml:"enum" json:"enum,omitempty"`
	Default     any    `yaml:"default" json:"default,omitempty"`
	Description string `yaml:"description" json:"description,omitempty"`
}

// Trigger starts a run for an event.
type Trigger struct {
	Event  string           `yaml:"event" json:"event" validate:"required"` // event type; a final * matches any rest
	When   *Expr            `yaml:"when" json:"when,omitempty"`             // CEL over event
	Inputs map[string]*Data `yaml:"inputs" json:"inputs,omitempty"`         // data over event
}

// State is one state. Exactly one of Task, Parallel, Approval, Wait, Deploy and Final is set.
type State struct {
	Name  string `yaml:"-" json:"name"`  // the key it stands under
	Index int    `yaml:"-" json:"index"` // its place in the file, from 0

	Activity `yaml:",inline"` // task, with, environment, outputs, timeouts, retry

	Parallel map[string]*Branch `yaml:"parallel" json:"parallel,omitempty" validate:"dive"`
	Gate     []*Requirement     `yaml:"gate" json:"gate,omitempty" validate:"dive"`
	Approval *Approval          `yaml:"approval" json:"approval,omitempty"`
	Wait     *Wait              `yaml:"wait" json:"wait,omitempty"`
	Deploy   *Deploy            `yaml:"deploy" json:"deploy,omitempty"`
	Final    string             `yaml:"final" json:"final,omitempty" validate:"omitempty,oneof=succeeded failed rejected expired cancelled"`

	Next           string        `yaml:"next" json:"next,omitempty"`
	OnFail         string        `yaml:"onFail" json:"onFail,omitempty"`
	OnReject       string        `yaml:"onReject" json:"onReject,omitempty"`
	OnExpire       string        `yaml:"onExpire" json:"onExpire,omitempty"`
	OnTimeout      string        `yaml:"onTimeout" json:"onTimeout,omitempty"`
	OnInconclusive string        `yaml:"onInconclusive" json:"onInconclusive,omitempty"`
	Transitions    []*Transition `yaml:"transitions" json:"transitions,omitempty" validate:"dive"`
}

// Activity is a task and how to run it.
type Activity struct {
	Task         string            `yaml:"task" json:"task,omitempty"` // a task kind
	With         map[string]*Data  `yaml:"with" json:"with,omitempty"`
	Environment  string            `yaml:"environment" json:"environment,omitempty"`
	Secrets      []string          `yaml:"secrets" json:"secrets,omitempty"`
	Pool         string            `yaml:"pool" json:"pool,omitempty" validate:"max=63"` // which workers; "default"
	Outputs      map[string]string `yaml:"outputs" json:"outputs,omitempty"`             // name → Type, a subset of what the kind declares
	StartTimeout Duration          `yaml:"startTimeout" json:"startTimeout,omitempty"`
	Timeout      Duration          `yaml:"timeout" json:"timeout,omitempty"`
	Retry        *Retry            `yaml:"retry" json:"retry,omitempty"`
}

// Branch is one branch of a parallel state: a task.
type Branch struct {
	Name     string `yaml:"-" json:"name"`
	Index    int    `yaml:"-" json:"index"`
	Activity `yaml:",inline"`
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
	Name    string `yaml:"name" json:"name" validate:"required"`
	Require *Expr  `yaml:"require" json:"require,omitempty"`
	Warn    *Expr  `yaml:"warn" json:"warn,omitempty"`
	Message *Data  `yaml:"message" json:"message,omitempty"`
}

// Approval is a wait for people.
type Approval struct {
	Environments []string `yaml:"environments" json:"environments,omitempty"` // their require rules are ANDed in
	Quorum       []*Seat  `yaml:"quorum" json:"quorum,omitempty" validate:"dive"`
	Rule         *Expr    `yaml:"rule" json:"rule,omitempty"`
	Exclude      []string `yaml:"exclude" json:"exclude,omitempty"` // authors | starter | user names
	Binds        []string `yaml:"binds" json:"binds,omitempty"`     // paths of values, "build.digest"
	Expires      Duration `yaml:"expires" json:"expires,omitempty"`
	Message      *Data    `yaml:"message" json:"message,omitempty"`
}

// Seat is a part of a quorum: Count distinct people who hold Role.
type Seat struct {
	Role  string `yaml:"role" json:"role" validate:"required"`
	Count int    `yaml:"count" json:"count" validate:"required,min=1,max=100"`
}

// Wait is a sleep.
type Wait struct {
	For Duration `yaml:"for" json:"for" validate:"required"`
}

// Deploy brings an artifact to an environment by a strategy.
type Deploy struct {
	Environment string           `yaml:"environment" json:"environment" validate:"required"`
	Strategy    string           `yaml:"strategy" json:"strategy" validate:"required,oneof=recreate blue-green"`
	Artifact    *Data            `yaml:"artifact" json:"artifact" validate:"required"`
	With        map[string]*Data `yaml:"with" json:"with,omitempty"`
}

// Transition is an arm: taken when the outcome is one of Outcomes (any where
// empty) and When holds (where set). First match wins.
type Transition struct {
	When *Expr  `yaml:"when" json:"when,omitempty"`
	To   string `yaml:"to" json:"to" validate:"required"`

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
	When     *Expr  `yaml:"when" json:"when" validate:"required"` // CEL over state, outcome, run, inputs
	Channel  string `yaml:"channel" json:"channel" validate:"required"`
	Template string `yaml:"template" json:"template,omitempty"` // a template of the channel
}

// Ordered gives the states in the order of the file.
func (w *Workflow) Ordered() []*State {
	return slices.SortedFunc(maps.Values(w.Spec.States), func(a, b *State) int { return cmp.Compare(a.Index, b.Index) })
}

// Branches gives the branches of a parallel state in the order of the file.
func (s *State) Branches() []*Branch {
	return slices.SortedFunc(maps.Values(s.Parallel), func(a, b *Branch) int { return cmp.Compare(a.Index, b.Index) })
}

// Kind tells what the state does: "task", "parallel", "approval", "wait", "deploy" or "final".
func (s *State) Kind() string {
	switch {
	case s.Parallel != nil:
		return "parallel"
	case s.Approval != nil:
		return "approval"
	case s.Wait != nil:
		return "wait"
	case s.Deploy != nil:
		return "deploy"
	case s.Final != "":
		return "final"
	}
	return "task"
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
		return []string{"succeeded", "cancelled"}
	case "deploy":
		return []string{"succeeded", "failed", "inconclusive", "timedOut", "cancelled"}
	case "final":
		return nil
	}
	return []string{"succeeded", "failed", "inconclusive", "timedOut", "cancelled"}
}

// Duration is a time.Duration written as in Go, with "d" for 24 hours ("1d", "90s").
type Duration time.Duration
