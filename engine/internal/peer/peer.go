// Package peer reaches the owner of any partition: the one in this process, or
// that of another engine over the bus.
//
// An engine answers on "penstock.vp.<n>" for each partition that it holds, in
// the account ENGINE, which nobody but engines is in and from which only the
// API is exported. What is asked there is asked by an engine, which has looked
// at who asked it.
//
// While a partition moves from one engine to another nobody may answer for it,
// or somebody who does not hold it any more. Then the question is asked again,
// with growing and random pauses, until the caller's context ends or ten
// seconds have passed, and is answered busy in the end. Asking again is safe:
// a command that was carried out already is recognised by its id. Every other
// answer, busy ones included, is the owner's and is passed on.
//
// Owners answer only while their lease is valid, before and after they looked:
// one that stood still and does not know yet that others have taken over says
// so instead of answering from what it remembers. What is recorded is true,
// whoever owns the partition by then.
package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus/funnel"
)

// Owner is what owns partitions in this process; *owner.Owner is one.
type Owner interface {
	Do(ctx context.Context, agg, id string, in record.Input) events.Answer
	Go(agg, id string, in record.Input, reply func(events.Answer))
	State(ctx context.Context, agg, id string) (state any, v int64, err error)
	Heartbeat(ctx context.Context, hb events.HeartbeatRequest) events.Answer
	Progress(run, task string) string
	Now() int64
	Owns(vp int) bool
}

// Options configure Peers.
type Options struct {
	Conn     *nats.Conn // of the account ENGINE; nil when there are no other engines
	Instance string
	Owner    Owner
	Code     func(error) string // of an answer, for an error of Owner's State
	Valid    func() bool        // whether what Owner holds is still ours; always when nil
	Log      *slog.Logger
}

// Peers reaches owners. It has the methods of an owner, for all partitions.
type Peers struct {
	o       Options
	ctx     context.Context
	cancel  context.CancelFunc
	places  chan struct{}
	answers *funnel.Funnel[nats.Msg]
	work    sync.WaitGroup

	mu   sync.Mutex
	subs map[int]*nats.Subscription // by partition
	all  []*nats.Subscription       // of what is told to all engines
}

// How long an owner is sought.
const (
	patience = 10 * time.Second
	oneTry   = 3 * time.Second
	first    = 20 * time.Millisecond
	longest  = 640 * time.Millisecond
)

// maxPlaces is how many questions of others are answered at once.
const maxPlaces = 8192

// New makes Peers that answer nobody yet.
func New(o Options) *Peers {
	if o.Valid == nil {
		o.Valid = func() bool { return true }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Peers{o: o, places: make(chan struct{}, maxPlaces), subs: map[int]*nats.Subscription{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.answers = funnel.New(p.send)
	return p
}

// Subject is where the owner of a partition answers other engines.
func Subject(vp int) string { return "penstock.vp." + strconv.Itoa(vp) }

// here reports whether this process owns a partition.
func (p *Peers) here(vp int) bool { return p.o.Owner.Owns(vp) && p.o.Valid() }

// stands reports whether an answer of the owner in this process counts.
func (p *Peers) stands(a events.Answer) bool {
	return p.o.Conn == nil || a.Code != events.CodeNotOwner && (a.Record > 0 || p.o.Valid())
}

// Now is the logical time of this engine, in milliseconds.
func (p *Peers) Now() int64 { return p.o.Owner.Now() }

// Do has a command carried out by the owner of an aggregate. A busy answer
// means: it is not known to be carried out, repeat it with the same id.
func (p *Peers) Do(ctx context.Context, agg, id string, in record.Input) events.Answer {
	if p.o.Conn == nil || p.here(events.Partition(agg, id)) {
		if a := p.o.Owner.Do(ctx, agg, id, in); p.stands(a) {
			return a
		}
	}
	return p.ask(ctx, &request{Op: opDo, Aggregate: agg, ID: id, Input: &in}).Answer
}

// Go is Do without waiting: reply is called once with the answer, perhaps
// before Go returns. It must not block.
func (p *Peers) Go(ctx context.Context, agg, id string, in record.Input, reply func(events.Answer)) {
	elsewhere := func() { reply(p.ask(ctx, &request{Op: opDo, Aggregate: agg, ID: id, Input: &in}).Answer) }
	if p.o.Conn != nil && !p.here(events.Partition(agg, id)) {
		go elsewhere()
		return
	}
	p.o.Owner.Go(agg, id, in, func(a events.Answer) {
		if !p.stands(a) {
			go elsewhere()
			return
		}
		reply(a)
	})
}

// State gives an aggregate as it is after its last stored record; nil when
// there is none. The state must not be changed.
func (p *Peers) State(ctx context.Context, agg, id string) (state any, v int64, err error) {
	if p.o.Conn == nil || p.here(events.Partition(agg, id)) {
		state, v, err = p.o.Owner.State(ctx, agg, id)
		if err == nil && p.stands(events.Answer{}) {
			return state, v, nil
		}
		if err != nil {
			if a := p.unanswered(err); p.stands(a) {
				return nil, 0, &Unanswered{a}
			}
		}
	}
	r := p.ask(ctx, &request{Op: opState, Aggregate: agg, ID: id})
	if r.Answer.Status != events.StatusApplied {
		return nil, 0, &Unanswered{r.Answer}
	}
	state, err = loadState(agg, r.State)
	return state, r.V, err
}

// Unanswered is the error where an owner could not say what is asked.
type Unanswered struct{ Answer events.Answer }

func (e *Unanswered) Error() string { return e.Answer.Reason }

// Heartbeat takes a worker's sign of life to the owner of its run.
func (p *Peers) Heartbeat(ctx context.Context, hb events.HeartbeatRequest) events.Answer {
	if p.o.Conn == nil || p.here(events.Partition(record.Run, hb.Run)) {
		if a := p.o.Owner.Heartbeat(ctx, hb); p.stands(a) {
			return a
		}
	}
	return p.ask(ctx, &request{Op: opHeartbeat, Aggregate: record.Run, ID: hb.Run, Beat: &hb}).Answer
}

// Progress gives the last lines that workers sent about tasks of a run, as far
// as they can be had: nothing depends on them.
func (p *Peers) Progress(ctx context.Context, run string, tasks ...string) map[string]string {
	if len(tasks) == 0 {
		return nil
	}
	if p.o.Conn == nil || p.here(events.Partition(record.Run, run)) {
		return p.progress(run, tasks)
	}
	return p.ask(ctx, &request{Op: opProgress, Aggregate: record.Run, ID: run, Tasks: tasks}).Progress
}

func (p *Peers) progress(run string, tasks []string) map[string]string {
	lines := make(map[string]string, len(tasks))
	for _, task := range tasks {
		lines[task] = p.o.Owner.Progress(run, task)
	}
	return lines
}

// ask asks the owner of a partition, wherever it is, until it answers.
func (p *Peers) ask(ctx context.Context, r *request) *response {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := r.encode(p.o.Conn.MaxPayload())
	if err != nil {
		return &response{Answer: events.Answer{Status: events.StatusError, Code: events.CodeInvalid, Reason: err.Error()}}
	}
	for wait := first; ; wait = min(2*wait, longest) {
		got, why := p.once(ctx, r, body)
		if why == nil {
			return got
		}
		// Half of it at random: callers who were cut off together do not come
		// back together.
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return &response{Answer: events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner, RetryAfter: 500,
				Reason: fmt.Sprintf("no engine answers for partition %d at the moment (%v); repeat with the same id", r.partition(), why)}}
		}
	}
}

// once asks once. The error says why it is worth asking again.
func (p *Peers) once(ctx context.Context, r *request, body []byte) (*response, error) {
	if p.here(r.partition()) {
		return answeredBy(p.serve(ctx, r))
	}
	ctx, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	m, err := p.o.Conn.RequestWithContext(ctx, Subject(r.partition()), body)
	if err != nil {
		return nil, err
	}
	got, err := decodeResponse(m.Data)
	if wrong := new(versionError); errors.As(err, &wrong) {
		return &response{Answer: events.Answer{Status: events.StatusBusy, Code: events.CodeInternal, Reason: err.Error(), RetryAfter: 5000}}, nil
	}
	if err != nil {
		return nil, err
	}
	return answeredBy(got)
}

func answeredBy(r *response) (*response, error) {
	if r.Answer.Code == events.CodeNotOwner {
		return nil, errors.New(r.Answer.Reason)
	}
	return r, nil
}

// serve answers a question with the owner in this process.
func (p *Peers) serve(ctx context.Context, r *request) *response {
	out := &response{Format: formatVersion, Answer: events.Answer{Status: events.StatusApplied}}
	switch r.Op {
	case opDo:
		out.Answer = p.o.Owner.Do(ctx, r.Aggregate, r.ID, *r.Input)
	case opHeartbeat:
		out.Answer = p.o.Owner.Heartbeat(ctx, *r.Beat)
	case opProgress:
		out.Progress = p.progress(r.ID, r.Tasks)
	case opState:
		state, v, err := p.o.Owner.State(ctx, r.Aggregate, r.ID)
		if err == nil && state != nil {
			out.V = v
			out.State, err = json.Marshal(state)
		}
		if err != nil {
			out.Answer = p.unanswered(err)
		}
	}
	if !p.stands(out.Answer) {
		return gone()
	}
	return out
}

// unanswered says why a state could not be read.
func (p *Peers) unanswered(err error) events.Answer {
	code := ""
	if p.o.Code != nil {
		code = p.o.Code(err)
	}
	return refusal(events.StatusBusy, code, err.Error()).Answer
}

// Serve begins to answer other engines for partitions.
func (p *Peers) Serve(vps ...int) error {
	if p.o.Conn == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vp := range vps {
		if p.subs[vp] != nil {
			continue
		}
		sub, err := p.o.Conn.Subscribe(Subject(vp), p.take)
		if err != nil {
			return fmt.Errorf("answer other engines for partition %d: %w", vp, err)
		}
		p.subs[vp] = sub
	}
	return nil
}

// Quit ends that; what has come is still answered.
func (p *Peers) Quit(vps ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vp := range vps {
		if sub := p.subs[vp]; sub != nil {
			p.unsubscribe(sub)
			delete(p.subs, vp)
		}
	}
}

func (p *Peers) unsubscribe(sub *nats.Subscription) {
	if err := sub.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		p.o.Log.Warn("an engine's subscription did not end", "subject", sub.Subject, "error", err)
	}
}

// Close ends all answering and waits for what is under way.
func (p *Peers) Close() {
	p.mu.Lock()
	for vp, sub := range p.subs {
		p.unsubscribe(sub)
		delete(p.subs, vp)
	}
	for _, sub := range p.all {
		p.unsubscribe(sub)
	}
	p.all = nil
	p.mu.Unlock()
	p.cancel()
	p.work.Wait()
	p.answers.Wait()
}

// take answers a question of another engine; it does not wait.
func (p *Peers) take(m *nats.Msg) {
	if m.Reply == "" || p.ctx.Err() != nil {
		return
	}
	select {
	case p.places <- struct{}{}:
	default:
		p.reply(m, refusal(events.StatusBusy, "", "the engine answers as many questions of others as it can"))
		return
	}
	p.work.Go(func() {
		defer func() { <-p.places }()
		p.reply(m, p.respond(m))
	})
}

func (p *Peers) respond(m *nats.Msg) *response {
	r, err := decodeRequest(m.Data)
	switch {
	case err != nil:
		p.o.Log.Error("a question of another engine is refused", "subject", m.Subject, "reason", err)
		return refusal(events.StatusBusy, events.CodeInternal, err.Error())
	case m.Subject != Subject(r.partition()):
		return refusal(events.StatusError, events.CodeInternal, fmt.Sprintf("%s %s is not in the partition of %s", r.Aggregate, r.ID, m.Subject))
	case !p.here(r.partition()):
		return gone()
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return p.serve(ctx, r)
}

// gone is the answer of an engine that does not hold the partition.
func gone() *response {
	return refusal(events.StatusBusy, events.CodeNotOwner, "the engine that was asked does not hold the partition any more")
}

func refusal(status, code, reason string) *response {
	return &response{Format: formatVersion, Answer: events.Answer{Status: status, Code: code, Reason: reason, RetryAfter: 500}}
}

func (p *Peers) reply(m *nats.Msg, r *response) {
	data, err := json.Marshal(r)
	if most := p.o.Conn.MaxPayload(); err == nil && int64(len(data)) > most {
		err = fmt.Errorf("the answer has %d bytes, and the NATS server passes on %d at most", len(data), most)
	}
	if err != nil {
		data, _ = json.Marshal(refusal(events.StatusError, events.CodeInternal, err.Error())) // texts always encode
	}
	p.answers.Add(nats.Msg{Subject: m.Reply, Data: data})
}

func (p *Peers) send(answers []nats.Msg) {
	for i := range answers {
		if err := p.o.Conn.PublishMsg(&answers[i]); err != nil {
			p.o.Log.Warn("another engine was not answered", "error", err)
		}
	}
}
