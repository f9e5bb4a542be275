package workflows

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scenario checks that a test speaks of what its workflow has.
func (k *check) scenario(s *Scenario) {
	if s.Spec.Workflow == "" || !knownIn(k, "spec.workflow", "workflow", s.Spec.Workflow, k.c.Workflows) {
		return
	}
	w := k.c.Workflows[s.Spec.Workflow]
	if s.Spec.Start != "" {
		if _, err := time.Parse(time.RFC3339, s.Spec.Start); err != nil {
			k.value("spec.start", "bad-time", "write it as '2026-01-05T09:00:00Z'", "%s is not a timestamp", s.Spec.Start)
		}
	}
	k.scenarioInputs(s, w)
	k.scenarioStart(s, w)
	for _, path := range names(s.Spec.Tasks) {
		k.answers(w, Join("spec.tasks", path), path, s.Spec.Tasks[path])
	}
	for _, name := range names(s.Spec.Environments) {
		at := Join("spec.environments", name)
		if k.c.Environments[name] == nil {
			k.fault(at, "unknown-environment", meant(name, names(k.c.Environments)), "there is no environment %s", name)
		}
		for i, h := range s.Spec.Environments[name].Held {
			if h.To != 0 && h.To <= h.From {
				k.value(index(at+".held", i)+".to", "ends-before", "", "the hold ends before it begins")
			}
		}
	}
	for i, p := range s.Spec.People {
		k.act(w, index("spec.people", i), p)
	}
	for i, e := range s.Spec.Events {
		if strings.Contains(e.Type, "*") {
			k.value(index("spec.events", i)+".type", "bad-pattern", "", "an event has a whole type, without a *")
		}
	}
	k.expectation(w, &s.Spec.Expect)
}

func (k *check) scenarioInputs(s *Scenario, w *Workflow) {
	for _, name := range names(s.Spec.Inputs) {
		at := Join("spec.inputs", name)
		in := w.Spec.Inputs[name]
		if in == nil {
			k.fault(at, "unknown-input", meant(name, names(w.Spec.Inputs)), "the workflow has no input %s", name)
			continue
		}
		if _, err := Type(in.Type).Conform(s.Spec.Inputs[name]); err != nil && Type(in.Type).Valid() {
			k.value(at, "wrong-type", "", "%s: %s", name, typeFault(err))
		}
	}
	for _, name := range names(w.Spec.Inputs) {
		if _, given := s.Spec.Inputs[name]; !given && w.Spec.Inputs[name].Default == nil && s.Spec.Trigger == nil {
			k.fault("spec.inputs", "missing-input", "", "the workflow needs the input %s", name)
		}
	}
}

// scenarioStart checks what a run is started by, and its concurrency key.
func (k *check) scenarioStart(s *Scenario, w *Workflow) {
	if s.Spec.Key != nil && w.Spec.Concurrency == nil {
		k.fault("spec.key", "unused-key", "take it out", "the workflow %s has no concurrency key", w.Metadata.Name)
	}
	t := s.Spec.Trigger
	if t == nil {
		return
	}
	if s.Spec.Inputs != nil {
		k.fault("spec.trigger", "two-starts", "keep trigger or inputs", "the inputs of a run that an event starts come from its trigger")
	}
	if t.Type != "" && !slices.ContainsFunc(w.Spec.Triggers, func(trig *Trigger) bool { return trig.Event != "" && Match(trig.Event, t.Type) }) {
		k.value("spec.trigger.type", "unknown-trigger", "", "the workflow %s has no trigger for events of type %s", w.Metadata.Name, t.Type)
	}
}

// expectation checks what a scenario expects.
func (k *check) expectation(w *Workflow, e *Expectation) {
	states := names(w.Spec.States)
	for i, name := range e.Path {
		k.known(index("spec.expect.path", i), "state", name, states)
	}
	k.known("spec.expect.outcome", "outcome", e.Outcome, append(RunOutcomes(), "timedOut", "inconclusive"))
	k.known("spec.expect.waits", "state", e.Waits, states)
	if e.Waits != "" && (e.Outcome != "" || e.Ends != 0 || e.Outputs != nil) {
		k.value("spec.expect.waits", "two-ends", "a run that waits has not ended", "a run waits or has an outcome, not both")
	}
	for _, name := range names(e.Outputs) {
		at := Join("spec.expect.outputs", name)
		out := w.Spec.Outputs[name]
		if out == nil {
			k.fault(at, "unknown-output", meant(name, names(w.Spec.Outputs)), "the workflow has no output %s", name)
			continue
		}
		if _, err := Type(out.Type).Conform(e.Outputs[name]); err != nil && Type(out.Type).Valid() {
			k.value(at, "wrong-type", "", "%s: %s", name, typeFault(err))
		}
	}
	for i, n := range e.Notified {
		knownIn(k, index("spec.expect.notified", i)+".channel", "channel", n.Channel, k.c.Channels)
	}
	for i, effect := range e.Effects {
		at := index("spec.expect.effects", i)
		if effect.Task != "" {
			k.work(w, at+".task", effect.Task, 0)
		}
		knownIn(k, at+".kind", "task kind", effect.Kind, k.c.Kinds)
	}
}

// work finds what is done at a path as scenarios name it: a state,
// state.branch, state.member, state.metric, undo.PATH, finally.1, and below a
// child run the paths of its workflow. It tells what is wrong with the path.
func (k *check) work(w *Workflow, at, path string, depth int) *Activity {
	if rest, ok := strings.CutPrefix(path, "undo."); ok {
		if a := k.work(w, at, rest, depth); a != nil {
			return k.undoOf(at, rest, a)
		}
		return nil
	}
	if rest, ok := strings.CutPrefix(path, "finally."); ok {
		for i := range w.Spec.Finally {
			if rest == strconv.Itoa(i+1) {
				return &w.Spec.Finally[i].Activity
			}
		}
		k.fault(at, "no-task", "they count from 1", "%s is not a task of finally", path)
		return nil
	}
	name, rest, _ := strings.Cut(path, ".")
	s := w.Spec.States[name]
	if s == nil {
		k.fault(at, "unknown-state", meant(name, names(w.Spec.States)), "there is no state %s", name)
		return nil
	}
	b := &s.Body
	switch s.Kind() {
	case "parallel":
		branch, more, _ := strings.Cut(rest, ".")
		if s.Parallel[branch] == nil {
			k.fault(at, "unknown-branch", "write "+name+". and one of "+strings.Join(names(s.Parallel), ", "), "the state %s has no branch %q", name, branch)
			return nil
		}
		b, rest = &s.Parallel[branch].Body, more
	case "forEach":
		member, more, _ := strings.Cut(rest, ".")
		if member == "" || s.ForEach.Do == nil {
			k.fault(at, "no-task", "write "+name+". and a member", "%s is not a task", path)
			return nil
		}
		b, rest = s.ForEach.Do, more
	case "task", "deploy", "workflow":
	default:
		k.fault(at, "no-task", "", "%s is not a task", path)
		return nil
	}
	if b.Deploy != nil && rest != "" {
		if of := w.Spec.States[b.Deploy.Resume]; of != nil && of.Deploy != nil {
			b = &of.Body // it goes on with the analysis of that one
		}
	}
	return k.workOf(b, at, path, rest, depth)
}

// workOf finds the rest of a path in a body.
func (k *check) workOf(b *Body, at, path, rest string, depth int) *Activity {
	if b.Workflow != nil {
		child := k.c.Workflows[b.Workflow.Name]
		if child == nil || depth > 10 {
			return nil // told where it is started
		}
		if rest == "" {
			k.fault(at, "no-task", "write "+path+". and a task of "+b.Workflow.Name, "%s is a run of its own", path)
			return nil
		}
		return k.work(child, at, rest, depth+1)
	}
	if rest == "" {
		return b.Doing()
	}
	if b.Deploy != nil && slices.ContainsFunc(b.Deploy.Analysis, func(m *Metric) bool { return m.Name == rest }) {
		return &Activity{Task: "sample"}
	}
	hint := ""
	if b.Deploy != nil && len(b.Deploy.Analysis) > 0 {
		var metrics []string
		for _, m := range b.Deploy.Analysis {
			metrics = append(metrics, m.Name)
		}
		hint = meant(rest, metrics)
	}
	k.fault(at, "no-task", hint, "%s is not a task", path)
	return nil
}

func (k *check) undoOf(at, path string, a *Activity) *Activity {
	switch {
	case a.Undo != nil:
		return &Activity{Task: a.Undo.Task}
	case a.Task == "deploy":
		return a
	}
	k.fault(at, "no-task", "", "%s has no undo", path)
	return nil
}

// answers checks what a task answers.
func (k *check) answers(w *Workflow, at, path string, answers []*TaskAnswer) {
	a := k.work(w, at, path, 0)
	if a == nil {
		return
	}
	outputs := k.c.OutputsOf(a)
	for i, answer := range answers {
		for _, name := range names(answer.Outputs) {
			at := Join(index(at, i)+".outputs", name)
			declared, _ := Optional(outputs[name])
			if declared == "" {
				k.fault(at, "unknown-output", meant(name, names(outputs)), "%s has no output %s", path, name)
				continue
			}
			if _, err := declared.Conform(answer.Outputs[name]); err != nil && declared.Valid() {
				k.value(at, "wrong-type", "", "%s: %s", name, typeFault(err))
			}
		}
		var does []string
		for _, is := range []placed{{name: "outputs", set: answer.Outputs != nil}, {name: "fails", set: answer.Fails != nil},
			{name: "neverStarts", set: answer.NeverStarts}, {name: "timesOut", set: answer.TimesOut}, {name: "workerLost", set: answer.WorkerLost}} {
			if is.set {
				does = append(does, is.name)
			}
		}
		if len(does) > 1 {
			k.fault(index(at, i)+"."+does[1], "two-answers", "keep one of them, or write two answers", "an answer is one thing, this one has %s", strings.Join(does, " and "))
		}
	}
}

func (k *check) act(w *Workflow, at string, p *PersonAct) {
	var does []string
	for _, is := range []struct{ key, approval string }{{"approves", p.Approves}, {"rejects", p.Rejects}, {"requestsChanges", p.RequestsChanges},
		{"withdraws", p.Withdraws}, {"delegates", p.Delegates}, {"escalates", p.Escalates}} {
		if is.approval != "" {
			does = append(does, is.key)
			k.approvalState(w, at+"."+is.key, is.approval)
		}
	}
	for _, is := range []placed{{name: "breaksGlass", set: p.BreaksGlass != ""}, {name: "cancels", set: p.Cancels}, {name: "pauses", set: p.Pauses},
		{name: "resumes", set: p.Resumes}, {name: "retries", set: p.Retries != ""}} {
		if is.set {
			does = append(does, is.name)
		}
	}
	if len(does) != 1 {
		k.fault(at, "one-act", "", "a person does one of approves, rejects, requestsChanges, withdraws, delegates, escalates, breaksGlass, cancels, pauses, resumes, retries")
	}
	if (p.To != "") != (p.Delegates != "") {
		k.fault(at+cmp.Or(map[bool]string{true: ".to"}[p.To != ""], ".delegates"), "missing", "write {delegates: STATE, to: USER}", "to says to whom a person delegates")
	}
	if p.NotBefore != 0 && p.Approves == "" {
		k.fault(at+".notBefore", "misplaced-key", "", "notBefore is for approves")
	}
	knownIn(k, at+".breaksGlass", "environment", p.BreaksGlass, k.c.Environments)
	knownIn(k, at+".retries", "state", p.Retries, w.Spec.States)
}

// approvalState checks that people are asked in a state: it is an approval, or
// enters an environment, which may ask by itself. Behind the path of a child
// run stands a state of its workflow.
func (k *check) approvalState(w *Workflow, at, name string) {
	for child, rest := k.childAt(w, name); child != nil; child, rest = k.childAt(w, name) {
		w, name = child, rest
	}
	var approvals []string
	for _, s := range w.Ordered() {
		if s.Approval != nil || k.enters(s) {
			approvals = append(approvals, s.Name)
		}
	}
	if !slices.Contains(approvals, name) {
		k.value(at, "unknown-approval", meant(name, approvals), "there is no approval %s", name)
	}
}

// childAt finds the workflow of the child run that a path leads into, and the
// rest of the path; nil when it leads into none.
func (k *check) childAt(w *Workflow, path string) (*Workflow, string) {
	name, rest, inner := strings.Cut(path, ".")
	s := w.Spec.States[name]
	if s == nil || !inner {
		return nil, ""
	}
	b := &s.Body
	switch s.Kind() {
	case "parallel":
		branch, more, _ := strings.Cut(rest, ".")
		if s.Parallel[branch] == nil {
			return nil, ""
		}
		b, rest = &s.Parallel[branch].Body, more
	case "forEach":
		_, more, _ := strings.Cut(rest, ".")
		b, rest = s.ForEach.Do, more
	}
	if b == nil || b.Workflow == nil || rest == "" {
		return nil, ""
	}
	return k.c.Workflows[b.Workflow.Name], rest
}

// enters reports whether a state works on an environment.
func (k *check) enters(s *State) bool {
	on := func(b *Body) bool {
		return b != nil && (b.Deploy != nil || b.Environment != "" || b.Workflow != nil)
	}
	return on(&s.Body) || s.ForEach != nil && on(s.ForEach.Do) || s.Compensate != nil ||
		slices.ContainsFunc(s.Branches(), func(b *Branch) bool { return on(&b.Body) })
}
