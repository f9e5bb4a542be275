package service

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// why says what a run waits for or how it ended; of a record, why it says what
// it says.
func (s *Service) why(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.GetRun
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	line, err := s.readable(ctx, who, req.Run)
	if err != nil {
		return nil, err
	}
	id := line.ID
	if req.At != 0 {
		return s.whyAt(ctx, id, req.At)
	}
	st, v, d, err := s.state(ctx, id)
	if err != nil {
		return nil, err
	}
	view := run.Explain(d, st, v, s.o.Owner.Now())
	s.complete(ctx, id, view.Waiting)
	if !st.Done() {
		view.Short = run.Shortly(view.Waiting)
	}
	return view, nil
}

// whyAt explains the n-th record of a run, and what the run waited for after it.
func (s *Service) whyAt(ctx context.Context, id string, n int64) (any, error) {
	list, err := s.history(ctx, id)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(len(list)) {
		return nil, refuse(events.CodeNotFound, "run %s has the records 1 to %d, and no %d", id, len(list), n)
	}
	r, err := record.Decode(list[n-1].Data)
	if err != nil {
		return nil, err
	}
	if r.V != n {
		return nil, refuse(events.CodeNotFound, "records of run %s are missing; penstock audit verify %s tells more", id, id)
	}
	st, err := run.Load(r.State)
	if err != nil {
		return nil, err
	}
	d, err := s.Definitions(st.Catalog, r.Catalog, st.Workflow)
	if err != nil {
		return nil, err
	}
	view := run.Explain(d, st, n, r.T)
	view.At = run.ExplainRecord(d, r)
	return view, nil
}

// complete adds what the run itself does not know: who holds a lock, whether
// a worker is alive.
func (s *Service) complete(ctx context.Context, id string, waiting []events.WaitReason) {
	for i := range waiting {
		w := &waiting[i]
		switch w.What {
		case "lock", "window":
			if e := s.o.Index.Environment(w.Environment); e != nil {
				inLine(id, &e.Line, w)
				s.keptBy(ctx, w)
			}
		case "key":
			state, _, err := s.o.Owner.State(ctx, record.Key, w.Key)
			if k, ok := state.(*env.Key); ok && err == nil && k != nil {
				inLine(id, &k.Line, w)
			}
		case "worker":
			n := s.workers.serving(w.Pool, w.Kind)
			w.Workers = &n
			switch n {
			case 0:
				w.Summary += "; no live worker serves it"
			case 1:
				w.Summary, w.Next = w.Summary+"; one live worker serves it, busy or about to take it", nil
			default:
				w.Summary, w.Next = fmt.Sprintf("%s; %d live workers serve it, all busy or about to take it", w.Summary, n), nil
			}
		}
	}
}

// keptBy says what to do about the lock of an environment that a run has kept
// beyond its end, since nobody knows what it has left there.
func (s *Service) keptBy(ctx context.Context, w *events.WaitReason) {
	if w.Holder == "" {
		return
	}
	state, _, err := s.o.Owner.State(ctx, record.Run, w.Holder)
	st, ok := state.(*run.State)
	if err != nil || !ok || st == nil || !st.Done() {
		return
	}
	why, kept := st.Kept[w.Environment]
	if !kept {
		return // it is about to be given back
	}
	w.Summary += fmt.Sprintf("; that run has ended and keeps it, because %s", why)
	w.Next = append(w.Next, "look at what is there, then penstock environments free "+w.Environment)
}

// inLine says who has what a run waits for, and which place it has in the queue.
func inLine(id string, l *env.Line, w *events.WaitReason) {
	w.Place = l.Place(id)
	if h := l.Holder; h != nil && h.Run != id {
		w.Holder = h.Run
		w.Summary += fmt.Sprintf(", which run %s has since %s", h.Run, time.UnixMilli(h.Since).UTC().Format(time.TimeOnly))
		w.Next = append(w.Next, "penstock why "+h.Run)
	}
	if w.Place > 0 {
		w.Summary += fmt.Sprintf("; number %d in the queue", w.Place)
	}
}
