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

// job is a command to an aggregate, or a look at it. reply and look are called
// once; they must not block.
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
// the partition's mu; the rest belongs to whoever runs it: one goroutine at a
// time, and none while a record is on its way into the journal.
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

// submit has a job done: at once, in the caller's goroutine, where nothing has
// to be waited for; the error says why not at all.
func (p *partition) submit(k key, j *job) error {
	l, ours, err := p.enqueue(k, j)
	switch {
	case err != nil:
		return err
	case ours && p.ready(l):
		p.run(k, l)
	case ours:
		go p.run(k, l)
	}
	return nil
}

// enqueue puts a job into the queue of its lane. ours says that the lane did
// not run, and that the caller has to run it.
func (p *partition) enqueue(k key, j *job) (l *lane, ours bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != nil {
		return nil, false, p.why
	}
	if p.closing != nil {
		return nil, false, p.closing
	}
	l = p.lanes[k]
	if l == nil {
		l = &lane{subject: events.LogSubject(k.agg, k.id)}
		p.lanes[k] = l
	}
	if len(l.queue) >= maxQueue {
		return nil, false, errCrowded
	}
	if p.o.waiting.Add(1) > maxWaiting {
		p.o.waiting.Add(-1)
		return nil, false, errStorm
	}
	l.queue = append(l.queue, j)
	if l.running {
		return l, false, nil
	}
	l.running = true
	p.lanesUp.Add(1)
	return l, true, nil
}

// ready reports whether nothing has to be read before a command is decided.
func (p *partition) ready(l *lane) bool {
	if !l.loaded {
		return false
	}
	s, ok := l.state.(*run.State)
	return !ok || s == nil || s.Catalog == p.o.o.Catalogs.Current().Digest
}

// run works a lane's queue off, up to the first record that has to be waited
// for. When that is stored, the lane runs again.
func (p *partition) run(k key, l *lane) {
	for {
		j, why := p.next(k, l)
		switch {
		case j == nil:
			return
		case why != nil:
			j.refuse(why)
		case p.one(k, l, j):
			return
		}
		p.o.waiting.Add(-1)
	}
}

// next takes the next job from a lane's queue; nil when the lane has run.
func (p *partition) next(k key, l *lane) (j *job, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over(k, l) {
		return nil, nil
	}
	j, l.queue[0] = l.queue[0], nil
	l.queue = l.queue[1:]
	return j, p.why
}

// rest ends the running of a lane unless something waits in its queue.
func (p *partition) rest(k key, l *lane) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over(k, l)
}

// over is rest with mu held.
func (p *partition) over(k key, l *lane) bool {
	if len(l.queue) > 0 {
		return false
	}
	l.queue, l.running, l.used = nil, false, time.Now()
	if idle(l.state) {
		delete(p.lanes, k)
		p.o.resident.gone(l)
	} else {
		p.o.resident.rests(p, k, l)
	}
	p.lanesUp.Done()
	return true
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

// one does one job. It reports whether a record is on its way: then whoever
// hears of that one carries on.
func (p *partition) one(k key, l *lane, j *job) (waits bool) {
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
		return p.decide(k, l, j)
	}
	return false
}

// decide lets the core decide, and has the record stored and carried out. It
// reports whether there is one that has to be waited for; the job is answered
// otherwise.
func (p *partition) decide(k key, l *lane, j *job) (waits bool) {
	r, next, answer, err := p.step(k, l, j.in)
	if poison := new(panicked); errors.As(err, &poison) && j.in.Kind == record.InEvent && j.in.Bad == "" {
		// it must not keep the events after it from being read
		j.in.Event, j.in.Bad = nil, err.Error()
		r, next, answer, err = p.step(k, l, j.in)
	}
	if err != nil {
		j.reply(refused(err))
		return false
	}
	if r == nil {
		if j.in.Kind == record.InTimer { // the deadline was taken from the heap, and another one may stand
			if s, ok := l.state.(summarized); ok {
				p.follow(k, s.Summary(), l.state)
			}
		}
		j.reply(answer)
		return false
	}
	stored, err := r.Encode()
	if err != nil {
		j.reply(events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: err.Error()})
		return false
	}
	p.append(&write{k: k, l: l, j: j, r: r, next: next, answer: answer,
		subject: l.subject, stored: stored, hash: record.Hash(stored), v: l.v, head: l.head})
	return true
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
		if prev != nil && in.Kind == record.InTimer {
			r.In.Workers = o.serving(prev.NotTaken(r.T))
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

// serving tells how many live workers take the tasks that nobody took in time.
func (o *Owner) serving(late [][2]string) map[string]int {
	if len(late) == 0 || o.o.Serving == nil {
		return nil
	}
	found := map[string]int{}
	for _, t := range late {
		if n, known := o.o.Serving(t[0], t[1]); known {
			found[t[0]+"/"+t[1]] = n
		}
	}
	return found
}

// trace tells, at the level of debugging, how far a record has come. Tests
// kill the engine at these points.
func (o *Owner) trace(what string, k key, v int64) {
	o.o.Log.LogAttrs(o.ctx, slog.LevelDebug, what, slog.String("aggregate", k.agg), slog.String("id", k.id), slog.Int64("record", v))
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
	if l.v == 0 && len(p.skip) == 0 && p.o.o.Absent != nil && p.o.o.Absent(k.agg, k.id) {
		l.loaded = true
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
