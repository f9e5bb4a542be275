// Package env holds the other aggregates beside the run, as pure as it: the
// environment with its lock, and the incoming event with what it started.
//
// An environment is given to one run at a time, in the order in which runs
// asked, each time with a number that only grows: the fence that targets
// compare. A grant that its run does not take goes to the next. What a run
// says it deployed is remembered. A run that ended without knowing what it
// left there keeps the lock until a person frees it; the run is told.
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
	case record.InEnvFree:
		if i := slices.IndexFunc(e.Seen, func(s Seen) bool { return s.ID == in.ID && s.By == in.By }); i >= 0 {
			a := e.Seen[i].Answer
			if a.Status == events.StatusApplied {
				a.Status = events.StatusAlready
			}
			skip(a.Status, a.Code, a.Reason)
			break
		}
		e.free(cat, in, t, v)
		e.Seen = append(e.Seen, Seen{ID: in.ID, By: in.By, Until: e.Now + remember, Answer: t.Answer})
	case record.InSendAnswer:
		if !e.answered(in.Sent, e.Now, environmentGrant) {
			skip(events.StatusAlready, "", "")
		}
	default:
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("an environment does not take %q", in.Kind))
	}
	if t.Record {
		e.grantNext()
	}
	return *t
}

// request puts a run at the end of the queue; false when it is known already.
func (e *Environment) request(r *record.EnvRequest) bool {
	return e.ask(r.Run, r.State, e.Now, environmentGrant)
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
	if held && r.Deployed != nil {
		e.Deployed = r.Deployed
	}
	return ok
}

// free lets a person decide that the holder, which has ended without knowing
// what it left here, does not hold the environment any more.
func (e *Environment) free(cat *workflows.Catalog, in record.Input, t *Transition, v int64) {
	roles := cat.RolesOf(in.By, in.Groups...)
	if in.Admin {
		roles = append(roles, workflows.AdministratorR)
	}
	refused := func(code, reason string) {
		t.Answer = record.Answer{Status: events.StatusRefused, Code: code, Reason: reason}
		t.Events = append(t.Events, record.Emitted{Type: events.CommandRefused,
			Data: events.Happening{Environment: e.Name, By: in.By, Reason: reason, Record: v}})
	}
	switch {
	case !cat.Allows(roles, workflows.ActEnvFree, ""):
		refused(events.CodeDenied, in.By+" may not free the environment "+e.Name)
	case e.Holder == nil:
		refused(events.CodeConflict, "nobody holds the environment "+e.Name)
	default:
		t.Events = append(t.Events, record.Emitted{Type: events.EnvironmentReleased,
			Data: events.Happening{Environment: e.Name, Grant: e.Holder.Grant, Run: e.Holder.Run, By: in.By, Reason: "freed by hand", Record: v}})
		e.tell(e.Holder.Run, record.Input{Kind: record.InFreed, Freed: &record.Granted{Environment: e.Name, Grant: e.Holder.Grant}})
		e.Holder = nil
	}
}

// tell tells a run something, until it answers.
func (e *Environment) tell(run string, in record.Input) { e.send(record.Environment, e.Name, run, in) }

// grantNext gives a free environment to the run that has waited longest.
func (e *Environment) grantNext() {
	if h := e.next(e.Now); h != nil {
		e.tell(h.Run, record.Input{Kind: record.InGranted, Granted: &record.Granted{Environment: e.Name, Grant: h.Grant}})
	}
}
