package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

// refused asks for what must not be done, and gives the reason.
func (m *member) refused(t *testing.T, verb string, req any) string {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := m.svc.Handle(ctx, service.Principal{Kind: "admin", Name: "admin", Via: "bus"}, verb, body)
	if a.Status == events.StatusApplied || a.Status == events.StatusAlready {
		t.Errorf("%s of %+v is done", verb, req)
	}
	return a.Reason
}

func TestAServerApartIsCopiedWithoutAnEngineAndTheCopyStandsStill(t *testing.T) {
	from := natsApart(t)
	a := join(t, from, "a")
	a.asks(t, events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: asking}}}, nil)
	var runs []events.RunView
	for i := range 8 {
		var r events.RunView
		a.asks(t, events.VerbStart, events.StartRun{ID: fmt.Sprint("s", i), Workflow: "asking"}, &r)
		runs = append(runs, r)
	}
	a.stop()
	if err := <-a.ended; err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	if _, err := Backup(t.Context(), Options{Dir: t.TempDir(), External: from}, &copied); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), Options{Dir: t.TempDir(), External: from}, bytes.NewReader(copied.Bytes())); err == nil {
		t.Error("it is restored over what is there")
	}

	to := natsApart(t)
	if _, err := Restore(t.Context(), Options{Dir: t.TempDir(), External: to}, bytes.NewReader(copied.Bytes())); err != nil {
		t.Fatal(err)
	}
	b := join(t, to, "b")
	for _, r := range runs {
		var v events.Verification
		b.asks(t, events.VerbVerify, events.GetRun{Run: r.ID}, &v)
		if !v.OK || v.Records == 0 {
			t.Errorf("run %s: %+v", r.ID, v)
		}
		if why := b.refused(t, events.VerbCancel, events.CancelRun{ID: "c", Run: r.ID}); !strings.Contains(why, "restored from a backup") {
			t.Errorf("run %s cannot be cancelled: %s", r.ID, why)
		}
	}
	if why := b.refused(t, events.VerbStart, events.StartRun{ID: "late", Workflow: "asking"}); !strings.Contains(why, "restored from a backup") {
		t.Errorf("nothing can be started: %s", why)
	}
	var stopped events.Epochs
	b.asks(t, events.VerbNewEpoch, events.NewEpoch{}, &stopped)
	if len(stopped.Epochs) != events.Partitions {
		t.Fatalf("%d partitions are stopped, want all", len(stopped.Epochs))
	}
	for _, p := range stopped.Epochs {
		b.asks(t, events.VerbNewEpoch, events.NewEpoch{Partition: &p.Partition, Reason: "looked at", Confirm: true}, nil)
	}
	for _, r := range runs {
		b.asks(t, events.VerbCancel, events.CancelRun{ID: "c", Run: r.ID}, nil)
	}
}
