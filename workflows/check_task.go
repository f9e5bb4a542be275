package workflows

import (
	"slices"
	"strings"
)

// activity checks a task: its kind, what it is given, and what it gives.
func (k *check) activity(path string, a *Activity) {
	k.known(path+".environment", "environment", a.Environment, names(k.c.Environments))
	k.secrets(path, a)
	if a.Task == "" || !k.known(path+".task", "task kind", a.Task, names(k.c.Kinds)) {
		return
	}
	k.with(path, a)
	k.outputs(path, a)
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
func (k *check) secrets(path string, a *Activity) {
	if len(a.Secrets) == 0 {
		return
	}
	if a.Environment == "" {
		k.fault(path+".secrets", "secrets-of-nowhere", "name the environment", "secrets belong to an environment, and this task names none")
		return
	}
	e := k.c.Environments[a.Environment]
	if e == nil {
		return
	}
	for i, name := range a.Secrets {
		if _, ok := e.Spec.Secrets[name]; !ok {
			k.value(index(path+".secrets", i), "unknown-secret", meant(name, names(e.Spec.Secrets)), "the environment %s has no secret %s", a.Environment, name)
		}
	}
}
