package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// target is what tasks have their effects on. As targets should, it refuses
// tasks whose fence is older than the newest that it has seen.
type target struct {
	mu      sync.Mutex
	highest map[string]events.Fence // by environment
	done    map[string]int          // effects by task
	states  map[string]int          // effects by run and path of the state
	refused int
	at      map[string][]working // by environment: who works on it now
	overlap []overlap
}

// overlap is that two runs work on an environment at a time.
type overlap struct{ environment, what string }

// working is an attempt that has effects.
type working struct {
	run, task string
	fence     events.Fence
}

// begin begins an effect; false when the target refuses it.
func (g *target) begin(t *events.Task) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.Environment != nil {
		name := t.Environment.Name
		if t.Fence.Before(g.highest[name]) {
			g.refused++
			return false
		}
		g.highest[name] = t.Fence
		for _, other := range g.at[name] {
			if other.run != t.Run && !other.fence.Before(t.Fence) {
				g.overlap = append(g.overlap, overlap{name, fmt.Sprintf("%s of %s and %s of %s both work on %s", t.ID, t.Run, other.task, other.run, name)})
			}
		}
		if g.at == nil {
			g.at = map[string][]working{}
		}
		g.at[name] = append(g.at[name], working{t.Run, t.ID, t.Fence})
	}
	g.done[t.ID]++
	if g.states == nil {
		g.states = map[string]int{}
	}
	g.states[t.Run+"/"+t.State]++
	return true
}

func (g *target) end(t *events.Task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.Environment == nil {
		return
	}
	name := t.Environment.Name
	g.at[name] = slices.DeleteFunc(g.at[name], func(x working) bool { return x.task == t.ID })
}

func (g *target) effects(run, state string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.states[run+"/"+state]
}

// worker takes tasks of all kinds, as the SDK does.
type worker struct {
	w      *world
	name   string
	id     string
	client *fakejs.Client
	ctx    context.Context
	cancel context.CancelFunc
	dead   bool

	mu   sync.Mutex
	mine map[string]bool // tasks that it has in hand
}

// employ starts a worker.
func (w *world) employ(name string) {
	w.lives[name]++
	wk := &worker{w: w, name: name, id: fmt.Sprintf("default/%s-%d", name, w.lives[name]), mine: map[string]bool{}}
	wk.client = w.server.Client(fmt.Sprintf("%s-%d", name, w.lives[name]))
	wk.ctx, wk.cancel = context.WithCancel(w.ctx)
	w.workers = append(slices.DeleteFunc(w.workers, func(x *worker) bool { return x.name == name }), wk)
	for _, kind := range kinds {
		w.work.Go(func() { wk.serve(kind) })
	}
}

// die ends a worker as kill -9 does.
func (wk *worker) die() {
	wk.dead = true
	wk.cancel()
	wk.client.Close()
}

func (wk *worker) serve(kind string) {
	for pause(wk.ctx, 100*time.Millisecond) {
		cons, err := wk.client.Consumer(wk.ctx, events.StreamTasks, events.TaskConsumer(events.DefaultPool, kind))
		for err == nil && wk.ctx.Err() == nil {
			var batch jetstream.MessageBatch
			if batch, err = cons.Fetch(2, jetstream.FetchMaxWait(3*time.Second)); err != nil {
				break
			}
			for m := range batch.Messages() {
				wk.w.work.Go(func() { wk.take(m) })
			}
			err = batch.Error()
		}
	}
}

// take does one task.
func (wk *worker) take(m jetstream.Msg) {
	var task events.Task
	if err := json.Unmarshal(m.Data(), &task); err != nil {
		wk.w.book.fail("a task cannot be read: %v", err)
		return
	}
	wk.mu.Lock()
	again := wk.mine[task.ID]
	wk.mine[task.ID] = true
	wk.mu.Unlock()
	if again {
		return // it is in hand; acknowledged when that is over, or when it comes again
	}
	defer func() {
		wk.mu.Lock()
		defer wk.mu.Unlock()
		delete(wk.mine, task.ID)
	}()
	meta, err := m.Metadata()
	if err != nil {
		wk.w.book.fail("a task has no metadata: %v", err)
		return
	}
	if !task.AtOnce && !wk.grant(m, &task) {
		return
	}
	ctx, cancel := context.WithCancel(wk.ctx)
	defer cancel()
	begun := make(chan struct{})
	go func() { // a start is told only when the work takes a while
		defer close(begun)
		if task.AtOnce && pause(ctx, events.BeginWithin) && !wk.grant(m, &task) {
			cancel()
		}
	}()
	result, silent := wk.do(ctx, &task, fmt.Sprint(task.ID, " ", meta.NumDelivered))
	if !silent {
		_, err := wk.tell(record.InAttemptFinish, &task, &result)
		if err == nil && task.AtOnce {
			_ = m.Ack() // as above; it may have been acknowledged at the start
		}
	}
	cancel()
	<-begun
}

// grant asks to start a task and acknowledges it.
func (wk *worker) grant(m jetstream.Msg, task *events.Task) bool {
	a, err := wk.tell(record.InAttemptStart, task, nil)
	if err != nil {
		return false
	}
	_ = m.Ack() // as above
	wk.w.book.granted(task, wk.id, a)
	return a.Status == events.StatusApplied || a.Status == events.StatusAlready
}

func (wk *worker) tell(kind string, task *events.Task, result *events.Result) (events.Answer, error) {
	return wk.w.ask(wk.ctx, wk.id, record.Run, task.Run, record.Input{ID: kind + ":" + task.ID + ":" + wk.id, Kind: kind, By: "worker:" + wk.id,
		Attempt: &record.Attempt{Task: task.ID, Worker: wk.id, Pool: events.DefaultPool, Result: result}})
}

// luck is a number that depends on the seed and on what it is about, and not
// on what happened before.
func (w *world) luck(about string, n int) int {
	h := fnv.New64a()
	fmt.Fprint(h, w.plan.seed, about)
	return int(h.Sum64()>>33) % n
}

// do works on a task, with a luck that depends on what about says: it gives signs of life, obeys what is answered, and has
// its effect only while somebody answers.
func (wk *worker) do(ctx context.Context, task *events.Task, about string) (result events.Result, silent bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel(nil)
	beats.Go(func() { wk.live(ctx, cancel, task) })
	took := time.Duration(200+wk.w.luck("takes "+about, 8000)) * time.Millisecond
	if !pause(ctx, took/2) {
		return wk.stopped(ctx)
	}
	if task.Mode == events.ModeStatus {
		if wk.w.target.effects(task.Run, task.State) > 0 {
			return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"n": 1.0}}, false
		}
		return events.Result{Outcome: events.Inconclusive}, false
	}
	if !wk.w.target.begin(task) {
		return events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: "stale", Message: "the target refuses an older fence"}}, false
	}
	defer wk.w.target.end(task)
	if !pause(ctx, took/2) {
		return wk.stopped(ctx)
	}
	luck := wk.w.luck("comes out "+about, 20)
	switch {
	case wk.w.calm.Load() || luck > 3:
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"n": 1.0}}, false
	case luck == 0: // it says so long after it was given up
		pause(wk.ctx, 2*beatOut)
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"n": 1.0}}, false
	case luck == 1: // it forgets to say
		return events.Result{}, true
	}
	return events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: "broken", Message: "it broke", Retryable: luck == 2}}, false
}

var (
	errCancelled = fmt.Errorf("the task was cancelled")
	errStale     = fmt.Errorf("the attempt is not current any more")
	errSilence   = fmt.Errorf("no engine answers")
)

func (wk *worker) stopped(ctx context.Context) (events.Result, bool) {
	switch context.Cause(ctx) {
	case errCancelled:
		return events.Result{Outcome: events.Cancelled, Error: &events.TaskError{Code: "cancelled", Message: "the task was cancelled"}}, false
	case errSilence:
		return events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: "no_answer", Message: "no engine answered", Retryable: true}}, false
	}
	return events.Result{}, true
}

// live gives signs of life.
func (wk *worker) live(ctx context.Context, stop context.CancelCauseFunc, task *events.Task) {
	every, limit := time.Duration(task.Heartbeat)*time.Millisecond, time.Duration(task.HeartbeatTimeout)*time.Millisecond
	for last := time.Now(); pause(ctx, every); {
		one, cancel := context.WithTimeout(ctx, every)
		a, _ := wk.w.once(one, wk.id, record.Run, task.Run, record.Input{ID: "beat:" + task.ID, Kind: heartbeat, Attempt: &record.Attempt{Task: task.ID, Worker: wk.id}})
		cancel()
		switch {
		case a.Verdict == events.Cancel:
			stop(errCancelled)
		case a.Verdict == events.Stale:
			stop(errStale)
		case a.Final():
			last = time.Now()
		case time.Since(last) > limit/2:
			stop(errSilence)
		}
	}
}

// command has a person give a command, again and again until it is answered.
func (w *world) command(who, agg, id string, in record.Input) {
	in.By, in.Via = who, "sim"
	w.mu.Lock()
	w.asked[in.ID] = asked{who, agg, id, in}
	w.mu.Unlock()
	w.work.Go(func() {
		a, err := w.ask(w.ctx, who, agg, id, in)
		if err == nil {
			w.book.told(agg, id, in, a)
		}
	})
}

func (w *world) begin(who, id, workflow string) {
	w.book.expects(id)
	w.command(who, record.Run, id, record.Input{ID: "start-" + id, Kind: record.InStart, Admin: true, Start: &record.Start{Run: id, Workflow: workflow}})
}

// publish has an event published, again and again until it is acknowledged.
func (w *world) publish(id, typ string) {
	e := events.Event{ID: id, Source: "acme", Type: typ, Time: epoch, Data: []byte(`{}`)}
	body, err := e.MarshalJSON()
	w.must(err)
	c := w.server.Client("acme-" + id)
	w.book.publishes(id)
	w.work.Go(func() {
		defer c.Close()
		for {
			m := &nats.Msg{Subject: events.IngressSubject(events.DefaultTenant, "acme", id, typ), Data: body,
				Header: nats.Header{"Content-Type": {events.ContentType}, jetstream.MsgIDHeader: {events.MessageID(events.DefaultTenant, "acme", id)}}}
			if _, err := c.PublishMsg(w.ctx, m); err == nil {
				w.book.published(id)
				return
			}
			if !pause(w.ctx, time.Second) {
				return
			}
		}
	})
}
