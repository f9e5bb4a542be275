package owner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// partition is a partition for as long as it is held without a break. What
// the owner knows of it lies here and nowhere else: when it is given back or
// lost, all of that goes at once, and when it is taken again it begins anew
// from the record.
type partition struct {
	o      *Owner
	vp     int
	due    *deadlines
	beats  *beats
	floor  int64         // logical time of the newest record when it was taken
	lead   atomic.Int64  // by how much it is ahead of the clock, accepted
	settle chan struct{} // full while one finds out: two would each invalidate what the other has found

	ctx    context.Context // ends when the partition is dropped
	cancel context.CancelFunc
	going  context.Context // ends when it begins to be given back: nothing more is begun
	quiet  context.CancelFunc

	mu      sync.Mutex
	skip    []uint64 // records that cannot be read, which somebody has confirmed
	lanes   map[key]*lane
	sending map[string]bool // ids of messages to other aggregates that are under way
	closing error           // why it takes no more commands; those that wait are still carried out
	why     error           // why it carries out none at all: stopped, or not ours any more
	lanesUp sync.WaitGroup
	sends   sync.WaitGroup // timers and messages
	idle    chan struct{}  // closed when it is closed and no lane runs
}

func (o *Owner) newPartition(vp int) *partition {
	p := &partition{o: o, vp: vp, due: newDeadlines(), beats: newBeats(), lanes: map[key]*lane{}, sending: map[string]bool{}, idle: make(chan struct{}), settle: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(o.ctx)
	p.going, p.quiet = context.WithCancel(p.ctx)
	return p
}

// Why a command is not carried out. Nothing was decided and nothing stored.
var (
	// ErrNotOwner: the partition is another engine's, or nobody's yet.
	ErrNotOwner = errors.New("this engine does not own the partition")
	// ErrStopped: the partition was stopped, since its record is not what it was.
	ErrStopped = errors.New("the partition is stopped")

	errClosing = errors.New("the engine is stopping")
	errTaken   = errors.New("another engine has taken over")
	errCrowded = errors.New("too many commands wait for it")
	errStorm   = errors.New("too many commands wait at once")

	errUnreadable = errors.New("its record cannot be read, which an administrator has confirmed; nothing more can be done for it")
)

// close lets no more commands in; those that wait are carried out.
func (p *partition) close(why error) {
	p.mu.Lock()
	if p.closing != nil {
		p.mu.Unlock()
		return
	}
	p.closing = why
	p.mu.Unlock()
	p.quiet()
	go func() {
		p.lanesUp.Wait()
		close(p.idle)
	}()
}

// end drops what the partition holds; commands that wait are refused.
func (p *partition) end(why error) {
	p.mu.Lock()
	p.why = why
	p.mu.Unlock()
	p.close(why)
	p.cancel()
}

// refusing says why the partition carries out no commands, if it does not.
func (p *partition) refusing() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// of gives the partition of an aggregate, if it is held.
func (o *Owner) of(agg, id string) (*partition, error) {
	vp := events.Partition(agg, id)
	if p := o.parts[vp].Load(); p != nil {
		return p, nil
	}
	if o.closed.Load() {
		return nil, errClosing
	}
	return nil, fmt.Errorf("partition %d: %w", vp, ErrNotOwner)
}

// held gives the partitions that are held, stopped ones included.
func (o *Owner) held(yield func(*partition) bool) {
	for vp := range o.parts {
		if p := o.parts[vp].Load(); p != nil && !yield(p) {
			return
		}
	}
}

// remove takes a partition out of those that are held; false when it was not
// among them any more.
func (o *Owner) remove(p *partition, why error) bool {
	o.mu.Lock()
	there := o.parts[p.vp].CompareAndSwap(p, nil)
	if there {
		o.o.Journal.Disown([]int{p.vp})
		o.o.Relay.Drop(p.vp)
	}
	o.mu.Unlock()
	p.end(why)
	return there
}

// lost drops a partition that another engine has taken over.
func (o *Owner) lost(p *partition, err error) {
	if !o.remove(p, fmt.Errorf("partition %d: %w", p.vp, ErrNotOwner)) {
		return
	}
	o.o.Log.Warn("a partition was lost", "partition", p.vp, "error", err)
	if o.o.Lost != nil {
		o.o.Lost(p.vp, err)
	}
}

// stop stops a partition: nothing in it goes on until somebody has looked.
func (p *partition) stop(err error) {
	if !errors.Is(err, ErrStopped) {
		err = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	p.mu.Lock()
	again := p.why != nil
	if !again {
		p.why = fmt.Errorf("partition %d: %w", p.vp, err)
	}
	p.mu.Unlock()
	if again {
		return
	}
	p.quiet()
	p.o.disown(p)
	if !newer(err) { // which goes on with the newer version
		p.o.o.Relay.Halt(p.vp, err.Error())
	}
	p.o.o.Log.Error("a partition is stopped", "partition", p.vp, "error", err)
	if p.o.o.Stopped != nil {
		p.o.o.Stopped(p.vp, err)
	}
}

// disown gives up the fence of a partition, unless another holding of it has one.
func (o *Owner) disown(p *partition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := o.parts[p.vp].Load(); now == p || now == nil && o.changing[p.vp] == p {
		o.o.Journal.Disown([]int{p.vp})
	}
}

// Stop stops a partition for a reason that was found outside.
func (o *Owner) Stop(vp int, err error) {
	if p := o.parts[vp].Load(); p != nil {
		p.stop(err)
	}
}

// Stopped gives the partitions that are stopped, and why.
func (o *Owner) Stopped() map[int]error {
	o.mu.Lock()
	stopped := maps.Clone(o.resuming)
	o.mu.Unlock()
	if stopped == nil {
		stopped = map[int]error{}
	}
	for p := range o.held {
		if why := p.refusing(); errors.Is(why, ErrStopped) {
			stopped[p.vp] = why
		}
	}
	return stopped
}

// Owns reports whether a partition is held, stopped ones included.
func (o *Owner) Owns(vp int) bool { return o.parts[vp].Load() != nil }

// refused is the answer when the core was not asked, or could not answer.
// What may pass is answered busy, so that nobody takes it for a decision.
func refused(err error) events.Answer {
	a := events.Answer{Status: events.StatusBusy, Reason: err.Error(), RetryAfter: 250}
	unknown, poison := new(unknownWorkflow), new(panicked)
	switch {
	case errors.Is(err, ErrNotOwner), errors.Is(err, errTaken):
		a.Code, a.RetryAfter = events.CodeNotOwner, 100
	case errors.Is(err, ErrStopped):
		a.Code, a.RetryAfter = events.CodeStopped, 5000
	case errors.Is(err, journal.ErrFull):
		a.Code, a.RetryAfter = events.CodeFull, 2000
	case errors.Is(err, journal.ErrTooLarge):
		return events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: err.Error()}
	case errors.Is(err, errUnreadable):
		return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
	case errors.As(err, &unknown):
		return events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: err.Error()}
	case errors.As(err, &poison):
		return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
	}
	a.RetryAfter = jittered(time.Duration(a.RetryAfter) * time.Millisecond).Milliseconds()
	return a
}
