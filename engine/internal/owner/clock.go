package owner

import (
	"sync"
	"time"
)

// clock is logical time in milliseconds: the wall clock, which never runs
// backwards and never falls behind what has been recorded. A wall clock that
// steps by more than maxDrift is not followed; the monotonic clock goes on.
type clock struct {
	wall   func() time.Time
	mu     sync.Mutex
	anchor time.Time // carries the monotonic reading
	base   int64     // logical time at the anchor
	last   int64
}

const maxDrift = 30 * time.Second

func newClock(wall func() time.Time) *clock {
	now := wall()
	return &clock{wall: wall, anchor: now, base: now.UnixMilli()}
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	mono := c.base + wall.Sub(c.anchor).Milliseconds()
	t := mono
	if drift := wall.UnixMilli() - mono; drift > -maxDrift.Milliseconds() && drift < maxDrift.Milliseconds() {
		t = wall.UnixMilli()
	}
	c.last = max(c.last, t)
	return c.last
}

// atLeast moves logical time forward to what was recorded.
func (c *clock) atLeast(t int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, t)
}
