package run

import (
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// notify sends the notifications whose condition has become true. Subscribers
// get an event; a channel with a URL gets a task besides, which nothing waits
// for, so that a dead channel never blocks a run.
func (x *step) notify() {
	rules := x.d.Workflow.Spec.Notify
	if len(x.s.Told) != len(rules) {
		x.s.Told = make([]bool, len(rules))
	}
	for i, r := range rules {
		extra := map[string]any{"state": x.s.At, "outcome": x.s.Outcome}
		ok, err := x.rule(r.When, fmt.Sprintf("spec.notify[%d].when", i), extra)
		if err != nil {
			x.emit(events.NotificationFailed, events.Happening{State: x.s.At, Channel: r.Channel,
				Error: &events.TaskError{Code: events.CodeRuleError, Message: err.Error()}})
			continue
		}
		if ok && !x.s.Told[i] {
			x.tell(r, "")
		}
		x.s.Told[i] = ok
	}
}

// tellAgain sends the notifications whose condition holds once more, and says why.
func (x *step) tellAgain(reason string) {
	for i, r := range x.d.Workflow.Spec.Notify {
		ok, err := x.rule(r.When, fmt.Sprintf("spec.notify[%d].when", i), map[string]any{"state": x.s.At, "outcome": x.s.Outcome})
		if ok && err == nil {
			x.tell(r, reason)
		}
	}
}

// tell makes one notification; reason says why one that was made before is made again.
func (x *step) tell(r *workflows.NotifyRule, reason string) {
	reasons := x.why()
	short := Shortly(reasons)
	if x.s.Phase == phaseDone {
		short = ended(x.s)
	}
	h := events.Happening{State: x.s.At, Outcome: x.s.Outcome, Channel: r.Channel, Reason: reason}
	if a := x.s.Open; a != nil {
		h.Content, h.Environments, h.Deadline = a.Content, a.Envs, timePtr(a.Expires)
		h.Missing, h.Why = x.missing(a), bounded(reasons)
	}
	fallback := fmt.Sprintf("%s %s: %s", x.s.Title, x.s.ID, short)
	ch := x.d.Now.Channels[r.Channel]
	h.Text = fallback
	if ch != nil && r.Template != "" {
		h.Text = x.message(ch.Spec.Templates[r.Template], map[string]any{"state": x.s.At, "outcome": x.s.Outcome,
			"why": map[string]any{"short": short}}, fallback)
	}
	if reason != "" && reason != events.Reminder {
		h.Text += " (" + reason + ")"
	}
	x.emit(events.Notification, h)
	if ch == nil || ch.Spec.URL == "" {
		return
	}
	x.s.Notes++
	t := &Task{Path: fmt.Sprintf("notify.%d", x.s.Notes), Kind: "notify", Pool: events.DefaultPool, Runs: events.RunsRepeatable,
		Attempt: 1, Detached: true, With: record.Values{"channel": r.Channel, "url": ch.Spec.URL, "title": x.s.Title, "text": h.Text}}
	x.s.Tasks = append(x.s.Tasks, t)
	x.queue(t)
}

// notified ends a notification task: it is forgotten, a failure is told.
func (x *step) notified(t *Task) {
	if t.Outcome != events.Succeeded {
		channel, _ := t.With["channel"].(string)
		x.emit(events.NotificationFailed, events.Happening{State: t.Path, Channel: channel, Error: t.Error})
	}
}
