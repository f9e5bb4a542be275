package sim

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// A power cut takes the end of LOG, and its sequences are used again. What has
// lost records stops: nothing is recorded, granted or issued there. All else
// goes on (I19).
func TestALostTailStopsItsPartitionsAndNoOthers(t *testing.T) {
	cats := theCatalogs(t)
	for lost := 1; lost <= 3; lost += 2 {
		p := healthy()
		p.seed, p.ages = uint64(lost), false // a last record that was removed cannot be told from a lost one
		o := simulateAnd(t, p, cats, func(w *world) { loseTail(t, w, lost) })
		if o.err != nil {
			t.Fatal(o.err)
		}
	}
}

// loseTail loses the last records of a world at rest and looks at what follows.
func loseTail(t *testing.T, w *world, n int) {
	all := w.server.Messages(events.StreamLog, 0)
	hurt := map[int]bool{}
	for _, m := range all[len(all)-n:] {
		if e, err := read(m); err != nil || e.rec == nil {
			t.Fatalf("the last messages are to be records: %v %v", e, err)
		} else {
			hurt[e.vp] = true
		}
	}
	tasks := w.server.Last(events.StreamTasks)
	for _, e := range w.living() {
		e.kill()
		<-e.over
	}
	w.server.LoseTail(events.StreamLog, n)
	w.server.Restart(0)
	w.server.Reconnect()
	for _, name := range engineNames[:2] {
		w.start(name)
	}
	well, ill := idIn(func(vp int) bool { return !hurt[vp] }), idIn(func(vp int) bool { return hurt[vp] })
	w.begin("ana", well, "job")
	w.begin("ana", ill, "job")
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); {
		w.net.step(5 * time.Second)
	}
	stoppedOnly(t, w, hurt)
	var s *run.State
	for _, m := range w.server.Messages(events.StreamLog, all[len(all)-n].Seq) {
		e, err := read(m)
		switch {
		case err != nil:
			t.Error(err)
		case e.rec != nil && hurt[e.vp]:
			t.Errorf("recorded in a partition that has lost records: %v", e)
		case e.rec != nil && e.rec.Aggregate == record.Run && e.rec.ID == well:
			s, _ = e.state.(*run.State)
		}
	}
	if s == nil || !s.Done() && s.Open == nil {
		t.Errorf("the run of a partition that has lost nothing does not go on: %+v", s)
	}
	for _, m := range w.server.Messages(events.StreamTasks, tasks+1) {
		var task events.Task
		if err := json.Unmarshal(m.Data, &task); err != nil {
			t.Error(err)
		}
		if id := task.Run; hurt[events.Partition(record.Run, id)] {
			t.Errorf("a task of %s is issued, whose partition has lost records", id)
		}
	}
}

// stoppedOnly demands that those partitions are stopped and no others.
func stoppedOnly(t *testing.T, w *world, hurt map[int]bool) {
	stopped := map[int]error{}
	for _, e := range w.living() {
		e.mu.Lock()
		for vp, why := range e.owner.Stopped() {
			stopped[vp] = why
		}
		e.mu.Unlock()
	}
	for vp := range hurt {
		if stopped[vp] == nil {
			t.Errorf("partition %d has lost records and goes on", vp)
		}
	}
	for vp, why := range stopped {
		if !hurt[vp] {
			t.Errorf("partition %d has lost nothing and is stopped: %v", vp, why)
		}
	}
}

// idIn makes the name of a run whose partition fits.
func idIn(fits func(vp int) bool) string {
	for i := 0; ; i++ {
		if id := fmt.Sprint("later", i); fits(events.Partition(record.Run, id)) {
			return id
		}
	}
}
