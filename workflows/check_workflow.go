package workflows

import (
	"regexp"
	"slices"
	"strings"
)

// How many states a workflow has at most, and how many transitions and events
// one state and all of them: what is proved over the paths of a workflow grows
// faster than it does.
const (
	maxStates    = 1000
	maxArms      = 100
	maxArmsInAll = 5000
)

// TooLarge reports whether a workflow is refused for its size alone. Nothing
// else is then said of it.
func TooLarge(w *Workflow) bool {
	inAll := 0
	for _, s := range w.Spec.States {
		arms := len(s.Transitions) + len(s.Events)
		if inAll += arms; arms > maxArms {
			return true
		}
	}
	return len(w.Spec.States) > maxStates || inAll > maxArmsInAll
}

// size says why a workflow is too large.
func (k *check) size(w *Workflow) {
	hint := "make parts of it workflows of their own, and start them with workflow"
	if len(w.Spec.States) > maxStates {
		k.fault("spec.states", "too-many-states", hint, "a workflow has %d states at most, this one has %d", maxStates, len(w.Spec.States))
		return
	}
	for _, s := range w.Ordered() {
		if arms := len(s.Transitions) + len(s.Events); arms > maxArms {
			k.fault(Join("spec.states", s.Name), "too-many-arms", "make it two states, one after the other", "a state has %d transitions and events at most, %s has %d", maxArms, s.Name, arms)
			return
		}
	}
	k.fault("spec.states", "too-many-arms", hint, "the states of a workflow have %d transitions and events at most", maxArmsInAll)
}

// workflow checks a workflow: its names and what its states do.
func (k *check) workflow(w *Workflow) {
	if TooLarge(w) {
		k.size(w)
		return
	}
	for _, name := range names(w.Spec.Inputs) {
		k.input(Join("spec.inputs", name), name, w.Spec.Inputs[name])
	}
	for _, name := range names(w.Spec.Outputs) {
		at := Join("spec.outputs", name)
		k.field(at, name)
		if t := w.Spec.Outputs[name].Type; t != "" {
			k.typed(at+".type", Type(t))
		}
	}
	if n := len(w.Spec.Triggers); n > maxTriggers {
		k.fault("spec.triggers", "too-many", "let one trigger take several types: com.acme.*", "a workflow has %d triggers at most, this one has %d", maxTriggers, n)
		return
	}
	for i, t := range w.Spec.Triggers {
		k.trigger(w, index("spec.triggers", i), t)
	}
	knownIn(k, "spec.onCancel", "state", w.Spec.OnCancel, w.Spec.States)
	for _, s := range w.Ordered() {
		k.state(w, Join("spec.states", s.Name), s)
	}
	for i, f := range w.Spec.Finally {
		path := index("spec.finally", i)
		if f.Task == "" {
			k.fault(path, "missing", "", "task is missing")
		}
		if f.Undo != nil {
			k.fault(path+".undo", "misplaced-key", "a closing task is not undone", "a task of finally has no undo")
		}
		k.activity(path, &f.Activity, nil)
	}
	for i, n := range w.Spec.Notify {
		k.notify(index("spec.notify", i), n)
	}
	k.leads(w)
	k.startsItself(w)
}

// leads checks that what leads somewhere leads to a state.
func (k *check) leads(w *Workflow) {
	states := names(w.Spec.States)
	k.known("spec.initial", "state", w.Spec.Initial, states)
	for _, s := range w.Ordered() {
		path := Join("spec.states", s.Name)
		for i, t := range s.Transitions {
			k.known(index(path+".transitions", i)+".to", "state", t.To, states)
		}
		for i, arm := range s.Events {
			k.known(index(path+".events", i)+".to", "state", arm.To, states)
		}
		for _, arm := range s.Arms() {
			if arm.Key != "" {
				k.known(path+"."+arm.Key, "state", arm.To, states)
			}
		}
	}
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
	switch {
	case t.Event != "" && t.Schedule != nil:
		k.fault(path+".schedule", "two-triggers", "make it two triggers", "a trigger has event or schedule, not both")
	case t.Event == "" && t.Schedule == nil:
		k.fault(path, "missing", "give it event: dev.cdevents.change.merged.*, or schedule: {cron: '0 2 * * *'}", "a trigger needs event or schedule")
	}
	k.eventType(path+".event", t.Event)
	if t.Schedule != nil {
		k.cron(path+".schedule.cron", t.Schedule.Cron)
		k.zone(path+".schedule.timezone", t.Schedule.Timezone)
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
	if n.Channel == "" || !knownIn(k, path+".channel", "channel", n.Channel, k.c.Channels) || n.Template == "" {
		return
	}
	templates := names(k.c.Channels[n.Channel].Spec.Templates)
	if !slices.Contains(templates, n.Template) {
		k.value(path+".template", "unknown-template", meant(n.Template, templates), "the channel %s has no template %s", n.Channel, n.Template)
	}
}

// bodies gives the keys that say what a state does, of those that it has.
func bodies(s *State) []string {
	found := bodyKeys(&s.Body)
	for _, b := range []struct {
		key string
		set bool
	}{{"parallel", s.Parallel != nil}, {"forEach", s.ForEach != nil}, {"approval", s.Approval != nil}, {"wait", s.Wait != nil},
		{"compensate", s.Compensate != nil}, {"final", s.Final != ""}} {
		if b.set {
			found = append(found, b.key)
		}
	}
	return found
}

func bodyKeys(b *Body) []string {
	var found []string
	for _, key := range []struct {
		key string
		set bool
	}{{"task", b.Task != ""}, {"deploy", b.Deploy != nil}, {"workflow", b.Workflow != nil}} {
		if key.set {
			found = append(found, key.key)
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
		k.fault(path, "no-body", "give it one of task, deploy, workflow, parallel, forEach, approval, wait, compensate, final", "the state %s does nothing", s.Name)
		return
	case 1:
	default:
		k.fault(Join(path, does[1]), "many-bodies", "make it two states, one after the other", "a state does one thing, %s does %s", s.Name, strings.Join(does, " and "))
		return
	}
	k.misplaced(path, s)
	switch s.Kind() {
	case "parallel":
		k.parallel(w, path, s)
	case "forEach":
		k.forEach(w, path+".forEach", s.ForEach)
	case "approval":
		k.approval(w, path, s.Approval)
	case "wait":
		k.wait(path+".wait", s.Wait)
	case "compensate":
		k.compensate(w, path+".compensate", s)
	case "final":
		k.known(path+".page", "role", s.Page, k.roles())
	default:
		k.body(w, path, &s.Body, nil, s)
	}
	for i, r := range s.Gate {
		if r.Require == nil && r.Warn == nil {
			k.fault(index(path+".gate", i), "missing", "", "a line of a gate needs require or warn")
		}
	}
	for i, arm := range s.Events {
		k.eventType(index(path+".events", i)+".event", arm.Event)
	}
}

// placed is a key with the kinds of states or bodies that have it.
type placed struct {
	name  string
	set   bool
	kinds []string
}

var notFinal = []string{"task", "deploy", "workflow", "parallel", "forEach", "approval", "wait", "compensate"}

// misplaced refuses keys that mean nothing in a state of this kind.
func (k *check) misplaced(path string, s *State) {
	work := []string{"task", "deploy", "parallel", "forEach"}
	k.place(path, "state", s.Kind(), append(activityKeys(&s.Activity), []placed{
		{"join", s.Join != "", []string{"parallel"}},
		{"gate", s.Gate != nil, []string{"parallel"}},
		{"page", s.Page != "", []string{"final"}},
		{"events", s.Events != nil, notFinal},
		{"next", s.Next != "", notFinal}, {"onFail", s.OnFail != "", notFinal}, {"transitions", s.Transitions != nil, notFinal},
		{"onReject", s.OnReject != "", []string{"approval", "workflow"}}, {"onExpire", s.OnExpire != "", []string{"approval", "workflow"}},
		{"onTimeout", s.OnTimeout != "", append(work, "wait")},
		{"onInconclusive", s.OnInconclusive != "", []string{"task", "deploy"}},
	}...))
}

// activityKeys are the keys of a task that not all bodies have.
func activityKeys(a *Activity) []placed {
	both := []string{"task", "deploy"}
	return []placed{
		{"with", a.With != nil, []string{"task"}},
		{"environment", a.Environment != "", []string{"task"}},
		{"undo", a.Undo != nil, []string{"task"}},
		{"secrets", a.Secrets != nil, both}, {"outputs", a.Outputs != nil, both}, {"pool", a.Pool != "", both}, {"retry", a.Retry != nil, both},
		{"startTimeout", a.StartTimeout != 0, both}, {"timeout", a.Timeout != 0, both}, // of a parallel state each branch has its own
	}
}

func (k *check) place(path, what, kind string, keys []placed) {
	for _, key := range keys {
		if !key.set || slices.Contains(key.kinds, kind) {
			continue
		}
		hint := "it belongs to " + strings.Join(key.kinds, ", ")
		switch {
		case kind == "final":
			hint = "a run ends in a final state"
		case kind == "deploy" && (key.name == "with" || key.name == "environment"):
			hint = "write it below deploy"
		case kind == "deploy" && key.name == "undo":
			hint = "a deploy has its undo by nature"
		case kind == "workflow" && key.name == "with":
			hint = "write inputs below workflow"
		case kind == "parallel" && what == "state" && slices.Contains([]string{"timeout", "startTimeout", "retry", "environment", "with"}, key.name):
			hint = "give it to the branches"
		case kind == "forEach" && slices.Contains([]string{"timeout", "startTimeout", "retry", "environment", "with", "undo", "secrets"}, key.name):
			hint = "give it to the body below do"
		}
		k.fault(path+"."+key.name, "misplaced-key", hint, "a %s with %s has no %s", what, kind, key.name)
	}
}
