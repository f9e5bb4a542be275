// Package bench measures Penstock against the floor: the fastest bare loop
// known that stores the same messages, in the same streams and accounts, with
// the same durability, and hands out the same tasks, with no engine in it.
//
// What is counted is the task round trip: a task is published, fetched by a
// worker, which begins at once, its finish is recorded, and with that record
// the next task is made. Both sides run on an embedded server of their
// own in this process, in turns, so that what else the machine does concerns
// both. A side that stores other messages than the other is an error, not a
// number.
package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Tasks is how many tasks a run has, one after the other.
const Tasks = 5

// Side is what is measured. Its runs go on by themselves once started.
type Side interface {
	// Start starts a run; it may return before that is stored.
	Start(ctx context.Context) error
	// Watch says who is told what happens to runs. It is called before
	// anything is started, and the function must not block.
	Watch(told func(Event))
	// Serve does tasks, as many at a time as slots, until stop is called.
	Serve(slots int) (stop func() error, err error)
	// Behind is how many messages were made by what is stored, and are not
	// stored themselves.
	Behind() int64
	// Stored counts what has been stored since the side was made.
	Stored(ctx context.Context) (Counts, error)
}

// Event is something that was stored.
type Event struct {
	Run  string
	Task int   // how many tasks of the run have finished; 0: it was started
	Last bool  // the run has ended
	Err  error // it ended as it should not have; nothing else is set
}

// Counts are numbers of messages.
type Counts struct {
	Records uint64 `json:"records"`
	Tasks   uint64 `json:"tasks"`
	Events  uint64 `json:"events"`
}

// Times gives the counts of so many runs.
func (c Counts) Times(runs uint64) Counts {
	return Counts{runs * c.Records, runs * c.Tasks, runs * c.Events}
}

// allowed is how many messages for each run in flight a side may be behind, and
// still begin new runs: about as many as a round trip makes. A side that put
// off what nobody waits for would measure only half of its work, and the side
// that comes next would pay for the other half.
const allowed = 5

// patience is how long the runs in flight may take to end.
const patience = 2 * time.Minute

// Runner keeps runs of one side in flight and notes what happens to them.
type Runner struct {
	side  Side
	trips atomic.Int64
	runs  atomic.Uint64 // that were started

	mu      sync.Mutex
	open    map[string]time.Time // when the last thing happened to the run
	flying  int
	owed    int  // runs that begin as soon as the side is less far behind
	going   bool // a run that ends is followed by the next
	keep    bool // note how long trips take
	took    []time.Duration
	fault   error
	changed chan struct{} // gets a value when a run has ended
}

// NewRunner gives the only runner of a side.
func NewRunner(side Side) *Runner {
	r := &Runner{side: side, open: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	side.Watch(r.told)
	return r
}

// Runs counts the runs that were started.
func (r *Runner) Runs() uint64 { return r.runs.Load() }

// Trips counts the task round trips that were made.
func (r *Runner) Trips() int64 { return r.trips.Load() }

func (r *Runner) told(e Event) {
	now := time.Now()
	if e.Err != nil {
		r.fail(e.Err)
		return
	}
	if e.Task > 0 {
		r.trips.Add(1)
	}
	r.mu.Lock()
	if r.keep && e.Task > 0 {
		r.took = append(r.took, now.Sub(r.open[e.Run]))
	}
	if !e.Last {
		if r.keep {
			r.open[e.Run] = now
		}
		r.mu.Unlock()
		return
	}
	delete(r.open, e.Run)
	if r.going {
		r.owed++
	} else {
		r.flying--
	}
	r.mu.Unlock()
	r.follow()
	r.signal()
}

// follow begins the runs that are owed, unless the side is too far behind.
func (r *Runner) follow() {
	behind := r.side.Behind()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.going:
		r.flying -= r.owed
	case behind > int64(allowed*r.flying):
		return
	default:
		for range r.owed {
			go r.start(context.Background())
		}
	}
	r.owed = 0
}

func (r *Runner) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *Runner) start(ctx context.Context) {
	r.runs.Add(1)
	if err := r.side.Start(ctx); err != nil {
		r.fail(err)
	}
}

func (r *Runner) fail(err error) {
	r.mu.Lock()
	if r.fault == nil {
		r.fault = err
	}
	r.mu.Unlock()
	r.signal()
}

// Rate is what a side does.
type Rate struct {
	PerSecond float64       // task round trips
	CPU       time.Duration // of this process, for each; 0 where it is not known
}

// Throughput keeps inFlight runs going and measures over span, which begins
// after warm, and not before there was a round trip for each of the runs. It
// goes on until there is one to be counted, and returns when all runs have
// ended.
func (r *Runner) Throughput(ctx context.Context, inFlight int, warm, span time.Duration) (rate Rate, err error) {
	r.mu.Lock()
	r.going, r.flying = true, inFlight
	r.mu.Unlock()
	cold := r.trips.Load()
	for range inFlight {
		go r.start(ctx)
	}
	following := r.keepFollowing()
	err = r.reached(ctx, warm, cold+int64(inFlight))
	before, began, cpu := r.trips.Load(), time.Now(), cpuTime()
	if err == nil {
		err = r.reached(ctx, span, before+1)
	}
	trips := r.trips.Load() - before
	rate.PerSecond = float64(trips) / time.Since(began).Seconds()
	rate.CPU = (cpuTime() - cpu) / time.Duration(max(trips, 1))
	r.mu.Lock()
	r.going = false
	r.mu.Unlock()
	following()
	return rate, errors.Join(err, r.ended(ctx))
}

// keepFollowing begins runs that are owed also while nothing happens to others,
// until end is called.
func (r *Runner) keepFollowing() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for wait(ctx, time.Millisecond) == nil {
			r.follow()
		}
	})
	return func() {
		cancel()
		work.Wait()
		r.follow()
	}
}

// reached waits for d, and then until so many round trips were made.
func (r *Runner) reached(ctx context.Context, d time.Duration, trips int64) error {
	if err := wait(ctx, d); err != nil {
		return err
	}
	limit := time.Now().Add(patience)
	for r.trips.Load() < trips {
		if err := r.broken(); err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("only %d round trips were made in %v", r.trips.Load(), patience)
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// broken gives the first error that the side told of.
func (r *Runner) broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// Latency makes runs one after the other and gives how long each task round
// trip took.
func (r *Runner) Latency(ctx context.Context, runs int) ([]time.Duration, error) {
	r.mu.Lock()
	r.keep, r.took = true, nil
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.keep, r.took = false, nil
	}()
	for range runs {
		r.mu.Lock()
		r.flying = 1
		r.mu.Unlock()
		r.start(ctx)
		if err := r.ended(ctx); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.took, nil
}

// ended waits until no run is in flight any more.
func (r *Runner) ended(ctx context.Context) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		r.mu.Lock()
		flying, fault := r.flying, r.fault
		r.mu.Unlock()
		if fault != nil {
			return fault
		}
		if flying == 0 {
			return nil
		}
		select {
		case <-r.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit.C:
			return fmt.Errorf("%d runs did not end within %v", flying, patience)
		}
	}
}

// Check waits until the side has stored what so many runs make, and is an
// error when it stores anything else.
func (r *Runner) Check(ctx context.Context, perRun Counts) error {
	want := perRun.Times(r.Runs())
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		got, err := r.side.Stored(ctx)
		if err != nil {
			return err
		}
		if got == want {
			return nil
		}
		if err := r.broken(); err != nil {
			return err
		}
		more := got.Records > want.Records || got.Tasks > want.Tasks || got.Events > want.Events
		if more || wait(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("%d runs stored %+v, and not %+v", r.Runs(), got, want)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
