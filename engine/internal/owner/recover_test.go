package owner_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
)

// stored is the record of a state, of today or of before there were summaries.
func stored(t *testing.T, agg, id string, state interface{ Summary() record.Summary }, old bool) journal.Entry {
	t.Helper()
	p, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	r := &record.Record{Aggregate: agg, ID: id, V: 3, T: 5, State: p}
	if !old {
		r.Summary = new(state.Summary())
	}
	if p, err = r.Encode(); err != nil {
		t.Fatal(err)
	}
	return journal.Entry{Seq: 9, Data: p}
}

func TestTheStateOfWhatNothingIsToBeDoneForIsNotRead(t *testing.T) {
	idle := &env.Schedule{ID: "w/0", Next: 70}
	sends := &env.Schedule{ID: "w/1", Next: 70, Outbox: []record.Send{{To: record.Run, ID: "r"}}}
	for name, c := range map[string]struct {
		state *env.Schedule
		old   bool
		want  any
	}{"idle": {idle, false, nil}, "idle, of before": {idle, true, idle}, "with a message": {sends, false, sends}, "with a message, of before": {sends, true, sends}} {
		got, err := owner.EntryOf(stored(t, record.Schedule, c.state.ID, c.state, c.old))
		if err != nil {
			t.Fatal(err)
		}
		want := owner.Entry{Aggregate: record.Schedule, ID: c.state.ID, V: 3, T: 5, Seq: 9, Summary: c.state.Summary(), State: c.want}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestAnUnknownAggregateIsNotPassedOver(t *testing.T) {
	for _, old := range []bool{false, true} {
		if e, err := owner.EntryOf(stored(t, "moon", "m", &env.Schedule{}, old)); err == nil {
			t.Errorf("read: %+v", e)
		}
	}
}
