package run

import (
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// breakGlass passes the rules, policies, windows and holds of an environment
// for this run. Its lock is never passed, nor an approval of the workflow.
func (x *step) breakGlass(b *events.BreakGlass) {
	if code, reason := x.noGlass(b); reason != "" {
		x.refuse(events.CommandRefused, code, reason)
		return
	}
	if x.s.Glass == nil {
		x.s.Glass = map[string]*Cancelled{}
	}
	x.s.Glass[b.Environment] = &Cancelled{By: x.in.By, Reason: b.Reason, At: x.now}
	h := events.Happening{State: x.s.At, Environment: b.Environment, By: x.in.By, Roles: x.roles(), Reason: b.Reason}
	if d := x.d.Now.Environments[b.Environment].Spec.BreakGlass.ReviewWithin; d > 0 {
		h.ReviewBy = timePtr(x.now + d.D().Milliseconds())
	}
	x.emit(events.GlassBroken, h)
	for _, t := range x.s.Tasks {
		if t.Status == taskLocked && t.Env == b.Environment && t.Before == "" { // it waits for the lock already
			x.send(record.Environment, t.Env, record.Input{Kind: record.InEnvRequest,
				Request: &record.EnvRequest{Run: x.s.ID, State: t.Path, Glass: true}})
			break
		}
	}
}

// noGlass says why the glass may not be broken, or "".
func (x *step) noGlass(b *events.BreakGlass) (code, reason string) {
	env := x.d.Now.Environments[b.Environment]
	switch {
	case x.s.Done():
		return events.CodeConflict, "the run has ended: " + x.s.Outcome
	case env == nil:
		return events.CodeNotFound, fmt.Sprintf("there is no environment %q", b.Environment)
	case env.Spec.BreakGlass == nil:
		return events.CodeConflict, fmt.Sprintf("the environment %s has no glass to break: its definition has no breakGlass", b.Environment)
	case !slices.ContainsFunc(x.roles(), func(r string) bool { return slices.Contains(env.Spec.BreakGlass.Roles, r) }):
		return events.CodeDenied, fmt.Sprintf("%s holds %s, and breaking the glass of %s needs %s", x.in.By, rolesText(x.roles()), b.Environment,
			joinWords(env.Spec.BreakGlass.Roles))
	case b.Reason == "":
		return events.CodeInvalid, "breaking the glass needs a reason; it is in the record for good"
	case x.s.Glass[b.Environment] != nil:
		return events.CodeConflict, fmt.Sprintf("%s has broken the glass of %s for this run already", x.s.Glass[b.Environment].By, b.Environment)
	}
	return "", ""
}
