// Package projection is what people ask for and no decision needs: an index
// of the runs, the environments, who waits, and which runs listen for events.
// It is told of every record: by the owner, as it stores it, where there is one
// engine, and by what follows the log where there are several. A record that is
// no newer than what it knows changes nothing. It holds nothing that the record
// does not.
//
// A run takes about 50 bytes, whether it goes on, waits or has ended: what
// finds it, what a list is filtered and ordered by, and no more. What else is
// shown of it is read from its last record.
package projection

import (
	"maps"
	"slices"
	"sync"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Index holds a line for each run and the state of each environment.
type Index struct {
	mu        sync.RWMutex
	runs      *runs
	envs      map[string]environment
	ears      *ears
	schedules map[string]bool // identities of all that ever were
	last      map[int]uint64  // sequence of the last record by partition
	watch     map[chan struct{}]bool
}

// environment is one after its v-th record.
type environment struct {
	v     int64
	state *env.Environment
}

// Page is a part of a list of runs.
type Page struct {
	Lines []Line
	Next  string // the cursor of the next page, if there is one
}

// New makes an empty index.
func New() *Index {
	return &Index{runs: newRuns(), envs: map[string]environment{}, ears: newEars(), schedules: map[string]bool{}, last: map[int]uint64{}, watch: map[chan struct{}]bool{}}
}

// Observe takes an aggregate after a record; it is an owner.Observer.
func (x *Index) Observe(e owner.Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	vp := events.Partition(e.Aggregate, e.ID)
	x.last[vp] = max(x.last[vp], e.Seq)
	switch e.Aggregate {
	case record.Run:
		if x.runs.observe(e) {
			x.ears.set(e.ID, e.Summary.Listen)
		}
	case record.Environment:
		if s, ok := e.State.(*env.Environment); ok && e.V >= x.envs[e.ID].v {
			x.envs[e.ID] = environment{e.V, s}
		}
	case record.Schedule:
		x.schedules[e.ID] = true
	}
	for ch := range x.watch {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Children gives the runs that a run has started, as far as they were seen.
func (x *Index) Children(id string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.runs.of(id)
}

// Schedules gives the identities of all schedules that ever were, in order.
func (x *Index) Schedules() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(maps.Keys(x.schedules))
}

// sorted locks the index for reading, with the runs in order: at a start they
// come by their last record, not by their first.
func (x *Index) sorted() {
	for {
		x.mu.RLock()
		if !x.runs.unsorted {
			return
		}
		x.mu.RUnlock()
		x.mu.Lock()
		if x.runs.unsorted {
			x.runs.sort()
		}
		x.mu.Unlock()
	}
}

// Last gives the sequence of the last record of each partition.
func (x *Index) Last() map[int]uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return maps.Clone(x.last)
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
	if prefix == "" {
		return "", 0
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if id, fits = x.runs.resolve(prefix); fits != 1 {
		return "", fits
	}
	return id, 1
}

// Environment gives the state of an environment, nil when nothing has used it.
func (x *Index) Environment(name string) *env.Environment {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.envs[name].state
}

// Listening gives the runs that listen for an event, a CloudEvent in JSON, in
// order; not nil when there are none.
func (x *Index) Listening(event []byte) []string {
	return append([]string{}, x.ears.hearing(event)...)
}

// Run gives the line of a run.
func (x *Index) Run(id string) (Line, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	i, ok := x.runs.find(id)
	if !ok {
		return Line{}, false
	}
	return x.runs.line(i), true
}

// Has reports whether a run was observed.
func (x *Index) Has(id string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.runs.find(id)
	return ok
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
	return int(x.runs.n), x.runs.waiting
}

// List gives a page of the runs of workflows that may be seen, newest first.
// The cursor is the id of the last run of the page before.
func (x *Index) List(q events.ListRuns, may func(workflow string) bool) Page {
	x.sorted()
	defer x.mu.RUnlock()
	return x.runs.list(q, may)
}
