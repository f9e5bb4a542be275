package run

import (
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Statuses of a run, for people.
const (
	StatusRunning = "running"
	StatusWaiting = "waiting" // for people
	StatusDone    = "done"
)

// Status tells whether a run runs, waits for people or has ended.
func (s *State) Status() string {
	switch {
	case s.Done():
		return StatusDone
	case s.Open != nil || s.Held != nil || s.Paused != nil:
		return StatusWaiting
	}
	return StatusRunning
}

// View is a run in a list; records is the version of its last record.
func View(s *State, records int64) events.RunView {
	v := events.RunView{ID: s.ID, Workflow: s.Workflow, Definition: s.Def, Title: s.Title, Status: s.Status(),
		State: s.At, RequestedBy: s.RequestedBy, Authors: s.Authors, StartedAt: at(s.StartedAt), EndedAt: timePtr(s.EndedAt),
		Records: records, Cause: s.Cause, Origin: s.Origin}
	if s.Done() {
		v.Outcome = s.Outcome
	}
	if s.Parent != nil {
		v.Parent = s.Parent.Run
	}
	return v
}

// originOf is where a workflow came from; nil where nobody said.
func originOf(o workflows.Origin) *events.Origin {
	if o.Source == "" && o.Commit == "" {
		return nil
	}
	return &events.Origin{Source: o.Source, File: o.Pos.File, Commit: o.Commit, Author: o.Author}
}

// Details is a run with its inputs, path and tasks.
func Details(d Definitions, s *State, records, now int64) events.RunView {
	v := View(s, records)
	v.Inputs, v.Outputs = s.Inputs, s.Outputs
	for _, p := range s.Path {
		st := events.Step{State: p.State, Visit: p.Visit, Outcome: p.Outcome, EnteredAt: at(p.In), LeftAt: timePtr(p.Out), Error: p.Error}
		if out, ok := s.Values[p.State].(map[string]any); ok && p.Visit == s.Visits[p.State] {
			st.Outputs = out
		}
		v.Path = append(v.Path, st)
	}
	for _, t := range s.Tasks {
		v.Tasks = append(v.Tasks, events.TaskView{ID: t.ID, State: t.Path, Kind: t.Kind, Attempt: t.Attempt, Status: t.Status,
			Outcome: t.Outcome, Worker: t.Worker, Child: t.Child, StartedAt: timePtr(t.BeganAt), Error: t.Error})
	}
	v.Waiting = Why(d, s, now)
	return v
}
