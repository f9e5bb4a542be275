package workflows

import (
	"slices"
	"strings"
)

// activity checks a task: its kind, what it is given, and what it gives.
func (k *check) activity(path string, a *Activity, each *ForEach) {
	k.site(path+".environment", a.Environment, each)
	k.secrets(path, a, each)
	k.withSecrets(path+".with", a.With)
	k.undo(path+".undo", a)
	if a.Task == "" || !knownIn(k, path+".task", "task kind", a.Task, k.c.Kinds) {
		return
	}
	k.with(path, a)
	k.outputs(path, a)
}

// undo checks what takes a task back.
func (k *check) undo(path string, a *Activity) {
	u := a.Undo
	if u == nil || u.Task == "" || !knownIn(k, path+".task", "task kind", u.Task, k.c.Kinds) {
		return
	}
	k.with(path, &Activity{Task: u.Task, With: u.With})
	k.withSecrets(path+".with", u.With)
}

// site checks the environment of a body: a name, or the member of the
// forEach that it stands in.
func (k *check) site(path, environment string, each *ForEach) {
	if !strings.Contains(environment, "${{") {
		knownIn(k, path, "environment", environment, k.c.Environments)
		return
	}
	switch {
	case each == nil:
		k.value(path, "wrong-value", "only below forEach, where it is the member, does it come from an expression", "an environment is a name, not an expression")
	case MemberName(environment, each.As, "") != "":
		k.value(path, "wrong-value", "write '${{ "+each.As+" }}'", "an environment is a name, or the member and nothing else")
	}
}

// environments gives the environments that a body may work on. open tells that
// there may be others, which show only at run time.
func (c *Catalog) environments(b *Body, each *ForEach) (found []string, open bool) {
	name := b.Doing().Environment
	switch {
	case name == "":
		return nil, false
	case each == nil || MemberName(name, each.As, "") != "":
		return []string{name}, false
	case each.Environments != nil:
		return c.Selected(each.Environments), false
	}
	return nil, true
}

// with checks the inputs of a task against its kind. given are inputs that
// stand elsewhere.
func (k *check) with(path string, a *Activity, given ...string) {
	kind := k.c.Kinds[a.Task]
	if kind == nil {
		return
	}
	for _, name := range names(a.With) {
		at := Join(path+".with", name)
		switch {
		case slices.Contains(given, name):
			k.fault(at, "misplaced-key", "", "%s stands in the deploy itself", name)
		case kind.Spec.Inputs[name] == "":
			k.fault(at, "unknown-input", meant(name, names(kind.Spec.Inputs)), "the task kind %s has no input %s", a.Task, name)
		}
	}
	var missing []string
	for _, name := range names(kind.Spec.Inputs) {
		if _, optional := Optional(kind.Spec.Inputs[name]); !optional && a.With[name] == nil && !slices.Contains(given, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		at := path + ".with"
		if a.With == nil {
			at = path + ".task"
		}
		k.fault(at, "missing-input", "give it under with", "the task kind %s needs %s", a.Task, strings.Join(missing, ", "))
	}
}

// outputs checks that what is listed is among what the kind declares.
func (k *check) outputs(path string, a *Activity) {
	kind := k.c.Kinds[a.Task]
	if kind == nil {
		return
	}
	for _, name := range names(a.Outputs) {
		at := Join(path+".outputs", name)
		k.field(at, name)
		declared, listed := kind.Spec.Outputs[name], a.Outputs[name]
		have, optional := Optional(declared)
		want, _ := Optional(listed)
		switch {
		case declared == "":
			k.fault(at, "unknown-output", meant(name, names(kind.Spec.Outputs)), "the task kind %s has no output %s", a.Task, name)
		case !want.Valid():
			k.typed(at, want)
		case have != want && want != "any" && have != "any":
			k.value(at, "wrong-type", "", "the output %s of %s is %s, not %s", name, a.Task, have, want)
		case optional && !strings.HasSuffix(listed, "?"):
			k.value(at, "wrong-type", "write "+declared, "the output %s of %s may be missing", name, a.Task)
		}
	}
}

// secrets checks that the environment has the secrets that a task asks for.
func (k *check) secrets(path string, a *Activity, each *ForEach) {
	if len(a.Secrets) == 0 {
		return
	}
	if a.Environment == "" {
		k.fault(path+".secrets", "secrets-of-nowhere", "name the environment", "secrets belong to an environment, and this task names none")
		return
	}
	places, _ := k.c.environments(&Body{Activity: *a}, each)
	for _, place := range places {
		e := k.c.Environments[place]
		if e == nil {
			continue
		}
		for i, name := range a.Secrets {
			if _, ok := e.Spec.Secrets[name]; !ok {
				k.value(index(path+".secrets", i), "unknown-secret", meant(name, names(e.Spec.Secrets)), "the environment %s has no secret %s", place, name)
			}
		}
	}
}
