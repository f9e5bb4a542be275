package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/wire"
)

// maxQueue is how many commands may wait for one aggregate.
const maxQueue = 1000

// job is a command to an aggregate, or a look at it.
type job struct {
	in    record.Input
	reply func(events.Answer)
	look  func(state any, v int64, err error)
}

// lane is the queue of one aggregate. Its queue and running are guarded by
// Owner.mu; the rest belongs to the goroutine that runs it.
type lane struct {
	queue   []*job
	running bool
	used    time.Time

	loaded bool
	state  any // *run.State, *env.Environment, *env.Event, *env.Key, *env.Schedule; nil when there is none
	v      int64
	head   string // hash of the last record
}

// submit queues a job; false when the owner is closing.
func (o *Owner) submit(k key, j *job) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	l := o.lanes[k]
	if l == nil {
		l = &lane{}
		o.lanes[k] = l
	}
	if len(l.queue) >= maxQueue {
		if j.look != nil {
			go j.look(nil, 0, errors.New("too many commands wait for it"))
		} else {
			go j.reply(busy("too many commands wait for it"))
		}
		return true
	}
	l.queue = append(l.queue, j)
	if !l.running {
		l.running = true
		o.work.Go(func() { o.run(k, l) })
	}
	return true
}

// run works a lane's queue off.
func (o *Owner) run(k key, l *lane) {
	for {
		o.mu.Lock()
		if len(l.queue) == 0 {
			l.running, l.used = false, time.Now()
			if idle(l.state) {
				delete(o.lanes, k)
			}
			o.mu.Unlock()
			return
		}
		j := l.queue[0]
		l.queue = l.queue[1:]
		o.mu.Unlock()
		o.one(k, l, j)
	}
}

// idle reports whether nothing more is expected of an aggregate, so that its
// state need not be kept.
func idle(state any) bool {
	switch s := state.(type) {
	case *run.State:
		return s.Idle()
	case *env.Event:
		return len(s.Messages()) == 0
	case nil:
		return true
	}
	return false
}

// one does one job.
func (o *Owner) one(k key, l *lane, j *job) {
	err := o.load(k, l)
	if j.look != nil {
		j.look(l.state, l.v, err)
		return
	}
	if err != nil {
		o.o.Log.Error("an aggregate cannot be read", "aggregate", k.agg, "id", k.id, "error", err)
		j.reply(busy("it cannot be read now: " + err.Error()))
		return
	}
	j.reply(o.decide(k, l, j.in))
}

// decide lets the core decide, stores the record and carries it out.
func (o *Owner) decide(k key, l *lane, in record.Input) events.Answer {
	if err := o.partitionError(k); err != nil {
		return busy(err.Error())
	}
	for {
		r, next, answer, err := o.step(k, l, in)
		if poison := new(panicked); errors.As(err, &poison) && in.Kind == record.InEvent && in.Bad == "" {
			// it must not keep the events after it from being read
			in.Event, in.Bad = nil, err.Error()
			continue
		}
		if err != nil {
			return refusal(err)
		}
		if r == nil {
			if in.Kind == record.InTimer { // the deadline was taken from the heap, and another one may stand
				if s, ok := l.state.(summarized); ok {
					o.follow(k, s.Summary(), l.state)
				}
			}
			return answer
		}
		stored, err := r.Encode()
		if err != nil {
			return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
		}
		seq, err := o.append(k, l, r, stored)
		switch {
		case err == nil:
			l.state, l.v, l.head = next, r.V, record.Hash(stored)
			o.stored(k, l, seq, r)
			answer.Record = r.V
			o.trace("record carried out within the engine", k, r.V)
			return answer
		case errors.Is(err, errAgain):
			continue
		case errors.Is(err, journal.ErrTooLarge) && in.Attempt != nil && in.Attempt.Result != nil && in.Attempt.Result.Outputs != nil:
			// a result that cannot be stored is a failure that can
			in.Attempt = &record.Attempt{Task: in.Attempt.Task, Worker: in.Attempt.Worker, Result: &events.Result{Outcome: events.Failed,
				Error: &events.TaskError{Code: "result_too_large", Message: "the result is larger than a record can be; put large things into an artifact"}}}
			continue
		case errors.Is(err, journal.ErrTooLarge) && in.Kind == record.InEvent && in.Bad == "":
			// an event was acknowledged: it gets a record of why it starts nothing
			in.Event, in.Bad = nil, fmt.Sprintf("the event, with the inputs of the runs that it would start, is too large to be recorded: %v", err)
			continue
		default:
			return o.notStored(k, err)
		}
	}
}

// notStored is the answer when a record could not be stored.
func (o *Owner) notStored(k key, err error) events.Answer {
	switch {
	case errors.Is(err, journal.ErrFull):
		return events.Answer{Status: events.StatusBusy, Code: events.CodeFull, Reason: o.full(err), RetryAfter: 2000}
	case errors.Is(err, journal.ErrTooLarge):
		return events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: "the command is too large to be recorded: " + err.Error()}
	case errors.Is(err, errTaken):
		o.cancel(fmt.Errorf("partition %d: %w", events.Partition(k.agg, k.id), errTaken))
	}
	return busy(err.Error())
}

// errTaken ends an owner: somebody else writes now.
var errTaken = errors.New("another engine has taken over")

// full says for people why nothing was stored.
func (o *Owner) full(err error) string {
	if o.o.Full != nil {
		if why := o.o.Full(); why != nil {
			err = why
		}
	}
	return "the store takes no more, and nothing was stored: " + err.Error()
}

// refusal is the answer when the core was not asked, or could not answer.
// What may pass is answered busy, so that nobody takes it for a decision.
func refusal(err error) events.Answer {
	if unknown := new(unknownWorkflow); errors.As(err, &unknown) {
		return events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: err.Error()}
	}
	if poison := new(panicked); errors.As(err, &poison) {
		return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
	}
	return busy(err.Error())
}

// panicked is a command that the core cannot take.
type panicked struct{ what string }

func (e *panicked) Error() string { return e.what }

// step asks the core. r is nil when there is nothing to store. A command that
// the core cannot take must stop nobody else: its panic is an error.
func (o *Owner) step(k key, l *lane, in record.Input) (r *record.Record, next any, answer events.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			o.o.Log.Error("the core cannot take a command", "aggregate", k.agg, "id", k.id, "input", in.Kind, "panic", p, "stack", string(debug.Stack()))
			r, next, err = nil, nil, &panicked{fmt.Sprintf("the engine cannot take %s for %s %s: %v", in.Kind, k.agg, k.id, p)}
		}
	}()
	now := o.clock.now()
	r = &record.Record{Aggregate: k.agg, ID: k.id, V: l.v + 1, Prev: l.head, T: now, Engine: o.o.Instance, Core: run.CoreVersion, In: in}
	var ans record.Answer
	var recorded bool
	var at int64
	switch k.agg {
	case record.Run:
		prev, _ := l.state.(*run.State)
		if prev == nil && in.Kind != record.InStart {
			return nil, nil, events.Answer{Status: events.StatusError, Code: events.CodeNotFound, Reason: "there is no run " + k.id}, nil
		}
		d, err := o.definitions(prev, in)
		if err != nil {
			return nil, nil, answer, err
		}
		if in.Start != nil && in.Start.Beat == 0 {
			r.In.Start = new(*in.Start)
			r.In.Start.Beat, r.In.Start.BeatLimit = o.o.Beat.Milliseconds(), o.o.BeatOut.Milliseconds()
		}
		if in.Start != nil && prev == nil && o.o.Running != nil {
			r.In.Start = new(*r.In.Start)
			r.In.Start.Running = o.running(d)
		}
		if prev != nil {
			r.T = max(now, prev.Now)
		}
		t := run.Step(d, prev, r.V, r.In, r.T)
		r.Catalog = d.Now.Digest
		r.Decisions, r.Events, r.Tasks = t.Decisions, t.Events, t.Tasks
		ans, recorded, at, next = t.Answer, t.Record, t.At, t.State
	case record.Environment:
		prev, _ := l.state.(*env.Environment)
		cat := o.o.Catalogs.Current()
		t := env.StepEnvironment(cat, k.id, prev, r.V, in, now)
		r.Catalog, r.Decisions, r.Events = cat.Digest, t.Decisions, t.Events
		ans, recorded, next = t.Answer, t.Record, t.State
	case record.Event:
		prev, _ := l.state.(*env.Event)
		cat := o.o.Catalogs.Current()
		if in.Kind == record.InEvent && prev == nil {
			r.In.Listening = o.ears.hearing(in.Event)
		}
		t := env.StepEvent(cat, prev, r.V, r.In, now)
		r.Catalog, r.Decisions, r.Events = cat.Digest, t.Decisions, t.Events
		ans, recorded, next = t.Answer, t.Record, t.State
	case record.Key:
		prev, _ := l.state.(*env.Key)
		t := env.StepKey(k.id, prev, in, now)
		ans, recorded, next = t.Answer, t.Record, t.State
	case record.Schedule:
		prev, _ := l.state.(*env.Schedule)
		cat := o.o.Catalogs.Current()
		t := env.StepSchedule(cat, k.id, prev, r.V, in, now)
		r.Catalog, r.Decisions, r.Events = cat.Digest, t.Decisions, t.Events
		ans, recorded, next = t.Answer, t.Record, t.State
	default:
		return nil, nil, answer, fmt.Errorf("there are no aggregates of type %q", k.agg)
	}
	answer = events.Answer{Status: ans.Status, Code: ans.Code, Reason: ans.Reason, Record: at}
	if !recorded {
		return nil, nil, answer, nil
	}
	r.Answer = ans
	r.Summary = new(next.(summarized).Summary())
	r.State, err = encode(next)
	return r, next, answer, err
}

// encode gives the JSON of a state.
func encode(state any) ([]byte, error) {
	if a, ok := state.(wire.Appender); ok {
		return a.AppendJSON(make([]byte, 0, 2048))
	}
	return json.Marshal(state)
}

// running gives what runs in the environments that a workflow deploys to.
func (o *Owner) running(d run.Definitions) map[string]record.Source {
	found := map[string]record.Source{}
	for _, name := range run.Enters(d.Workflow, d.Now) {
		if dep := o.o.Running(name); dep != nil && dep.Source.Commit != "" {
			found[name] = dep.Source
		}
	}
	return found
}

// trace tells, at the level of debugging, how far a record has come. Tests
// kill the engine at these points.
func (o *Owner) trace(what string, k key, v int64) {
	o.o.Log.LogAttrs(o.ctx, slog.LevelDebug, what, slog.String("aggregate", k.agg), slog.String("id", k.id), slog.Int64("record", v))
}

// errAgain says that the aggregate was read again and the command is to be decided anew.
var errAgain = errors.New("decide again")

// append stores a record and waits for the journal's word. Where the outcome
// is unknown it finds out. A ticket is dropped only when it is certain that
// nothing was stored: else the relay's checkpoint could pass the record.
func (o *Owner) append(k key, l *lane, r *record.Record, stored []byte) (uint64, error) {
	w := &write{vp: events.Partition(k.agg, k.id), subject: events.LogSubject(k.agg, k.id), stored: stored, v: l.v, head: l.head}
	ticket := o.o.Relay.Begin()
	w.fence, _ = o.o.Journal.Fence(w.vp)
	type outcome struct {
		seq uint64
		err error
	}
	done := make(chan outcome, 1)
	o.trace("record goes to the journal", k, r.V)
	o.o.Journal.Append(w.vp, w.subject, stored, func(seq uint64, err error) { done <- outcome{seq, err} })
	out := <-done
	switch {
	case errors.Is(out.err, journal.ErrUnknown):
		out.seq, out.err = o.findOut(w)
	case errors.Is(out.err, journal.ErrFenced):
		out.err = o.fenced(w)
	}
	if errors.Is(out.err, errUnsettled) {
		l.loaded = false // whatever is stored is read before anything else is decided
		return 0, out.err
	}
	if out.err != nil {
		ticket.Drop()
		return 0, out.err
	}
	o.applied.Add(1)
	o.trace("record stored", k, r.V)
	ticket.Stored(out.seq, r)
	return out.seq, nil
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stop stops a partition: nothing in it goes on until somebody has looked.
func (o *Owner) stop(vp int, err error) {
	o.o.Log.Error("a partition is stopped", "partition", vp, "error", err)
	if !errors.Is(err, ErrStopped) {
		err = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	o.mu.Lock()
	o.stopped[vp] = err
	o.mu.Unlock()
	o.o.Journal.Disown([]int{vp})
}

func (o *Owner) partitionError(k key) error { return o.stoppedBecause(events.Partition(k.agg, k.id)) }

// load reads an aggregate's last record, unless it is there already.
func (o *Owner) load(k key, l *lane) error {
	if l.loaded {
		return nil
	}
	e, err := o.o.Journal.Last(o.ctx, events.LogSubject(k.agg, k.id))
	if errors.Is(err, journal.ErrNotFound) && l.v == 0 {
		l.loaded = true
		return nil
	}
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		return err
	}
	var r *record.Record
	var state any
	if err == nil {
		r, state, err = decode(e.Data)
	}
	if err == nil && r.V < l.v {
		err = fmt.Errorf("the last record has version %d, and %d was read before", r.V, l.v)
	}
	if err != nil { // unreadable, or lost
		o.stop(events.Partition(k.agg, k.id), fmt.Errorf("%s %s: %w", k.agg, k.id, err))
		return err
	}
	l.loaded, l.state, l.v, l.head = true, state, r.V, record.Hash(e.Data)
	return nil
}

// decode reads a record and its state.
func decode(p []byte) (*record.Record, any, error) {
	r, err := record.Decode(p)
	if err != nil {
		return nil, nil, err
	}
	var state any
	switch r.Aggregate {
	case record.Run:
		state, err = run.Load(r.State)
	case record.Environment:
		state, err = env.LoadEnvironment(r.State)
	case record.Event:
		state, err = env.LoadEvent(r.State)
	case record.Key:
		state, err = env.LoadKey(r.State)
	case record.Schedule:
		state, err = env.LoadSchedule(r.State)
	default:
		err = fmt.Errorf("record of an unknown aggregate %q", r.Aggregate)
	}
	return r, state, err
}
