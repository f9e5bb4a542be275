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

// desk does what takes no waiting with a few goroutines that stay: hundreds of
// reports come together, and a goroutine for each would have to grow its stack
// first.
type desk struct {
	mu      sync.Mutex
	come    sync.Cond
	waiting []func()
	over    bool
}

// newDesk opens a desk with as many goroutines as there are processors; they
// end with close.
func newDesk(work *sync.WaitGroup) *desk {
	d := &desk{}
	d.come.L = &d.mu
	for range runtime.GOMAXPROCS(0) {
		work.Go(d.run)
	}
	return d
}

// take has do done soon.
func (d *desk) take(do func()) {
	d.mu.Lock()
	d.waiting = append(d.waiting, do)
	d.mu.Unlock()
	d.come.Signal()
}

// close ends the desk when everything is done that waits.
func (d *desk) close() {
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
	d.come.Broadcast()
}

func (d *desk) run() {
	for do := d.next(); do != nil; do = d.next() {
		do()
	}
}

// next waits for something to do; nil when the desk is closed.
func (d *desk) next() (do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.waiting) == 0 {
		if d.waiting = nil; d.over {
			return nil
		}
		d.come.Wait()
	}
	do, d.waiting[0] = d.waiting[0], nil
	d.waiting = d.waiting[1:]
	return do
}
