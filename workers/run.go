package workers

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Run does tasks until ctx ends and then drains: it fetches nothing more,
// lets running tasks go on for Options.DrainTimeout, ends the contexts of
// those that still run with ErrStopping, and reports every result. It returns
// nil when everything was reported. A bus or an engine that is away is waited
// for; it is no reason to return. Run is called once.
func (w *Worker) Run(ctx context.Context) error {
	dir, err := openDir(w.Dir)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer dir.close()
	w.dir = dir.path
	defer w.crew.dismiss()
	// Tasks outlive ctx: they end when they are done, or with this one.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(ErrStopping)
	report, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()

	w.Log.Info("worker started", "pool", w.Pool, "kinds", w.served, "concurrency", w.Concurrency)
	var loops sync.WaitGroup
	present, leave := context.WithCancel(context.WithoutCancel(ctx))
	var hello sync.WaitGroup
	hello.Go(func() { w.sayHello(present) })
	for _, kind := range w.served {
		loops.Go(func() { w.serve(ctx, work, report, kind) })
	}
	<-ctx.Done()
	end := time.Now().Add(max(0, w.DrainTimeout))
	loops.Wait()
	err = w.drain(time.Until(end), stop, abandon)
	leave()
	hello.Wait()
	w.bye()
	return err
}

func (w *Worker) drain(patience time.Duration, stop context.CancelCauseFunc, abandon context.CancelFunc) error {
	if n := len(w.slots); n > 0 {
		w.Log.Info("worker is stopping; it waits for its running tasks", "tasks", n, "atMost", patience)
	}
	if !waitFor(&w.handlers, patience) {
		w.Log.Warn("running tasks are ended, because the worker is stopping", "tasks", len(w.slots))
		stop(ErrStopping)
		if !waitFor(&w.handlers, w.times.stuck) {
			return fmt.Errorf("worker: these tasks do not end although they were told to: %s", strings.Join(w.inHand(), ", "))
		}
	}
	if !waitFor(&w.reports, w.times.last) {
		unreported := w.inHand()
		abandon()
		w.reports.Wait()
		return fmt.Errorf("worker: the engine did not answer the results of %s", strings.Join(unreported, ", "))
	}
	w.Log.Info("worker stopped")
	return nil
}

func waitFor(g *sync.WaitGroup, atMost time.Duration) bool {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	}
	select {
	case <-done: // both were ready
		return true
	default:
		return false
	}
}

// serve fetches the tasks of one kind until ctx ends.
func (w *Worker) serve(ctx, work, report context.Context, kind string) {
	failures := 0
	for w.waitForSlot(ctx) {
		msgs, err := w.fetch(ctx, kind)
		if err != nil {
			if failures++; failures == 1 {
				w.Log.Warn("no tasks can be fetched; trying on", "kind", kind, "error", err)
			}
			sleep(ctx, backoff(failures))
			continue
		}
		if failures > 0 {
			w.Log.Info("tasks can be fetched again", "kind", kind)
		}
		failures = 0
		w.take(ctx, work, report, kind, msgs)
	}
}

// fetch asks for as many tasks as there are free slots, shared among the
// kinds. It is not ended by ctx: a task that was on its way then would be
// nobody's until its message is given to another worker.
func (w *Worker) fetch(ctx context.Context, kind string) ([]Message, error) {
	n := max(1, (cap(w.slots)-len(w.slots))/len(w.Kinds))
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.times.fetch+w.times.try)
	defer cancel()
	return w.Conn.Fetch(limited, w.Pool, kind, n, w.times.fetch)
}

// take begins with the messages that find a slot in time, and gives the others
// back: the kinds wait for tasks side by side, so more may come than fit.
func (w *Worker) take(ctx, work, report context.Context, kind string, msgs []Message) {
	patience, cancel := context.WithTimeout(ctx, w.times.patience)
	defer cancel()
	for _, m := range msgs {
		select {
		case <-patience.Done(): // first: nothing new is begun while draining
			w.giveBack(m, 0)
			continue
		default:
		}
		select {
		case w.slots <- struct{}{}:
			w.handlers.Add(1)
			w.reports.Add(1)
			w.crew.do(func() {
				defer w.reports.Done()
				w.attempt(work, report, kind, m)
			})
			if len(msgs) == 1 {
				runtime.Gosched() // it begins before another one is asked for
			}
		case <-patience.Done():
			w.giveBack(m, 0)
		}
	}
}

// waitForSlot returns true when a slot is free and false when ctx has ended.
func (w *Worker) waitForSlot(ctx context.Context) bool {
	select {
	case w.slots <- struct{}{}:
		<-w.slots
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (w *Worker) giveBack(m Message, delay time.Duration) {
	if err := m.Nak(delay); err != nil {
		w.Log.Warn("task was not given back; somebody gets it after 30 s", "task", m.Task().ID, "error", err)
	}
}

// sayHello tells the engine what this worker offers, now and then every 10 s.
func (w *Worker) sayHello(ctx context.Context) {
	known := true
	for ctx.Err() == nil {
		answer, err := w.request(ctx, events.VerbWorkerHello, w.hello())
		if err == nil && answer.Status != events.StatusApplied && answer.Status != events.StatusAlready {
			err = errors.New(strings.TrimSpace(answer.Status + " " + answer.Code + " " + answer.Reason))
		}
		if (err == nil) != known && ctx.Err() == nil {
			if known = err == nil; known {
				w.Log.Info("the engine answers again")
			} else {
				w.Log.Warn("the engine does not take this worker's hello; trying on", "error", err)
			}
		}
		sleep(ctx, w.times.hello)
	}
}

func (w *Worker) hello() events.Hello {
	return events.Hello{Worker: w.Name, Kinds: w.served, Host: w.host, Version: w.Version, Busy: len(w.slots), Slots: cap(w.slots)}
}

func (w *Worker) bye() {
	h := w.hello()
	h.Bye = true
	if _, err := w.request(context.Background(), events.VerbWorkerHello, h); err != nil {
		w.Log.Debug("the engine did not hear that this worker has stopped", "error", err)
	}
}

// hold says that this process has the task of a in hand; it gives the attempt
// that had it already, also one whose result was answered not long ago.
func (w *Worker) hold(a *attempt) *attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other := w.active[a.task.ID]; other != nil {
		return other
	}
	if w.past[a.task.ID] {
		return past
	}
	w.active[a.task.ID] = a
	return nil
}

// past stands for every attempt whose result was answered.
var past = func() *attempt { a := &attempt{}; a.settled.Store(true); return a }()

// letGo says that this process has the task of a in hand no more. One that is
// settled is remembered for a while: its message may come again, after the
// server was killed for example, and is not done again.
func (w *Worker) letGo(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.active, a.task.ID)
	if !a.settled.Load() {
		return
	}
	oldest := &w.latest[w.next%len(w.latest)]
	delete(w.past, *oldest)
	*oldest = a.task.ID
	w.past[a.task.ID] = true
	w.next++
}

func (w *Worker) inHand() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id := range w.active {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
