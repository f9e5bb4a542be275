package owner

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// Start takes the partitions over and reads what is in them: deadlines,
// attempts that workers hold, messages that wait for an answer. A record of a
// newer form stops its partition; the others go on.
func (o *Owner) Start(ctx context.Context) error {
	o.ctx, o.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	if err := o.o.Journal.Own(ctx, vps, []byte(o.o.Instance)); err != nil {
		return fmt.Errorf("take the partitions over: %w", err)
	}
	waiting := map[key]any{}
	err := o.o.Journal.LastPerSubject(ctx, "penstock.log.>", func(e journal.Entry) error {
		r, state, err := decode(e.Data)
		if err != nil {
			var format *record.FormatError
			if errors.As(err, &format) {
				o.stop(events.Partition(format.Aggregate, format.ID), err)
				return nil
			}
			return fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, err)
		}
		k := key{r.Aggregate, r.ID}
		o.clock.atLeast(r.T)
		if o.o.Observe != nil {
			o.o.Observe(Entry{Aggregate: k.agg, ID: k.id, V: r.V, Seq: e.Seq, State: state})
		}
		waiting[k] = state
		if !pending(state) {
			delete(waiting, k)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	for k, state := range waiting {
		o.follow(k, state)
	}
	o.work.Go(o.timers)
	o.work.Go(o.watchBeats)
	o.work.Go(o.evict)
	return nil
}

// pending reports whether something is to be done about a state at a start.
func pending(state any) bool {
	switch s := state.(type) {
	case *run.State:
		return !s.Idle()
	case *env.Environment:
		return len(s.Outbox) > 0
	case *env.Event:
		return len(s.Outbox) > 0
	}
	return false
}
