package owner

import (
	"log/slog"
	"sync"
	"time"
)

// clock is logical time in milliseconds. It follows the wall clock, never runs
// backwards and never falls behind what has been recorded. A wall clock that
// steps by more than maxDrift is not followed at once: time goes on at the
// pace of the monotonic clock, and a step forward that stays is taken over
// after stepHold. A step back is never followed; time waits for nothing and
// runs on until the wall has caught up.
type clock struct {
	wall   func() time.Time
	log    *slog.Logger
	mu     sync.Mutex
	anchor time.Time // carries the monotonic reading
	base   int64     // logical time at the anchor
	last   int64
	held   time.Time // since when the wall clock is not followed; zero when it is
}

const (
	maxDrift = 30 * time.Second
	stepHold = time.Minute
)

func newClock(wall func() time.Time, log *slog.Logger) *clock {
	now := wall()
	return &clock{wall: wall, log: log, anchor: now, base: now.UnixMilli()}
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	mono := c.base + wall.Sub(c.anchor).Milliseconds()
	drift := time.Duration(wall.UnixMilli()-mono) * time.Millisecond
	switch {
	case drift > -maxDrift && drift < maxDrift:
		if !c.held.IsZero() {
			c.log.Info("the wall clock is followed again")
		}
		c.follow(wall)
		mono = wall.UnixMilli()
	case c.held.IsZero():
		c.held = wall
		c.log.Error("the wall clock has stepped; timers go on by the time that has really passed", "by", drift)
	case drift > 0 && wall.Sub(c.held) > stepHold:
		c.log.Warn("the wall clock's step has stayed and is taken over", "by", drift)
		c.follow(wall)
		mono = wall.UnixMilli()
	}
	c.last = max(c.last, mono)
	return c.last
}

func (c *clock) follow(wall time.Time) {
	c.anchor, c.base, c.held = wall, wall.UnixMilli(), time.Time{}
}

// atLeast moves logical time forward to what was recorded, from where it goes
// on at its pace.
func (c *clock) atLeast(t int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	if behind := t - (c.base + wall.Sub(c.anchor).Milliseconds()); behind > 0 {
		c.base += behind
	}
	c.last = max(c.last, t)
}
