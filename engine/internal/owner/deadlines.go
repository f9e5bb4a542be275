package owner

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// deadlines is a heap of the next deadline of each aggregate.
type deadlines struct {
	mu     sync.Mutex
	heap   dueHeap
	at     map[key]int64 // the deadline that counts; others in the heap are out of date
	change chan struct{}
}

type dueItem struct {
	at int64
	k  key
}

type dueHeap []dueItem

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueItem)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func newDeadlines() *deadlines {
	return &deadlines{at: map[key]int64{}, change: make(chan struct{}, 1)}
}

// set replaces an aggregate's deadline; 0 is none.
func (d *deadlines) set(k key, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at[k] == at {
		return
	}
	if at == 0 {
		delete(d.at, k)
		return
	}
	d.at[k] = at
	if len(d.heap) > 2*len(d.at)+1000 {
		d.rebuild()
	}
	heap.Push(&d.heap, dueItem{at, k})
	if d.heap[0].at == at {
		select {
		case d.change <- struct{}{}:
		default:
		}
	}
}

// rebuild drops what is out of date.
func (d *deadlines) rebuild() {
	d.heap = d.heap[:0]
	for k, at := range d.at {
		d.heap = append(d.heap, dueItem{at, k})
	}
	heap.Init(&d.heap)
}

// next gives the earliest deadline that counts.
func (d *deadlines) next() (dueItem, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.heap) > 0 {
		it := d.heap[0]
		if d.at[it.k] == it.at {
			return it, true
		}
		heap.Pop(&d.heap)
	}
	return dueItem{}, false
}

// take removes a deadline that is fired.
func (d *deadlines) take(it dueItem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at[it.k] == it.at {
		delete(d.at, it.k)
	}
}

// wait gives the next deadline when it has come; false when ctx ended.
func (d *deadlines) wait(ctx context.Context, c *clock) (key, int64, bool) {
	for {
		sleep := time.Minute
		it, ok := d.next()
		if ok {
			left := time.Duration(it.at-c.now()) * time.Millisecond
			if left <= 0 {
				d.take(it)
				return it.k, it.at, true
			}
			sleep = min(sleep, left)
		}
		t := time.NewTimer(sleep)
		select {
		case <-t.C:
		case <-d.change:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return key{}, 0, false
		}
	}
}
