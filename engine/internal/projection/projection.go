// Package projection is what people ask for and no decision needs: an index
// of the runs, the environments, and who waits. It is told of every state as
// it is stored or read at the start, and holds nothing that the record does not.
package projection

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Index holds a line for each run and the state of each environment.
type Index struct {
	mu      sync.RWMutex
	runs    map[string]events.RunView
	waiting int      // runs that wait for people
	order   []string // run ids by start, oldest first, unless unsorted
	// unsorted says that order is sorted when it is next read: at a start runs
	// come by their last record, not by their first.
	unsorted  bool
	envs      map[string]*env.Environment
	children  map[string][]string // runs by the run that has started them
	schedules map[string]bool     // identities of all that ever were
	last      map[int]uint64      // sequence of the last record by partition
	watch     map[chan struct{}]bool
}

// New makes an empty index.
func New() *Index {
	return &Index{runs: map[string]events.RunView{}, envs: map[string]*env.Environment{}, children: map[string][]string{},
		schedules: map[string]bool{}, last: map[int]uint64{}, watch: map[chan struct{}]bool{}}
}

// Observe takes a state; it is an owner.Observer.
func (x *Index) Observe(e owner.Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	vp := events.Partition(e.Aggregate, e.ID)
	x.last[vp] = max(x.last[vp], e.Seq)
	switch s := e.State.(type) {
	case *run.State:
		before, known := x.runs[e.ID]
		if !known {
			x.insert(e.ID, s.StartedAt)
		}
		now := run.View(s, e.V)
		x.runs[e.ID] = now
		x.waiting += count(now) - count(before)
		if p := now.Parent; p != "" && !known {
			x.children[p] = append(x.children[p], e.ID)
		}
	case *env.Environment:
		x.envs[e.ID] = s
	case *env.Schedule:
		x.schedules[e.ID] = true
	}
	for ch := range x.watch {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// count is 1 for a run that waits for people.
func count(r events.RunView) int {
	if r.Status == run.StatusWaiting {
		return 1
	}
	return 0
}

// Children gives the runs that a run has started, as far as they were seen.
func (x *Index) Children(id string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(slices.Values(x.children[id]))
}

// Schedules gives the identities of all schedules that ever were, in order.
func (x *Index) Schedules() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(maps.Keys(x.schedules))
}

// near is how far from the end a run is put in its place at once.
const near = 1024

// insert keeps order sorted by start; new runs nearly always go to the end.
func (x *Index) insert(id string, started int64) {
	i := len(x.order)
	if !x.unsorted {
		i, _ = slices.BinarySearchFunc(x.order, started, func(id string, started int64) int {
			if x.runs[id].StartedAt.UnixMilli() <= started {
				return -1
			}
			return 1
		})
	}
	if len(x.order)-i > near {
		x.unsorted, i = true, len(x.order)
	}
	x.order = slices.Insert(x.order, i, id)
}

// sort puts order in order.
func (x *Index) sort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.unsorted {
		return
	}
	type line struct {
		id string
		at int64
	}
	lines := make([]line, len(x.order))
	for i, id := range x.order {
		lines[i] = line{id, x.runs[id].StartedAt.UnixMilli()}
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.id, b.id)) })
	for i, l := range lines {
		x.order[i] = l.id
	}
	x.unsorted = false
}

// sorted locks the index for reading, with order in order.
func (x *Index) sorted() {
	for {
		x.mu.RLock()
		if !x.unsorted {
			return
		}
		x.mu.RUnlock()
		x.sort()
	}
}

// Last gives the sequence of the last record of each partition.
func (x *Index) Last() map[int]uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make(map[int]uint64, len(x.last))
	for vp, seq := range x.last {
		out[vp] = seq
	}
	return out
}

// Changed gives a channel that gets a value after changes, and its end.
func (x *Index) Changed() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	x.mu.Lock()
	x.watch[ch] = true
	x.mu.Unlock()
	return ch, func() {
		x.mu.Lock()
		delete(x.watch, ch)
		x.mu.Unlock()
	}
}

// Resolve finds the run whose id is or begins with prefix. It gives "" with
// the number of runs that fit when that is not one.
func (x *Index) Resolve(prefix string) (id string, fits int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if _, ok := x.runs[prefix]; ok {
		return prefix, 1
	}
	if prefix == "" {
		return "", 0
	}
	for run := range x.runs {
		if strings.HasPrefix(run, prefix) {
			id = run
			fits++
		}
	}
	if fits != 1 {
		return "", fits
	}
	return id, 1
}

// Environment gives the state of an environment, nil when nothing has used it.
func (x *Index) Environment(name string) *env.Environment {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.envs[name]
}

// Run gives the line of a run.
func (x *Index) Run(id string) (events.RunView, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.runs[id]
	return r, ok
}

// Environments gives the names of all environments that are defined or were
// used, sorted.
func (x *Index) Environments(cat *workflows.Catalog) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	names := slices.Concat(slices.Collect(maps.Keys(cat.Environments)), slices.Collect(maps.Keys(x.envs)))
	slices.Sort(names)
	return slices.Compact(names)
}

// Counts gives the number of runs and of those that wait for people.
func (x *Index) Counts() (all, waiting int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.runs), x.waiting
}

// List gives a page of the runs of workflows that may be seen, newest first.
// The cursor is the id of the last run of the page before.
func (x *Index) List(q events.ListRuns, may func(workflow string) bool) events.RunList {
	x.sorted()
	defer x.mu.RUnlock()
	limit := min(cmp.Or(max(q.Limit, 0), 50), 1000)
	page := events.RunList{Runs: []events.RunView{}}
	i := len(x.order)
	if q.Cursor != "" {
		i = slices.Index(x.order, q.Cursor)
	}
	for i--; i >= 0; i-- {
		r := x.runs[x.order[i]]
		if q.Workflow != "" && r.Workflow != q.Workflow || q.Status != "" && r.Status != q.Status && r.Outcome != q.Status || !may(r.Workflow) {
			continue
		}
		if len(page.Runs) == limit {
			page.Next = page.Runs[limit-1].ID
			break
		}
		page.Runs = append(page.Runs, r)
	}
	return page
}
