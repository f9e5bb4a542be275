package service

import (
	"slices"
	"strings"
	"sync"

	"github.com/penstock-cd/penstock/events"
)

// How many requests are answered at once. Workers have places of their own, so
// that nothing that people ask keeps results and heartbeats waiting; so have
// those who wait for something new. Who finds no place is told to come again.
const (
	workersAtOnce = 16384
	peopleAtOnce  = 4096
	readersAtOnce = 1024

	readersOfAll = 512 // who wait at a time
	readersOfOne = 32  // of one principal
)

// slots are places for requests, by what they ask.
type slots struct {
	workers, readers, people chan struct{}
}

func newSlots() *slots {
	return &slots{make(chan struct{}, workersAtOnce), make(chan struct{}, readersAtOnce), make(chan struct{}, peopleAtOnce)}
}

// take takes a place for a request; nil when there is none.
func (s *slots) take(subject string) (release func()) {
	places := s.people
	asks := func(verb string) bool { return strings.HasSuffix(subject, "."+verb) }
	switch {
	case strings.HasPrefix(subject, events.WorkerPrefix):
		places = s.workers
	case slices.ContainsFunc([]string{events.VerbEvents, events.VerbOutput}, asks):
		places = s.readers
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }
	default:
		return nil
	}
}

// readers counts who waits for something new, over the bus or HTTP.
type readers struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by principal
}

func newReaders() *readers { return &readers{of: map[string]int{}} }

// enter counts one more; false when there are too many already.
func (r *readers) enter(principal string) (leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= readersOfAll || r.of[principal] >= readersOfOne {
		return nil, false
	}
	r.all++
	r.of[principal]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.of[principal]--; r.of[principal] == 0 {
			delete(r.of, principal)
		}
	}, true
}
