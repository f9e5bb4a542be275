package run

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Why tells everything that a run waits for. It decides nothing.
func Why(d Definitions, s *State, now int64) []events.WaitReason {
	x := &step{ctx: context.Background(), d: d, s: s.clone(), now: max(now, s.Now)}
	return x.why()
}

func (x *step) why() []events.WaitReason {
	defer func(mute bool) { x.mute = mute }(x.mute)
	x.mute = true
	if x.s.Done() {
		return nil
	}
	var reasons []events.WaitReason
	if x.paused() {
		reasons = append(reasons, x.whyPaused())
	}
	if x.waitsForKey() {
		return append(reasons, x.whyKey())
	}
	if h := x.s.Held; h != nil {
		reasons = append(reasons, events.WaitReason{State: x.s.At, What: "held",
			Summary: x.whyHeld(h), Rules: x.heldRules(h), Next: []string{"penstock retry " + x.s.ID, "penstock cancel " + x.s.ID}})
	}
	if x.s.Open != nil {
		reasons = append(reasons, x.whyApproval(x.s.Open))
	}
	if r, ok := x.whySleep(); ok {
		reasons = append(reasons, r)
	}
	for _, t := range x.s.Tasks {
		if t.Detached {
			continue // nothing waits for it
		}
		if r, ok := x.whyTask(t); ok {
			reasons = append(reasons, r)
		}
	}
	if len(reasons) > 0 {
		reasons = append(reasons, x.whyClaims()...)
	}
	return reasons
}

func (x *step) whyHeld(h *Held) string {
	switch h.Of {
	case heldBegin:
		return fmt.Sprintf("%s cannot begin: %s", x.s.At, h.Reason)
	case heldEvent:
		return fmt.Sprintf("an event came to %s, and whether it counts cannot be evaluated: %s", x.s.At, h.Reason)
	case heldInvariant:
		return fmt.Sprintf("%s ended %s, and the run must not go on: %s", x.s.At, h.Outcome, h.Reason)
	}
	return fmt.Sprintf("%s ended %s, and the rule for where to go next cannot be evaluated: %s", x.s.At, h.Outcome, h.Reason)
}

func (x *step) whyTask(t *Task) (events.WaitReason, bool) {
	r := events.WaitReason{State: t.Path}
	if x.whyRoll(t, &r) {
		return r, true
	}
	switch t.Status {
	case taskLocked:
		if x.s.Open != nil && slices.Contains(x.s.Open.Envs, t.Env) {
			return r, false // the approval says it
		}
		x.whyLocked(t, &r)
	case taskQueued:
		r.What, r.Since, r.Until = "worker", timePtr(t.QueuedAt), timePtr(t.StartBy)
		r.Kind, r.Pool = t.Kind, t.Pool
		r.Summary = fmt.Sprintf("waits for a worker of kind %s in pool %s", t.Kind, t.Pool) + x.whyStep(t)
		r.Next = []string{"penstock worker --kinds " + t.Kind}
	case taskRunning:
		r.What, r.Since, r.Until = "task", timePtr(t.BeganAt), timePtr(t.RunBy)
		r.Summary = fmt.Sprintf("the %s task runs on %s (attempt %d)", t.Kind, t.Worker, t.Attempt) + x.whyStep(t)
		if t.Lost != "" {
			r.Summary = fmt.Sprintf("%s finds out what became of an attempt whose worker was lost", t.Worker)
		}
		r.Next = []string{fmt.Sprintf("penstock logs %s %s", x.s.ID, t.Path)}
	case taskBackoff:
		r.What, r.Until = "timer", timePtr(t.RetryAt)
		r.Summary = fmt.Sprintf("is tried again (attempt %d) at %s, after: %s", t.Attempt, at(t.RetryAt).Format(time.TimeOnly), t.Error.Message)
	case taskChild, taskStopping:
		return x.whyChild(t), true
	case taskParked:
		return r, false // the pause says it
	case taskCancelling:
		r.What, r.Summary, r.Until = "task", fmt.Sprintf("waits for %s to stop the %s task", t.Worker, t.Kind), timePtr(t.GiveUpAt)
	default:
		return r, false
	}
	return r, true
}

// Shortly is one line of why.
func Shortly(reasons []events.WaitReason) string {
	if len(reasons) == 0 {
		return "waits for nothing"
	}
	var lines []string
	for _, r := range reasons {
		lines = append(lines, r.State+" "+r.Summary)
	}
	return strings.Join(lines, "; ")
}

// maxWhy is how many bytes of why an event has at most, as JSON.
const maxWhy = 8 << 10

// bounded is why with so much left out that it fits into an event: first the
// parts of rules, then the rules, then whole reasons.
func bounded(reasons []events.WaitReason) []events.WaitReason {
	fits := func() bool {
		p, err := json.Marshal(reasons)
		return err == nil && len(p) <= maxWhy
	}
	cut := func(from func(r *events.WaitReason)) bool {
		reasons = slices.Clone(reasons)
		for i := range reasons {
			reasons[i].Rules = slices.Clone(reasons[i].Rules)
			from(&reasons[i])
		}
		return fits()
	}
	done := fits() || cut(func(r *events.WaitReason) {
		for i := range r.Rules {
			r.Rules[i].Parts = nil
		}
	}) || cut(func(r *events.WaitReason) { r.Rules, r.Rule = nil, "" }) || cut(func(r *events.WaitReason) { r.Cannot = nil })
	for !done && len(reasons) > 0 {
		reasons = reasons[:len(reasons)-1]
		done = fits()
	}
	return reasons
}

// ended is one line of how a run that has ended came to its end.
func ended(s *State) string { return fmt.Sprintf("%s in state %s", s.Outcome, s.At) }

// Explain is the whole answer to why: what a run waits for, or how a run that
// has ended came to its end.
func Explain(d Definitions, s *State, records, now int64) events.WhyView {
	v := events.WhyView{Run: View(s, records)}
	if !s.Done() {
		v.Waiting = Why(d, s, now)
		v.Short = Shortly(v.Waiting)
		return v
	}
	v.Short = ended(s)
	for _, p := range s.Path {
		line := p.State
		if p.Outcome != "" {
			line += " " + p.Outcome
		}
		if p.Error != nil {
			line += ": " + p.Error.Message
		}
		v.Ended = append(v.Ended, line)
	}
	if c := s.Cancel; c != nil {
		v.Ended = append(v.Ended, strings.TrimSuffix(fmt.Sprintf("cancelled by %s: %s", c.By, c.Reason), ": "))
	}
	for _, env := range sortedKeys(s.Kept) {
		v.Ended = append(v.Ended, fmt.Sprintf("environment %s stays locked: %s", env, s.Kept[env]))
	}
	if s.Error != nil {
		v.Short += ": " + s.Error.Message
	}
	return v
}
