package workflows

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// body checks a task, a deployment or a child run at one place. each is the
// forEach that it stands in, and s the state that it is, where there is one.
func (k *check) body(w *Workflow, path string, b *Body, each *ForEach, s *State) {
	switch b.Kind() {
	case "deploy":
		k.deploy(w, path, b, each, s)
	case "workflow":
		k.child(path+".workflow", b.Workflow)
	default:
		k.activity(path, &b.Activity, each)
	}
}

// part checks the body of a branch or of a forEach.
func (k *check) part(w *Workflow, path, what string, b *Body, each *ForEach) {
	switch does := bodyKeys(b); len(does) {
	case 0:
		k.fault(path, "no-body", "give it task, deploy or workflow", "%s does nothing", what)
		return
	case 1:
	default:
		k.fault(Join(path, does[1]), "many-bodies", "keep one of them", "%s does one thing, this one does %s", what, strings.Join(does, " and "))
		return
	}
	k.place(path, strings.TrimPrefix(strings.TrimPrefix(what, "a "), "the "), b.Kind(), activityKeys(&b.Activity))
	k.body(w, path, b, each, nil)
}

func (k *check) parallel(w *Workflow, path string, s *State) {
	if len(s.Parallel) == 0 {
		k.fault(path+".parallel", "too-few", "", "a parallel state needs branches")
	}
	if s.Join != "" && s.Join != "all" && len(s.Parallel) == 1 {
		k.fault(path+".join", "join-of-one", "leave join out, or give it more branches", "with one branch there is nothing to choose from")
	}
	for _, b := range s.Branches() {
		at := Join(path+".parallel", b.Name)
		if what := CheckName(b.Name); what != "" {
			k.fault(at, "bad-name", "", "%s", what)
		}
		k.part(w, at, "a branch", &b.Body, nil)
	}
}

// maxWaves is how many waves can be listed.
const maxWaves = 1000

func (k *check) forEach(w *Workflow, path string, f *ForEach) {
	switch {
	case f.In != nil && f.Environments != nil:
		k.fault(path+".environments", "two-lists", "keep one of them", "forEach goes through in or through environments, not both")
	case f.In == nil && f.Environments == nil:
		k.fault(path, "missing", "give it in: inputs.regions, or environments: {labels: {tier: prod}}", "forEach has nothing to go through")
	}
	if f.Environments != nil && len(f.Environments.Labels) > 0 && len(k.c.Selected(f.Environments)) == 0 {
		k.value(path+".environments.labels", "selects-nothing", k.labelHint(f.Environments.Labels), "no environment has these labels")
	}
	if f.As != "" {
		what := CheckName(f.As)
		if what == "" && w.Spec.States[f.As] != nil {
			what = fmt.Sprintf("%s is the name of a state", f.As)
		}
		if what != "" {
			k.value(path+".as", "bad-name", "", "%s", what)
		}
	}
	k.waves(path, f)
	if f.Do != nil {
		k.part(w, path+".do", "the body of forEach", f.Do, f)
	}
	if f.OnHold != "" && f.Do != nil && f.Do.Workflow == nil && f.Do.Doing().Environment == "" {
		k.fault(path+".onHold", "no-environment", "name the environment in do", "nothing can be held here, because the body works on no environment")
	}
}

// labelHint says what the labels of environments are.
func (k *check) labelHint(wanted map[string]string) string {
	for _, key := range names(wanted) {
		values := map[string]bool{}
		for _, e := range k.c.Environments {
			if v, ok := e.Metadata.Labels[key]; ok {
				values[v] = true
			}
		}
		if len(values) == 0 {
			return "no environment has a label " + key
		}
		if !values[wanted[key]] {
			return key + " is " + strings.Join(slices.Sorted(maps.Keys(values)), " or ")
		}
	}
	return "each of them is there, but not together"
}

func (k *check) waves(path string, f *ForEach) {
	if len(f.Waves) > maxWaves {
		k.fault(path+".waves", "too-many", "", "there are %d waves at most", maxWaves)
		return
	}
	for i, wave := range f.Waves {
		at := index(path+".waves", i)
		switch size := Normal(wave).(type) {
		case int64:
			if size < 1 {
				k.value(at, "too-small", "", "a wave has one member at least, not %d", size)
			}
		case string:
			switch {
			case size != "rest":
				k.value(at, "wrong-value", "a number, or rest for all that are left", "a wave cannot be %q", size)
			case i != len(f.Waves)-1:
				k.value(at, "wrong-value", "leave out what follows", "nothing is left after rest")
			}
		default:
			k.value(at, "wrong-value", "a number, or rest for all that are left", "a wave is a whole number, this is %s", describe(Normal(wave)))
		}
	}
	if f.Between != nil && len(f.Waves) == 0 {
		k.fault(path+".between", "one-wave", "give it waves: [1, rest], say", "without waves there is one, and nothing between")
	}
}

func (k *check) child(path string, c *Child) {
	if c.Name == "" || !knownIn(k, path+".name", "workflow", c.Name, k.c.Workflows) {
		return
	}
	inputs := k.c.Workflows[c.Name].Spec.Inputs
	for _, name := range names(c.Inputs) {
		if inputs[name] == nil {
			k.fault(Join(path+".inputs", name), "unknown-input", meant(name, names(inputs)), "the workflow %s has no input %s", c.Name, name)
		}
	}
	k.withSecrets(path+".inputs", c.Inputs)
	var missing []string
	for _, name := range names(inputs) {
		if inputs[name].Default == nil && c.Inputs[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		at := path + ".inputs"
		if c.Inputs == nil {
			at = path + ".name"
		}
		k.fault(at, "missing-input", "give it under inputs", "the workflow %s needs %s", c.Name, strings.Join(missing, ", "))
	}
}

func (k *check) wait(path string, w *Wait) {
	var has []string
	for _, key := range []struct {
		name string
		set  bool
	}{{"for", w.For != 0}, {"until", w.Until != nil}, {"event", w.Event != ""}} {
		if key.set {
			has = append(has, key.name)
		}
	}
	switch {
	case len(has) == 0:
		k.fault(path, "missing", "write {for: 10m}, {until: timestamp(inputs.at)} or {event: com.acme.ready, timeout: 1h}", "the wait does not say for what")
	case len(has) > 1:
		k.fault(path+"."+has[1], "two-waits", "make it two states, one after the other", "a wait is for one thing, this one has %s", strings.Join(has, " and "))
	case w.Event == "" && w.When != nil:
		k.fault(path+".when", "misplaced-key", "it belongs to event", "a wait with %s has no when", has[0])
	case w.Event == "" && w.Timeout != 0:
		k.fault(path+".timeout", "misplaced-key", "it belongs to event", "a wait with %s has no timeout", has[0])
	}
	k.eventType(path+".event", w.Event)
}

// compensate checks that what is undone can be undone.
func (k *check) compensate(w *Workflow, path string, s *State) {
	if len(s.Compensate) == 0 {
		k.fault(path, "too-few", "name the states whose effects are undone", "there is nothing to undo")
	}
	seen := map[string]bool{}
	for i, name := range s.Compensate {
		at := index(path, i)
		if !knownIn(k, at, "state", name, w.Spec.States) {
			continue
		}
		if seen[name] {
			k.value(at, "repeated-name", "each is undone once, in reverse of what happened", "%s stands here twice", name)
		}
		seen[name] = true
		switch of := w.Spec.States[name]; {
		case of.Deploy != nil && of.Deploy.Resume != "":
			k.value(at, "nothing-to-undo", "name "+of.Deploy.Resume+", which began the deployment", "%s only goes on with a deployment", name)
		case !undoable(of):
			hint := "it has no undo by nature: only a task with undo, and a deploy, can be undone"
			if of.Kind() == "task" {
				hint = "give it undo: {task: …}"
			}
			k.value(at, "nothing-to-undo", hint, "the state %s cannot be undone", name)
		}
	}
}

// undoable reports whether something of a state can be undone.
func undoable(s *State) bool {
	can := func(b *Body) bool { return b != nil && (b.Deploy != nil || b.Undo != nil) }
	return can(&s.Body) || s.ForEach != nil && can(s.ForEach.Do) ||
		slices.ContainsFunc(s.Branches(), func(b *Branch) bool { return can(&b.Body) })
}
