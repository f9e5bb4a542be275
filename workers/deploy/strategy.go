package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Strategy is an order of steps that takes a release to a target. Apply
// registers with r how to take each step back before it does it, and ends
// with r.Commit and then with clearing the old release away. It returns soon
// after ctx has ended; after r.Commit it no longer heeds ctx.
type Strategy interface {
	Apply(ctx context.Context, r *Rollout) error
}

// Strategies are the strategies by the name that a workflow gives.
func Strategies() map[string]Strategy {
	return map[string]Strategy{"recreate": recreate{}, "blue-green": blueGreen{}}
}

// blueGreen starts the new release (green) beside the old one (blue), moves
// all traffic at once when it is healthy, and stops the old one. Until it is
// healthy nobody notices; requests in flight end where they began.
type blueGreen struct{}

func (blueGreen) Apply(ctx context.Context, r *Rollout) error {
	blue, live, err := r.Current(ctx)
	if err != nil {
		return err
	}
	green, err := startHealthy(ctx, r, "green")
	if err != nil {
		return err
	}
	shares := map[Group]int{}
	if live {
		shares[blue.Group] = 100
	}
	r.Undo("give the traffic back", func(ctx context.Context) error { return r.Weights(ctx, shares) })
	if err := takeOver(ctx, r, green, "green"); err != nil {
		return err
	}
	if live {
		return retire(ctx, r, blue, "blue")
	}
	return nil
}

// recreate stops the old release, then starts the new one: for programs of
// which two must not run at once. Requests in between are refused.
type recreate struct{}

func (recreate) Apply(ctx context.Context, r *Rollout) error {
	old, live, err := r.Current(ctx)
	if err != nil {
		return err
	}
	if live {
		r.Undo("start the old release again", func(ctx context.Context) error { return restart(ctx, r, old) })
		if err := r.Weights(ctx, nil); err != nil {
			return err
		}
		if err := clear(ctx, r, old.Group); err != nil {
			return err
		}
		r.Progress("stopped " + short(old.Release.Artifact))
	}
	group, err := startHealthy(ctx, r, "new")
	if err != nil {
		return err
	}
	r.Undo("take the traffic away", func(ctx context.Context) error { return r.Weights(ctx, nil) })
	return takeOver(ctx, r, group, "new")
}

// startHealthy starts the release and waits for its health. name is what
// people call it in this strategy.
func startHealthy(ctx context.Context, r *Rollout, name string) (Group, error) {
	began := time.Now()
	r.Progress(fmt.Sprintf("starting %s, %s, %d instances", name, short(r.Release.Artifact), r.Release.Settings.Instances))
	g, err := r.Start(ctx, r.Release)
	if err != nil {
		return "", err
	}
	r.Undo("stop "+name, func(ctx context.Context) error { return clear(ctx, r, g) })
	if err := r.Healthy(ctx, g); err != nil {
		if f, ok := errors.AsType[*Failure](err); ok && f.Output != "" {
			r.Note("the last that " + name + " printed:")
			r.Output(f.Output)
		}
		return "", err
	}
	r.Progress(fmt.Sprintf("%s healthy after %s", name, took(time.Since(began))))
	return g, nil
}

// takeOver moves all traffic to g and makes it the live release.
func takeOver(ctx context.Context, r *Rollout, g Group, name string) error {
	if err := r.Weights(ctx, map[Group]int{g: 100}); err != nil {
		return err
	}
	r.Progress("switched 100 % to " + name)
	if err := r.Verify(ctx, g); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // the last moment at which a cancel still counts
		return err
	}
	return r.Commit(ctx, g)
}

// retire stops the release that was live until now.
func retire(ctx context.Context, r *Rollout, old Running, name string) error {
	ctx = context.WithoutCancel(ctx)
	err := clear(ctx, r, old.Group)
	r.Progress(fmt.Sprintf("%s, %s, drained and stopped", name, short(old.Release.Artifact)))
	return err
}

// clear drains and stops g. Requests that outlast the drain time are cut off.
func clear(ctx context.Context, r *Rollout, g Group) error {
	if err := r.Drain(ctx, g); err != nil {
		r.Note(err.Error())
	}
	return r.Stop(ctx, g)
}

// restart makes the release that was stopped live again, and lets it serve
// even when its health check does not pass: it did before.
func restart(ctx context.Context, r *Rollout, old Running) error {
	if err := r.Stop(ctx, old.Group); err != nil { // what is left of it, if the stop was interrupted
		return err
	}
	g, err := r.Start(ctx, old.Release)
	if err != nil {
		return err
	}
	health := r.Healthy(ctx, g)
	if err := r.Weights(ctx, map[Group]int{g: 100}); err != nil {
		return err
	}
	r.Progress("the old release, " + short(old.Release.Artifact) + ", is live again")
	return errors.Join(health, r.Target.Commit(ctx, g))
}
