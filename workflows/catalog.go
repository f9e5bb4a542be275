package workflows

import (
	"maps"
	"slices"
	"strings"
)

// Catalog is the set of definitions in force at a moment, or the set that a
// run was started with. Digest names it: it is the digest of the list of its
// documents' digests.
type Catalog struct {
	Digest       string
	Workflows    map[string]*Workflow
	Environments map[string]*Environment
	Roles        []*Roles // every Roles document counts
	Channels     map[string]*Channel
	Policies     map[string]*Policy
	Kinds        map[string]*TaskKind // the shipped ones and those of TaskKind documents
	Scenarios    []*Scenario
}

// Environment is a place that changes are deployed to.
type Environment struct {
	Metadata Metadata        `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     EnvironmentSpec `yaml:"spec" json:"spec"`
	Origin   Origin          `yaml:"-" json:"origin"`
}

// EnvironmentSpec is the body of an Environment.
type EnvironmentSpec struct {
	Target       map[string]any    `yaml:"target" json:"target,omitempty"`   // one key names the target's kind: {local: {…}}
	Config       map[string]any    `yaml:"config" json:"config,omitempty"`   // env.config in CEL
	Secrets      map[string]string `yaml:"secrets" json:"secrets,omitempty"` // references, resolved in the worker
	Lock         *Lock             `yaml:"lock" json:"lock,omitempty"`
	Windows      *Windows          `yaml:"windows" json:"windows,omitempty"` // when something may enter
	Require      []*Rule           `yaml:"require" json:"require,omitempty" validate:"dive"`
	PromotesFrom string            `yaml:"promotesFrom" json:"promotesFrom,omitempty"` // only what succeeded in that environment, by digest
	BreakGlass   *BreakGlass       `yaml:"breakGlass" json:"breakGlass,omitempty"`
}

// Lock says how runs share the environment: one at a time, in the order of asking.
type Lock struct {
	Mode  string `yaml:"mode" json:"mode,omitempty" validate:"omitempty,oneof=exclusive"` // exclusive: one run at a time
	Queue string `yaml:"queue" json:"queue,omitempty" validate:"omitempty,oneof=fifo"`    // fifo: in the order of asking
}

// Windows say when a run may enter an environment: within one of Allow where
// there are any, and within no Freeze.
type Windows struct {
	Timezone string          `yaml:"timezone" json:"timezone,omitempty"` // IANA name; UTC
	Allow    []*AllowWindow  `yaml:"allow" json:"allow,omitempty" validate:"dive"`
	Freeze   []*FreezeWindow `yaml:"freeze" json:"freeze,omitempty" validate:"dive"`
	AtEnd    string          `yaml:"atEnd" json:"atEnd,omitempty" validate:"omitempty,oneof=finish hold undo"` // what an ending window does to work in progress; finish
}

// AllowWindow is a time of the week. A window whose To is not after its From
// ends on the next day.
type AllowWindow struct {
	Days []string `yaml:"days" json:"days,omitempty" validate:"dive,oneof=mon tue wed thu fri sat sun"` // every day where empty
	From string   `yaml:"from" json:"from,omitempty"`                                                   // "09:00"; the beginning of the day
	To   string   `yaml:"to" json:"to,omitempty"`                                                       // "16:00", which is outside; the end of the day
}

// FreezeWindow is a time in which nothing enters: From and To (days, both
// included), or RRule and For.
type FreezeWindow struct {
	From   string   `yaml:"from" json:"from,omitempty"`     // "2026-12-18"
	To     string   `yaml:"to" json:"to,omitempty"`         // "2027-01-04"
	RRule  string   `yaml:"rrule" json:"rrule,omitempty"`   // RFC 5545, without DTSTART: "FREQ=MONTHLY;BYMONTHDAY=-1"
	For    Duration `yaml:"for" json:"for,omitempty"`       // from each occurrence, which is at the beginning of its day
	Reason string   `yaml:"reason" json:"reason,omitempty"` // what people read
}

// BreakGlass lets people pass the rules and windows of an environment at once.
type BreakGlass struct {
	Roles        []string `yaml:"roles" json:"roles" validate:"required,min=1"` // who may: holders of one of these roles
	ReviewWithin Duration `yaml:"reviewWithin" json:"reviewWithin,omitempty"`   // until when somebody else must have looked at it
}

// Policy is a set of rules that hold in all environments that it matches,
// beside their own.
type Policy struct {
	Metadata Metadata   `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     PolicySpec `yaml:"spec" json:"spec"`
	Origin   Origin     `yaml:"-" json:"origin"`
}

// PolicySpec is the body of a Policy. It matches where all of its selectors do;
// one that is empty matches everything.
type PolicySpec struct {
	Environments []string          `yaml:"environments" json:"environments,omitempty"` // patterns with *
	Labels       map[string]string `yaml:"labels" json:"labels,omitempty"`             // of the environment
	Workflows    []string          `yaml:"workflows" json:"workflows,omitempty"`       // patterns with *
	Require      []*Rule           `yaml:"require" json:"require" validate:"required,min=1,dive"`
}

// Matches reports whether the policy is for a workflow that enters an environment.
func (p *Policy) Matches(e *Environment, workflow string) bool {
	some := func(patterns []string, name string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pat string) bool { return Match(pat, name) })
	}
	return some(p.Spec.Environments, e.Metadata.Name) && some(p.Spec.Workflows, workflow) && HasLabels(e.Metadata.Labels, p.Spec.Labels)
}

// HasLabels reports whether labels holds all of want.
func HasLabels(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Selected gives the names of the environments that a selector selects, sorted.
func (c *Catalog) Selected(s *Selector) []string {
	var found []string
	for name, e := range c.Environments {
		if HasLabels(e.Metadata.Labels, s.Labels) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// Rule is a named condition with a text for people.
type Rule struct {
	Name       string `yaml:"name" json:"name" validate:"required"` // what people call the rule
	Expression *Expr  `yaml:"expression" json:"expression" validate:"required"`
	Message    *Data  `yaml:"message" json:"message,omitempty"`
}

// Roles says who people are, what roles they hold, and what roles may do.
type Roles struct {
	Metadata Metadata  `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     RolesSpec `yaml:"spec" json:"spec"`
	Origin   Origin    `yaml:"-" json:"origin"`
}

// RolesSpec is the body of a Roles document.
type RolesSpec struct {
	Users       map[string]*User `yaml:"users" json:"users,omitempty" validate:"dive"`
	Roles       map[string]*Role `yaml:"roles" json:"roles,omitempty" validate:"dive"`
	Permissions []*Permission    `yaml:"permissions" json:"permissions,omitempty" validate:"dive"`
}

// User is a person or a bot; the key it stands under is its name.
type User struct {
	Identities []string `yaml:"identities" json:"identities,omitempty"` // "git:<e-mail>", "slack:…", "oidc:…"
}

// Role is a set of people.
type Role struct {
	Users  []string `yaml:"users" json:"users,omitempty"`   // users who hold it
	Groups []string `yaml:"groups" json:"groups,omitempty"` // groups of a login that hold it, "oidc:release-managers"
}

// Permission allows actions to roles. Without one that matches, an action is denied.
type Permission struct {
	Roles     []string `yaml:"roles" json:"roles" validate:"required,min=1"` // who may: holders of one of these roles
	Allow     []string `yaml:"allow" json:"allow" validate:"required,min=1"` // actions: run.start, run.approve, …, * for all
	Workflows []string `yaml:"workflows" json:"workflows,omitempty"`         // patterns with *; empty means all
}

// Actions that a permission can allow.
const (
	ActRunStart    = "run.start"
	ActRunApprove  = "run.approve"
	ActRunCancel   = "run.cancel"
	ActRunRead     = "run.read"
	ActApply       = "definitions.apply"
	ActEventSend   = "event.publish"
	ActRunPause    = "run.pause" // and resume
	ActRunRetry    = "run.retry"
	ActEnvFree     = "environment.free"
	ActEnvHold     = "environment.hold" // and take a hold away
	ActEverything  = "*"
	AdministratorR = "administrator" // a role that may do everything, held by credentials of administrators
)

// Actions lists them, for checks and completion.
func Actions() []string {
	return []string{ActRunStart, ActRunApprove, ActRunCancel, ActRunPause, ActRunRetry, ActRunRead, ActApply, ActEventSend, ActEnvFree, ActEnvHold, ActEverything}
}

// Channel is where notifications go.
type Channel struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     ChannelSpec `yaml:"spec" json:"spec"`
	Origin   Origin      `yaml:"-" json:"origin"`
}

// ChannelSpec is the body of a Channel.
type ChannelSpec struct {
	URL       string           `yaml:"url" json:"url"` // shoutrrr URL, or env:NAME or file:PATH, resolved in the worker; empty: subscribers only
	Templates map[string]*Data `yaml:"templates" json:"templates,omitempty"`
}

// TaskKind is what a worker offers.
type TaskKind struct {
	Metadata Metadata     `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     TaskKindSpec `yaml:"spec" json:"spec" validate:"required"`
	Origin   Origin       `yaml:"-" json:"origin"`
}

// TaskKindSpec is the body of a TaskKind.
type TaskKindSpec struct {
	Runs    string            `yaml:"runs" json:"runs" validate:"required,oneof=once repeatable"` // once: it must not run twice; repeatable: it may
	Inputs  map[string]string `yaml:"inputs" json:"inputs,omitempty"`                             // name → Type; a final "?" makes it optional
	Outputs map[string]string `yaml:"outputs" json:"outputs,omitempty"`                           // name → Type; a final "?" makes it optional
	// Status says that the worker of a lost attempt can be asked what became of it.
	Status bool `yaml:"status" json:"status,omitempty"`
}

// Scenario is a test of a workflow (run by penstock test).
type Scenario struct {
	Metadata Metadata     `yaml:"metadata" json:"metadata" validate:"required"`
	Spec     ScenarioSpec `yaml:"spec" json:"spec" validate:"required"`
	Origin   Origin       `yaml:"-" json:"origin"`
}

// ScenarioSpec is the body of a Scenario.
type ScenarioSpec struct {
	Workflow     string                   `yaml:"workflow" json:"workflow" validate:"required"` // the workflow that is tested
	Start        string                   `yaml:"start" json:"start,omitempty"`                 // when it starts, as a timestamp; Monday, 2026-01-05T09:00:00Z
	Inputs       map[string]any           `yaml:"inputs" json:"inputs,omitempty"`               // what the run is started with
	Trigger      *EventAct                `yaml:"trigger" json:"trigger,omitempty"`             // the event that starts it, by a trigger of the workflow, which gives the inputs
	Key          *KeySituation            `yaml:"key" json:"key,omitempty"`                     // what the concurrency key is like
	Facts        Facts                    `yaml:"facts" json:"facts,omitempty"`
	Tasks        map[string][]*TaskAnswer `yaml:"tasks" json:"tasks,omitempty" validate:"dive,dive"`          // path → answers; one answer may stand without the list
	Environments map[string]*Situation    `yaml:"environments" json:"environments,omitempty" validate:"dive"` // what environments are like
	People       []*PersonAct             `yaml:"people" json:"people,omitempty" validate:"dive"`
	Events       []*EventAct              `yaml:"events" json:"events,omitempty" validate:"dive"`
	Expect       Expectation              `yaml:"expect" json:"expect"`
}

// Facts are what the engine would know of the run.
type Facts struct {
	Authors      []string         `yaml:"authors" json:"authors,omitempty"`           // users who wrote the change
	RequestedBy  string           `yaml:"requestedBy" json:"requestedBy,omitempty"`   // a user, or event:<source>
	Attestations []map[string]any `yaml:"attestations" json:"attestations,omitempty"` // as rules see them: type, verified, …
}

// TaskAnswer is what a task answers in a scenario: it succeeds with Outputs
// unless it says something else.
type TaskAnswer struct {
	After       Duration       `yaml:"after" json:"after,omitempty"`     // how long it takes
	Outputs     map[string]any `yaml:"outputs" json:"outputs,omitempty"` // what it gives
	Fails       *TaskFailure   `yaml:"fails" json:"fails,omitempty"`
	NeverStarts bool           `yaml:"neverStarts" json:"neverStarts,omitempty"`               // no worker takes it
	TimesOut    bool           `yaml:"timesOut" json:"timesOut,omitempty"`                     // it runs past its timeout
	WorkerLost  bool           `yaml:"workerLost" json:"workerLost,omitempty"`                 // its worker takes it and is not heard of again
	Times       int            `yaml:"times" json:"times,omitempty" validate:"min=0,max=1000"` // answered so this often; 0 is 1
}

// TaskFailure is a failure in a scenario.
type TaskFailure struct {
	Code      string `yaml:"code" json:"code" validate:"required"` // error.code in expressions
	Message   string `yaml:"message" json:"message,omitempty"`     // what people read
	Retryable bool   `yaml:"retryable" json:"retryable,omitempty"` // error.retryable in expressions
}

// Situation is what an environment is like in a scenario.
type Situation struct {
	Deployed  string   `yaml:"deployed" json:"deployed,omitempty"`   // the artifact that is there at the start
	Succeeded []string `yaml:"succeeded" json:"succeeded,omitempty"` // artifacts that succeeded there before
	LockedFor Duration `yaml:"lockedFor" json:"lockedFor,omitempty"` // another run has the lock until then
	Held      []*Hold  `yaml:"held" json:"held,omitempty" validate:"dive"`
}

// KeySituation is what the concurrency key of the run is like in a scenario.
type KeySituation struct {
	LockedFor Duration `yaml:"lockedFor" json:"lockedFor,omitempty"` // another run has it until then
	WantedAt  Duration `yaml:"wantedAt" json:"wantedAt,omitempty"`   // another run asks for it then, by the same policy
}

// Hold keeps everything out of an environment for a time.
type Hold struct {
	From   Duration `yaml:"from" json:"from,omitempty"`     // after the start
	To     Duration `yaml:"to" json:"to,omitempty"`         // 0: for good
	Reason string   `yaml:"reason" json:"reason,omitempty"` // what people read
}

// PersonAct is what a person does in a scenario: exactly one of the acts.
type PersonAct struct {
	At              Duration `yaml:"at" json:"at"`                                                               // after the start
	User            string   `yaml:"user" json:"user" validate:"required"`                                       // who
	Approves        string   `yaml:"approves" json:"approves,omitempty"`                                         // a state, or for what an environment asks by itself the state that enters it
	Rejects         string   `yaml:"rejects" json:"rejects,omitempty"`                                           // a state
	RequestsChanges string   `yaml:"requestsChanges" json:"requestsChanges,omitempty"`                           // a state
	Withdraws       string   `yaml:"withdraws" json:"withdraws,omitempty"`                                       // a state: their own earlier word
	Delegates       string   `yaml:"delegates" json:"delegates,omitempty"`                                       // with To
	Escalates       string   `yaml:"escalates" json:"escalates,omitempty"`                                       // a state
	To              string   `yaml:"to" json:"to,omitempty"`                                                     // of Delegates: to whom
	NotBefore       Duration `yaml:"notBefore" json:"notBefore,omitempty"`                                       // of Approves: it counts from then (deferred)
	BreaksGlass     string   `yaml:"breaksGlass" json:"breaksGlass,omitempty"`                                   // an environment
	Cancels         bool     `yaml:"cancels" json:"cancels,omitempty"`                                           // true: the run
	Pauses          bool     `yaml:"pauses" json:"pauses,omitempty"`                                             // true: the run
	Resumes         bool     `yaml:"resumes" json:"resumes,omitempty"`                                           // true: the run
	Retries         string   `yaml:"retries" json:"retries,omitempty"`                                           // from this state
	Comment         string   `yaml:"comment" json:"comment,omitempty"`                                           // what they say with it
	Expect          string   `yaml:"expect" json:"expect,omitempty" validate:"omitempty,oneof=accepted refused"` // what comes of the act; accepted
}

// EventAct is an event that comes in a scenario.
type EventAct struct {
	At      Duration       `yaml:"at" json:"at"`                         // after the start
	Type    string         `yaml:"type" json:"type" validate:"required"` // its type
	Source  string         `yaml:"source" json:"source,omitempty"`       // who sent it
	Subject string         `yaml:"subject" json:"subject,omitempty"`     // what it is about
	Data    map[string]any `yaml:"data" json:"data,omitempty"`           // what it carries
}

// Expectation is what a scenario expects. What is left out may be anything.
type Expectation struct {
	// NotStarted: the run is refused, by its trigger, its inputs or a missing permission.
	NotStarted bool `yaml:"notStarted" json:"notStarted,omitempty"`

	Path     []string          `yaml:"path" json:"path,omitempty"`       // the states that the run was in, in order
	Outcome  string            `yaml:"outcome" json:"outcome,omitempty"` // what the run ends with
	Waits    string            `yaml:"waits" json:"waits,omitempty"`     // the run has not ended: the state that it waits in at the end of the scenario
	Ends     Duration          `yaml:"ends" json:"ends,omitempty"`       // how long after the start
	Outputs  map[string]any    `yaml:"outputs" json:"outputs,omitempty"` // of the run
	Notified []NotifiedTimes   `yaml:"notified" json:"notified,omitempty" validate:"dive"`
	Effects  []*EffectExpected `yaml:"effects" json:"effects,omitempty" validate:"dive"` // what workers began, in order; all of it
}

// EffectExpected is an attempt that a worker began.
type EffectExpected struct {
	Task string         `yaml:"task" json:"task" validate:"required"` // path: "build", "verify.test", "rollout.eu", "undo.production"
	Kind string         `yaml:"kind" json:"kind,omitempty"`           // the task kind
	At   Duration       `yaml:"at" json:"at,omitempty"`               // after the start
	With map[string]any `yaml:"with" json:"with,omitempty"`           // inputs that it had, and perhaps others
}

// NotifiedTimes expects a number of notifications.
type NotifiedTimes struct {
	Channel string `yaml:"channel" json:"channel" validate:"required"` // a channel
	Times   int    `yaml:"times" json:"times"`                         // how often
}

// RolesOf gives the roles that a user holds, sorted. groups are the groups
// that the user's login proved, "oidc:release-managers".
func (c *Catalog) RolesOf(user string, groups ...string) []string {
	held := map[string]bool{}
	for _, doc := range c.Roles {
		for name, role := range doc.Spec.Roles {
			if slices.Contains(role.Users, user) || slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(role.Groups, g) }) {
				held[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(held))
}

// Holders gives the users who hold a role by name, sorted; groups come on top.
func (c *Catalog) Holders(role string) []string {
	var users []string
	for _, doc := range c.Roles {
		if r := doc.Spec.Roles[role]; r != nil {
			users = append(users, r.Users...)
		}
	}
	slices.Sort(users)
	return slices.Compact(users)
}

// UserByIdentity gives the name of the user with an identity such as
// "git:ana@acme.example", or "" when nobody has it.
func (c *Catalog) UserByIdentity(identity string) string {
	for _, doc := range c.Roles {
		for _, name := range slices.Sorted(maps.Keys(doc.Spec.Users)) {
			if u := doc.Spec.Users[name]; u != nil && slices.Contains(u.Identities, identity) {
				return name
			}
		}
	}
	return ""
}

// Allows reports whether a holder of roles may do action on a workflow.
// Deny is the default. An empty workflow asks about the action as such.
func (c *Catalog) Allows(roles []string, action, workflow string) bool {
	if slices.Contains(roles, AdministratorR) {
		return true
	}
	for _, doc := range c.Roles {
		for _, p := range doc.Spec.Permissions {
			if slices.ContainsFunc(p.Roles, func(r string) bool { return slices.Contains(roles, r) }) &&
				(slices.Contains(p.Allow, action) || slices.Contains(p.Allow, ActEverything)) &&
				(workflow == "" || len(p.Workflows) == 0 || slices.ContainsFunc(p.Workflows, func(pat string) bool { return Match(pat, workflow) })) {
				return true
			}
		}
	}
	return false
}

// Match reports whether name fits a pattern in which each * stands for any text.
func Match(pattern, name string) bool {
	p, n, star, from := 0, 0, -1, 0 // the last star, and where in name what follows it was tried
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p, n = p+1, n+1
		case star >= 0:
			from++
			p, n = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
