package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// refusing is a publisher that gives every message the same outcome.
type refusing struct {
	journal.Publisher
	err error
}

func (r *refusing) Publish(msgs ...journal.Message) {
	for _, m := range msgs {
		m.Done(7, r.err)
	}
}

func TestABacklogThatDoesNotMoveIsTold(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := &refusing{err: errors.New("maximum bytes exceeded")}
	b := newBacklog("tasks", p)
	b.now = func() time.Time { return now }
	var seqs []uint64
	msgs := []journal.Message{{Done: func(seq uint64, _ error) { seqs = append(seqs, seq) }}, {}}
	b.Publish(msgs...)
	if err := b.stuck(); err != nil {
		t.Errorf("at once: %v", err)
	}
	now = now.Add(stuckAfter)
	b.Publish(msgs...)
	if err := b.stuck(); err == nil || !strings.Contains(err.Error(), "no tasks could be published since 2027-01-15T08:00:00Z: maximum bytes exceeded") {
		t.Errorf("after %v: %v", stuckAfter, err)
	}
	p.err = nil
	b.Publish(msgs...)
	if err := b.stuck(); err != nil {
		t.Errorf("after one was published: %v", err)
	}
	if len(seqs) != 3 {
		t.Errorf("the caller was told %d times of 3", len(seqs))
	}
}
