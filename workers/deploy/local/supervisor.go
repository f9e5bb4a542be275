package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// defaultTimeout bounds a deployment for which the task gives no limit.
const defaultTimeout = 30 * time.Minute

// Why a supervisor ends a deployment by itself.
var (
	errSuperseded = errors.New("a newer grant of the environment has arrived")
	errShutdown   = errors.New("the environment's supervisor is shutting down")
)

var errStaleFence = errors.New("the environment has seen a newer grant than this one")

// supervisor is what owns an environment: the router, the instances, and the
// deployments, which are carried out here, one at a time, whatever becomes of
// the worker that asked for them.
type supervisor struct {
	dir     string
	log     *slog.Logger
	router  *router
	spawner spawner
	turn    chan struct{} // holds a token; who has taken it works on the environment

	ctx    context.Context // ends when the supervisor shuts down
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // deployments and the restoring

	mu          sync.Mutex // guards what follows
	state       state      // as it is on disk
	deployments map[string]*deployment
	groups      map[deploy.Group]*group
	live        *group
	lastGroup   int
	closed      bool // nothing is accepted any more
	restoring   bool
	used        time.Time // when somebody last asked for something
}

func newSupervisor(dir string, st state, log *slog.Logger) *supervisor {
	s := &supervisor{dir: dir, log: log, router: newRouter(log), spawner: newSpawner(), turn: make(chan struct{}, 1),
		state: st, deployments: map[string]*deployment{}, groups: map[deploy.Group]*group{}, used: time.Now()}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.turn <- struct{}{}
	return s
}

// update changes the state on disk, then in memory. The caller holds mu.
func (s *supervisor) update(change func(*state)) error {
	next := s.state
	change(&next)
	if err := next.save(s.dir); err != nil {
		return fmt.Errorf("the state of the environment cannot be saved: %w", err)
	}
	s.state = next
	return nil
}

// restore brings back what was live when the supervisor before this one
// ended, and settles the deployments that it was working on.
func (s *supervisor) restore() {
	<-s.turn
	s.mu.Lock()
	s.restoring = true
	s.mu.Unlock()
	s.work.Go(func() {
		defer func() { s.turn <- struct{}{} }()
		err := s.restart()
		if err != nil {
			s.log.Error("the live release cannot be restored", "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.restoring = false
		if s.ctx.Err() != nil {
			return // shut down in the middle: the next supervisor restores, and settles
		}
		for _, p := range s.state.Pending {
			s.settleLocked(p.Attempt, s.afterCrash(p, err))
		}
	})
}

// restart starts the live release. One that does not become healthy gets its
// traffic all the same, and is started again until it does.
func (s *supervisor) restart() error {
	s.mu.Lock()
	live, port, chosen := s.state.Live, s.state.Port, s.state.Chosen
	s.mu.Unlock()
	if live == nil {
		return nil
	}
	door, err := s.router.open(port)
	if err != nil && chosen {
		if door, err = s.router.open(0); err == nil {
			s.log.Warn("port of the router was taken by somebody else, another one was chosen", "port", port, "now", door)
			s.mu.Lock()
			err = s.update(func(st *state) { st.Port = door })
			s.mu.Unlock()
		}
	}
	if err != nil {
		return err
	}
	t := &target{s: s, to: logReporter{s.log}, door: door}
	id, err := t.Start(s.ctx, live.Release)
	if err != nil {
		return err
	}
	health := t.Healthy(s.ctx, id)
	return errors.Join(health, t.Weights(s.ctx, map[deploy.Group]int{id: 100}), t.Commit(s.ctx, id))
}

// afterCrash is the result of a deployment that was going on when the
// supervisor ended. The live release is either still the old one, so nothing
// of the deployment is left, or it is the deployment's own, so it succeeded.
func (s *supervisor) afterCrash(p pending, restored error) events.Result {
	live := s.state.Live
	switch {
	case restored != nil:
		return events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "supervisor_lost",
			Message: fmt.Sprintf("the environment's supervisor ended in the middle, and what was live could not be brought back: %v", restored)}}
	case live != nil && live.Release.Attempt == p.Attempt:
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"artifact": live.Release.Artifact, "previous": live.Previous,
			"instances": live.Release.Settings.Instances, "url": s.url(), "durationMs": live.Since.Sub(p.Accepted).Milliseconds()}}
	}
	if p.Removes && live == nil {
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"artifact": "", "previous": "",
			"instances": 0, "url": s.url(), "durationMs": time.Since(p.Accepted).Milliseconds()}}
	}
	return undone(workers.Fail("supervisor_lost", "the environment's supervisor ended in the middle; what was live before is live again", true))
}

func undone(r events.Result) events.Result {
	r.Facts = map[string]any{deploy.FactUndone: true}
	return r
}

// submit takes a deployment on. An attempt that is known already is not taken
// again. refused is the result of one that was not taken.
func (s *supervisor) submit(r deploy.Request) (refused *events.Result, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	if s.knownLocked(r.Attempt) {
		return nil, nil
	}
	if s.closed {
		return nil, errShutdown
	}
	if r.Fence.Before(s.state.Fence) {
		return new(undone(workers.Fail("stale_fence", fmt.Sprintf("environment %q: grant %d.%d is older than %d.%d, which it has seen; nothing was done",
			r.Environment, r.Fence.Grant, r.Fence.Version, s.state.Fence.Grant, s.state.Fence.Version), false))), nil
	}
	for _, d := range s.deployments {
		if d.finished() == nil && !d.request.Fence.Before(r.Fence) {
			return new(undone(workers.Fail("busy", fmt.Sprintf("environment %q: attempt %s is working on it under the same grant", r.Environment, d.request.Attempt), true))), nil
		}
	}
	if err := s.update(func(st *state) {
		st.Environment, st.Fence = r.Environment, r.Fence
		st.Pending = append(slices.Clone(st.Pending), pending{r.Attempt, time.Now().UTC(), r.Removes()})
	}); err != nil {
		return nil, err
	}
	for _, d := range s.deployments {
		d.cancel(errSuperseded) // all older; a finished one does not notice
	}
	d := newDeployment(s.ctx, r)
	s.deployments[r.Attempt] = d
	s.work.Go(func() { s.carryOut(d) })
	return nil, nil
}

// knownLocked makes sure that a known attempt can be followed.
func (s *supervisor) knownLocked(attempt string) bool {
	if s.deployments[attempt] != nil {
		return true
	}
	if r, ok := s.state.result(attempt); ok {
		d := newDeployment(s.ctx, deploy.Request{Attempt: attempt})
		d.finish(r)
		s.deployments[attempt] = d
		return true
	}
	if slices.ContainsFunc(s.state.Pending, func(p pending) bool { return p.Attempt == attempt }) {
		s.deployments[attempt] = newDeployment(s.ctx, deploy.Request{Attempt: attempt, Fence: s.state.Fence}) // restore will finish it
		return true
	}
	return false
}

// settle makes sure that an attempt has a result in the end: one that never
// arrived is recorded as not started, and is refused when it comes late.
func (s *supervisor) settle(attempt string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	if s.knownLocked(attempt) {
		return nil
	}
	r := undone(workers.Fail("not_started", "the attempt never reached the environment; if it comes late it is refused", true))
	if err := s.update(func(st *state) { st.settle(attempt, r) }); err != nil {
		return err
	}
	s.knownLocked(attempt)
	return nil
}

// stop cancels an attempt. An attempt that never arrived is settled.
func (s *supervisor) stop(attempt string, fence events.Fence, cause error) error {
	if err := s.settle(attempt); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fence.Before(s.state.Fence) {
		return errStaleFence
	}
	s.deployments[attempt].cancel(cause)
	return nil
}

func (s *supervisor) deployment(attempt string) *deployment {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	if s.knownLocked(attempt) {
		return s.deployments[attempt]
	}
	return nil
}

// carryOut does a deployment when its turn has come.
func (s *supervisor) carryOut(d *deployment) {
	limit := time.Duration(d.request.Timeout)
	if limit <= 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(d.ctx, limit, workers.ErrTimeout)
	defer cancel()
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
	}
	began := time.Now()
	var result events.Result
	if ctx.Err() != nil {
		result = undone(workers.Interrupted(ctx))
	} else {
		result = s.rollout(ctx, d)
	}
	if result.Outcome == events.Succeeded {
		result.Outputs["url"], result.Outputs["durationMs"] = s.url(), time.Since(began).Milliseconds()
	}
	result = explain(result, context.Cause(ctx))
	s.log.Info("deployment ended", "attempt", d.request.Attempt, "outcome", result.Outcome, "artifact", d.request.Artifact)
	s.mu.Lock()
	s.settleLocked(d.request.Attempt, result)
	s.mu.Unlock()
	s.clean()
}

// rollout takes the release to the environment by its strategy.
func (s *supervisor) rollout(ctx context.Context, d *deployment) events.Result {
	release, conf, err := plan(d.request)
	if err != nil {
		return undone(workers.Fail("invalid_target", err.Error(), false))
	}
	strategy := deploy.Strategies()[d.request.Strategy]
	if strategy == nil {
		return undone(workers.Fail("invalid_input", fmt.Sprintf("strategy %q is not known to this supervisor", d.request.Strategy), false))
	}
	to := &target{s: s, to: d, port: conf.Port}
	if d.request.Undo != "" {
		return deploy.Undo(ctx, strategy, to, release, d.request.Undo, d)
	}
	return deploy.Run(ctx, strategy, to, release, d)
}

// explain gives the result of a deployment that the supervisor itself ended its own code.
func explain(r events.Result, cause error) events.Result {
	if r.Outcome != events.Cancelled {
		return r
	}
	switch {
	case errors.Is(cause, errSuperseded):
		r.Outcome, r.Error = events.Failed, &events.TaskError{Code: "stale_fence", Message: cause.Error() + "; what was done is undone"}
	case errors.Is(cause, errShutdown):
		r.Outcome, r.Error = events.Failed, &events.TaskError{Code: "supervisor_stopped", Message: cause.Error() + "; what was done is undone", Retryable: true}
	}
	return r
}

// settleLocked records the result of an attempt and gives it to those who
// wait for it. When it cannot be saved it is in memory, and on disk with the
// next change; after a crash in between the live release tells the same.
func (s *supervisor) settleLocked(attempt string, r events.Result) {
	if err := s.update(func(st *state) { st.settle(attempt, r) }); err != nil {
		s.log.Error("the result of an attempt is not saved", "attempt", attempt, "error", err)
		s.state.settle(attempt, r)
	}
	if d := s.deployments[attempt]; d != nil {
		d.finish(r)
	}
	s.used = time.Now()
}

// clean removes files that nobody needs any more.
func (s *supervisor) clean() {
	s.mu.Lock()
	var inUse []string
	if l := s.state.Live; l != nil {
		inUse = append(inUse, l.Release.Artifact, l.Previous)
	}
	var logs []string
	for _, g := range s.groups {
		inUse = append(inUse, g.release.Artifact)
		logs = append(logs, g.logs()...)
	}
	for id, d := range s.deployments { // results stay in the state
		if d.finished() != nil && d.age() > time.Hour {
			delete(s.deployments, id)
		} else {
			inUse = append(inUse, d.request.Artifact)
		}
	}
	s.mu.Unlock()
	pruneArtifacts(s.dir, inUse...)
	pruneLogs(s.dir, logs)
}

// url is where the environment is reached. The caller may hold mu.
func (s *supervisor) url() string { return "http://" + loopback(s.state.Port) }

// close ends everything that runs. When forget is set the environment has no
// live release afterwards; otherwise the next supervisor starts it again.
func (s *supervisor) close(forget bool) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(errShutdown)
	s.work.Wait()
	s.mu.Lock()
	var err error
	if forget && s.state.Live != nil {
		err = s.update(func(st *state) { st.Live = nil })
	}
	groups := slices.Collect(maps.Values(s.groups))
	clear(s.groups)
	s.live = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, port := range s.router.ports() {
		wg.Go(func() { s.router.shut(ctx, port) })
	}
	wg.Wait()
	for _, g := range groups {
		wg.Go(g.stop)
	}
	wg.Wait()
	os.RemoveAll(filepath.Join(s.dir, workDir))
	return err
}

// idle reports whether nothing is left to do here: nothing live, nothing going
// on, and nobody has asked for a while.
func (s *supervisor) idle(patience time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Live == nil && len(s.state.Pending) == 0 && len(s.groups) == 0 && time.Since(s.used) > patience
}
