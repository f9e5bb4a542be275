package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
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
func report(t *testing.T, p plan, cats *catalogs, o outcome) {
	t.Helper()
	last := o
	small := shrink(p, func(q plan) bool {
		for range 2 { // what happens at the same instant has no order that a seed decides
			if again := simulate(t, q, cats); symptom(again.err) == symptom(o.err) {
				last = again
				return true
			}
		}
		return false
	}, time.Now().Add(shrinkFor))
	t.Errorf("seed %d: %v\nthe shortest script that still fails (run it again with PENSTOCK_SIM_FROM=%d PENSTOCK_SIM_SEEDS=1):\n%s%v\nthe end of it:\n%s",
		p.seed, o.err, p.seed, small.script(), last.err, strings.Join(last.log[max(0, len(last.log)-40):], "\n"))
}

// shrinkFor is how long a failure is made smaller.
const shrinkFor = 60 * time.Second

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
