package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// symptom is what a failure is recognised by: the invariant that is broken.
func symptom(err error) string {
	if err == nil {
		return ""
	}
	id, _, _ := strings.Cut(err.Error(), ",")
	return id
}

// shrink makes the plan of a failure smaller while it still fails the same
// way: fewer deeds first, then fewer engines and workers. fails runs a plan.
func shrink(p plan, fails func(plan) bool, until time.Time) plan {
	p.deeds = ddmin(p.deeds, func(deeds []deed) bool {
		q := p
		q.deeds = deeds
		return time.Now().Before(until) && fails(q)
	})
	for _, less := range []func(*plan){func(p *plan) { p.workers-- }, func(p *plan) { p.engines-- }} {
		for q := p; time.Now().Before(until); p = q {
			if less(&q); q.workers < 1 || q.engines < 1 || !fails(q) {
				break
			}
		}
	}
	return p
}

// ddmin leaves out as many as it can: first halves, then smaller parts, at
// last single ones.
func ddmin(deeds []deed, fails func([]deed) bool) []deed {
	for n := 2; len(deeds) > 0; {
		size := (len(deeds) + n - 1) / n
		less := false
		for at := 0; at < len(deeds); at += size {
			rest := slices.Concat(deeds[:at], deeds[min(at+size, len(deeds)):])
			if fails(rest) {
				deeds, less = rest, true
				break
			}
		}
		switch {
		case less:
			n = max(n-1, 2)
		case size == 1:
			return deeds
		default:
			n = min(2*n, len(deeds))
		}
	}
	return deeds
}

// script tells a plan.
func (p plan) script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d engines, %d workers, sync %s\n", p.seed, p.engines, p.workers, p.sync)
	for _, d := range p.deeds {
		fmt.Fprintf(&b, "  %v\n", d)
	}
	return b.String()
}

// report tells a failure: what is broken, the seed, the shortest script that
// still breaks it, and how it ended.
func report(t *testing.T, p plan, cats *catalogs, o outcome) (told string, small plan) {
	t.Helper()
	last := o
	small = shrink(p, func(q plan) bool {
		again := simulate(t, q, cats)
		if symptom(again.err) != symptom(o.err) {
			return false
		}
		last = again
		return true
	}, time.Now().Add(shrinkFor))
	return fmt.Sprintf("seed %d: %v\nthe shortest script that still fails (run it again with PENSTOCK_SIM_FROM=%d PENSTOCK_SIM_SEEDS=1):\n%s%v\nthe end of it:\n%s",
		p.seed, o.err, p.seed, small.script(), last.err, strings.Join(last.log[max(0, len(last.log)-40):], "\n")), small
}

// shrinkFor is how long a failure is made smaller.
const shrinkFor = 60 * time.Second

// believing is a journal that takes what was not answered for stored.
type believing struct{ journal.Journal }

func (b believing) Append(vp int, subject string, data []byte, done func(uint64, error)) {
	b.Journal.Append(vp, subject, data, func(seq uint64, err error) {
		if errors.Is(err, journal.ErrUnknown) {
			seq, err = 1, nil
		}
		done(seq, err)
	})
}

// A bug that shows only when a message is lost is told with its seed, and with
// a script of next to nothing but that.
func TestABugIsToldWithItsSeedAndAShortScript(t *testing.T) {
	if shuffled {
		t.Skip("a script is made shorter by running it again, and under the race detector no run is like another")
	}
	cats := theCatalogs(t)
	for seed := uint64(1); seed < 20; seed++ {
		p := draw(seed)
		p.lasts = 30 * time.Second
		p.journal = func(j journal.Journal) journal.Journal { return believing{j} }
		p.deeds = slices.DeleteFunc(p.deeds, func(d deed) bool { return d.time() > p.lasts || d.fault() })
		for i := range 4 {
			p.deeds = append(p.deeds, deed{at: 8000 + 2000*i, what: "message lost", who: "e1"}, deed{at: 9000 + 2000*i, what: "slow", who: "e1", n: 100})
		}
		slices.SortStableFunc(p.deeds, func(a, b deed) int { return a.at - b.at })
		o := simulate(t, p, cats)
		if o.err == nil {
			continue
		}
		told, small := report(t, p, cats, o)
		again := simulate(t, small, cats)
		switch {
		case symptom(again.err) != symptom(o.err):
			t.Errorf("the script does not fail again: %v", again.err)
		case !slices.ContainsFunc(small.deeds, func(d deed) bool { return d.what == "message lost" }), len(small.deeds) > 4, len(small.deeds) >= len(p.deeds):
			t.Errorf("of %d deeds, %d are left", len(p.deeds), len(small.deeds))
		}
		for _, word := range []string{fmt.Sprintf("PENSTOCK_SIM_FROM=%d ", seed), small.script(), again.err.Error()} {
			if !strings.Contains(told, word) {
				t.Errorf("it is not told: %s", word)
			}
		}
		t.Log(told)
		return
	}
	t.Error("the bug does not show")
}

func TestAScriptIsMadeAsShortAsItCanBe(t *testing.T) {
	var p plan
	p.engines, p.workers = 3, 3
	for i := range 40 {
		p.deeds = append(p.deeds, deed{at: i, what: "crash", n: i})
	}
	runs := 0
	got := shrink(p, func(q plan) bool {
		runs++
		has := func(n int) bool { return slices.ContainsFunc(q.deeds, func(d deed) bool { return d.n == n }) }
		return has(7) && has(31) && q.engines >= 2
	}, time.Now().Add(time.Hour))
	if len(got.deeds) != 2 || got.deeds[0].n != 7 || got.deeds[1].n != 31 || got.engines != 2 || got.workers != 1 {
		t.Errorf("after %d runs: %s", runs, got.script())
	}
}
