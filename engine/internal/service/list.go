package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// list gives a page of runs. The index knows which ones; what is shown of them
// stands in their last records.
func (s *Service) list(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ListRuns
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	page := s.o.Index.List(req, s.reads(who))
	views, err := s.views(ctx, page.Lines)
	if err != nil {
		return nil, err
	}
	// A run may have gone on since the index was asked.
	views = slices.DeleteFunc(views, func(v events.RunView) bool {
		return v.ID == "" || req.Status != "" && v.Status != req.Status && v.Outcome != req.Status
	})
	return events.RunList{Runs: views, Next: page.Next}, nil
}

// viewing is how many records are read at a time for a list.
const viewing = 32

// views reads what is shown of runs. One that is not stored any more has no id.
func (s *Service) views(ctx context.Context, lines []projection.Line) ([]events.RunView, error) {
	views, errs := make([]events.RunView, len(lines)), make([]error, len(lines))
	turns := make(chan struct{}, viewing)
	var reading sync.WaitGroup
	for i, line := range lines {
		turns <- struct{}{}
		reading.Go(func() {
			defer func() { <-turns }()
			views[i], errs[i] = s.view(ctx, line)
		})
	}
	reading.Wait()
	return views, errors.Join(errs...)
}

// view reads a run from its last record.
func (s *Service) view(ctx context.Context, line projection.Line) (events.RunView, error) {
	e, err := s.o.Journal.Last(ctx, events.LogSubject(record.Run, line.ID))
	if errors.Is(err, journal.ErrNotFound) {
		return events.RunView{}, nil
	}
	if err != nil {
		return events.RunView{}, fmt.Errorf("run %s cannot be read: %w", line.ID, err)
	}
	var state *run.State
	r, err := record.Decode(e.Data)
	if err == nil {
		state, err = run.Load(r.State)
	}
	if err != nil { // its partition is stopped, which is told elsewhere
		return events.RunView{ID: line.ID, Workflow: line.Workflow, Status: line.Status, Outcome: line.Outcome, StartedAt: line.StartedAt, Records: line.Records}, nil
	}
	return run.View(state, r.V), nil
}
