package workflows

import (
	"cmp"
	"slices"
	"strings"
)

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
	k.clear("spec.target", e.Spec.Target)
	k.clear("spec.config", e.Spec.Config)
	k.unique("spec.require", e.Spec.Require)
	k.windows("spec.windows", e.Spec.Windows)
	k.promotion(e)
	if b := e.Spec.BreakGlass; b != nil {
		for i, role := range b.Roles {
			k.known(index("spec.breakGlass.roles", i), "role", role, k.roles())
		}
	}
}

// promotion checks the environment from which changes come, and that the way
// from there begins somewhere.
func (k *check) promotion(e *Environment) {
	from := e.Spec.PromotesFrom
	if from == "" || !knownIn(k, "spec.promotesFrom", "environment", from, k.c.Environments) {
		return
	}
	way := []string{e.Metadata.Name}
	for at := from; at != "" && len(way) <= len(k.c.Environments); {
		way = append(way, at)
		if at == e.Metadata.Name {
			k.value("spec.promotesFrom", "promotes-in-a-circle", "one of them must take what succeeded nowhere else",
				"nothing ever gets in: %s", strings.Join(way, " promotes from "))
			return
		}
		next := k.c.Environments[at]
		if next == nil {
			return
		}
		at = next.Spec.PromotesFrom
	}
}

func (k *check) unique(path string, rules []*Rule) {
	seen := map[string]bool{}
	for i, r := range rules {
		if r.Name != "" && seen[r.Name] {
			k.value(index(path, i)+".name", "repeated-name", "give it a name of its own", "there are two rules named %s", r.Name)
		}
		seen[r.Name] = true
	}
}

// policy checks that a policy is for something that there is. Where it is
// checked without any environment, that is not judged.
func (k *check) policy(p *Policy) {
	k.unique("spec.require", p.Spec.Require)
	if len(k.c.Environments) > 0 {
		k.matches(p)
	}
	for i, pattern := range p.Spec.Workflows {
		if all := names(k.c.Workflows); len(all) > 0 && !slices.ContainsFunc(all, func(name string) bool { return Match(pattern, name) }) {
			k.warn(index("spec.workflows", i), "matches-nothing", meant(pattern, all), "no workflow is called %s", pattern)
		}
	}
}

func (k *check) matches(p *Policy) {
	matched := map[*Environment]bool{}
	for _, e := range k.c.Environments {
		if (&Policy{Spec: PolicySpec{Environments: p.Spec.Environments, Labels: p.Spec.Labels}}).Matches(e, "") {
			matched[e] = true
		}
	}
	for i, pattern := range p.Spec.Environments {
		if !slices.ContainsFunc(names(k.c.Environments), func(name string) bool { return Match(pattern, name) }) {
			k.warn(index("spec.environments", i), "matches-nothing", meant(pattern, names(k.c.Environments)), "no environment is called %s", pattern)
			return
		}
	}
	if len(matched) == 0 {
		at := "spec"
		if p.Spec.Labels != nil {
			at = "spec.labels"
		}
		k.warn(at, "matches-nothing", "its rules hold nowhere", "the policy %s matches no environment", p.Metadata.Name)
	}
}

func (k *check) channel(c *Channel) {
	if secretURL(c.Spec.URL) {
		k.value("spec.url", "secret-in-clear", "write where it is kept: env:NAME or file:PATH", "the address holds a secret")
		k.last().Warning = true
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
