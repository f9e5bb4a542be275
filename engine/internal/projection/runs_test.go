package projection_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// plain is an index as one would write it first.
type plain map[string]owner.Entry

func (p plain) line(id string) projection.Line {
	e := p[id]
	return projection.Line{ID: id, Workflow: e.Summary.Workflow, Status: e.Summary.Status, Outcome: e.Summary.Outcome,
		StartedAt: time.UnixMilli(e.Summary.Started).UTC(), Records: e.V}
}

// list gives all runs that fit, newest first.
func (p plain) list(q events.ListRuns) []projection.Line {
	var all []projection.Line
	for id, e := range p {
		s := e.Summary
		if (q.Workflow == "" || q.Workflow == s.Workflow) && (q.Status == "" || q.Status == s.Status || q.Status == s.Outcome) {
			all = append(all, p.line(id))
		}
	}
	slices.SortFunc(all, func(a, b projection.Line) int {
		if d := b.StartedAt.Compare(a.StartedAt); d != 0 {
			return d
		}
		return strings.Compare(b.ID, a.ID)
	})
	return all
}

func (p plain) begin(prefix string) (fits []string) {
	for id := range p {
		if strings.HasPrefix(id, prefix) {
			fits = append(fits, id)
		}
	}
	return fits
}

func (p plain) children(of string) (ids []string) {
	for id, e := range p {
		if e.Summary.Parent == of {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func pages(x *projection.Index, q events.ListRuns) (all []projection.Line) {
	for {
		page := x.List(q, everything)
		all = append(all, page.Lines...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return all
		}
	}
}

func anyRun(t *rapid.T) string {
	n := rapid.IntRange(0, 60).Draw(t, "run")
	if n < 50 {
		return record.Derive(n)
	}
	return fmt.Sprintf("run%d", n)
}

// TestTheIndexAgreesWithAPlainOne tells both of runs in any order.
func TestTheIndexAgreesWithAPlainOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, want := projection.New(), plain{}
		for range rapid.IntRange(1, 100).Draw(t, "records") {
			id := anyRun(t)
			e, known := want[id]
			if !known {
				e = owner.Entry{Aggregate: record.Run, ID: id, Summary: record.Summary{Workflow: rapid.SampledFrom([]string{"w1", "w2"}).Draw(t, "workflow"),
					Started: rapid.Int64Range(0, 20).Draw(t, "started"), Parent: rapid.SampledFrom([]string{"", "run50", record.Derive(1)}).Draw(t, "parent")}}
			}
			e.V++
			e.Summary.Status, e.Summary.Outcome = rapid.SampledFrom([]string{"running", "waiting", "done"}).Draw(t, "status"), ""
			if e.Summary.Status == "done" {
				e.Summary.Outcome = rapid.SampledFrom([]string{"succeeded", "failed"}).Draw(t, "outcome")
			}
			want[id] = e
			x.Observe(e)
		}
		for _, q := range []events.ListRuns{{Limit: 7}, {Limit: 1, Workflow: "w1"}, {Status: "waiting"}, {Status: "failed", Workflow: "w2"}} {
			if d := cmp.Diff(want.list(q), pages(x, q)); d != "" {
				t.Fatalf("%+v (-want +got):\n%s", q, d)
			}
		}
		all, waiting := x.Counts()
		if all != len(want) || waiting != len(want.list(events.ListRuns{Status: "waiting"})) {
			t.Fatalf("%d runs, %d waiting", all, waiting)
		}
		checkOne(t, x, want, anyRun(t))
	})
}

// checkOne compares what is known of a run that is there or not.
func checkOne(t *rapid.T, x *projection.Index, want plain, id string) {
	line, ok := x.Run(id)
	if _, there := want[id]; ok != there || ok && line != want.line(id) {
		t.Fatalf("%s: %+v, %v; want %+v, %v", id, line, ok, want.line(id), there)
	}
	for _, parent := range []string{id, "run50", record.Derive(1)} {
		if d := cmp.Diff(want.children(parent), x.Children(parent)); d != "" {
			t.Fatalf("children of %s (-want +got):\n%s", parent, d)
		}
	}
	prefix := id[:rapid.IntRange(1, len(id)).Draw(t, "length")]
	fits := want.begin(prefix)
	if _, whole := want[prefix]; whole {
		fits = []string{prefix}
	}
	one := ""
	if len(fits) == 1 {
		one = fits[0]
	}
	if got, n := x.Resolve(prefix); got != one || n != len(fits) {
		t.Fatalf("%s: %q, %d fit; want %q, %d", prefix, got, n, one, len(fits))
	}
}

// summary is that of a run that waits for an approval, or has ended.
func summary(i int, status string) record.Summary {
	s := record.Summary{Workflow: "release", Status: status, Started: 1_700_000_000_000 + int64(i)}
	if status == run.StatusDone {
		s.Outcome = events.Succeeded
	}
	return s
}

func TestARunTakesLittleMemory(t *testing.T) {
	const n, most = 100_000, 64
	for _, status := range []string{run.StatusWaiting, run.StatusDone} {
		before := heap()
		x := projection.New()
		for i := range n {
			at := (i * 7919) % n // in no order
			x.Observe(owner.Entry{Aggregate: record.Run, ID: record.Derive(at), V: 3, Summary: summary(at, status)})
		}
		x.List(events.ListRuns{}, everything)
		if each := (heap() - before) / n; each > most {
			t.Errorf("a run that is %s takes %d bytes, at most %d are allowed", status, each, most)
		}
		runtime.KeepAlive(x)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what a finalizer has held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	ids := make([]string, n)
	for i := range ids {
		ids[i] = record.Derive(i)
	}
	x := projection.New()
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			x = projection.New()
			for i, id := range ids {
				x.Observe(owner.Entry{Aggregate: record.Run, ID: id, V: 3, Summary: summary(i, run.StatusWaiting)})
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/run")
	})
	b.Run("observe", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			at := i * 7919 % n
			x.Observe(owner.Entry{Aggregate: record.Run, ID: ids[at], V: int64(4 + i), Summary: summary(at, run.StatusWaiting)})
		}
	})
	for name, q := range map[string]events.ListRuns{"page": {}, "deep page": {Cursor: ids[10_000]}, "nothing fits": {Status: "failed"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				x.List(q, everything)
			}
		})
	}
	b.Run("resolve", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, fits := x.Resolve(ids[i*7919%n][:10]); fits != 1 {
				b.Fatal("it is not found")
			}
		}
	})
}
