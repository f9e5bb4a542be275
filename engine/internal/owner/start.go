package owner

import (
	"context"
	"fmt"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// Start takes the partitions over and reads what is in them: deadlines,
// attempts that workers hold, messages that wait for an answer. A record that
// cannot be read stops its partition; the others go on.
func (o *Owner) Start(ctx context.Context) error {
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	if err := o.o.Journal.Own(ctx, vps, o.token); err != nil {
		return fmt.Errorf("take the partitions over: %w", err)
	}
	unanswered := map[key]any{}
	err := o.o.Journal.LastPerSubject(ctx, "penstock.log.>", func(e journal.Entry) error {
		last, err := EntryOf(e)
		if err != nil {
			o.stop(partitionOf(e.Subject), unreadable(e, err))
			return nil
		}
		o.recovered(last)
		k := key{last.Aggregate, last.ID}
		delete(unanswered, k)
		if len(outboxOf(last.State)) > 0 {
			unanswered[k] = last.State
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	for k, state := range unanswered {
		o.deliver(k, outboxOf(state))
	}
	o.work.Go(o.timers)
	o.work.Go(o.watchBeats)
	o.work.Go(o.evict)
	return nil
}

// Stop stops a partition for a reason that was found outside: the relay's
// checkpoint, for example, shows that records are lost.
func (o *Owner) Stop(vp int, err error) { o.stop(vp, err) }

// partitionOf reads the partition from the subject of a record.
func partitionOf(subject string) int {
	var vp int
	if _, err := fmt.Sscanf(subject, "penstock.log.%d.", &vp); err != nil {
		return 0 // unreachable unless somebody else writes into the stream
	}
	return vp
}
