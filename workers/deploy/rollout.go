package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// UndoTime is how long an undo may take beyond the release's own health
// timeout and drain time.
const UndoTime = time.Minute

// Rollout is one release on its way to a target. A Strategy works through
// it, so that what it did can be undone.
type Rollout struct {
	Target
	Reporter
	Release Release

	undo      []step // of what was done, in order
	committed bool
}

type step struct {
	what string
	do   func(context.Context) error
}

// Undo registers how to take back what the strategy is about to do. It comes
// first, because an effect may be there although its call returned an error.
func (r *Rollout) Undo(what string, do func(context.Context) error) {
	r.undo = append(r.undo, step{what, do})
}

// Commit passes the point of no return: the group is the live release, and
// nothing before is undone any more.
func (r *Rollout) Commit(ctx context.Context, g Group) error {
	if err := r.Target.Commit(ctx, g); err != nil {
		return err
	}
	r.committed, r.undo = true, nil
	return nil
}

// Run takes release to target by the strategy; see the package's promise.
// Outputs of success are those of the kind but "url" and "durationMs", which
// the driver adds.
func Run(ctx context.Context, s Strategy, target Target, release Release, to Reporter) events.Result {
	previous, _, err := target.Current(ctx)
	r := &Rollout{Target: target, Reporter: to, Release: release}
	if err == nil {
		err = r.prepare(ctx, s)
	}
	if r.committed {
		if err != nil { // the release is live: what is left is to clear away, and is no failure of it
			to.Note("clearing away after the deployment: " + err.Error())
		}
		return succeeded(release, previous.Release.Artifact, release.Settings.Instances)
	}
	if err == nil {
		err = errors.New("the strategy ended without making the release live") // unreachable unless a strategy is wrong
	}
	return r.fail(ctx, err)
}

func (r *Rollout) prepare(ctx context.Context, s Strategy) error {
	r.Undo("forget the prepared release", func(ctx context.Context) error { return r.Forgo(ctx, r.Release) })
	if err := r.Prepare(ctx, r.Release); err != nil {
		return err
	}
	return s.Apply(ctx, r)
}

// fail undoes everything and says what happened.
func (r *Rollout) fail(ctx context.Context, err error) events.Result {
	result := failed(err)
	if ctx.Err() != nil {
		result = workers.Interrupted(ctx)
	}
	r.Progress(result.Error.Message)
	if undoErr := r.undoAll(ctx); undoErr != nil {
		return events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "undo_failed",
			Message: fmt.Sprintf("%s; and taking it back did not work: %v; look at the environment before the next deployment", result.Error.Message, undoErr)}}
	}
	result.Facts = map[string]any{FactUndone: true}
	return result
}

// failed is the result for err.
func failed(err error) events.Result {
	if f, ok := errors.AsType[*Failure](err); ok {
		return workers.Fail(f.Code, f.Message, f.Retryable)
	}
	return workers.Fail("deploy_failed", err.Error(), true)
}

// undoAll takes the steps back, the last first. It goes on after an error,
// to leave as little as possible.
func (r *Rollout) undoAll(ctx context.Context) error {
	limit := UndoTime + time.Duration(r.Release.Settings.HealthTimeout+r.Release.Settings.Drain)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var errs []error
	for i := len(r.undo) - 1; i >= 0; i-- {
		if err := r.undo[i].do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.undo[i].what, err))
		}
	}
	r.undo = nil
	return errors.Join(errs...)
}
