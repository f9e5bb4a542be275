package run

import (
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// whyLocked says what a task waits for before it is in its environment.
func (x *step) whyLocked(t *Task, r *events.WaitReason) {
	r.Environment = t.Env
	d := x.s.Doors[t.Env]
	switch t.Before {
	case beforeRules:
		r.What, r.Missing = "rule", x.unmet(t.Env, false)
		r.Rules = x.explainEnvironment(t.Env, x.approvalsFor(t.Env), func(e envRule) bool { return !e.asksPeople() })
		r.Summary = fmt.Sprintf("environment %s does not let it in: %s", t.Env, joinWords(r.Missing))
	case beforeProof:
		r.What = "promotion"
		r.Summary = fmt.Sprintf("environment %s does not let it in: %s", t.Env, x.notPromoted(t.Env))
	case beforeDoor:
		r.What = "environment"
		r.Summary = fmt.Sprintf("waits to hear whether environment %s is open", t.Env)
		if d != nil && !d.Asked {
			x.whyClosed(t.Env, d, r)
		}
	case beforePeople:
		r.What, r.Missing = "people", x.unmet(t.Env, true)
		r.Rules = x.explainEnvironment(t.Env, x.approvalsFor(t.Env), envRule.asksPeople)
		r.Summary = fmt.Sprintf("waits until environment %s can be entered, to ask people: %s", t.Env, joinWords(r.Missing))
	default:
		r.What = "lock"
		r.Summary = fmt.Sprintf("waits for the lock of environment %s", t.Env)
		if d.shut() {
			x.whyClosed(t.Env, d, r)
		}
	}
	if env := x.d.Now.Environments[t.Env]; env != nil && env.Spec.BreakGlass != nil && r.What != "lock" {
		r.Can = append(r.Can, "to break the glass: "+joinWords(env.Spec.BreakGlass.Roles))
	}
}

// whyClosed says why an environment lets nothing in, and until when.
func (x *step) whyClosed(env string, d *Door, r *events.WaitReason) {
	r.What, r.Until = "window", timePtr(d.Until)
	r.Summary = fmt.Sprintf("environment %s is closed: %s", env, d.Reason)
	if d.Until > 0 {
		r.Summary += "; it opens at " + at(d.Until).Format(time.RFC3339)
	}
}
