package env

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // an image without zone data knows the zones all the same

	"github.com/adhocore/gronx"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Schedule is the state of a trigger that fires by the clock. It fires for each
// time once; of times that passed while no engine ran, for the latest one only.
type Schedule struct {
	ID       string        `json:"id"` // workflow "/" index of the trigger
	Now      int64         `json:"t"`
	Cron     string        `json:"cron,omitempty"`
	Timezone string        `json:"zone,omitempty"`
	Next     int64         `json:"next,omitempty"`    // when it fires next, milliseconds; 0 when it does not
	Last     int64         `json:"last,omitempty"`    // the latest time for which it fired
	Runs     []string      `json:"runs,omitempty"`    // that were started then
	Reasons  []string      `json:"reasons,omitempty"` // what came of it then
	Outbox   []record.Send `json:"outbox,omitempty"`
}

// LoadSchedule reads a state from a record.
func LoadSchedule(p []byte) (*Schedule, error) {
	var s Schedule
	return &s, json.Unmarshal(p, &s)
}

// NextDeadline is when the schedule wants a timer input, in milliseconds; 0
// for none.
func (s *Schedule) NextDeadline() int64 { return s.Next }

// Messages are those that wait for an answer.
func (s *Schedule) Messages() []record.Send { return s.Outbox }

// ScheduleIDs lists the identities of a catalog's schedules.
func ScheduleIDs(cat *workflows.Catalog) []string {
	var ids []string
	for name, w := range cat.Workflows {
		for i, t := range w.Spec.Triggers {
			if t.Schedule != nil {
				ids = append(ids, fmt.Sprintf("%s/%d", name, i))
			}
		}
	}
	return ids
}

// scheduled finds the trigger that a schedule is; nil when there is none.
func scheduled(cat *workflows.Catalog, id string) (*workflows.Workflow, int) {
	at := strings.LastIndexByte(id, '/')
	if at < 0 {
		return nil, 0
	}
	w := cat.Workflows[id[:at]]
	i, err := strconv.Atoi(id[at+1:])
	if w == nil || err != nil || i < 0 || i >= len(w.Spec.Triggers) || w.Spec.Triggers[i].Schedule == nil {
		return nil, 0
	}
	return w, i
}

// StepSchedule decides what an input does to a schedule; prev is nil for one
// that was not set yet.
func StepSchedule(cat *workflows.Catalog, id string, prev *Schedule, v int64, in record.Input, now int64) Transition {
	s := &Schedule{ID: id}
	if prev != nil {
		s = new(*prev)
	}
	s.Now = max(now, s.Now)
	t := Transition{Record: true, Answer: record.Answer{Status: events.StatusApplied}, State: s}
	skip := func(status, code, reason string) {
		t = Transition{Answer: record.Answer{Status: status, Code: code, Reason: reason}, State: prev}
	}
	switch {
	case !in.Complete():
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("the input %q is not complete", in.Kind))
	case in.Kind == record.InScheduleSet:
		if !s.set(cat) {
			skip(events.StatusAlready, "", "")
		}
	case in.Kind == record.InTimer && s.Next > 0 && s.Next <= s.Now:
		s.fire(cat, &t, v)
	case in.Kind == record.InTimer:
		skip(events.StatusStale, "", "it is not the time")
	case in.Kind == record.InSendAnswer:
		if !s.answered(in.Sent, &t, v) {
			skip(events.StatusAlready, "", "")
		}
	default:
		skip(events.StatusError, events.CodeInvalid, fmt.Sprintf("a schedule does not take %q", in.Kind))
	}
	return t
}

// set takes over what the definitions say now; false when nothing changed.
func (s *Schedule) set(cat *workflows.Catalog) bool {
	var is workflows.Schedule
	if w, i := scheduled(cat, s.ID); w != nil {
		is = *w.Spec.Triggers[i].Schedule
	}
	if is.Cron == s.Cron && is.Timezone == s.Timezone {
		return false
	}
	s.Cron, s.Timezone, s.Next = is.Cron, is.Timezone, 0
	if s.Cron != "" {
		s.Next = s.after(s.Now)
	}
	return true
}

// after is the first time behind now, in milliseconds; 0 when there is none.
func (s *Schedule) after(now int64) int64 {
	next, err := NextTime(s.Cron, s.Timezone, time.UnixMilli(now))
	if err != nil {
		return 0 // a time that never comes, which the check of the file has told
	}
	return next.UnixMilli()
}

// fire starts what the trigger starts, for the latest time that has come.
func (s *Schedule) fire(cat *workflows.Catalog, t *Transition, v int64) {
	at := s.Next
	if last, err := LastTime(s.Cron, s.Timezone, time.UnixMilli(s.Now)); err == nil {
		at = max(at, last.UnixMilli())
	}
	missed := at > s.Next
	first := s.Next
	s.Last, s.Next, s.Runs, s.Reasons = at, s.after(s.Now), nil, nil
	w, i := scheduled(cat, s.ID)
	if w == nil {
		s.Next, s.Reasons = 0, []string{"there is no such trigger any more"}
		return
	}
	when := time.UnixMilli(at).UTC()
	ev := scheduleEvent(s.ID, when, w.Origin.Commit)
	m := &matcher{cat: cat, e: &Event{Now: s.Now, Cause: events.Cause{ID: ev.ID, Source: ev.Source, Type: ev.Type}}, v: v, by: "event:" + ev.Source}
	if missed {
		m.e.Reasons = append(m.e.Reasons, fmt.Sprintf("no engine ran at its times since %s; it fires once for the latest", time.UnixMilli(first).UTC().Format(time.RFC3339)))
	}
	m.fire(w, i, &ev, Scope(&ev, s.Now))
	m.conclude()
	s.Runs, s.Reasons = m.e.Runs, m.e.Reasons
	s.Outbox = append(append([]record.Send{}, s.Outbox...), m.e.Outbox...)
	t.Decisions, t.Events = m.t.Decisions, m.t.Events
}

// scheduleEvent is what the trigger's expressions see as event.
func scheduleEvent(id string, at time.Time, commit string) events.Event {
	data := map[string]string{"at": at.Format(time.RFC3339)}
	if commit != "" {
		data["head"] = commit
	}
	p, _ := json.Marshal(data) // texts always encode
	return events.Event{ID: at.Format(time.RFC3339), Source: "schedule:" + id, Type: events.ScheduleFired, Time: at,
		DataContentType: "application/json", Data: p}
}

// answered takes the answer of a run that was started; false when nothing
// waits for it.
func (s *Schedule) answered(sent *record.Sent, t *Transition, v int64) bool {
	i := -1
	for j, m := range s.Outbox {
		if m.Input.ID == sent.ID {
			i = j
		}
	}
	if i < 0 {
		return false
	}
	m := s.Outbox[i]
	s.Outbox = append(append([]record.Send{}, s.Outbox[:i]...), s.Outbox[i+1:]...)
	if sent.Status != events.StatusApplied && sent.Status != events.StatusAlready {
		s.Reasons = append(append([]string{}, s.Reasons...), fmt.Sprintf("run %s was not started: %s", m.ID, sent.Reason))
		t.Events = append(t.Events, record.Emitted{Type: events.EventRefused, Data: events.Happening{
			Cause: m.Input.Start.Cause, Reasons: s.Reasons, Record: v}})
	}
	return true
}

// NextTime is the first time behind after at which a cron expression of five
// fields fires in a time zone ("" is UTC). Fields are of the clock on the wall:
// a time that it skips counts as the first one behind, and one that it shows
// twice counts once, the first time.
func NextTime(cron, zone string, after time.Time) (time.Time, error) {
	return tick(cron, zone, after, -leeway, gronx.NextTickAfter, func(at time.Time) bool { return at.After(after) })
}

// LastTime is the latest time up to now, by the same rules.
func LastTime(cron, zone string, now time.Time) (time.Time, error) {
	return tick(cron, zone, now, leeway, gronx.PrevTickBefore, func(at time.Time) bool { return !at.After(now) })
}

// leeway is more than a clock on the wall is ever set by.
const leeway = 26 * time.Hour

// tick goes from one time to the next, beginning well before or behind from,
// until one is wanted.
func tick(cron, zone string, from time.Time, by time.Duration, step func(string, time.Time, bool) (time.Time, error), wanted func(time.Time) bool) (time.Time, error) {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return time.Time{}, err
	}
	wall := wallOf(from.In(loc)).Add(by)
	for {
		if wall, err = step(cron, wall, false); err != nil {
			return time.Time{}, err
		}
		if at := shown(wall, loc); wanted(at) {
			return at, nil
		}
	}
}

// shown is the first moment at which a clock on the wall shows a time, or else
// the one at which it skips it.
func shown(wall time.Time, loc *time.Location) time.Time {
	var first, forward time.Time
	for _, d := range []time.Duration{-leeway, 0, leeway} { // the zone's offsets around it
		_, offset := wall.Add(d).In(loc).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		switch shows := wallOf(at); {
		case shows.Equal(wall) && (first.IsZero() || at.Before(first)):
			first = at
		case shows.After(wall):
			forward, _ = at.ZoneBounds()
		}
	}
	if first.IsZero() {
		return forward
	}
	return first
}

// wallOf is what the clock on the wall shows, read as UTC.
func wallOf(at time.Time) time.Time {
	return time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), 0, 0, time.UTC)
}
