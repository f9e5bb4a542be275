// Package owner runs aggregates: of the partitions that it holds it is the
// only writer.
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
// Nothing of that is kept anywhere but in the records: when a partition is
// taken, all of it is read back from them.
//
// Partitions come and go. Take stores owner records, so that nothing of
// whoever held the partitions before gets in any more, reads the last record
// of each of their aggregates, compares them with the checkpoints, and only
// then answers commands for them. Release finishes what waits and gives them
// back. An engine that was taken over without knowing, because it stood still,
// notices at its first write, or when it notices that it stood still: it
// drops the partition, reports it (Options.Lost) and lives on. Nothing that it
// still believed is left: a partition that is taken again begins anew. Who
// holds which partition is decided elsewhere; here it is only made safe.
//
// An append whose outcome is unknown is never answered as refused: the
// partition is owned anew, unless another engine owns it by then, which keeps
// out what is still on its way, and the aggregate is read again and compared.
//
// A partition whose record is not what it was, or cannot be read, is stopped:
// a record that does not fit what was read before, a checkpoint ahead of the
// records or with another hash, a hole in the versions, a form that this
// version does not know. Its commands are answered with the reason; the
// other partitions go on.
package owner

import (
	"context"
	"crypto/rand"
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
// appended; the ticket is given back stored, dropped or left.
type Relay interface {
	// Take begins with partitions: what was not carried out before is carried
	// out. It tells which of them have to be stopped, and why.
	Take(ctx context.Context, taken map[int]Taken) (bad map[int]error, err error)
	// Release carries out what is left of partitions, until ctx ends, stores
	// their checkpoints and forgets them.
	Release(ctx context.Context, vps []int) error
	// Halt notes in the checkpoint of a partition why it has to stay stopped.
	Halt(vp int, why string)
	// Drop forgets a partition that is another engine's.
	Drop(vp int)
	Begin(vp int) Ticket
	// Newest is the newest record of a partition that is known as stored.
	Newest(vp int) Mark
}

// Taken is what the owner has found in a partition that it takes.
type Taken struct {
	Newest     Mark // its newest record
	Checkpoint Checkpoint
	// Anew says that a loss was confirmed: what is there counts, whatever the
	// checkpoint knows, which is replaced before Take answers.
	Anew bool
}

// Ticket stands for a record that may be on its way into the journal.
type Ticket interface {
	Stored(at Mark, r *record.Record)
	// Ahead says what may be stored, when there is time to prepare what it
	// leads to. It may be called at once with Stored.
	Ahead(r *record.Record)
	Drop()
	// Leave says that it will never be known here whether it is stored.
	Leave()
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
	Prev          string // hash of the record before it
	T             int64  // logical time of the record
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
	Absent   func(agg, id string) bool                   // that an aggregate has no record in the journal is certain; may be nil. It is asked of what is owned here
	Serving  func(pool, kind string) (n int, known bool) // how many live workers take tasks of a kind; may be nil
	Queued   func(pool, kind string)                     // told at the start of every task that waits for a worker; may be nil
	Instance string                                      // name of this engine, in its records
	Beat     time.Duration
	BeatOut  time.Duration
	Resident int64 // bytes of records whose states are kept in memory while nothing is done with them; 256 MB when 0
	// Send has a command carried out by whoever owns its partition; Do of
	// this owner when nil.
	Send func(ctx context.Context, agg, id string, in record.Input) events.Answer
	// Missing is asked, of partitions that are being taken, which have lost
	// records as far as is known apart from them, and why they must not go on.
	// An error keeps them all from being taken. It may be nil.
	Missing func(ctx context.Context, vps []int) (map[int]error, error)
	// Lost is told of a partition that another engine has taken over. Stopped
	// is told of one that was stopped. They must not block; both may be nil.
	Lost, Stopped func(vp int, err error)
	// ClockHeld is told why timers are held, and an empty reason when they go
	// on. It must not block; it may be nil.
	ClockHeld func(why string)
	Log       *slog.Logger
	Wall      func() time.Time     // time.Now when nil
	Mono      func() time.Duration // goes at an even pace; the monotonic reading of Wall when nil
	Asleep    func() time.Duration // how long the machine was suspended since its start; asked of the system when nil
}

// Owner owns partitions. Make it with New; it owns none until Take.
type Owner struct {
	o        Options
	clock    *clock
	resident *resident
	parts    [events.Partitions]atomic.Pointer[partition] // those that are held

	mu       sync.Mutex                    // guards changes of parts, and
	resuming map[int]error                 // stopped ones for which a new epoch begins, and why they are stopped
	changing [events.Partitions]*partition // those that are being taken or given back
	before   [events.Partitions]*partition // the latest holding of each

	closed   atomic.Bool
	watching sync.Once
	work     sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
	applied  atomic.Uint64
	waiting  atomic.Int64 // commands under way
	token    []byte
}

type key struct{ agg, id string }

// New makes an Owner that does nothing yet.
func New(o Options) *Owner {
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Mono == nil {
		first := o.Wall()
		o.Mono = func() time.Duration { return o.Wall().Sub(first) }
	}
	if o.Asleep == nil {
		o.Asleep = suspended
	}
	if o.ClockHeld == nil {
		o.ClockHeld = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ow := &Owner{o: o, clock: newClock(o), resident: newResident(o)}
	if ow.o.Send == nil {
		ow.o.Send = ow.Do
	}
	ow.ctx, ow.cancel = context.WithCancel(context.Background())
	// what stands in our owner records, so that we know them from those of an
	// engine of the same name
	ow.token = []byte(o.Instance + " " + rand.Text())
	return ow
}

// Applied counts the records that this owner has stored.
func (o *Owner) Applied() uint64 { return o.applied.Load() }

// Do gives an aggregate a command and answers when its record is stored, or
// nothing is to be stored. A busy answer means: nothing was decided, repeat.
func (o *Owner) Do(ctx context.Context, agg, id string, in record.Input) events.Answer {
	reply := make(chan events.Answer, 1)
	o.Go(agg, id, in, func(a events.Answer) { reply <- a })
	select {
	case a := <-reply:
		return a
	case <-ctx.Done():
		return busy("no answer in time; repeat with the same id")
	}
}

// Go is Do without waiting: reply is called once with the answer, perhaps
// before Go returns. It must not block.
func (o *Owner) Go(agg, id string, in record.Input, reply func(events.Answer)) {
	p, err := o.of(agg, id)
	if err == nil {
		err = p.submit(key{agg, id}, &job{in: in, reply: reply})
	}
	if err != nil {
		reply(refused(err))
	}
}

func busy(reason string) events.Answer {
	return events.Answer{Status: events.StatusBusy, Reason: reason, RetryAfter: 250}
}

// State gives an aggregate as it is after its last stored record; nil when
// there is none. The state must not be changed. The error is ErrNotOwner when
// the partition is not held, and ErrStopped when it is stopped.
func (o *Owner) State(ctx context.Context, agg, id string) (state any, v int64, err error) {
	type loaded struct {
		state any
		v     int64
		err   error
	}
	p, err := o.of(agg, id)
	if err != nil {
		return nil, 0, err
	}
	reply := make(chan loaded, 1)
	err = p.submit(key{agg, id}, &job{look: func(s any, v int64, err error) { reply <- loaded{s, v, err} }})
	if err != nil {
		return nil, 0, err
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
	p, err := o.of(record.Run, hb.Run)
	if err != nil {
		return refused(err)
	}
	// The sign of life counts at once; what to answer may have to wait for the
	// run's lane, and a worker is not lost because we are slow.
	p.beats.seen(hb.Task, hb.Worker, hb.Progress)
	state, _, err := o.State(ctx, record.Run, hb.Run)
	if err != nil {
		return refused(err)
	}
	s, ok := state.(*run.State)
	if !ok || s == nil {
		return events.Answer{Status: events.StatusApplied, Verdict: events.Stale}
	}
	return events.Answer{Status: events.StatusApplied, Verdict: s.Verdict(hb.Task, hb.Worker)}
}

// Progress is the last line that a worker sent about a task of a run.
func (o *Owner) Progress(run, task string) string {
	p, err := o.of(record.Run, run)
	if err != nil {
		return ""
	}
	return p.beats.progress(task)
}

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
	o.closed.Store(true)
	o.mu.Unlock()
	for p := range o.held {
		p.close(errClosing)
	}
	o.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range o.held {
			<-p.idle
			p.sends.Wait()
		}
		o.work.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
