package projection_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/projection"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

func observe(x *projection.Index, id, workflow, phase string, started int64, v int64) {
	s := &run.State{ID: id, Workflow: workflow, Phase: phase, Outcome: "succeeded", StartedAt: started}
	x.Observe(owner.Entry{Aggregate: record.Run, ID: id, V: v, Seq: uint64(started), Summary: s.Summary()})
}

func TestRunsAreListedNewestFirstInPagesWithoutGapOrRepeat(t *testing.T) {
	x := projection.New()
	for _, i := range []int{3, 1, 7, 5, 2, 6, 4} { // read from the record in any order
		observe(x, fmt.Sprintf("run%d", i), "w", "running", int64(i), 1)
	}
	observe(x, "run7", "w", "done", 7, 2) // a later record changes the line, not its place
	var got []string
	q := events.ListRuns{Limit: 3}
	for {
		page := x.List(q, everything)
		for _, r := range page.Lines {
			got = append(got, r.ID)
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if want := "[run7 run6 run5 run4 run3 run2 run1]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if all, waiting := x.Counts(); all != 7 || waiting != 0 {
		t.Errorf("counts %d and %d", all, waiting)
	}
}

// TestAnIndexOfManyRunsIsMadeInAnyOrder takes for ever when each run that is
// older than the others moves them all.
func TestAnIndexOfManyRunsIsMadeInAnyOrder(t *testing.T) {
	const n = 60_000
	x := projection.New()
	for i := range n {
		at := (i*7919)%n + 1 // each once, in no order
		observe(x, fmt.Sprintf("run%06d", at), "w", "running", int64(at), 1)
	}
	for i := range 2 * 50 { // and goes on as ever
		observe(x, fmt.Sprintf("run%06d", n+1+(i^1)), "w", "running", int64(n+1+(i^1)), 1)
		q := events.ListRuns{Limit: -1}
		if page := x.List(q, everything); len(page.Lines) != 50 {
			t.Fatalf("a page of %d runs", len(page.Lines))
		}
	}
	want := n + 100
	q := events.ListRuns{Limit: 1000}
	for {
		page := x.List(q, everything)
		for _, r := range page.Lines {
			if r.ID != fmt.Sprintf("run%06d", want) {
				t.Fatalf("got %s, want number %d", r.ID, want)
			}
			want--
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if want != 0 {
		t.Errorf("%d runs are missing", want)
	}
}

func TestAListIsFilteredByWorkflowStatusAndOutcome(t *testing.T) {
	x := projection.New()
	observe(x, "a", "w1", "done", 1, 1)
	observe(x, "b", "w1", "running", 2, 1)
	observe(x, "c", "w2", "running", 3, 1)
	for want, q := range map[string]events.ListRuns{
		"b a": {Workflow: "w1"}, "c b": {Status: "running"}, "a": {Status: "done"}, "a ": {Status: "succeeded"}, "": {Workflow: "w3"}} {
		got := ""
		for i, r := range x.List(q, everything).Lines {
			if i > 0 {
				got += " "
			}
			got += r.ID
		}
		if got != want && got+" " != want {
			t.Errorf("%+v: got %q, want %q", q, got, want)
		}
	}
}

func TestARunIsFoundByAPrefixThatFitsOnlyOne(t *testing.T) {
	x := projection.New()
	observe(x, "abc1", "w", "running", 1, 1)
	observe(x, "abc2", "w", "running", 2, 1)
	observe(x, "abc", "w", "running", 3, 1)
	for prefix, want := range map[string]struct {
		id   string
		fits int
	}{"abc1": {"abc1", 1}, "abc": {"abc", 1}, "ab": {"", 3}, "x": {"", 0}, "": {"", 0}} {
		if id, fits := x.Resolve(prefix); id != want.id || fits != want.fits {
			t.Errorf("%q: %q, %d fit; want %q, %d", prefix, id, fits, want.id, want.fits)
		}
	}
}

func everything(string) bool { return true }

func TestRunsThatMayNotBeSeenAreNotListed(t *testing.T) {
	x := projection.New()
	observe(x, "a", "w1", "done", 1, 1)
	observe(x, "b", "w2", "done", 2, 1)
	got := x.List(events.ListRuns{}, func(workflow string) bool { return workflow == "w1" })
	if len(got.Lines) != 1 || got.Lines[0].ID != "a" {
		t.Errorf("%+v", got)
	}
}

func TestChildrenAndSchedulesAreKnown(t *testing.T) {
	x := projection.New()
	for _, id := range []string{"c2", "c1"} {
		x.Observe(owner.Entry{Aggregate: record.Run, ID: id, V: 1, Summary: record.Summary{Parent: "r1"}})
		x.Observe(owner.Entry{Aggregate: record.Run, ID: id, V: 2, Summary: record.Summary{Parent: "r1"}})
	}
	x.Observe(owner.Entry{Aggregate: record.Schedule, ID: "nightly/0", V: 1, State: &env.Schedule{ID: "nightly/0"}})
	if got := x.Children("r1"); !slices.Equal(got, []string{"c1", "c2"}) {
		t.Errorf("children %v", got)
	}
	if got := x.Schedules(); !slices.Equal(got, []string{"nightly/0"}) {
		t.Errorf("schedules %v", got)
	}
}
