package workers

import "sync"

// crew does what it is given with goroutines that stay for the next: one that
// has worked has a stack that is large enough, and a new one has to grow its
// own first. There are as many as were ever at work at a time.
type crew struct {
	mu   sync.Mutex
	free []chan func() // of those that wait; each has room for one
	over bool
}

// do has f done by a goroutine that waits, or by a new one.
func (c *crew) do(f func()) {
	c.mu.Lock()
	if last := len(c.free) - 1; last >= 0 {
		next := c.free[last]
		c.free = c.free[:last]
		c.mu.Unlock()
		next <- f
		return
	}
	c.mu.Unlock()
	go c.work(f)
}

func (c *crew) work(f func()) {
	next := make(chan func(), 1)
	for f != nil {
		f()
		if !c.rests(next) {
			return
		}
		f = <-next
	}
}

// rests notes who waits; false when there is nothing to wait for.
func (c *crew) rests(next chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.free = append(c.free, next)
	}
	return !c.over
}

// dismiss ends those that wait now, and the others when they have done what
// they do.
func (c *crew) dismiss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, next := range c.free {
		close(next)
	}
	c.free = nil
}
