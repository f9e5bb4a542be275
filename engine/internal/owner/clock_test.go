package owner

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// times are the clocks of a machine, in the hands of a test.
type times struct {
	mu           sync.Mutex
	wall         time.Time
	mono, asleep time.Duration
	told         []string
}

func newTimes() *times { return &times{wall: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

// pass lets time pass; step moves the wall clock only; suspend is what a
// closed lid does.
func (x *times) pass(d time.Duration)    { x.change(d, d, 0) }
func (x *times) step(d time.Duration)    { x.change(d, 0, 0) }
func (x *times) suspend(d time.Duration) { x.change(d, 0, d) }

func (x *times) change(wall, mono, asleep time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wall, x.mono, x.asleep = x.wall.Add(wall), x.mono+mono, x.asleep+asleep
}

func (x *times) options() Options {
	get := func(f func()) {
		x.mu.Lock()
		defer x.mu.Unlock()
		f()
	}
	return Options{Log: slog.New(slog.DiscardHandler),
		Wall:      func() (t time.Time) { get(func() { t = x.wall }); return },
		Mono:      func() (d time.Duration) { get(func() { d = x.mono }); return },
		Asleep:    func() (d time.Duration) { get(func() { d = x.asleep }); return },
		ClockHeld: func(why string) { get(func() { x.told = append(x.told, why) }) }}
}

// realTime are options with the wall clock of this machine.
func (x *times) realTime() Options {
	o, begin := x.options(), time.Now()
	o.Wall, o.Mono = time.Now, func() time.Duration { return time.Since(begin) }
	return o
}

// after gives logical time since the beginning.
func after(c *clock, begin int64) time.Duration {
	return time.Duration(c.now()-begin) * time.Millisecond
}

func TestTimeFollowsAWallClockThatIsSetALittle(t *testing.T) {
	x := newTimes()
	c := newClock(x.options())
	begin := c.now()
	x.pass(time.Hour)
	x.step(20 * time.Second)
	if got := after(c, begin); got != time.Hour+20*time.Second || c.reason() != "" {
		t.Errorf("after a small step forward: %v, %q", got, c.reason())
	}
	x.step(-20 * time.Second)
	if got := after(c, begin); got != time.Hour+20*time.Second {
		t.Errorf("it runs backwards, to %v", got)
	}
	x.pass(30 * time.Second)
	if got := after(c, begin); got != time.Hour+30*time.Second || c.reason() != "" {
		t.Errorf("after the wall clock has caught up: %v, %q", got, c.reason())
	}
	if len(x.told) > 0 {
		t.Errorf("told %q", x.told)
	}
}

func TestAStepOfTheWallClockHoldsTimersUntilItAgreesAgain(t *testing.T) {
	for _, by := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		x := newTimes()
		c := newClock(x.options())
		begin := c.now()
		x.step(by)
		x.pass(time.Minute)
		if got := after(c, begin); got != time.Minute {
			t.Errorf("%v: time goes on by what has passed: %v", by, got)
		}
		if why := c.reason(); !strings.Contains(why, "has stepped by "+by.String()) {
			t.Errorf("%v: %q", by, why)
		}
		x.pass(10 * time.Hour)
		if c.reason() == "" {
			t.Errorf("%v: a step that stays is believed", by)
		}
		x.step(-by)
		if got := after(c, begin); got != 10*time.Hour+time.Minute || c.reason() != "" {
			t.Errorf("%v: after it was set right: %v, %q", by, got, c.reason())
		}
		if len(x.told) != 2 || x.told[0] == "" || x.told[1] != "" {
			t.Errorf("%v: told %q", by, x.told)
		}
	}
}

func TestAStepThatIsAcceptedIsBelieved(t *testing.T) {
	x := newTimes()
	c := newClock(x.options())
	begin := c.now()
	x.step(2 * time.Hour)
	c.now()
	c.accept()
	if got := after(c, begin); got != 2*time.Hour || c.reason() != "" {
		t.Errorf("forward: %v, %q", got, c.reason())
	}
	x.step(-3 * time.Hour)
	c.now()
	c.accept()
	x.pass(time.Minute)
	if got := after(c, begin); got != 2*time.Hour+time.Minute || c.reason() != "" {
		t.Errorf("back: %v, %q; it goes on from where it is", got, c.reason())
	}
}

func TestAfterASuspendTimersWaitAMinute(t *testing.T) {
	x := newTimes()
	c := newClock(x.options())
	begin := c.now()
	x.pass(time.Hour)
	c.tick()
	x.suspend(8 * time.Hour)
	c.tick()
	if why := c.reason(); !strings.Contains(why, "suspended for 8h") {
		t.Errorf("held: %q", why)
	}
	x.pass(59 * time.Second)
	if got := after(c, begin); got != time.Hour+59*time.Second || c.reason() == "" {
		t.Errorf("before the minute is over: %v, %q", got, c.reason())
	}
	x.pass(time.Second)
	if got := after(c, begin); got != 9*time.Hour+time.Minute || c.reason() != "" {
		t.Errorf("after it: %v, %q", got, c.reason())
	}
	// what was slept once explains no later step
	x.step(8 * time.Hour)
	c.now()
	x.pass(time.Hour)
	if c.reason() == "" {
		t.Error("a step is taken for a suspend")
	}
}

func TestAStepBehindAStepIsAnother(t *testing.T) {
	x := newTimes()
	c := newClock(x.options())
	x.suspend(time.Hour)
	c.now()
	x.step(time.Hour)
	c.now()
	x.pass(time.Hour)
	if why := c.reason(); !strings.Contains(why, "stepped by 2h") {
		t.Errorf("held: %q", why)
	}
}

func TestTheMachineTellsHowLongItWasSuspended(t *testing.T) {
	if d := suspended(); d < 0 || d > 10*365*24*time.Hour {
		t.Errorf("%v", d)
	}
}

// A deadline that has come while the clock is held waits.
func TestNoDeadlineComesWhileTheClockIsHeld(t *testing.T) {
	x := newTimes()
	c := newClock(x.options())
	d := newDeadlines()
	due := c.now() + 1
	d.set(key{"run", "r"}, due)
	x.step(time.Hour)
	x.pass(time.Minute)
	fired := make(chan int64, 1)
	go func() {
		_, at, _ := d.wait(t.Context(), c)
		fired <- at
	}()
	for range 100 {
		select {
		case at := <-fired:
			t.Fatalf("deadline %d has come", at)
		default:
			d.poke()
		}
	}
	c.accept()
	d.poke()
	if at := <-fired; at != due {
		t.Errorf("deadline %d, want %d", at, due)
	}
}
