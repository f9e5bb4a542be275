package owner

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
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

// maxWaiting is how many commands may be under way in all partitions together.
const maxWaiting = 32768

// job is a command to an aggregate, or a look at it.
type job struct {
	in    record.Input
	reply func(events.Answer)
	look  func(state any, v int64, err error)
}

// refuse answers a job that is not done.
func (j *job) refuse(err error) {
	if j.look != nil {
		j.look(nil, 0, err)
		return
	}
	j.reply(refused(err))
}

// lane is the queue of one aggregate. Its queue and running are guarded by
// the partition's mu; the rest belongs to the goroutine that runs it.
type lane struct {
	queue   []*job
	running bool
	used    time.Time
	place   *list.Element // among those that rest; belongs to resident

	subject string // of its records
	loaded  bool
	state   any // *run.State, *env.Environment, *env.Event, *env.Key, *env.Schedule; nil when there is none
	v       int64
	head    string // hash of the last record
	size    int    // of the last record, in bytes
}

// submit queues a job; the error says why not.
func (p *partition) submit(k key, j *job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != nil {
		return p.why
	}
	if p.closing != nil {
		return p.closing
	}
	l := p.lanes[k]
	if l == nil {
		l = &lane{subject: events.LogSubject(k.agg, k.id)}
		p.lanes[k] = l
	}
	if len(l.queue) >= maxQueue {
		return errCrowded
	}
	if p.o.waiting.Add(1) > maxWaiting {
		p.o.waiting.Add(-1)
		return errStorm
	}
	l.queue = append(l.queue, j)
	if !l.running {
		l.running = true
		p.lanesUp.Go(func() { p.run(k, l) })
	}
	return nil
}

// run works a lane's queue off.
func (p *partition) run(k key, l *lane) {
	for {
		p.mu.Lock()
		if len(l.queue) == 0 {
			l.running, l.used = false, time.Now()
			if idle(l.state) {
				delete(p.lanes, k)
				p.o.resident.gone(l)
			} else {
				p.o.resident.rests(p, k, l)
			}
			p.mu.Unlock()
			return
		}
		j, why := l.queue[0], p.why
		l.queue = l.queue[1:]
		p.mu.Unlock()
		if why != nil {
			j.refuse(why)
		} else {
			p.one(k, l, j)
		}
		p.o.waiting.Add(-1)
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
func (p *partition) one(k key, l *lane, j *job) {
	err := p.load(k, l)
	switch {
	case err != nil:
		if !errors.Is(err, ErrStopped) && !errors.Is(err, ErrNotOwner) && !errors.Is(err, errUnreadable) {
			p.o.o.Log.Error("an aggregate cannot be read", "aggregate", k.agg, "id", k.id, "error", err)
		}
		j.refuse(err)
	case j.look != nil:
		j.look(l.state, l.v, nil)
	default:
		j.reply(p.decide(k, l, j.in))
	}
}

// decide lets the core decide, stores the record and carries it out.
func (p *partition) decide(k key, l *lane, in record.Input) events.Answer {
	for {
		r, next, answer, err := p.step(k, l, in)
		if poison := new(panicked); errors.As(err, &poison) && in.Kind == record.InEvent && in.Bad == "" {
			// it must not keep the events after it from being read
			in.Event, in.Bad = nil, err.Error()
			continue
		}
		if err != nil {
			return refused(err)
		}
		if r == nil {
			if in.Kind == record.InTimer { // the deadline was taken from the heap, and another one may stand
				if s, ok := l.state.(summarized); ok {
					p.follow(k, s.Summary(), l.state)
				}
			}
			return answer
		}
		stored, err := r.Encode()
		if err != nil {
			return events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()}
		}
		at, err := p.append(k, l, r, stored)
		switch {
		case err == nil:
			l.state, l.v, l.head, l.size = next, r.V, at.Hash, len(stored)
			p.stored(k, l, at.Seq, r)
			answer.Record = r.V
			p.o.trace("record carried out within the engine", k, r.V)
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
			return p.notStored(err)
		}
	}
}

// notStored is the answer when a record could not be stored.
func (p *partition) notStored(err error) events.Answer {
	switch {
	case errors.Is(err, errTaken):
		p.o.lost(p, err)
	case errors.Is(err, journal.ErrFull):
		err = p.o.full(err)
	case errors.Is(err, journal.ErrTooLarge):
		err = fmt.Errorf("the command is too large to be recorded: %w", err)
	}
	return refused(err)
}

// full says for people why nothing was stored.
func (o *Owner) full(err error) error {
	if o.o.Full != nil {
		if why := o.o.Full(); why != nil {
			return &fullError{why}
		}
	}
	return &fullError{err}
}

// fullError says for people that nothing was stored.
type fullError struct{ why error }

func (e *fullError) Error() string {
	return "the store takes no more, and nothing was stored: " + e.why.Error()
}
func (e *fullError) Unwrap() error { return journal.ErrFull }

// panicked is a command that the core cannot take.
type panicked struct{ what string }

func (e *panicked) Error() string { return e.what }

// step asks the core. r is nil when there is nothing to store. A command that
// the core cannot take must stop nobody else: its panic is an error.
func (p *partition) step(k key, l *lane, in record.Input) (r *record.Record, next any, answer events.Answer, err error) {
	defer func() {
		if x := recover(); x != nil {
			p.o.o.Log.Error("the core cannot take a command", "aggregate", k.agg, "id", k.id, "input", in.Kind, "panic", x, "stack", string(debug.Stack()))
			r, next, err = nil, nil, &panicked{fmt.Sprintf("the engine cannot take %s for %s %s: %v", in.Kind, k.agg, k.id, x)}
		}
	}()
	o, now := p.o, p.now()
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
func (p *partition) append(k key, l *lane, r *record.Record, stored []byte) (Mark, error) {
	o := p.o
	w := &write{subject: l.subject, stored: stored, hash: record.Hash(stored), v: l.v, head: l.head}
	ticket := o.o.Relay.Begin(p.vp)
	w.fence, _ = o.o.Journal.Fence(p.vp)
	type outcome struct {
		seq uint64
		err error
	}
	done := make(chan outcome, 1)
	o.trace("record goes to the journal", k, r.V)
	o.o.Journal.Append(p.vp, w.subject, stored, func(seq uint64, err error) { done <- outcome{seq, err} })
	out := <-done
	switch {
	case errors.Is(out.err, journal.ErrUnknown):
		out.seq, out.err = p.findOut(w)
	case errors.Is(out.err, journal.ErrFenced):
		out.err = p.fenced()
	}
	if errors.Is(out.err, errUnsettled) {
		l.loaded = false // whatever is stored is read before anything else is decided
		ticket.Leave()
		return Mark{}, out.err
	}
	if out.err != nil {
		ticket.Drop()
		return Mark{}, out.err
	}
	o.applied.Add(1)
	o.trace("record stored", k, r.V)
	at := Mark{out.seq, w.hash}
	ticket.Stored(at, r)
	return at, nil
}

// jittered is d, give or take a quarter: who waits for the same thing does
// not come back at the same time.
func jittered(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// apart is jittered by who waits and for how long, without chance: a simulation
// can be repeated.
func apart(d time.Duration, who string) time.Duration {
	h := fnv.New64a()
	fmt.Fprint(h, who, d)
	return d*3/4 + time.Duration(h.Sum64()%uint64(d/2+1))
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

// load reads an aggregate's last record, unless it is there already.
func (p *partition) load(k key, l *lane) error {
	if l.loaded {
		return nil
	}
	e, err := p.o.o.Journal.Last(p.ctx, l.subject)
	switch {
	case errors.Is(err, journal.ErrNotFound) && l.v == 0:
		l.loaded = true
		return nil
	case errors.Is(err, journal.ErrNotFound):
		return p.broken(k, fmt.Errorf("there is no record, and version %d was read before", l.v))
	case err != nil:
		if why := p.refusing(); why != nil { // the reading was ended
			return why
		}
		return fmt.Errorf("it cannot be read now: %w", err)
	}
	if slices.Contains(p.skip, e.Seq) {
		return fmt.Errorf("%s %s: %w", k.agg, k.id, errUnreadable)
	}
	r, state, err := decode(e.Data)
	if err == nil {
		err = fits(r.Aggregate, r.ID, r.V, r.Prev, l.subject)
	}
	if err == nil {
		err = l.follows(r, record.Hash(e.Data))
	}
	if err != nil {
		return p.broken(k, err)
	}
	l.loaded, l.state, l.v, l.head, l.size = true, state, r.V, record.Hash(e.Data), len(e.Data)
	return nil
}

// broken stops the partition: an aggregate's record is unreadable, or not
// what it was.
func (p *partition) broken(k key, err error) error {
	p.stop(fmt.Errorf("%s %s: %w", k.agg, k.id, err))
	return p.refusing()
}

// follows compares the last record with what is remembered of the aggregate.
// Nobody else writes here, so it is the remembered one, or the one record
// after it whose outcome was unknown.
func (l *lane) follows(r *record.Record, hash string) error {
	switch {
	case r.V < l.v:
		return fmt.Errorf("the last record has version %d, and %d was read before", r.V, l.v)
	case l.v > 0 && r.V == l.v && hash != l.head:
		return fmt.Errorf("version %d is another record than it was", r.V)
	case l.v > 0 && r.V == l.v+1 && r.Prev != l.head:
		return fmt.Errorf("version %d does not follow the record that was version %d", r.V, l.v)
	case l.v > 0 && r.V > l.v+1:
		return fmt.Errorf("the last record has version %d, and nothing was stored after %d", r.V, l.v+1)
	}
	return nil
}

// fits compares a record with the subject on which it lies, and with the rule
// that each names the one before it.
func fits(agg, id string, v int64, prev, subject string) error {
	if events.LogSubject(agg, id) != subject {
		return fmt.Errorf("it is the record of %s %s", agg, id)
	}
	if v < 1 || (v == 1) != (prev == "") {
		return fmt.Errorf("it has version %d and names the record %q as the one before it", v, prev)
	}
	return nil
}

// errUnknownAggregate is a record that a newer version has written.
var errUnknownAggregate = errors.New("record of an unknown aggregate")

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
		err = fmt.Errorf("%w %q; run the newer version", errUnknownAggregate, r.Aggregate)
	}
	return r, state, err
}
