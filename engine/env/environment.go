// Package env holds the other aggregates beside the run, as pure as it: the
// environment with its lock, and the incoming event with what it started.
//
// An environment is given to one run at a time, in the order in which runs
// asked, each time with a number that only grows: the fence that targets
// compare. A grant that its run does not take goes to the next. What a run
// says it deployed is remembered. A run that ended without knowing what it
// left there keeps the lock until a person frees it; the run is told.
//
// It grants nothing while its windows are closed or a person holds it, except
// to a run for which the glass was broken. Runs that want to know are told
// whether it is open, and again whenever that changes. It remembers which
// artifacts succeeded in it, and answers who asks.
//
// An event is recorded once, by source and id, with the definitions that were
// looked at, the runs that it starts, or why it starts none.
package env

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Transition is what a step decided; see run.Transition. State is *Environment
// or *Event.
type Transition struct {
	Record    bool
	Answer    record.Answer
	Decisions []record.Decision
	Events    []record.Emitted
	State     any
}

// Environment is the state of an environment.
type Environment struct {
	Name string `json:"name"`
	Now  int64  `json:"t"`
	Line
	Deployed *record.Deployment `json:"deployed,omitempty"`
	Seen     []Seen             `json:"seen,omitempty"` // people's commands, while they could be repeated

	Holds     []Hold         `json:"holds,omitempty"`     // what keeps everything out, oldest first
	Lookers   []Looker       `json:"lookers,omitempty"`   // runs that want to know whether it is open
	Succeeded []Success      `json:"succeeded,omitempty"` // artifacts that succeeded here, newest first
	Asked     []record.Proof `json:"asked,omitempty"`     // what runs want to know to have succeeded here, and has not yet
	NextAt    int64          `json:"next,omitempty"`      // when it wants a timer input, in milliseconds
}

// Seen is a command of a person that was answered.
type Seen struct {
	ID     string        `json:"id"`
	By     string        `json:"by"`
	Until  int64         `json:"until"`
	Answer record.Answer `json:"a"`
}

// remember is how long a person's command is known again, in milliseconds;
// none is valid longer.
const remember = 15 * 60 * 1000

// Those that are remembered stand in every record of the environment, so there
// are bounds: for all of them, and for those of one person, who must not shut
// out the others.
const maxSeen, maxSeenOf = 400, 100

// crowded says why no more commands are taken of a person, or "".
func (e *Environment) crowded(by string) string {
	theirs := 0
	for _, s := range e.Seen {
		if s.By == by {
			theirs++
		}
	}
	if theirs < maxSeenOf && len(e.Seen) < maxSeen {
		return ""
	}
	return fmt.Sprintf("environment %s was given %d commands within %d minutes, %d of them by %s; no more are taken for now, and this one was not",
		e.Name, len(e.Seen), remember/60_000, theirs, by)
}

// LoadEnvironment reads a state from a record.
func LoadEnvironment(p []byte) (*Environment, error) {
	var e Environment
	return &e, json.Unmarshal(p, &e)
}

// StepEnvironment decides what an input does to an environment; prev is nil
// for one that nobody has asked for yet. name is its name.
func StepEnvironment(cat *workflows.Catalog, name string, prev *Environment, v int64, in record.Input, now int64) Transition {
	e := &Environment{Name: name}
	if prev != nil {
		e = new(*prev)
		e.Line = prev.Line.copied()
		e.Holds, e.Lookers, e.Asked = slices.Clone(prev.Holds), slices.Clone(prev.Lookers), slices.Clone(prev.Asked)
	}
	e.Now = max(now, e.Now)
	e.Seen = slices.DeleteFunc(slices.Clone(e.Seen), func(s Seen) bool { return s.Until < e.Now })
	t := &Transition{Record: true, Answer: record.Answer{Status: events.StatusApplied}, State: e}
	skip := func(status, code, reason string) {
		*t = Transition{Answer: record.Answer{Status: status, Code: code, Reason: reason}, State: prev}
	}
	if !in.Complete() {
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("the input %q is not complete", in.Kind))
		return *t
	}
	switch in.Kind {
	case record.InEnvRequest:
		if !e.request(in.Request) {
			skip(events.StatusAlready, "", "")
		}
	case record.InEnvRelease:
		if !e.release(in.Release) {
			skip(events.StatusStale, "", "the run does not hold this environment")
		}
	case record.InEnvFree, record.InEnvHold, record.InEnvUnhold:
		if i := slices.IndexFunc(e.Seen, func(s Seen) bool { return s.ID == in.ID && s.By == in.By }); i >= 0 {
			a := e.Seen[i].Answer
			if a.Status == events.StatusApplied {
				a.Status = events.StatusAlready
			}
			skip(a.Status, a.Code, a.Reason)
			break
		}
		crowded := e.crowded(in.By)
		if crowded != "" && in.Kind != record.InEnvFree { // which somebody may wait for
			skip(events.StatusBusy, "", crowded)
			break
		}
		e.command(cat, in, t, v)
		if a := t.Answer; crowded != "" && a.Status != events.StatusApplied {
			skip(a.Status, a.Code, a.Reason)
			break
		}
		e.Seen = append(e.Seen, Seen{ID: in.ID, By: in.By, Until: e.Now + remember, Answer: t.Answer})
	case record.InSendAnswer:
		e.lost(in.Sent)
		if !e.answered(in.Sent, e.Now, environmentGrant) {
			skip(events.StatusAlready, "", "")
		}
	case record.InEnvLook:
		if !e.look(in.Request) {
			skip(events.StatusAlready, "", "")
		}
	case record.InEnvProve:
		if !e.prove(in.Proof) {
			skip(events.StatusAlready, "", "")
		}
	case record.InTimer: // recorded when it changes anything
	default:
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("an environment does not take %q", in.Kind))
	}
	if t.Record {
		e.endHolds(t, v)
		d := e.Door(cat.Environments[name])
		e.grantNext(d.Open)
		e.announce(cat.Environments[name], d, cat.Digest)
	}
	if in.Kind == record.InTimer && !e.changed(prev) {
		skip(events.StatusStale, "", "nothing has changed")
	}
	return *t
}

// request puts a run at the end of the queue; false when it is known already.
// A run that has looked and now asks is told as one that waits.
func (e *Environment) request(r *record.EnvRequest) bool {
	told := e.forget(r.Run)
	asked := e.ask(r.Run, r.State, e.Now, environmentGrant)
	for i := range e.Queue {
		q := &e.Queue[i]
		if q.Run != r.Run {
			continue
		}
		broken := r.Glass && !q.Glass
		q.Glass = q.Glass || r.Glass
		if asked {
			q.Told = told
		}
		return asked || broken
	}
	if h := e.Holder; h != nil && h.Run == r.Run && h.Again && r.Glass && !h.Glass {
		h.Glass = true // it still waits if it does not take the grant, and then with broken glass
		return true
	}
	return asked
}

// environmentGrant finds the grant that a message of an environment gives.
func environmentGrant(in *record.Input) (int64, bool) {
	if in.Granted == nil {
		return 0, false
	}
	return in.Granted.Grant, true
}

// release takes the lock from its holder, or a request out of the queue.
func (e *Environment) release(r *record.EnvRelease) bool {
	held, ok := e.give(r.Run, r.Grant)
	if held && len(r.Undone) > 0 {
		e.takeBack(r.Run, r.Undone)
	}
	if held && r.Deployed != nil {
		e.Deployed = r.Deployed
		e.succeed(r.Deployed)
	}
	n := len(e.Lookers)
	if r.Grant == 0 {
		e.forget(r.Run)
	}
	return ok || len(e.Lookers) < n
}

// command does what a person asks for, or refuses it and says why.
func (e *Environment) command(cat *workflows.Catalog, in record.Input, t *Transition, v int64) {
	roles := cat.RolesOf(in.By, in.Groups...)
	if in.Admin {
		roles = append(roles, workflows.AdministratorR)
	}
	action, what, do := workflows.ActEnvHold, "hold the environment "+e.Name, e.hold
	switch in.Kind {
	case record.InEnvFree:
		action, what, do = workflows.ActEnvFree, "free the environment "+e.Name, e.free
	case record.InEnvUnhold:
		what, do = "take holds of the environment "+e.Name+" away", e.unhold
	}
	code, reason := events.CodeDenied, in.By+" may not "+what
	if cat.Allows(roles, action, "") {
		code, reason = events.CodeConflict, do(in, t, v)
	}
	if reason != "" {
		t.Answer = record.Answer{Status: events.StatusRefused, Code: code, Reason: reason}
		e.happened(t, v, events.CommandRefused, in.By, reason, 0)
	}
}

// free lets a person decide that the holder, which has ended without knowing
// what it left here, does not hold the environment any more.
func (e *Environment) free(in record.Input, t *Transition, v int64) (refusal string) {
	if e.Holder == nil {
		return "nobody holds the environment " + e.Name
	}
	t.Events = append(t.Events, record.Emitted{Type: events.EnvironmentReleased,
		Data: events.Happening{Environment: e.Name, Grant: e.Holder.Grant, Run: e.Holder.Run, By: in.By, Reason: "freed by hand", Record: v}})
	e.tell(e.Holder.Run, record.Input{Kind: record.InFreed, Freed: &record.Granted{Environment: e.Name, Grant: e.Holder.Grant}})
	e.Holder = nil
	return ""
}

// tell tells a run something, until it answers.
func (e *Environment) tell(run string, in record.Input) { e.send(record.Environment, e.Name, run, in) }

// grantNext gives a free environment to the run that has waited longest. While
// it is closed only those enter for which the glass was broken.
func (e *Environment) grantNext(open bool) {
	if h := e.next(e.Now, func(h Holder) bool { return open || h.Glass }); h != nil {
		h.Told = ""
		e.tell(h.Run, record.Input{Kind: record.InGranted, Granted: &record.Granted{Environment: e.Name, Grant: h.Grant, Deployed: e.Deployed}})
	}
}
