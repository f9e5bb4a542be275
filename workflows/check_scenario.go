package workflows

import "strings"

// scenario checks that a test speaks of what its workflow has.
func (k *check) scenario(s *Scenario) {
	if s.Spec.Workflow == "" || !k.known("spec.workflow", "workflow", s.Spec.Workflow, names(k.c.Workflows)) {
		return
	}
	w := k.c.Workflows[s.Spec.Workflow]
	states := names(w.Spec.States)
	k.scenarioInputs(s, w)
	for _, path := range names(s.Spec.Tasks) {
		k.answers(w, Join("spec.tasks", path), path, s.Spec.Tasks[path])
	}
	for i, p := range s.Spec.People {
		k.act(w, index("spec.people", i), p)
	}
	for i, name := range s.Spec.Expect.Path {
		k.known(index("spec.expect.path", i), "state", name, states)
	}
	k.known("spec.expect.outcome", "outcome", s.Spec.Expect.Outcome, append(RunOutcomes(), "timedOut", "inconclusive"))
	for i, n := range s.Spec.Expect.Notified {
		k.known(index("spec.expect.notified", i)+".channel", "channel", n.Channel, names(k.c.Channels))
	}
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
		if _, given := s.Spec.Inputs[name]; !given && w.Spec.Inputs[name].Default == nil {
			k.fault("spec.inputs", "missing-input", "", "the workflow needs the input %s", name)
		}
	}
}

// answers checks what a task answers: path is a state, or state.branch.
func (k *check) answers(w *Workflow, at, path string, answers []*TaskAnswer) {
	state, branch, _ := strings.Cut(path, ".")
	s := w.Spec.States[state]
	if s == nil {
		k.fault(at, "unknown-state", meant(state, names(w.Spec.States)), "there is no state %s", state)
		return
	}
	a := s.Doing()
	switch kind := s.Kind(); {
	case kind == "parallel" && s.Parallel[branch] == nil:
		k.fault(at, "unknown-branch", "write "+state+". and one of "+strings.Join(names(s.Parallel), ", "), "the state %s has no branch %q", state, branch)
		return
	case kind == "parallel":
		a = &s.Parallel[branch].Activity
	case kind != "task" && kind != "deploy" || branch != "":
		k.fault(at, "no-task", "", "%s is not a task", path)
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
		if answer.Fails != nil && answer.Outputs != nil {
			k.fault(index(at, i)+".fails", "two-answers", "keep one of them", "a task fails or gives outputs, not both")
		}
	}
}

func (k *check) act(w *Workflow, at string, p *PersonAct) {
	does := 0
	for _, name := range []string{p.Approves, p.Rejects} {
		if name == "" {
			continue
		}
		does++
		key := ".approves"
		if name != p.Approves {
			key = ".rejects"
		}
		if s := w.Spec.States[name]; s == nil || s.Approval == nil {
			var approvals []string
			for _, s := range w.Ordered() {
				if s.Approval != nil {
					approvals = append(approvals, s.Name)
				}
			}
			k.value(at+key, "unknown-approval", meant(name, approvals), "there is no approval %s", name)
		}
	}
	if p.Cancels {
		does++
	}
	if does != 1 {
		k.fault(at, "one-act", "", "a person does one of approves, rejects, cancels")
	}
}
