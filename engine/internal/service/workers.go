package service

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// onlyWorkers keeps people away from what workers report.
func onlyWorkers(who Principal) error {
	if who.Kind != "worker" {
		return refuse(events.CodeDenied, "only workers report on tasks, and %s is a %s", who.Name, who.Kind)
	}
	return nil
}

func (s *Service) attemptStart(_ context.Context, who Principal, body []byte) (any, error) {
	var req events.StartRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	return s.attempt(who, req.Run, record.InAttemptStart, &record.Attempt{Task: req.Task, Worker: req.Worker,
		Pool: who.Pool, Kinds: s.o.Broker.WorkerKinds(who.Name)}), nil
}

func (s *Service) attemptFinish(_ context.Context, who Principal, body []byte) (any, error) {
	var req events.FinishRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	result := &req.Result
	if len(body) > surelyFits {
		var err error
		if result, err = bounded(req.Result); err != nil {
			return nil, err
		}
	}
	return s.attempt(who, req.Run, record.InAttemptFinish, &record.Attempt{Task: req.Task, Worker: req.Worker,
		Pool: who.Pool, Kinds: s.o.Broker.WorkerKinds(who.Name), Result: result, Took: req.Took}), nil
}

// What a worker may have recorded, in bytes.
const (
	maxOutputs  = 48 << 10
	maxResult   = 256 << 10
	maxMessage  = 16 << 10
	surelyFits  = maxOutputs / 8 // bytes of a request whose result fits, however its characters are written
	maxProgress = 500
)

// bounded is a result that can be recorded: one that is too large is a failure
// that says so, where it was not one already.
func bounded(r events.Result) (*events.Result, error) {
	outputs, err := json.Marshal(r.Outputs)
	if err != nil {
		return nil, refuse(events.CodeInvalid, "the outputs of the result: %v", err)
	}
	whole, err := json.Marshal(r)
	if err != nil {
		return nil, refuse(events.CodeInvalid, "the result: %v", err)
	}
	if len(outputs) <= maxOutputs && len(whole) <= maxResult {
		return &r, nil
	}
	if r.Outcome == events.Succeeded || r.Error == nil {
		return &events.Result{Outcome: failedUnless(r.Outcome), Error: &events.TaskError{Code: "result_too_large",
			Message: fmt.Sprintf("the result has %d bytes, of which the outputs are %d, and at most %d and %d are recorded; put large things into an artifact",
				len(whole), len(outputs), maxResult, maxOutputs)}}, nil
	}
	return &events.Result{Outcome: r.Outcome, Error: &events.TaskError{Code: short(r.Error.Code, 100), Message: short(r.Error.Message, maxMessage),
		Retryable: r.Error.Retryable}}, nil
}

func failedUnless(outcome string) string {
	if outcome == events.Succeeded {
		return events.Failed
	}
	return outcome
}

// short cuts a text to n bytes at most, between two characters.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func (s *Service) attemptHeartbeat(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.HeartbeatRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	req.Worker, req.Progress = qualified(who, req.Worker), short(req.Progress, maxProgress)
	return answered{s.o.Owner.Heartbeat(ctx, req)}, nil
}

func (s *Service) readWorker(who Principal, body []byte, req any) error {
	if err := onlyWorkers(who); err != nil {
		return err
	}
	return s.read(body, req)
}

// attempt is a worker's report. The worker's name begins with its principal,
// which the server enforces, so that one cannot answer for another.
func (s *Service) attempt(who Principal, run, kind string, a *record.Attempt) later {
	a.Worker = qualified(who, a.Worker)
	in := record.Input{ID: kind + ":" + a.Task + ":" + a.Worker, Kind: kind, By: "worker:" + a.Worker, Via: who.Via, Attempt: a}
	return func(ctx context.Context, reply func(events.Answer)) { s.o.Owner.Go(ctx, record.Run, run, in, reply) }
}

func qualified(who Principal, worker string) string { return who.Name + "/" + worker }

func (s *Service) workerHello(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.Hello
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	s.prepare(ctx, who.Pool, req.Kinds)
	req.Worker = qualified(who, req.Worker)
	s.Heard(who.Pool, req)
	if s.o.Hello != nil {
		s.o.Hello(who.Pool, req)
	}
	info := s.info(ctx)
	info.Workers = nil
	return info, nil
}

// Heard notes a hello, which this engine or another one was told.
func (s *Service) Heard(pool string, h events.Hello) { s.workers.hello(pool, h) }

// prepare makes the consumers of a worker's kinds, so that it can wait for the
// first task.
func (s *Service) prepare(ctx context.Context, pool string, kinds []string) {
	for _, kind := range kinds {
		place := [2]string{pool, kind}
		if _, known := s.prepared.Load(place); known || s.o.Definitions.Current().Kinds[kind] == nil {
			continue
		}
		if err := s.o.Broker.EnsureTaskConsumer(ctx, pool, kind); err != nil {
			s.o.Log.Warn("the consumer of a task kind could not be made", "pool", pool, "kind", kind, "error", err)
			continue
		}
		s.prepared.Store(place, true)
	}
}

// workerSilence is after how long without a hello a worker counts as gone.
const workerSilence = 30 * time.Second

// workerList is who has said hello lately.
type workerList struct {
	from time.Time // when it began to listen
	mu   sync.Mutex
	seen map[string]events.WorkerInfo
	at   map[string]time.Time
}

func newWorkerList() *workerList {
	return &workerList{from: time.Now(), seen: map[string]events.WorkerInfo{}, at: map[string]time.Time{}}
}

func (l *workerList) hello(pool string, h events.Hello) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.Bye {
		delete(l.seen, h.Worker)
		delete(l.at, h.Worker)
		return
	}
	l.seen[h.Worker] = events.WorkerInfo{Hello: h, Pool: pool, SeenAt: time.Now().UTC()}
	l.at[h.Worker] = time.Now()
}

// live gives the workers that are alive, by name.
func (l *workerList) live() []events.WorkerInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []events.WorkerInfo
	for name, w := range l.seen {
		if time.Since(l.at[name]) > workerSilence {
			delete(l.seen, name)
			delete(l.at, name)
			continue
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b events.WorkerInfo) int { return strings.Compare(a.Worker, b.Worker) })
	return out
}

func (l *workerList) serving(pool, kind string) int {
	n := 0
	for _, w := range l.live() {
		if w.Pool == pool && slices.Contains(w.Kinds, kind) {
			n++
		}
	}
	return n
}

// Serving tells how many live workers take tasks of a kind in a pool. known is
// false while workers may not have said hello yet.
func (s *Service) Serving(pool, kind string) (n int, known bool) {
	n = s.workers.serving(pool, kind)
	return n, n > 0 || time.Since(s.workers.from) > workerSilence
}

// Workers gives the workers that are alive.
func (s *Service) Workers() []events.WorkerInfo { return s.workers.live() }
