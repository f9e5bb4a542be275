package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Runs of before the scenario.
const (
	earlierRun = "earlier"
	anotherRun = "another"
	thirdRun   = "third"
)

// begin makes the situation and starts the run; false when that is refused.
func (w *world) begin() bool {
	for _, name := range sortedKeys(w.spec.Environments) {
		w.situation(name, w.spec.Environments[name])
	}
	w.story = nil // what was before is not told
	for i, p := range w.spec.People {
		w.at(p.At.D(), byPerson, func() { w.act(i, p) })
	}
	for i, e := range w.spec.Events {
		w.at(e.At.D(), byEvent, func() { w.arrive(i, e) })
	}
	in, err := w.startInput()
	if err != nil {
		w.refuseStart("spec.trigger", err.Error())
		return false
	}
	w.key(in)
	a := w.actor(record.Run, runID)
	if answer := w.give(a, in); a.state == nil {
		w.refuseStart("spec.workflow", answer.Reason)
		return false
	}
	return true
}

// refuseStart tells that the run is not started.
func (w *world) refuseStart(path, reason string) {
	w.why = reason
	w.note("", "the run is not started: %s", reason)
	if !w.spec.Expect.NotStarted {
		w.fail(path, "the run is not started: %s", reason)
	}
}

// startInput is the start of the run: by a person, by an event of which nothing
// is known, or by the trigger of one that is.
func (w *world) startInput() (record.Input, error) {
	by := w.spec.Facts.RequestedBy
	start := &record.Start{Run: runID, Workflow: w.spec.Workflow, Inputs: record.Values{}}
	for name, v := range w.spec.Inputs {
		start.Inputs[name] = workflows.Normal(v)
	}
	if w.spec.Trigger != nil {
		return w.triggered()
	}
	if source, isEvent := strings.CutPrefix(by, "event:"); isEvent || by == "" {
		if by == "" {
			by, source = "event:scenario", "scenario"
		}
		start.Cause = &events.Cause{ID: "1", Source: source, Type: "dev.penstock.scenario.v1"}
	}
	return record.Input{ID: "start", Kind: record.InStart, By: by, Start: start}, nil
}

// triggered lets an event start the run, as its aggregate decides.
func (w *world) triggered() (record.Input, error) {
	ev, raw, err := w.event("trigger", w.spec.Trigger)
	if err != nil {
		return record.Input{}, err
	}
	only := *w.cat
	only.Workflows = map[string]*workflows.Workflow{w.spec.Workflow: w.cat.Workflows[w.spec.Workflow]}
	by := w.spec.Facts.RequestedBy
	if by == "" {
		by = "event:" + ev.Source
	}
	t := env.StepEvent(&only, nil, 1, record.Input{ID: ev.ID, Kind: record.InEvent, By: by, Event: raw}, w.now)
	w.seen.decisions = append(w.seen.decisions, t.Decisions...)
	e, _ := t.State.(*env.Event)
	if e == nil || len(e.Outbox) == 0 {
		reason := t.Answer.Reason
		if e != nil {
			reason = strings.Join(e.Reasons, "; ")
		}
		return record.Input{}, errors.New(reason)
	}
	in := e.Outbox[0].Input
	in.Start = new(*in.Start)
	in.Start.Run = runID
	return in, nil
}

// key lets another run have the concurrency key before this one, or want it.
func (w *world) key(in record.Input) {
	wf := w.cat.Workflows[w.spec.Workflow]
	if w.spec.Key == nil || wf == nil {
		return
	}
	t := run.Step(run.Definitions{Workflow: wf, Kinds: w.cat.Kinds, Now: w.cat}, nil, 1, in, w.now) // only to see its key
	if t.State == nil || t.State.Key == nil {
		return
	}
	a := w.actor(record.Key, t.State.Key.Key)
	claim := record.Claim{Key: a.id, Run: anotherRun, Policy: wf.Spec.Concurrency.Policy}
	ask := func() {
		w.give(a, record.Input{ID: "request/another", Kind: record.InKeyRequest, By: "run:" + anotherRun, Key: &claim})
	}
	if d := w.spec.Key.LockedFor; d > 0 {
		ask()
		w.at(d.D(), byEvent, func() {
			w.note("", "another run gives the key %s back", a.id)
			back := claim
			if k, ok := a.state.(*env.Key); ok && k.Holder != nil {
				back.Grant = k.Holder.Grant
			}
			w.give(a, record.Input{ID: "release/another", Kind: record.InKeyRelease, By: "run:" + anotherRun, Key: &back})
		})
	}
	if d := w.spec.Key.WantedAt; d > 0 {
		w.at(d.D(), byEvent, func() {
			w.note("", "another run asks for the key %s", a.id)
			claim.Run = thirdRun
			ask()
		})
	}
}

// situation brings an environment to where the scenario begins: what was
// deployed there, who has its lock, what keeps others out.
func (w *world) situation(name string, s *workflows.Situation) {
	a := w.actor(record.Environment, name)
	before := s.Succeeded
	if s.Deployed != "" {
		before = append(before[:len(before):len(before)], s.Deployed)
	}
	grant := int64(0)
	for i, artifact := range before {
		id := fmt.Sprint(earlierRun, i+1)
		grant = w.lock(a, id)
		w.give(a, record.Input{ID: "release/" + id, Kind: record.InEnvRelease, By: "run:" + id, Release: &record.EnvRelease{Run: id, Grant: grant,
			Deployed: &record.Deployment{Run: id, Artifact: artifact, Grant: grant, At: w.start}}})
	}
	if s.LockedFor > 0 {
		grant = w.lock(a, anotherRun)
		w.at(s.LockedFor.D(), byEvent, func() {
			w.note("", "another run gives %s back", name)
			w.give(a, record.Input{ID: "release/another", Kind: record.InEnvRelease, By: "run:" + anotherRun, Release: &record.EnvRelease{Run: anotherRun, Grant: grant}})
		})
	}
	for i, h := range s.Held {
		if h.From == 0 {
			w.hold(a, i, h)
			continue
		}
		w.at(h.From.D(), byPerson, func() { w.hold(a, i, h) })
	}
}

// lock gives an environment to a run of before, whatever its windows say, and
// tells the number of the grant.
func (w *world) lock(a *actor, id string) int64 {
	w.give(a, record.Input{ID: "request/" + id, Kind: record.InEnvRequest, By: "run:" + id, Request: &record.EnvRequest{Run: id, Glass: true}})
	if e, ok := a.state.(*env.Environment); ok && e.Holder != nil && e.Holder.Run == id {
		return e.Holder.Grant
	}
	return 0
}

// hold keeps everything out of an environment.
func (w *world) hold(a *actor, i int, h *workflows.Hold) {
	id := fmt.Sprint("hold", i+1)
	hold := &events.HoldEnvironment{ID: id, Environment: a.id, Reason: h.Reason}
	if h.To > 0 {
		hold.Until = time.UnixMilli(w.start + h.To.D().Milliseconds()).UTC()
	}
	answer := w.give(a, record.Input{ID: id, Kind: record.InEnvHold, By: "scenario", Admin: true, Hold: hold})
	if answer.Status != events.StatusApplied {
		w.fail(workflows.Join("spec.environments", a.id), "the hold is refused: %s", answer.Reason)
	}
}

// act lets a person do something, and looks whether that was to be.
func (w *world) act(i int, p *workflows.PersonAct) {
	at := fmt.Sprintf("spec.people[%d]", i)
	a, in, what := w.input(i, p)
	told := len(w.story)
	answer := w.give(a, in)
	if len(w.story) == told { // the core tells itself what it records
		w.note(a.path, "%s %s: %s", p.User, what, join(answer.Status, answer.Reason))
	}
	refused := answer.Status != events.StatusApplied && answer.Status != events.StatusAlready
	w.refusedActs[i] = refused
	switch {
	case refused && p.Expect != "refused":
		w.fail(at, "%s %s at %s: it is refused, not accepted: %s", p.User, what, workflows.ShortDuration(p.At.D()), answer.Reason)
	case !refused && p.Expect == "refused":
		w.fail(at, "%s %s at %s: it is accepted, not refused", p.User, what, workflows.ShortDuration(p.At.D()))
	}
}

// input gives what a person does as an input, to whom, and in words.
func (w *world) input(i int, p *workflows.PersonAct) (*actor, record.Input, string) {
	id := fmt.Sprint("act", i+1)
	a := w.actor(record.Run, runID)
	in := record.Input{ID: p.User + ":" + id, By: p.User, Via: "scenario"}
	switch {
	case p.Cancels:
		in.Kind, in.Cancel = record.InCancel, &events.CancelRun{ID: id, Run: a.id, Reason: p.Comment}
		return a, in, "cancels"
	case p.Pauses, p.Resumes:
		what := "pauses"
		in.Kind, in.Pause = record.InPause, &events.PauseRun{ID: id, Run: a.id, Reason: p.Comment}
		if p.Resumes {
			in.Kind, what = record.InResume, "resumes"
		}
		return a, in, what
	case p.Retries != "":
		in.Kind, in.Retry = record.InRetry, &events.RetryRun{ID: id, Run: a.id, From: p.Retries, Reason: p.Comment}
		return a, in, "retries from " + p.Retries
	case p.BreaksGlass != "":
		reason := p.Comment
		if reason == "" {
			reason = "scenario"
		}
		in.Kind, in.Glass = record.InBreakGlass, &events.BreakGlass{ID: id, Run: a.id, Environment: p.BreaksGlass, Reason: reason}
		return a, in, "breaks the glass of " + p.BreaksGlass
	}
	d := &events.Decide{ID: id, Comment: p.Comment, To: p.To}
	var state, what string
	for _, c := range []struct{ verb, state, decision string }{{"approves", p.Approves, events.Approve}, {"rejects", p.Rejects, events.Reject},
		{"requests changes of", p.RequestsChanges, events.RequestChanges}, {"withdraws from", p.Withdraws, events.Withdraw},
		{"delegates", p.Delegates, events.Delegate}, {"escalates", p.Escalates, events.Escalate}} {
		if c.state != "" {
			state, d.Decision, what = c.state, c.decision, c.verb+" "+c.state
		}
	}
	if d.Decision == events.Approve && p.NotBefore > 0 {
		d.Decision, d.NotBefore = events.Defer, time.UnixMilli(w.start+p.NotBefore.D().Milliseconds()).UTC()
	}
	a, d.State = w.runAt(state)
	d.Run, d.Content = a.id, w.shown(a, d.State)
	in.Kind, in.Decide = record.InDecide, d
	return a, in, what
}

// runAt finds the run that a path leads into, and the rest of the path.
func (w *world) runAt(path string) (*actor, string) {
	best := w.actor(record.Run, runID)
	for _, a := range w.actors {
		if a.typ == record.Run && a.run() != nil && len(a.path) >= len(best.path) && strings.HasPrefix(path, a.path) {
			best = a
		}
	}
	return best, strings.TrimPrefix(path, best.path)
}

// shown is the digest of what people see when they look at a run's approval.
func (w *world) shown(a *actor, state string) string {
	if s := a.run(); s != nil && s.Open != nil && s.Open.State == state {
		return s.Open.Content
	}
	return ""
}

// event makes an event of what the scenario says of it.
func (w *world) event(id string, e *workflows.EventAct) (events.Event, []byte, error) {
	ev := events.Event{ID: id, Source: e.Source, Type: e.Type, Subject: e.Subject, Time: time.UnixMilli(w.now).UTC()}
	if ev.Source == "" {
		ev.Source = "scenario"
	}
	if e.Data != nil {
		ev.Data, _ = json.Marshal(e.Data) // what YAML holds has a form in JSON
	}
	raw, err := json.Marshal(ev)
	if err == nil {
		err = ev.Validate()
	}
	return ev, raw, err
}

// arrive lets an event come in.
func (w *world) arrive(i int, e *workflows.EventAct) {
	ev, raw, err := w.event(fmt.Sprint("event", i+1), e)
	if err != nil {
		w.fail(fmt.Sprintf("spec.events[%d]", i), "this is no event: %v", err)
		return
	}
	w.note("", "event %s arrives", e.Type)
	cause := events.Cause{ID: ev.ID, Source: ev.Source, Type: ev.Type}
	for _, a := range slices.Clone(w.actors) {
		if s := a.run(); s != nil && slices.ContainsFunc(s.Listens(), func(typ string) bool { return workflows.Match(typ, ev.Type) }) {
			w.give(a, record.Input{ID: ev.ID, Kind: record.InSignal, By: "event:" + ev.Source, Signal: &record.Signal{Cause: cause, Event: raw}})
		}
	}
}
