package workflows

import (
	"regexp"
	"slices"
	"strings"
)

// workflow checks a workflow: its names, what its states do, and the graph.
func (k *check) workflow(w *Workflow) {
	for _, name := range names(w.Spec.Inputs) {
		k.input(Join("spec.inputs", name), name, w.Spec.Inputs[name])
	}
	for i, t := range w.Spec.Triggers {
		k.trigger(w, index("spec.triggers", i), t)
	}
	for _, s := range w.Ordered() {
		k.state(w, Join("spec.states", s.Name), s)
	}
	for i, f := range w.Spec.Finally {
		path := index("spec.finally", i)
		if f.Task == "" {
			k.fault(path, "missing", "", "task is missing")
		}
		k.activity(path, &f.Activity)
	}
	for i, n := range w.Spec.Notify {
		k.notify(index("spec.notify", i), n)
	}
	k.graph(w)
}

func (k *check) input(path, name string, in *Input) {
	k.field(path, name)
	t := Type(in.Type)
	if in.Type == "" {
		return
	}
	if k.typed(path+".type", t); !t.Valid() {
		return
	}
	if in.Default != nil {
		if _, err := t.Conform(in.Default); err != nil {
			k.value(path+".default", "wrong-type", "", "default: %s", typeFault(err))
		}
	}
	for i, v := range in.Enum {
		if _, err := t.Conform(v); err != nil {
			k.value(index(path+".enum", i), "wrong-type", "", "%s", typeFault(err))
		}
	}
	if in.Pattern == "" {
		return
	}
	pattern, err := regexp.Compile(in.Pattern)
	switch {
	case in.Type != "string":
		k.fault(path+".pattern", "pattern-of-no-text", "", "a pattern is for inputs of type string, this one is %s", in.Type)
	case err != nil:
		k.value(path+".pattern", "bad-pattern", "patterns are written in RE2 syntax", "%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	default:
		if text, ok := in.Default.(string); ok && !pattern.MatchString(text) {
			k.value(path+".default", "default-breaks-pattern", "", "the default %q does not match the pattern", text)
		}
	}
}

func typeFault(err error) string { return strings.ReplaceAll(err.Error(), ErrType.Error()+": ", "") }

func (k *check) trigger(w *Workflow, path string, t *Trigger) {
	if i := strings.IndexByte(t.Event, '*'); i >= 0 && i < len(t.Event)-1 {
		k.value(path+".event", "bad-pattern", "", "a * can only be the last character of an event type")
	}
	for _, name := range names(t.Inputs) {
		if w.Spec.Inputs[name] == nil {
			k.fault(Join(path+".inputs", name), "unknown-input", meant(name, names(w.Spec.Inputs)), "the workflow has no input %s", name)
		}
	}
	for _, name := range names(w.Spec.Inputs) {
		if w.Spec.Inputs[name].Default == nil && t.Inputs[name] == nil {
			k.fault(path, "missing-input", "give it under inputs, or give the input a default", "the trigger does not say what the input %s is", name)
		}
	}
}

func (k *check) notify(path string, n *NotifyRule) {
	if n.Channel == "" || !k.known(path+".channel", "channel", n.Channel, names(k.c.Channels)) || n.Template == "" {
		return
	}
	templates := names(k.c.Channels[n.Channel].Spec.Templates)
	if !slices.Contains(templates, n.Template) {
		k.value(path+".template", "unknown-template", meant(n.Template, templates), "the channel %s has no template %s", n.Channel, n.Template)
	}
}

// bodies gives the keys that say what a state does, of those that it has.
func bodies(s *State) []string {
	var found []string
	for _, b := range []struct {
		key string
		set bool
	}{{"task", s.Task != ""}, {"parallel", s.Parallel != nil}, {"approval", s.Approval != nil}, {"wait", s.Wait != nil},
		{"deploy", s.Deploy != nil}, {"workflow", s.Workflow != nil}, {"forEach", s.ForEach != nil}, {"compensate", s.Compensate != nil}, {"final", s.Final != ""}} {
		if b.set {
			found = append(found, b.key)
		}
	}
	return found
}

func (k *check) state(w *Workflow, path string, s *State) {
	if what := CheckName(s.Name); what != "" {
		k.fault(path, "bad-name", "", "%s", what)
	}
	switch does := bodies(s); len(does) {
	case 0:
		k.fault(path, "no-body", "give it one of task, parallel, approval, wait, deploy, final", "the state %s does nothing", s.Name)
		return
	case 1:
	default:
		k.fault(Join(path, does[1]), "many-bodies", "make it two states, one after the other", "a state does one thing, %s does %s", s.Name, strings.Join(does, " and "))
		return
	}
	k.misplaced(path, s)
	switch s.Kind() {
	case "task":
		k.activity(path, &s.Activity)
	case "parallel":
		k.parallel(path, s)
	case "deploy":
		k.deploy(path, s)
	case "approval":
		k.approval(w, path, s.Approval)
	}
	for i, r := range s.Gate {
		if r.Require == nil && r.Warn == nil {
			k.fault(index(path+".gate", i), "missing", "", "a line of a gate needs require or warn")
		}
	}
}

// misplaced refuses keys that mean nothing in a state of this kind.
func (k *check) misplaced(path string, s *State) {
	kind := s.Kind()
	for _, key := range []struct {
		name  string
		set   bool
		kinds []string
	}{
		{"with", s.With != nil, []string{"task"}},
		{"environment", s.Environment != "", []string{"task"}},
		{"secrets", s.Secrets != nil, []string{"task", "deploy"}},
		{"outputs", s.Outputs != nil, []string{"task", "deploy"}},
		{"pool", s.Pool != "", []string{"task", "deploy"}},
		{"retry", s.Retry != nil, []string{"task", "deploy"}},
		{"startTimeout", s.StartTimeout != 0, []string{"task", "deploy"}},
		{"timeout", s.Timeout != 0, []string{"task", "deploy"}}, // of a parallel state each branch has its own
		{"gate", s.Gate != nil, []string{"parallel"}},
		{"next", s.Next != "", notFinal}, {"onFail", s.OnFail != "", notFinal}, {"transitions", s.Transitions != nil, notFinal},
		{"onReject", s.OnReject != "", []string{"approval"}}, {"onExpire", s.OnExpire != "", []string{"approval"}},
		{"onTimeout", s.OnTimeout != "", []string{"task", "parallel", "deploy"}},
		{"onInconclusive", s.OnInconclusive != "", []string{"task", "parallel", "deploy"}},
	} {
		if !key.set || slices.Contains(key.kinds, kind) {
			continue
		}
		hint := "it belongs to " + strings.Join(key.kinds, ", ")
		if kind == "final" {
			hint = "a run ends in a final state"
		} else if kind == "deploy" && (key.name == "with" || key.name == "environment") {
			hint = "write it below deploy"
		}
		k.fault(path+"."+key.name, "misplaced-key", hint, "a state with %s has no %s", kind, key.name)
	}
}

var notFinal = []string{"task", "deploy", "workflow", "parallel", "forEach", "approval", "wait", "compensate"}

func (k *check) parallel(path string, s *State) {
	if len(s.Parallel) == 0 {
		k.fault(path+".parallel", "too-few", "", "a parallel state needs branches")
	}
	for _, b := range s.Branches() {
		at := Join(path+".parallel", b.Name)
		if what := CheckName(b.Name); what != "" {
			k.fault(at, "bad-name", "", "%s", what)
		}
		if b.Task == "" {
			k.fault(at, "missing", "a branch is a task", "task is missing")
			continue
		}
		k.activity(at, &b.Activity)
	}
}

func (k *check) deploy(path string, s *State) {
	k.known(path+".deploy.environment", "environment", s.Deploy.Environment, names(k.c.Environments))
	a := s.Doing()
	k.secrets(path, a)
	k.with(path+".deploy", a, "artifact", "strategy")
	k.outputs(path, a)
}
