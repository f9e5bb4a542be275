package workflows

import (
	"maps"
	"slices"
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
	Target  map[string]any    `yaml:"target" json:"target,omitempty"`   // one key names the target's kind: {local: {…}}
	Config  map[string]any    `yaml:"config" json:"config,omitempty"`   // env.config in CEL
	Secrets map[string]string `yaml:"secrets" json:"secrets,omitempty"` // references, resolved in the worker
	Require []*Rule           `yaml:"require" json:"require,omitempty" validate:"dive"`
}

// Rule is a named condition with a text for people.
type Rule struct {
	Name       string `yaml:"name" json:"name" validate:"required"`
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
	Users  []string `yaml:"users" json:"users,omitempty"`
	Groups []string `yaml:"groups" json:"groups,omitempty"`
}

// Permission allows actions to roles. Without one that matches, an action is denied.
type Permission struct {
	Roles     []string `yaml:"roles" json:"roles" validate:"required,min=1"`
	Allow     []string `yaml:"allow" json:"allow" validate:"required,min=1"`
	Workflows []string `yaml:"workflows" json:"workflows,omitempty"` // patterns with *; empty means all
}

// Actions that a permission can allow.
const (
	ActRunStart    = "run.start"
	ActRunApprove  = "run.approve"
	ActRunCancel   = "run.cancel"
	ActRunRead     = "run.read"
	ActApply       = "definitions.apply"
	ActEventSend   = "event.publish"
	ActEnvFree     = "environment.free"
	ActEverything  = "*"
	AdministratorR = "administrator" // a role that may do everything, held by credentials of administrators
)

// Actions lists them, for checks and completion.
func Actions() []string {
	return []string{ActRunStart, ActRunApprove, ActRunCancel, ActRunRead, ActApply, ActEventSend, ActEnvFree, ActEverything}
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
	Runs    string            `yaml:"runs" json:"runs" validate:"required,oneof=once repeatable"`
	Inputs  map[string]string `yaml:"inputs" json:"inputs,omitempty"`   // name → Type; a final "?" makes it optional
	Outputs map[string]string `yaml:"outputs" json:"outputs,omitempty"` // name → Type; a final "?" makes it optional
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
	Workflow string                   `yaml:"workflow" json:"workflow" validate:"required"`
	Inputs   map[string]any           `yaml:"inputs" json:"inputs,omitempty"`
	Facts    Facts                    `yaml:"facts" json:"facts,omitempty"`
	Tasks    map[string][]*TaskAnswer `yaml:"tasks" json:"tasks,omitempty" validate:"dive,dive"` // path → answers; one answer may stand without the list
	People   []*PersonAct             `yaml:"people" json:"people,omitempty" validate:"dive"`
	Expect   Expectation              `yaml:"expect" json:"expect"`
}

// Facts are what the engine would know of the run.
type Facts struct {
	Authors     []string `yaml:"authors" json:"authors,omitempty"`
	RequestedBy string   `yaml:"requestedBy" json:"requestedBy,omitempty"`
}

// TaskAnswer is what a task answers in a scenario.
type TaskAnswer struct {
	After   Duration       `yaml:"after" json:"after,omitempty"`
	Outputs map[string]any `yaml:"outputs" json:"outputs,omitempty"`
	Fails   *TaskFailure   `yaml:"fails" json:"fails,omitempty"`
}

// TaskFailure is a failure in a scenario.
type TaskFailure struct {
	Code      string `yaml:"code" json:"code" validate:"required"`
	Message   string `yaml:"message" json:"message,omitempty"`
	Retryable bool   `yaml:"retryable" json:"retryable,omitempty"`
}

// PersonAct is what a person does in a scenario.
type PersonAct struct {
	At       Duration `yaml:"at" json:"at"`
	User     string   `yaml:"user" json:"user" validate:"required"`
	Approves string   `yaml:"approves" json:"approves,omitempty"`
	Rejects  string   `yaml:"rejects" json:"rejects,omitempty"`
	Cancels  bool     `yaml:"cancels" json:"cancels,omitempty"`
	Expect   string   `yaml:"expect" json:"expect,omitempty" validate:"omitempty,oneof=accepted refused"`
}

// Expectation is what a scenario expects.
type Expectation struct {
	Path     []string        `yaml:"path" json:"path,omitempty"`
	Outcome  string          `yaml:"outcome" json:"outcome,omitempty"`
	Notified []NotifiedTimes `yaml:"notified" json:"notified,omitempty" validate:"dive"`
}

// NotifiedTimes expects a number of notifications.
type NotifiedTimes struct {
	Channel string `yaml:"channel" json:"channel" validate:"required"`
	Times   int    `yaml:"times" json:"times"`
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
	for {
		if pattern == "" {
			return name == ""
		}
		if pattern[0] != '*' {
			if name == "" || name[0] != pattern[0] {
				return false
			}
			pattern, name = pattern[1:], name[1:]
			continue
		}
		for i := range len(name) + 1 {
			if Match(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
}
