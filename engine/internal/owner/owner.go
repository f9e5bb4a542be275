// Package owner runs aggregates: it is the only writer of its partitions.
//
// A command goes to the lane of its aggregate. The lane loads the state, asks
// the pure core what the command does to it, appends the record to the
// journal under the partition's fence, and answers when the record is stored;
// the stored record is the answer. A lane works on one command at a time and
// lanes do not wait for each other, so one slow run stalls no other.
//
// After a record is stored, what it says is carried out: tasks and events go
// to the relay, messages to other aggregates are sent until they are
// answered, deadlines go into a heap whose firing is an ordinary command.
// Nothing of that is kept anywhere but in the records: at a start all of it
// is read back from them.
//
// An append whose outcome is unknown is never answered as refused: the
// partition is owned anew, which keeps out what is still on its way, and the
// aggregate is read again and compared. A record that does not fit what was
// read before stops the partition.
package owner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Catalogs gives definitions: those in force, and any by digest.
type Catalogs interface {
	Current() *workflows.Catalog
	ByDigest(digest string) (*workflows.Catalog, error)
}

// Relay carries out what records say. Begin is called before a record is
// appended; the ticket is given back stored or dropped.
type Relay interface {
	Begin() Ticket
}

// Ticket stands for a record that may be on its way into the journal.
type Ticket interface {
	Stored(seq uint64, r *record.Record)
	Drop()
}

// Observer is told of every state as it is stored or read at the start. It
// must not block and must not change the state.
type Observer func(e Entry)

// Entry is an aggregate after a record. State is *run.State,
// *env.Environment, *env.Event, *env.Key or *env.Schedule; it is nil in what is
// read at a start unless Summary says that it is needed.
type Entry struct {
	Aggregate, ID string
	V             int64
	T             int64 // logical time of the record
	Seq           uint64
	Summary       record.Summary
	State         any
}

// Options configure an Owner.
type Options struct {
	Journal  journal.Journal
	Catalogs Catalogs
	Relay    Relay
	Observe  Observer                                    // may be nil
	Running  func(environment string) *record.Deployment // what is deployed, as far as known; may be nil
	Full     func() error                                // why the store takes no more, as far as known; may be nil
	Queued   func(pool, kind string)                     // told at the start of every task that waits for a worker; may be nil
	Instance string                                      // name of this engine, in its records
	Beat     time.Duration
	BeatOut  time.Duration
	Log      *slog.Logger
	Wall     func() time.Time // time.Now when nil
}

// Owner owns all partitions. Make it with New, Start it once.
type Owner struct {
	o     Options
	clock *clock
	due   *deadlines
	beats *beats
	ears  *ears

	mu      sync.Mutex
	lanes   map[key]*lane
	sending map[string]bool     // ids of messages to other aggregates that are under way
	settle  map[int]*sync.Mutex // by partition: one finds out at a time
	stopped map[int]error       // partitions that were stopped, and why
	closed  bool
	work    sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelCauseFunc
	applied atomic.Uint64
	token   []byte
}

type key struct{ agg, id string }

// New makes an Owner that does nothing yet.
func New(o Options) *Owner {
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ow := &Owner{o: o, lanes: map[key]*lane{}, sending: map[string]bool{}, stopped: map[int]error{}, settle: map[int]*sync.Mutex{},
		due: newDeadlines(), beats: newBeats(), ears: newEars(), clock: newClock(o.Wall, o.Log)}
	ow.ctx, ow.cancel = context.WithCancelCause(context.Background())
	// what stands in our owner records, so that we know them from those of an
	// engine of the same name
	ow.token = []byte(o.Instance + " " + rand.Text())
	return ow
}

// Applied counts the records that this owner has stored.
func (o *Owner) Applied() uint64 { return o.applied.Load() }

// Fatal ends when the owner cannot go on, with the cause.
func (o *Owner) Fatal() <-chan struct{} { return o.ctx.Done() }

// Cause says why the owner stopped.
func (o *Owner) Cause() error { return context.Cause(o.ctx) }

// ErrStopped is the answer's cause for a partition that was stopped.
var ErrStopped = errors.New("the partition is stopped")

// Do gives an aggregate a command and answers when its record is stored, or
// nothing is to be stored. A busy answer means: nothing was decided, repeat.
func (o *Owner) Do(ctx context.Context, agg, id string, in record.Input) events.Answer {
	reply := make(chan events.Answer, 1)
	if !o.submit(key{agg, id}, &job{in: in, reply: func(a events.Answer) { reply <- a }}) {
		return busy("the engine is stopping")
	}
	select {
	case a := <-reply:
		return a
	case <-ctx.Done():
		return busy("no answer in time; repeat with the same id")
	}
}

func busy(reason string) events.Answer {
	return events.Answer{Status: events.StatusBusy, Reason: reason, RetryAfter: 250}
}

// State gives an aggregate as it is after its last stored record; nil when
// there is none. The state must not be changed.
func (o *Owner) State(ctx context.Context, agg, id string) (state any, v int64, err error) {
	type loaded struct {
		state any
		v     int64
		err   error
	}
	reply := make(chan loaded, 1)
	ok := o.submit(key{agg, id}, &job{look: func(s any, v int64, err error) { reply <- loaded{s, v, err} }})
	if !ok {
		return nil, 0, errors.New("the engine is stopping")
	}
	select {
	case l := <-reply:
		return l.state, l.v, l.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// Heartbeat takes a worker's sign of life and tells it what to do.
func (o *Owner) Heartbeat(ctx context.Context, hb events.HeartbeatRequest) events.Answer {
	// The sign of life counts at once; what to answer may have to wait for the
	// run's lane, and a worker is not lost because we are slow.
	o.beats.seen(hb.Task, hb.Worker, hb.Progress)
	state, _, err := o.State(ctx, record.Run, hb.Run)
	if err != nil {
		return busy(err.Error())
	}
	s, ok := state.(*run.State)
	if !ok || s == nil {
		return events.Answer{Status: events.StatusApplied, Verdict: events.Stale}
	}
	return events.Answer{Status: events.StatusApplied, Verdict: s.Verdict(hb.Task, hb.Worker)}
}

// Progress is the last line that a worker sent about a task.
func (o *Owner) Progress(task string) string { return o.beats.progress(task) }

// Now is logical time in milliseconds.
func (o *Owner) Now() int64 { return o.clock.now() }

// definitions finds what a run is decided by: prev is nil for a start.
func (o *Owner) definitions(prev *run.State, in record.Input) (run.Definitions, error) {
	now := o.o.Catalogs.Current()
	pinned, name := now, ""
	if prev != nil {
		name = prev.Workflow
		if prev.Catalog != now.Digest {
			var err error
			if pinned, err = o.o.Catalogs.ByDigest(prev.Catalog); err != nil {
				return run.Definitions{}, fmt.Errorf("the definitions that the run was started with: %w", err)
			}
		}
	} else if in.Start != nil {
		name = in.Start.Workflow
		if pin := in.Start.Catalog; pin != "" && pin != now.Digest { // a child run has its parent's definitions
			var err error
			if pinned, err = o.o.Catalogs.ByDigest(pin); err != nil {
				return run.Definitions{}, fmt.Errorf("the definitions that the run is to be started with: %w", err)
			}
		}
	}
	wf := pinned.Workflows[name]
	if wf == nil {
		return run.Definitions{}, &unknownWorkflow{name}
	}
	return run.Definitions{Workflow: wf, Kinds: pinned.Kinds, Now: now}, nil
}

type unknownWorkflow struct{ name string }

func (e *unknownWorkflow) Error() string {
	return fmt.Sprintf("there is no workflow %q; penstock definitions lists those that there are", e.name)
}

// Close stops taking commands and waits for those under way, until ctx ends.
func (o *Owner) Close(ctx context.Context) {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel(errors.New("the engine is stopping"))
	done := make(chan struct{})
	go func() { o.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
