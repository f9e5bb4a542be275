package run

import (
	"fmt"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// whyRoll says what a deployment waits for between its workers' attempts, and
// reports whether it is that which the task waits for.
func (x *step) whyRoll(t *Task, r *events.WaitReason) bool {
	if t.Roll == nil || t.Roll.Step >= len(x.steps(t)) {
		return false
	}
	what := stepText(x.steps(t), t.Roll.Step)
	r.Environment = t.Env
	switch t.Status {
	case taskPausing:
		r.What, r.Until = "timer", timePtr(t.Roll.Until)
		r.Summary = fmt.Sprintf("%s, until %s", what, at(t.Roll.Until).Format(time.RFC3339))
	case taskAnalyzing:
		r.What, r.Since, r.Until = "analysis", timePtr(t.Roll.Began), timePtr(t.Roll.Until)
		r.Summary = what + ", " + x.analysisText(t)
		if t.Roll.Stopped > 0 {
			r.Summary += "; it stands still: " + x.standsStill(t)
		}
	case taskBetween:
		r.What = "held"
		r.Summary = fmt.Sprintf("%s begins later: %s", what, x.standsStill(t))
	case taskUndoing:
		r.What = "undo"
		r.Summary = "is being undone: " + t.Roll.Verdict
	default:
		return false
	}
	return true
}

// analysisText says until when an analysis lasts and what it has seen.
func (x *step) analysisText(t *Task) string {
	seen := []string{"until " + at(t.Roll.Until).Format(time.RFC3339)}
	for _, m := range x.deployOf(t).Analysis {
		seen = append(seen, metricText(m, t.Roll.Metrics[m.Name]))
	}
	return strings.Join(seen, "; ")
}

// whyStep adds to why a deployment waits for a worker which step it is for.
func (x *step) whyStep(t *Task) string {
	switch e := x.effectUndoneBy(t); {
	case e != nil && e.Deploys && e.Previous != "":
		return fmt.Sprintf(", to bring %s back in the place of %s", e.Previous, e.Artifact)
	case e != nil && e.Deploys:
		return fmt.Sprintf(", to take %s away", e.Artifact)
	case t.Roll != nil && t.Roll.Step < len(x.steps(t)):
		return ", for " + stepText(x.steps(t), t.Roll.Step)
	}
	return ""
}

// whyClaims names the environments that a run keeps for what it has not
// finished there.
func (x *step) whyClaims() []events.WaitReason {
	var reasons []events.WaitReason
	for _, e := range x.s.Effects {
		if !x.unfinished(e) || x.working(e) {
			continue
		}
		reasons = append(reasons, events.WaitReason{State: e.Path, What: "claim", Environment: e.Env,
			Summary: fmt.Sprintf("keeps the lock of environment %s: its deployment is unfinished, %s", e.Env, x.effectText(e))})
	}
	return reasons
}

// working reports whether a task works on an effect now, and says so itself.
func (x *step) working(e *Effect) bool {
	for _, t := range x.s.Tasks {
		if t.Status != taskDone && (x.effectOf(t) == e && t.Of == "" || x.effectUndoneBy(t) == e) {
			return true
		}
	}
	return false
}
