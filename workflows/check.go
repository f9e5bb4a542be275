package workflows

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Check gives the problems of all documents of a catalog, as far as they show
// in the definitions alone. A position is that of the document; package parse
// gives the place of the key.
func Check(c *Catalog) []Problem {
	var problems []Problem
	for _, doc := range documents(c) {
		problems = append(problems, CheckDocument(c, doc)...)
	}
	return problems
}

func documents(c *Catalog) []any {
	var docs []any
	for _, name := range slices.Sorted(maps.Keys(c.Workflows)) {
		docs = append(docs, c.Workflows[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Environments)) {
		docs = append(docs, c.Environments[name])
	}
	for _, doc := range c.Roles {
		docs = append(docs, doc)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Channels)) {
		docs = append(docs, c.Channels[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		docs = append(docs, c.Policies[name])
	}
	shipped := ShippedKinds()
	for _, name := range slices.Sorted(maps.Keys(c.Kinds)) {
		if doc := c.Kinds[name]; shipped[name] == nil || doc.Origin.Digest != "" {
			docs = append(docs, doc)
		}
	}
	for _, doc := range c.Scenarios {
		docs = append(docs, doc)
	}
	return docs
}

// CheckDocument gives the problems of one document: a *Workflow, *Environment,
// *Roles, *Channel, *TaskKind or *Scenario. What it names is looked up in c.
func CheckDocument(c *Catalog, doc any) []Problem {
	k := &check{c: c}
	k.shape(doc)
	switch d := doc.(type) {
	case *Workflow:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.workflow(d)
	case *Environment:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.environment(d)
	case *Roles:
		k.origin = d.Origin.Pos
		k.roles(d)
	case *Channel:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
	case *Policy:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.unique("spec.require", "rule", d.Spec.Require, func(r *Rule) string { return r.Name })
	case *TaskKind:
		k.origin = d.Origin.Pos
		k.docName(d.Metadata.Name)
		k.taskKind(d)
	case *Scenario:
		k.origin = d.Origin.Pos
		k.scenario(d)
	}
	for i := range k.problems {
		k.problems[i].Pos = k.origin
	}
	return k.problems
}

// check collects the problems of one document.
type check struct {
	c        *Catalog
	origin   Pos
	problems []Problem
}

func (k *check) fault(path, code, hint, format string, args ...any) {
	k.problems = append(k.problems, Problem{Path: path, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)})
}

// value is fault for a problem of the value at path rather than of its key.
func (k *check) value(path, code, hint, format string, args ...any) {
	k.fault(path, code, hint, format, args...)
	k.problems[len(k.problems)-1].AtValue = true
}

func (k *check) warn(path, code, hint, format string, args ...any) {
	k.fault(path, code, hint, format, args...)
	k.problems[len(k.problems)-1].Warning = true
}

// known refuses a name that is not among names.
func (k *check) known(path, what, name string, names []string) bool {
	if name == "" || slices.Contains(names, name) {
		return true
	}
	k.value(path, "unknown-"+strings.ReplaceAll(what, " ", "-"), meant(name, names), "there is no %s %s", what, name)
	return false
}

// meant is the hint for an unknown name.
func meant(name string, names []string) string {
	if near := Nearest(name, names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(names) == 0 {
		return "there are none"
	}
	names = slices.Sorted(slices.Values(names))
	if len(names) > 12 {
		names = append(names[:12:12], "…")
	}
	return "known: " + strings.Join(names, ", ")
}

func (k *check) docName(name string) {
	if name != "" && !docPattern.MatchString(name) {
		k.value("metadata.name", "bad-name", "small letters, digits and -, at most 63", "%q cannot be the name of a document", name)
	}
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func names[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func (k *check) environment(e *Environment) {
	if len(e.Spec.Target) > 1 {
		k.fault("spec.target", "many-targets", "keep one of "+strings.Join(names(e.Spec.Target), ", "), "an environment has one target, this one has %d", len(e.Spec.Target))
	}
	for _, name := range names(e.Spec.Secrets) {
		scheme, rest, ok := strings.Cut(e.Spec.Secrets[name], ":")
		if !ok || rest == "" || !slices.Contains([]string{"env", "file", "vault", "exec"}, scheme) {
			k.value(Join("spec.secrets", name), "secret-in-clear", "write where it is kept: env:NAME or file:PATH", "a secret is named by a reference, this is its value or something unknown")
		}
	}
	k.unique("spec.require", "rule", e.Spec.Require, func(r *Rule) string { return r.Name })
}

func (k *check) unique(path, what string, rules []*Rule, name func(*Rule) string) {
	seen := map[string]bool{}
	for i, r := range rules {
		if n := name(r); n != "" && seen[n] {
			k.value(index(path, i)+".name", "repeated-name", "give it a name of its own", "there are two %ss named %s", what, n)
		}
		seen[name(r)] = true
	}
}

func (k *check) taskKind(t *TaskKind) {
	if ShippedKinds()[t.Metadata.Name] != nil {
		k.value("metadata.name", "shipped-kind", "choose another name", "the task kind %s is shipped with Penstock", t.Metadata.Name)
	}
	for _, side := range []struct {
		path     string
		declared map[string]string
	}{{"spec.inputs", t.Spec.Inputs}, {"spec.outputs", t.Spec.Outputs}} {
		for _, name := range names(side.declared) {
			k.field(Join(side.path, name), name)
			plain, _ := Optional(side.declared[name])
			k.typed(Join(side.path, name), plain)
		}
	}
}

func (k *check) field(path, name string) {
	if what := CheckField(name); what != "" {
		k.fault(path, "bad-name", "", "%s", what)
	}
}

func (k *check) typed(path string, t Type) {
	if !t.Valid() {
		k.value(path, "unknown-type", cmp.Or(nearType(t), "string, int, double, bool, duration, timestamp, any, list(T) or map(T)"), "there is no type %s", t)
	}
}

func nearType(t Type) string {
	switch strings.ToLower(string(t)) {
	case "number", "float":
		return "did you mean double?"
	case "integer", "int64":
		return "did you mean int?"
	case "boolean":
		return "did you mean bool?"
	case "str", "text":
		return "did you mean string?"
	case "object":
		return "did you mean map(any)?"
	case "list", "array":
		return "say of what: list(string)"
	case "map":
		return "say of what: map(string)"
	}
	return ""
}

// Need is a document that another one cannot do without.
type Need struct {
	Kind, Name string
	Path       string // where it is named
}

// Needs lists the documents that a document names and cannot do without.
// Shipped task kinds are not documents.
func Needs(c *Catalog, doc any) []Need {
	var needs []Need
	add := func(kind, name, path string) {
		if name != "" {
			needs = append(needs, Need{Kind: kind, Name: name, Path: path})
		}
	}
	if s, ok := doc.(*Scenario); ok {
		add(KindWorkflow, s.Spec.Workflow, "spec.workflow")
	}
	w, ok := doc.(*Workflow)
	if !ok {
		return needs
	}
	activity := func(path string, a *Activity) {
		add(KindTaskKind, a.Task, path+".task")
		add(KindEnvironment, a.Environment, path+".environment")
	}
	for _, s := range w.Ordered() {
		path := Join("spec.states", s.Name)
		activity(path, &s.Activity)
		for _, b := range s.Branches() {
			activity(Join(path+".parallel", b.Name), &b.Activity)
		}
		if s.Deploy != nil {
			add(KindEnvironment, s.Deploy.Environment, path+".deploy.environment")
		}
		if s.Approval != nil {
			for i, name := range s.Approval.Environments {
				add(KindEnvironment, name, index(path+".approval.environments", i))
			}
		}
	}
	for i, f := range w.Spec.Finally {
		activity(index("spec.finally", i), &f.Activity)
	}
	for i, n := range w.Spec.Notify {
		add(KindChannel, n.Channel, index("spec.notify", i)+".channel")
	}
	return needs
}
