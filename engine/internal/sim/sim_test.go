package sim

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

// outcome is what came of a simulation.
type outcome struct {
	err     error
	hash    string
	log     []string
	steps   uint64
	records int
	faults  map[string]int
	seen    map[string]int
}

// simulate runs one simulation in a bubble of its own.
func simulate(t *testing.T, p plan, cats *catalogs) (o outcome) {
	return simulateAnd(t, p, cats, func(*world) {})
}

// simulateAnd looks at the world before it ends.
func simulateAnd(t *testing.T, p plan, cats *catalogs, look func(*world)) (o outcome) {
	cryptotest.SetGlobalRandom(t, p.seed)
	runtime.GC() // not in the midst of it
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, p, cats)
		o.err = w.run()
		o.steps, o.records, o.faults, o.log = w.net.number, w.book.seen, w.net.count, w.net.log
		w.mu.Lock()
		o.seen = maps.Clone(w.seen)
		w.mu.Unlock()
		o.hash = w.sum()
		look(w)
		w.close()
	})
	return o
}

func TestMain(m *testing.M) {
	// With one goroutine running at a time, a seed gives the same run.
	runtime.GOMAXPROCS(1)
	os.Exit(m.Run())
}

// seeds are how many are run when nobody says otherwise; of the short form, a third.
const seeds = 9

func setting(name string, otherwise int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return otherwise
}

// Whatever befalls it, the installation keeps its promises while faults strike,
// and comes to rest afterwards. PENSTOCK_SIM_SEEDS says how many seeds are
// tried, PENSTOCK_SIM_FROM with which to begin.
func TestWhateverBefallsItTheInstallationKeepsItsPromises(t *testing.T) {
	cats := theCatalogs(t)
	usual := seeds
	if testing.Short() {
		usual = seeds / 3
	}
	n, first := setting("PENSTOCK_SIM_SEEDS", usual), setting("PENSTOCK_SIM_FROM", 1)
	var events, records uint64
	struck, seen := map[string]int{}, map[string]int{}
	for seed := first; seed < first+n; seed++ {
		p := draw(uint64(seed))
		o := simulate(t, p, cats)
		if o.err != nil {
			told, _ := report(t, p, cats, o)
			t.Error(told)
		}
		events, records = events+o.steps, records+uint64(o.records)
		for name, times := range o.faults {
			struck[name] += times
		}
		for what, times := range o.seen {
			seen[what] += times
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d events, %d records\nfaults:\n", n, events, records)
	for _, name := range sortedKeys(struck) {
		fmt.Fprintf(&b, "  %6d %s\n", struck[name], name)
	}
	b.WriteString("seen:\n")
	for _, what := range sortedKeys(seen) {
		fmt.Fprintf(&b, "  %6d %s\n", seen[what], what)
	}
	b.WriteString("checked:\n")
	for _, c := range checks {
		fmt.Fprintf(&b, "  %-4s %s\n", c.id, c.what)
	}
	t.Log(b.String())
}

// A seed gives the same run every time, to the last message.
// PENSTOCK_SIM_TWICE says how many seeds are tried.
func TestASeedGivesTheSameRunAgain(t *testing.T) {
	if shuffled {
		t.Skip("the race detector has goroutines run in an order that no seed decides")
	}
	cats := theCatalogs(t)
	n, first := setting("PENSTOCK_SIM_TWICE", 2), setting("PENSTOCK_SIM_FROM", 1)
	for seed := first; seed < first+n; seed++ {
		a, b := simulate(t, draw(uint64(seed)), cats), simulate(t, draw(uint64(seed)), cats)
		if a.hash == b.hash {
			continue
		}
		i := 0
		for i < min(len(a.log), len(b.log)) && a.log[i] == b.log[i] {
			i++
		}
		t.Errorf("seed %d: the same for %d of %d choices; then\n%s\nand\n%s", seed, i, len(a.log),
			strings.Join(a.log[max(0, i-3):min(i+3, len(a.log))], "\n"), strings.Join(b.log[max(0, i-3):min(i+3, len(b.log))], "\n"))
	}
}
