package service

import (
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/penstock-cd/penstock/events"
)

// reportVerbs are the requests that come most, a report of each task. Nothing
// is waited for while one is looked at: its answer follows when the record of
// it is stored.
var reportVerbs = []string{events.VerbAttemptStart, events.VerbAttemptFinish}

// reportsOnly reports whether a request is one of reportVerbs, by its subject.
func reportsOnly(subject string) bool {
	return strings.HasPrefix(subject, events.WorkerPrefix) &&
		slices.ContainsFunc(reportVerbs, func(verb string) bool { return strings.HasSuffix(subject, "."+verb) })
}

// desk does what takes no waiting with few goroutines, which stay while there
// is something to do: hundreds of reports come together, and a goroutine for
// each would have to grow its stack first.
type desk struct {
	work *sync.WaitGroup
	most int

	mu      sync.Mutex
	waiting []func()
	busy    int
}

func newDesk(work *sync.WaitGroup) *desk { return &desk{work: work, most: runtime.GOMAXPROCS(0)} }

// take has do done soon.
func (d *desk) take(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = append(d.waiting, do)
	if d.busy < d.most {
		d.busy++
		d.work.Go(d.run)
	}
}

func (d *desk) run() {
	for do := d.next(); do != nil; do = d.next() {
		do()
	}
}

// next gives what is to be done next; nil when there is nothing.
func (d *desk) next() (do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		d.waiting = nil
		d.busy--
		return nil
	}
	do, d.waiting[0] = d.waiting[0], nil
	d.waiting = d.waiting[1:]
	return do
}
