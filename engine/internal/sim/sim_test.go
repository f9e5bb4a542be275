package sim

import (
	"fmt"
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

// seeds are how many are run when nobody says otherwise.
const seeds = 12

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
	cats := newCatalogs(compile(t, definitions))
	n, first := setting("PENSTOCK_SIM_SEEDS", seeds), setting("PENSTOCK_SIM_FROM", 1)
	var events, records uint64
	struck := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		p := draw(uint64(seed))
		o := simulate(t, p, cats)
		if o.err != nil {
			report(t, p, cats, o)
		}
		events, records = events+o.steps, records+uint64(o.records)
		for name, times := range o.faults {
			struck[name] += times
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d events, %d records\nfaults:\n", n, events, records)
	for _, name := range sortedKeys(struck) {
		fmt.Fprintf(&b, "  %6d %s\n", struck[name], name)
	}
	b.WriteString("checked:\n")
	for _, c := range checks {
		fmt.Fprintf(&b, "  %-4s %s\n", c.id, c.what)
	}
	t.Log(b.String())
}
