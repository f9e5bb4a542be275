package workers

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestACrewDoesEverythingOnceWithAsManyGoroutinesAsAreAtWorkAtATime(t *testing.T) {
	var c crew
	var done, fresh atomic.Int64
	for range 100 { // one after the other
		over := make(chan struct{})
		c.do(func() { done.Add(1); close(over) })
		<-over
		c.mu.Lock()
		fresh.Store(max(fresh.Load(), int64(len(c.free))))
		c.mu.Unlock()
	}
	if fresh.Load() > 3 { // the next may come before the last one waits
		t.Errorf("%d goroutines wait for work that comes one by one", fresh.Load())
	}
	var all sync.WaitGroup
	for range 1000 {
		all.Add(1)
		c.do(func() { defer all.Done(); done.Add(1) })
	}
	all.Wait()
	if done.Load() != 1100 {
		t.Errorf("%d of 1100 were done", done.Load())
	}
	c.dismiss()
	if len(c.free) != 0 {
		t.Error("somebody still waits")
	}
	all.Add(1)
	c.do(all.Done) // and ends then
	all.Wait()
}
