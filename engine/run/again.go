package run

import (
	"fmt"
	"maps"
	"slices"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// retry lets a run that has ended, or is held, begin again at a state: the
// same run, with the definition that it was started with. Visits go on, so
// nothing that is done anew is taken for what was done before.
func (x *step) retry(r *events.RetryRun) {
	if !x.may(workflows.ActRunRetry) {
		x.refuse(events.CommandRefused, events.CodeDenied, x.denied("retry runs of "+x.s.Workflow))
		return
	}
	from := r.From
	if from == "" {
		from = x.lastState()
	}
	if why := x.cannotRetry(from); why != "" {
		x.refuse(events.CommandRefused, events.CodeConflict, why)
		return
	}
	x.emit(events.RunRetried, events.Happening{State: x.s.At, To: from, By: x.in.By, Reason: r.Reason})
	if x.s.Done() {
		x.revive()
		x.enterWithKey(from)
		return
	}
	x.s.Leaving = &Leaving{To: from, By: x.in.By}
	x.stopWork()
}

// cannotRetry says why the run cannot begin again at a state, or "".
func (x *step) cannotRetry(from string) string {
	st := x.d.Workflow.Spec.States[from]
	switch {
	case !x.s.Done() && (x.s.Held == nil || x.s.Phase != phaseRunning):
		return "the run goes on; one that has ended, or is held, can begin again"
	case !x.s.Done() && x.cancelling():
		return "the run is being cancelled, by " + x.s.Cancel.By
	case !x.s.Done() && x.paused():
		return "the run is paused; resume it first"
	case x.s.Done() && x.s.Parent != nil:
		return fmt.Sprintf("run %s has started this one and knows how it ended; retry that one", x.s.Parent.Run)
	case from == "":
		return "the run has been in no state; start another one"
	case st == nil:
		return fmt.Sprintf("workflow %s has no state %q", x.s.Workflow, from)
	case st.Final != "":
		return fmt.Sprintf("%s is an end; begin at a state that does something", from)
	}
	if missing := x.missingFor(from); len(missing) > 0 {
		return fmt.Sprintf("%s needs the outputs of %s, which this run does not have; begin at an earlier state", from, joinWords(missing))
	}
	if why := x.shutBefore(from); why != "" {
		return why
	}
	if err := x.forbidden(from, ""); err != nil {
		return err.Error()
	}
	return ""
}

// shutBefore says what every way to a state leads through and has let nothing
// pass, or "": who may retry must not get past it.
func (x *step) shutBefore(name string) string {
	names := x.shut(name)
	gate := func(n string) bool { return x.d.Workflow.Spec.States[n].Approval == nil }
	switch {
	case len(names) == 0:
		return ""
	case len(names) == 1 && gate(names[0]):
		return fmt.Sprintf("every way to %s leads through the gate of %s, which has not held; begin there", name, names[0])
	case len(names) == 1:
		return fmt.Sprintf("every way to %s leads through the approval %s, which was not given for what stands now; begin there", name, names[0])
	case slices.ContainsFunc(names, gate):
		return fmt.Sprintf("every way to %s leads through one of %s, of which none has let the run pass; begin before them", name, joinWords(names))
	}
	return fmt.Sprintf("every way to %s leads through one of the approvals %s, of which none was given for what stands now; begin before them", name, joinWords(names))
}

// passed reports whether a gate lets a run begin again at a state: it held
// when it was last judged, and nothing that comes before it was done anew; or
// the run has been led to that state since.
func (x *step) passed(gate, to string) bool {
	since, anew := false, false
	for _, p := range slices.Backward(x.s.Path) {
		switch {
		case p.State == gate:
			return since || !anew && p.Outcome == events.Succeeded
		case p.State == to:
			since = since || !anew
		case dominates(x.d.Workflow, p.State, gate):
			anew = true // what was judged is not what there is now
		}
	}
	return false
}

// shut are approvals that nobody has given and gates that have not held, one of
// which every way to a state leads through; none where there is another way.
func (x *step) shut(name string) []string {
	missing := map[string]bool{}
	for _, st := range x.d.Workflow.Ordered() {
		given := slices.ContainsFunc(x.s.Given, func(a *Approval) bool { return a.State == st.Name && !a.Implicit && x.stands(a) })
		if st.Name != name && (st.Approval != nil && !given || len(st.Gate) > 0 && !x.passed(st.Name, name)) {
			missing[st.Name] = true
		}
	}
	w, starts := x.d.Workflow, beginnings(x.d.Workflow)
	if len(missing) == 0 || reaches(w, starts, name, missing) {
		return nil
	}
	var first []string // of those that lead there, each that is come to before any other
	for _, approval := range sortedKeys(missing) {
		others := maps.Clone(missing)
		delete(others, approval)
		if reaches(w, starts, approval, others) && reaches(w, []string{approval}, name, nil) {
			first = append(first, approval)
		}
	}
	return first
}

// stands reports whether an approval is for what there is now.
func (x *step) stands(a *Approval) bool {
	content, _ := x.content(a)
	return content == a.Content
}

// revive makes a run that has ended one that goes on. Broken glass was for what
// it did before, and what is still its own is entered as if it were not.
func (x *step) revive() {
	x.s.Phase, x.s.Outcome, x.s.Error, x.s.EndedAt, x.s.Outputs = phaseRunning, "", nil, 0, nil
	x.s.Cancel, x.s.Paused, x.s.Undoing, x.s.Held = nil, nil, nil, nil
	x.s.Glass, x.s.Doors = nil, nil
	for env := range x.s.Grants {
		x.s.Anew[env] = true
	}
	x.s.Tasks = keepDetached(x.s.Tasks)
}

// lastState is the last state that the run was in and that is no end.
func (x *step) lastState() string {
	for _, p := range slices.Backward(x.s.Path) {
		if st := x.d.Workflow.Spec.States[p.State]; st != nil && st.Final == "" {
			return p.State
		}
	}
	if x.s.Key != nil { // it ended while it waited for its key
		return x.s.Key.Then
	}
	return ""
}

// missingFor lists the states whose outputs a state reads, that must have run
// before it, and whose outputs are not there.
func (x *step) missingFor(name string) []string {
	var missing []string
	for _, read := range reads(x.d.Workflow.Spec.States[name]) {
		if read == name || x.d.Workflow.Spec.States[read] == nil || !dominates(x.d.Workflow, read, name) {
			continue
		}
		if _, there := x.s.Values[read]; !there && !slices.Contains(missing, read) {
			missing = append(missing, read)
		}
	}
	slices.Sort(missing)
	return missing
}

// dominates reports whether every way to a state leads through another one.
func dominates(w *workflows.Workflow, through, to string) bool {
	return !reaches(w, beginnings(w), to, map[string]bool{through: true})
}

// beginnings are the states at which a run may begin to walk.
func beginnings(w *workflows.Workflow) []string { return []string{w.Spec.Initial, w.Spec.OnCancel} }

// reaches reports whether a way leads from one of some states to another one
// that is not through others.
func reaches(w *workflows.Workflow, from []string, to string, not map[string]bool) bool {
	seen, next := map[string]bool{}, slices.Clone(from)
	maps.Copy(seen, not)
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		st := w.Spec.States[name]
		if seen[name] || st == nil {
			continue
		}
		if name == to {
			return true
		}
		seen[name] = true
		for _, arm := range st.Arms() {
			next = append(next, arm.To)
		}
		for _, arm := range st.Events {
			next = append(next, arm.To)
		}
	}
	return false
}

// reads lists the names that the expressions of a state read.
func reads(st *workflows.State) []string {
	var names []string
	see := func(refs [][]string) {
		for _, r := range refs {
			names = append(names, r[0])
		}
	}
	expr := func(e *workflows.Expr) {
		if e != nil && e.Program != nil {
			see(e.Program.Refs())
		}
	}
	data := func(m map[string]*workflows.Data) {
		for _, k := range sortedKeys(m) {
			see(m[k].Refs())
		}
	}
	body := func(b *workflows.Body) {
		data(b.With)
		if b.Deploy != nil {
			see(b.Deploy.Artifact.Refs())
			data(b.Deploy.With)
		}
		if b.Workflow != nil {
			data(b.Workflow.Inputs)
		}
	}
	body(&st.Body)
	for _, b := range st.Branches() {
		body(&b.Body)
	}
	if f := st.ForEach; f != nil {
		expr(f.In)
		body(f.Do)
	}
	if w := st.Wait; w != nil {
		expr(w.Until)
		expr(w.When)
	}
	if a := st.Approval; a != nil {
		expr(a.Rule)
		expr(a.Reject)
		expr(a.Auto)
	}
	for _, t := range st.Transitions {
		expr(t.When)
	}
	return names
}
