package run

import (
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// childKind is the kind of the piece of work that a child run is.
const childKind = "workflow"

// beginChild starts a run of another workflow, with the definitions that this
// one was started with, and waits for it.
func (x *step) beginChild(path string, c *workflows.Child, member string) *Task {
	t := &Task{Path: path, Kind: childKind, Attempt: 1, Member: member}
	x.s.Tasks = append(x.s.Tasks, t)
	x.startChild(t, c)
	return t
}

// startChild asks for the child run. Its id depends on the visit, so that a
// parent that begins again has a new child.
func (x *step) startChild(t *Task, c *workflows.Child) {
	if x.parks(t) {
		return
	}
	inputs, err := x.childInputs(t, c)
	if err != nil {
		x.end(t, events.Failed, nil, &events.TaskError{Code: events.CodeRuleError, Message: err.Error()})
		return
	}
	t.ID = x.taskID(t)
	t.Child = record.Derive("run", "child", t.ID)
	t.Status, t.BeganAt = taskChild, x.now
	x.send(record.Run, t.Child, record.Input{Kind: record.InStart, Start: &record.Start{Run: t.Child, Workflow: c.Name, Inputs: inputs,
		Cause: x.s.Cause, Catalog: x.s.Catalog, Parent: x.parentOf(t)}})
	x.emit(events.ChildStarted, events.Happening{State: t.Path, Kind: childKind, Child: t.Child})
}

// parentOf is what a child knows of this run.
func (x *step) parentOf(t *Task) *record.Parent {
	p := &record.Parent{Run: x.s.ID, Path: t.Path, Task: t.ID, RequestedBy: x.s.RequestedBy, Authors: x.s.Authors, AuthorsSet: x.s.AuthorsSet}
	if x.s.Parent != nil {
		p.Keys = append(p.Keys, x.s.Parent.Keys...)
	}
	if x.s.Key != nil {
		p.Keys = append(p.Keys, x.s.Key.Key)
	}
	return p
}

// inherit takes over what a parent knows. Who asked for the parent has asked
// for its children, and who wrote its change has written theirs.
func (x *step) inherit(p *record.Parent) {
	if p == nil {
		return
	}
	x.s.Parent = p
	x.s.RequestedBy, x.s.Authors, x.s.AuthorsSet = p.RequestedBy, p.Authors, p.AuthorsSet
}

func (x *step) childInputs(t *Task, c *workflows.Child) (record.Values, error) {
	inputs, extra := record.Values{}, x.memberScope(t)
	for _, name := range sortedKeys(c.Inputs) {
		v, err := x.data(name, c.Inputs[name], extra)
		if err != nil {
			return nil, fmt.Errorf("%s, input %q: %w", t.Path, name, err)
		}
		if !record.Plain(v) {
			return nil, fmt.Errorf("%s, input %q: %s is no number that can be passed on", t.Path, name, record.Text(v))
		}
		if v != nil { // an optional value that is absent is no input
			inputs[name] = workflows.Normal(v)
		}
	}
	return inputs, nil
}

// childOf finds the work that a child run is, as long as it goes on.
func (x *step) childOf(run string) *Task {
	for _, t := range x.s.Tasks {
		if t.Child == run && (t.Status == taskChild || t.Status == taskStopping) {
			return t
		}
	}
	return nil
}

// childEnded takes the end of a run that this one has started.
func (x *step) childEnded(c *record.ChildEnded) {
	if x.repeated(c.Task, c.Run) {
		return
	}
	t := x.childOf(c.Run)
	if t == nil || t.ID != c.Task {
		x.unrecorded(events.StatusStale, "", "the run does not wait for it any more")
		return
	}
	x.once(c.Task, c.Run)
	err := c.Error
	if err == nil && c.Outcome != events.Succeeded {
		err = &events.TaskError{Code: "child_" + c.Outcome, Message: fmt.Sprintf("run %s ended %s", c.Run, c.Outcome)}
	}
	x.end(t, c.Outcome, c.Outputs, err)
}

// childRefused ends the work of a child run that could not be started.
func (x *step) childRefused(run, reason string) {
	if t := x.childOf(run); t != nil {
		x.end(t, events.Failed, nil, &events.TaskError{Code: "child_refused", Message: reason})
	}
}

// cancelChild tells a child run to stop. It is over when it says so.
func (x *step) cancelChild(t *Task) {
	t.Status = taskStopping
	id := record.Derive("cancel", t.Child)
	x.send(record.Run, t.Child, record.Input{Kind: record.InCancel, Cancel: &events.CancelRun{ID: id, Run: t.Child, Reason: x.whyStopped()}})
}

// fromParent reports whether the input is from the run that has started this one.
func (x *step) fromParent() bool { return x.s.Parent != nil && x.in.By == "run:"+x.s.Parent.Run }

// tellParent tells the run that waits for this one how it ended.
func (x *step) tellParent() {
	p := x.s.Parent
	if p == nil {
		return
	}
	x.send(record.Run, p.Run, record.Input{Kind: record.InChildEnded, Child: &record.ChildEnded{Run: x.s.ID, Task: p.Task,
		Outcome: x.s.Outcome, Outputs: x.s.Outputs, Error: x.s.Error}})
}

// makeOutputs makes the outputs of a run that has succeeded.
func (x *step) makeOutputs() *events.TaskError {
	out := record.Values{}
	for _, name := range sortedKeys(x.d.Workflow.Spec.Outputs) {
		decl := x.d.Workflow.Spec.Outputs[name]
		v, err := x.data(name, decl.Value, nil)
		if err == nil {
			v, err = workflows.Type(decl.Type).Conform(v)
		}
		if err == nil && !record.Plain(v) {
			err = fmt.Errorf("%s is no number that can be passed on", record.Text(v))
		}
		if err != nil {
			return &events.TaskError{Code: events.CodeRuleError, Message: fmt.Sprintf("output %q of the run cannot be made: %v", name, err)}
		}
		out[name] = v
	}
	if len(out) > 0 {
		x.s.Outputs = out
	}
	return nil
}

func (x *step) whyChild(t *Task) events.WaitReason {
	r := events.WaitReason{State: t.Path, What: "child", Run: t.Child, Since: timePtr(t.BeganAt), Next: []string{"penstock why " + t.Child}}
	r.Summary = "waits for run " + t.Child
	if b := x.bodyAt(t.Path); b != nil && b.Workflow != nil {
		r.Summary += " of " + b.Workflow.Name
	}
	if t.Status == taskStopping {
		r.Summary += ", which was told to stop"
	}
	return r
}
