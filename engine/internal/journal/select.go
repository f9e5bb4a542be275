package journal

import (
	"context"

	"github.com/penstock-cd/penstock/events"
)

// Select implements Journal.
func (l *Log) Select(ctx context.Context, filter string, seq uint64, fn func(Entry) error) error {
	return (&reader{l: l, stream: events.StreamLog, filters: []string{filter}, next: seq, fn: fn}).until(ctx)
}

func (j *memoryJournal) Select(ctx context.Context, filter string, seq uint64, fn func(Entry) error) error {
	for _, e := range j.snapshot() {
		if e.Seq < seq || !events.MatchSubject(filter, e.Subject) {
			continue
		}
		if err := give(ctx, e, fn); err != nil {
			return err
		}
	}
	return nil
}
