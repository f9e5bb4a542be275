package owner

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// clock is logical time in milliseconds, for all partitions of an owner. It
// follows the wall clock while that goes at the pace of the monotonic clock,
// and never runs backwards.
//
// A wall clock that steps by more than maxDrift is not believed: time goes on
// at the pace of the monotonic clock, and no timer fires, since nobody knows
// whether its time has come. That ends when the wall clock agrees again, when
// somebody says that it is right (accept), or, when the machine was suspended
// for as long as the wall clock has stepped, after a while in which workers
// can be heard of again.
type clock struct {
	wall   func() time.Time
	mono   func() time.Duration // goes at an even pace, whatever becomes of the wall clock
	asleep func() time.Duration // how long the machine was suspended since it was started
	log    *slog.Logger
	told   func(why string)

	mu      sync.Mutex
	anchor  time.Duration // by mono
	base    int64         // logical time at the anchor
	slept   time.Duration // asleep at the anchor
	ahead   int64         // by how much logical time may be ahead of the wall clock: somebody has accepted that
	last    int64
	held    string        // why no timer fires; empty when timers do
	since   time.Duration // when that began, by mono
	by      time.Duration // by how much the wall clock has stepped
	suspend bool          // and that is as long as the machine was suspended
	news    *string       // what is to be told when mu is free
}

const (
	maxDrift    = 30 * time.Second
	suspendHold = time.Minute
)

func newClock(o Options) *clock {
	return &clock{wall: o.Wall, mono: o.Mono, asleep: o.Asleep, log: o.Log, told: o.ClockHeld,
		anchor: o.Mono(), base: o.Wall().UnixMilli(), slept: o.Asleep()}
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.unlock()
	return c.read()
}

// tick notices a step also while nothing asks for the time.
func (c *clock) tick() {
	c.mu.Lock()
	defer c.unlock()
	if c.read(); c.held == "" {
		c.slept = c.asleep()
	}
}

// unlock frees mu and tells what there is to tell.
func (c *clock) unlock() {
	news := c.news
	c.news = nil
	c.mu.Unlock()
	if news != nil {
		c.told(*news)
	}
}

// read gives the time. The caller holds mu.
func (c *clock) read() int64 {
	mono, wall := c.mono(), c.wall().UnixMilli()+c.ahead
	now := c.base + (mono - c.anchor).Milliseconds()
	drift := time.Duration(wall-now) * time.Millisecond
	switch {
	case drift > -maxDrift && drift < maxDrift:
		now = c.follow(mono, wall, "the wall clock agrees again")
	case c.held == "" || drift-c.by > maxDrift || c.by-drift > maxDrift:
		c.hold(mono, drift)
	case c.suspend && mono-c.since >= suspendHold:
		now = c.follow(mono, wall, "the machine was suspended, and enough time has passed since")
	}
	c.last = max(c.last, now)
	return c.last
}

// follow sets logical time by the wall clock.
func (c *clock) follow(mono time.Duration, wall int64, why string) int64 {
	c.anchor, c.base = mono, wall
	if c.held != "" {
		c.log.Info("timers go on", "since", why)
		c.held, c.slept, c.news = "", c.asleep(), new("")
	}
	return wall
}

// hold stops timers.
func (c *clock) hold(mono, drift time.Duration) {
	slept := c.asleep() - c.slept
	c.since, c.by = mono, drift
	c.suspend = slept > 0 && drift-slept < maxDrift && slept-drift < maxDrift
	if c.suspend {
		c.held = fmt.Sprintf("the machine was suspended for %v; timers go on in %v", slept.Round(time.Second), suspendHold)
		c.log.Warn("timers are held", "reason", c.held)
	} else {
		c.held = fmt.Sprintf("the wall clock has stepped by %v; timers are held until it agrees again, or an administrator says that it is right: penstock admin clock accept", drift.Round(time.Second))
		c.log.Error("timers are held", "reason", c.held)
	}
	c.news = new(c.held)
}

// reason says why no timer fires; empty when timers do.
func (c *clock) reason() string {
	c.mu.Lock()
	defer c.unlock()
	c.read()
	return c.held
}

func (c *clock) holds() bool { return c.reason() != "" }

// accept believes the wall clock. Logical time does not run backwards: when
// the wall clock is behind, it goes on from where it is.
func (c *clock) accept() {
	c.mu.Lock()
	defer c.unlock()
	mono, wall := c.mono(), c.wall().UnixMilli()
	now := max(c.last, c.base+(mono-c.anchor).Milliseconds())
	c.ahead = max(0, now-wall)
	c.follow(mono, wall+c.ahead, "an administrator has accepted the wall clock")
}

// ahead is how far the records of a partition are ahead of this engine's
// clock, because they were written by another clock. Time stands still in the
// partition until the clock has caught up, or somebody has accepted the clock:
// then it goes on from where the records are.
func (p *partition) ahead() time.Duration {
	return time.Duration(p.floor-p.lead.Load()-p.o.clock.now()) * time.Millisecond
}

// now is logical time in the partition.
func (p *partition) now() int64 { return max(p.o.clock.now()+p.lead.Load(), p.floor) }

// holds says whether no timer of the partition may fire.
func (p *partition) holds() bool { return p.o.clock.holds() || p.ahead() > maxDrift }

// accept lets time go on from where the records are.
func (p *partition) accept() {
	if by := p.ahead(); by > 0 {
		p.lead.Add(by.Milliseconds())
	}
	p.due.poke()
}

// ClockHeld says for people why no timers fire; empty when they do.
func (o *Owner) ClockHeld() string {
	if why := o.clock.reason(); why != "" {
		return why
	}
	most, of, n := time.Duration(0), 0, 0
	for p := range o.held {
		if by := p.ahead(); by > maxDrift {
			n++
			if by > most {
				most, of = by, p.vp
			}
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("the records of %d partitions, %d for example, are by up to %v ahead of this engine's clock; their timers are held until it has caught up, or an administrator says that it is right: penstock admin clock accept", n, of, most.Round(time.Second))
}

// AcceptClock lets timers go on: the wall clock is right as it is.
func (o *Owner) AcceptClock() {
	o.clock.accept()
	for p := range o.held {
		p.accept()
	}
}

// tellClock tells of partitions that were taken with records ahead of the clock.
func (t *taking) tellClock() {
	for _, p := range t.parts {
		if p.ahead() > maxDrift {
			why := t.o.ClockHeld()
			t.o.o.Log.Error("timers are held", "reason", why)
			t.o.o.ClockHeld(why)
			return
		}
	}
}
