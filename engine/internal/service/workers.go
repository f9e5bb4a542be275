package service

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

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

func (s *Service) attemptStart(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.StartRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	return s.attempt(ctx, who, req.Run, record.InAttemptStart, &record.Attempt{Task: req.Task, Worker: req.Worker}), nil
}

func (s *Service) attemptFinish(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.FinishRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	return s.attempt(ctx, who, req.Run, record.InAttemptFinish, &record.Attempt{Task: req.Task, Worker: req.Worker, Result: &req.Result}), nil
}

func (s *Service) attemptHeartbeat(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.HeartbeatRequest
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	req.Worker = qualified(who, req.Worker)
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
func (s *Service) attempt(ctx context.Context, who Principal, run, kind string, a *record.Attempt) answered {
	a.Worker = qualified(who, a.Worker)
	return answered{s.o.Owner.Do(ctx, record.Run, run, record.Input{ID: kind + ":" + a.Task + ":" + a.Worker, Kind: kind,
		By: "worker:" + a.Worker, Via: who.Via, Attempt: a})}
}

func qualified(who Principal, worker string) string { return who.Name + "/" + worker }

func (s *Service) workerHello(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.Hello
	if err := s.readWorker(who, body, &req); err != nil {
		return nil, err
	}
	s.prepare(ctx, who.Pool, req.Kinds)
	req.Worker = qualified(who, req.Worker)
	s.workers.hello(who.Pool, req)
	info := s.info()
	info.Workers = nil
	return info, nil
}

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
	mu   sync.Mutex
	seen map[string]events.WorkerInfo
	at   map[string]time.Time
}

func newWorkerList() *workerList {
	return &workerList{seen: map[string]events.WorkerInfo{}, at: map[string]time.Time{}}
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

// Workers gives the workers that are alive.
func (s *Service) Workers() []events.WorkerInfo { return s.workers.live() }
