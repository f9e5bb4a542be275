// Package funnel lets many goroutines send over one connection without
// queueing at its lock.
//
// A connection's lock is held while its buffer is written out. When hundreds
// of goroutines want to send, each has to be woken to take the lock and let go
// of it again, behind all others that want to run. In a funnel whoever comes
// first sends what the others bring meanwhile, and they do not wait: what is
// added is sent in order, by one goroutine at a time. A funnel that is not
// busy costs nothing: who adds then sends at once.
package funnel

import "sync"

// Funnel gathers values and has them sent. Make it with New.
type Funnel[T any] struct {
	send func([]T)

	mu      sync.Mutex
	idle    sync.Cond
	waiting []T
	spare   []T
	sending bool
}

// New makes a funnel. send is never called twice at a time. It must not keep
// the slice.
func New[T any](send func([]T)) *Funnel[T] {
	f := &Funnel[T]{send: send}
	f.idle.L = &f.mu
	return f
}

// Add has v sent: now, by this goroutine, or soon by another one.
func (f *Funnel[T]) Add(v T) {
	f.mu.Lock()
	f.waiting = append(f.waiting, v)
	if f.sending {
		f.mu.Unlock()
		return
	}
	f.sending = true
	if f.next() {
		go f.drain() // the one who came first is not kept for the others
	}
}

// next sends what waits, and reports whether more has come meanwhile; if not,
// nobody sends any more. It is called with the lock held and returns without.
func (f *Funnel[T]) next() (more bool) {
	batch := f.waiting
	f.waiting, f.spare = f.spare[:0], nil
	f.mu.Unlock()
	f.send(batch)
	clear(batch)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spare = batch
	f.sending = len(f.waiting) > 0
	if !f.sending {
		f.idle.Broadcast()
	}
	return f.sending
}

func (f *Funnel[T]) drain() {
	for more := true; more; {
		f.mu.Lock()
		more = f.next()
	}
}

// Wait returns when everything that was added before has been sent.
func (f *Funnel[T]) Wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.sending {
		f.idle.Wait()
	}
}
