package owner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// A fault at the n-th write, for every n until none is met: whatever fails,
// and in whatever way, the run comes to its end with the same records.
func TestAFaultAtAnyWriteDoesNoHarm(t *testing.T) {
	for name, fault := range map[string]journal.Fault{"stored": journal.FaultUnknownStored, "lost": journal.FaultUnknownLost,
		"late": journal.FaultUnknownLate, "full": journal.FaultFull, "unavailable": journal.FaultUnavailable} {
		t.Run(name, func(t *testing.T) {
			for n := int64(1); ; n++ {
				var count atomic.Int64
				m := journal.NewMemory(nil)
				m.Inject(func(subject string, _ []byte) journal.Fault {
					if !strings.HasPrefix(subject, "penstock.log.") && !strings.HasPrefix(subject, "penstock.own.") {
						return journal.FaultNone
					}
					if c := count.Add(1); c == n {
						return fault
					}
					return journal.FaultNone
				})
				scenario(t, m, m.Open(), fmt.Sprintf("%s, write %d", name, n))
				if count.Load() < n {
					if n < 4 {
						t.Fatalf("only %d writes were met", n)
					}
					return
				}
			}
		})
	}
}

// The same with readings.
func TestAFaultAtAnyReadingDoesNoHarm(t *testing.T) {
	for n := int64(1); ; n++ {
		var count atomic.Int64
		m := journal.NewMemory(nil)
		scenario(t, m, &failing{m.Open(), func() error {
			if count.Add(1) == n {
				return errors.New("no answer")
			}
			return nil
		}}, fmt.Sprintf("reading %d", n))
		if count.Load() < n {
			if n < 4 {
				t.Fatalf("only %d readings were met", n)
			}
			return
		}
	}
}

// failing is a journal whose readings may fail.
type failing struct {
	journal.Journal
	fails func() error
}

func (f *failing) Last(ctx context.Context, subject string) (journal.Entry, error) {
	if err := f.fails(); err != nil {
		return journal.Entry{}, err
	}
	return f.Journal.Last(ctx, subject)
}

func (f *failing) LastPerSubject(ctx context.Context, filters []string, fn func(journal.Entry) error) error {
	if err := f.fails(); err != nil {
		return err
	}
	return f.Journal.LastPerSubject(ctx, filters, fn)
}

func (f *failing) LoadCheckpoints(ctx context.Context) (map[int][]byte, error) {
	if err := f.fails(); err != nil {
		return nil, err
	}
	return f.Journal.LoadCheckpoints(ctx)
}

// scenario takes a partition, starts a run, gives the partition back, takes it
// again and ends the run, repeating what was not answered for good.
func scenario(t *testing.T, m *journal.Memory, j journal.Journal, what string) {
	t.Helper()
	f := &fixture{out: &carried{seen: make(chan struct{}, 1)}}
	f.Owner = owner.New(owner.Options{Journal: j, Catalogs: catalogs{compile(t, definitions)}, Relay: f.out, Instance: "e", Beat: time.Second, BeatOut: time.Minute})
	defer f.Close(context.Background())
	vp := events.Partition(record.Run, "r1")
	take := func() {
		for err := f.Take(t.Context(), []int{vp}); err != nil; err = f.Take(t.Context(), []int{vp}) {
			if t.Context().Err() != nil {
				return
			}
		}
	}
	final := func(do func() events.Answer) {
		a := do()
		for !a.Final() && t.Context().Err() == nil {
			m.DeliverLate()
			a = do()
		}
		if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
			t.Errorf("%s: answered %+v", what, a)
		}
	}
	take()
	final(func() events.Answer { return f.begin(t, "r1", "job") })
	if err := f.Release(t.Context(), []int{vp}); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	m.DeliverLate()
	take()
	task := f.task(t, "r1", 1)
	final(func() events.Answer { return f.take(t, task, "w") })
	m.DeliverLate()
	final(func() events.Answer { return f.finish(t, task, "w") })
	m.DeliverLate()
	if s := f.Stopped(); len(s) > 0 {
		t.Errorf("%s: stopped %v", what, s)
	}
	verify(t, m, "r1", 3)
}
