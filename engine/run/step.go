package run

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// step is one evaluation of Step. s is the new state, changed in place.
type step struct {
	ctx   context.Context
	d     Definitions
	s     *State
	v     int64 // version of the record being made
	in    record.Input
	now   int64
	moves int      // states entered, to stop a loop that waits for nothing
	want  []string // environments whose rules want people to be asked
	mute  bool     // evaluate to explain, not to decide: no decisions are recorded

	rejectError error // why the rule for rejecting the open approval cannot be evaluated
	out         Transition
}

// Step decides what input does to a run. prev is its state, nil for a start;
// v is the version that the new record will have; now is logical time in
// milliseconds. prev is not changed.
func Step(d Definitions, prev *State, v int64, in record.Input, now int64) Transition {
	x := &step{ctx: context.Background(), d: d, v: v, in: in, now: now}
	x.out.Record = true
	x.out.Answer.Status = events.StatusApplied
	if prev != nil {
		x.s = prev.clone()
		x.now = max(now, prev.Now) // logical time never runs backwards
		x.s.Now = x.now
		x.forget()
	}
	switch {
	case !in.Complete():
		x.unrecorded(events.StatusError, events.CodeInvalid, fmt.Sprintf("the input %q is not complete", in.Kind))
	case in.Kind == record.InStart:
		x.start(prev)
	case prev == nil:
		x.unrecorded(events.StatusError, events.CodeNotFound, "there is no such run")
	default:
		x.dispatch()
	}
	if x.out.Record && x.s != nil && prev != nil {
		x.settle()
	}
	x.out.State = x.s
	if !x.out.Record {
		x.out.State = prev
		x.out.Events, x.out.Tasks, x.out.Decisions = nil, nil, nil
	}
	return x.out
}

func (x *step) dispatch() {
	switch in := x.in; in.Kind {
	case record.InAttemptStart:
		x.attemptStart(in.Attempt)
	case record.InAttemptFinish:
		x.attemptFinish(in.Attempt)
	case record.InAttemptLost:
		x.attemptLost(in.Attempt)
	case record.InTimer:
		x.timer()
	case record.InDecide:
		x.command(func() { x.decide(in.Decide) })
	case record.InCancel:
		x.command(func() { x.cancel(in.Cancel) })
	case record.InGranted:
		x.granted(in.Granted)
	case record.InFreed:
		x.freed(in.Freed)
	case record.InSendAnswer:
		x.sendAnswered(in.Sent)
	case record.InPause:
		x.command(func() { x.pause(in.Pause) })
	case record.InResume:
		x.command(func() { x.resume(in.Pause) })
	case record.InRetry:
		x.command(func() { x.retry(in.Retry) })
	case record.InBreakGlass:
		x.command(func() { x.breakGlass(in.Glass) })
	case record.InSignal:
		x.signal(in.Signal)
	case record.InChildEnded:
		x.childEnded(in.Child)
	case record.InEnvState:
		x.environmentState(in.EnvState)
	case record.InProven:
		x.proven(in.Proof)
	case record.InKeyGranted:
		x.keyGranted(in.Key)
	case record.InKeyDenied:
		x.keyDenied(in.Key)
	default:
		x.unrecorded(events.StatusError, events.CodeInvalid, fmt.Sprintf("a run does not take %q", in.Kind))
	}
}

// start makes the run. A repeat of the start finds the run there.
func (x *step) start(prev *State) {
	if prev != nil {
		x.out.At = 1
		x.unrecorded(events.StatusAlready, "", "")
		return
	}
	wf := x.d.Workflow
	inputs, err := ReadInputs(wf, x.in.Start.Inputs, x.in.Start.Text)
	if err != nil {
		x.unrecorded(events.StatusError, events.CodeInvalid, err.Error())
		return
	}
	if !x.may(workflows.ActRunStart) {
		x.unrecorded(events.StatusError, events.CodeDenied, x.denied("start "+wf.Metadata.Name))
		return
	}
	x.s = &State{Workflow: wf.Metadata.Name, Def: wf.Origin.Digest, Catalog: cmp.Or(x.in.Start.Catalog, x.d.Now.Digest), Labels: wf.Metadata.Labels,
		Inputs: inputs, RequestedBy: x.in.By, Cause: x.in.Start.Cause, StartedAt: x.now, Now: x.now, Phase: phaseRunning,
		Visits: map[string]int{}, Values: record.Values{}, Grants: map[string]int64{}, Taken: map[string]int64{},
		Kept: map[string]string{}, Put: map[string]*record.Deployment{}}
	x.s.ID, x.s.Ran = x.in.Start.Run, x.in.Start.Running
	x.s.Origin = originOf(wf.Origin)
	x.inherit(x.in.Start.Parent)
	x.s.Beat = cmp.Or(x.in.Start.Beat, Heartbeat.Milliseconds())
	x.s.BeatLimit = cmp.Or(x.in.Start.BeatLimit, HeartbeatTimeout.Milliseconds())
	x.s.Title = x.title()
	key, err := x.key()
	if err == nil {
		err = x.forbidden(wf.Spec.Initial, "")
	}
	if err != nil {
		x.unrecorded(events.StatusError, events.CodeInvalid, err.Error())
		return
	}
	x.emit(events.RunStarted, events.Happening{Inputs: inputs, RequestedBy: x.s.RequestedBy, Cause: x.in.Start.Cause})
	if key != "" {
		x.s.Key = &Key{Key: key}
	}
	x.enterWithKey(wf.Spec.Initial)
	x.settle()
}

// ReadInputs gives the inputs of a run in their declared types, or all that is
// wrong with them. With text, values that are strings are read as the type
// asks for, as a command line gives them.
func ReadInputs(wf *workflows.Workflow, given record.Values, text bool) (record.Values, error) {
	out := record.Values{}
	var problems []string
	for _, name := range sortedKeys(given) {
		if wf.Spec.Inputs[name] == nil {
			problems = append(problems, fmt.Sprintf("there is no input %q; %s", name, inputList(wf)))
		}
	}
	for _, name := range sortedKeys(wf.Spec.Inputs) {
		decl := wf.Spec.Inputs[name]
		v, ok := given[name]
		if !ok || v == nil {
			if decl.Default == nil {
				problems = append(problems, fmt.Sprintf("input %q (%s) is missing", name, decl.Type))
				continue
			}
			v = decl.Default
		}
		v, err := readInput(decl, v, text)
		if err != nil {
			problems = append(problems, fmt.Sprintf("input %q: %v", name, err))
			continue
		}
		out[name] = v
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("workflow %s: %s", wf.Metadata.Name, joinLines(problems))
	}
	return out, nil
}

func readInput(decl *workflows.Input, v any, text bool) (any, error) {
	t := workflows.Type(decl.Type)
	var err error
	if s, isText := v.(string); isText && text {
		v, err = t.ParseInput(s)
	} else {
		v, err = t.Conform(v)
	}
	if err != nil {
		return nil, err
	}
	if s, ok := v.(string); ok && decl.Pattern != "" {
		if ok, err := regexp.MatchString(decl.Pattern, s); err != nil || !ok {
			return nil, fmt.Errorf("%q does not match the pattern %s", s, decl.Pattern)
		}
	}
	if !record.Plain(v) {
		return nil, fmt.Errorf("%s is no number that can be passed on", record.Text(v))
	}
	if len(decl.Enum) > 0 && !slices.ContainsFunc(decl.Enum, func(e any) bool {
		c, err := t.Conform(e)
		return err == nil && reflect.DeepEqual(c, v)
	}) {
		return nil, fmt.Errorf("%s is none of %s", record.Text(v), record.Text(decl.Enum))
	}
	return v, nil
}

func inputList(wf *workflows.Workflow) string {
	if len(wf.Spec.Inputs) == 0 {
		return "the workflow takes none"
	}
	return "it takes " + joinWords(sortedKeys(wf.Spec.Inputs))
}

// title is what people call the run.
func (x *step) title() string {
	if t := x.d.Workflow.Spec.Title; t != nil {
		if v, err := x.data("title", t, nil); err == nil {
			return record.Text(v)
		}
	}
	return x.d.Workflow.Metadata.Name
}

// command runs a person's command once: a repeat, by the same person with the
// same id, is answered as before. While there are too many that could be
// repeated, nothing is taken but a cancel that applies.
func (x *step) command(do func()) {
	for _, seen := range x.s.Seen {
		if seen.is(x.in.ID, x.in.Kind, x.in.By) {
			x.out.At = seen.V
			x.out.Answer = seen.Answer
			if seen.Answer.Status == events.StatusApplied {
				x.out.Answer.Status = events.StatusAlready
			}
			x.out.Record = false
			return
		}
	}
	crowded := x.crowded()
	if crowded != "" && x.in.Kind != record.InCancel {
		x.unrecorded(events.StatusBusy, "", crowded)
		return
	}
	do()
	if crowded != "" && x.out.Answer.Status != events.StatusApplied {
		x.out.Record = false
	}
	if x.out.Record {
		x.remember(x.in.ID, x.in.By)
	}
}

// crowded says why no more commands are taken, of this person or of anybody,
// or "". What is remembered of them stands in every record, and must leave
// room in it for what workers report. The bound for each person keeps one who
// repeats themselves without end from shutting out the others.
func (x *step) crowded() string {
	all, theirs, first := 0, 0, int64(0)
	for _, seen := range x.s.Seen {
		if seen.Kind == record.InAttemptFinish { // those have a bound of their own
			continue
		}
		if all++; seen.By == x.in.By {
			if theirs++; theirs == 1 {
				first = seen.Until
			}
		}
	}
	within := fmt.Sprintf("commands for this run within %.0f minutes", commandValidity.Minutes())
	switch {
	case theirs >= maxSeenOf:
		return fmt.Sprintf("%s has given %d %s; no more are taken before %s, and this one was not", x.in.By, theirs, within, at(first+1).Format(time.TimeOnly))
	case all >= maxSeen:
		return fmt.Sprintf("people have given %d %s; no more are taken for now, and this one was not", all, within)
	}
	return ""
}

func (s Seen) is(id, kind, by string) bool { return s.ID == id && s.Kind == kind && s.By == by }

// remember keeps the answer to the input for a repeat.
func (x *step) remember(id, by string) {
	x.s.Seen = append(x.s.Seen, Seen{ID: id, Kind: x.in.Kind, By: by, V: x.v, Until: x.now + commandValidity.Milliseconds(), Answer: x.out.Answer})
}

// forget drops commands that can no longer be repeated.
func (x *step) forget() {
	x.s.Seen = slices.DeleteFunc(x.s.Seen, func(s Seen) bool { return s.Until < x.now })
}

// settle carries on whatever an input may have made possible: an arm that was
// held, an approval that is now complete, tasks that have all ended.
func (x *step) settle() {
	defer x.sweep()
	x.rollOn()
	switch x.s.Phase {
	case phaseRunning:
		x.proceed()
	case phaseFinally:
		x.implicitApproval()
		x.closeIfFinished()
	}
}

// sweep drops notifications, undos and samples that have ended.
func (x *step) sweep() {
	x.s.Tasks = slices.DeleteFunc(x.s.Tasks, func(t *Task) bool { return (t.Detached || t.Of != "") && t.Status == taskDone })
}

// may reports whether the sender of the input is allowed an action on this
// workflow. What an event starts was allowed when its trigger was, and what a
// run starts when that run was.
func (x *step) may(action string) bool {
	if x.in.Kind == record.InStart && (x.in.Start.Cause != nil || x.in.Start.Parent != nil) {
		return true
	}
	return x.d.Now.Allows(x.roles(), action, x.d.Workflow.Metadata.Name)
}

// roles are those that the sender of the input holds now.
func (x *step) roles() []string {
	held := x.d.Now.RolesOf(x.in.By, x.in.Groups...)
	if x.in.Admin {
		held = append(held, workflows.AdministratorR)
	}
	return held
}

func (x *step) denied(what string) string {
	return deniedText(x.in.By, x.roles(), what)
}

func deniedText(who string, roles []string, what string) string {
	if len(roles) == 0 {
		return fmt.Sprintf("%s may not %s: no role is held by that name", who, what)
	}
	return fmt.Sprintf("%s may not %s: no permission for %s", who, what, joinWords(roles))
}

// refuse records that a command was refused and why.
func (x *step) refuse(typ, code, reason string) {
	x.out.Answer = record.Answer{Status: events.StatusRefused, Code: code, Reason: reason}
	h := events.Happening{By: x.in.By, Reason: reason, State: x.s.At}
	if x.in.Decide != nil {
		h.Decision, h.Comment = x.in.Decide.Decision, x.in.Decide.Comment
	}
	x.emit(typ, h)
}

// unrecorded answers without a record.
func (x *step) unrecorded(status, code, reason string) {
	x.out.Record = false
	x.out.Answer = record.Answer{Status: status, Code: code, Reason: reason}
}

// emit adds an event, with what every event says.
func (x *step) emit(typ string, h events.Happening) {
	h.Run, h.Workflow, h.Title, h.Record = x.s.ID, x.s.Workflow, x.s.Title, x.v
	if x.out.Events == nil {
		x.out.Events = make([]record.Emitted, 0, 4) // as many as most steps have
	}
	x.out.Events = append(x.out.Events, record.Emitted{Type: typ, Data: h})
}

// send tells another aggregate something, until it answers.
func (x *step) send(to, id string, in record.Input) {
	x.s.Sent++
	in.ID = record.Derive("send", x.s.ID, x.s.Sent)
	in.By = "run:" + x.s.ID
	x.s.Outbox = append(x.s.Outbox, record.Send{To: to, ID: id, Input: in})
}

// sendAnswered takes the answer to something that was sent.
func (x *step) sendAnswered(sent *record.Sent) {
	i := slices.IndexFunc(x.s.Outbox, func(m record.Send) bool { return m.Input.ID == sent.ID })
	if i < 0 {
		x.unrecorded(events.StatusAlready, "", "")
		return
	}
	m := x.s.Outbox[i]
	x.s.Outbox = slices.Delete(x.s.Outbox, i, i+1)
	if taken := sent.Status == events.StatusApplied || sent.Status == events.StatusAlready; !taken && m.Input.Kind == record.InStart {
		x.childRefused(m.ID, sent.Reason)
	}
}
