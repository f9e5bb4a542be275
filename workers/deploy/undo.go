package deploy

import (
	"context"
	"fmt"

	"github.com/penstock-cd/penstock/events"
)

// CodeNotOurs is the code of an undo that found something else live than it
// was to take back: a person has to decide.
const CodeNotOurs = "not_ours"

// Undo takes back what an earlier deployment brought: it brings release in the
// place of the artifact undo, or leaves nothing live when release has no
// artifact. It does so only if undo is what is live. Where release is live
// already it has nothing to do, and succeeds.
func Undo(ctx context.Context, s Strategy, target Target, release Release, undo string, to Reporter) events.Result {
	live, ok, err := target.Current(ctx)
	switch there := live.Release.Artifact; {
	case err != nil:
		return untouched("deploy_failed", err.Error(), true)
	case ok == (release.Artifact != "") && there == release.Artifact:
		to.Note("nothing is to be undone: what it brings back is live")
		return succeeded(release, undo, live.Release.Settings.Instances)
	case !ok:
		return untouched(CodeNotOurs, fmt.Sprintf("nothing is live, so %s cannot be taken back; a person has to decide", short(undo)), false)
	case there != undo:
		return untouched(CodeNotOurs, fmt.Sprintf("%s is live, and not %s which is to be taken back; a person has to decide", short(there), short(undo)), false)
	case release.Artifact == "":
		return remove(ctx, target, live, to)
	}
	return Run(ctx, s, target, release, to)
}

// remove leaves nothing live.
func remove(ctx context.Context, target Target, live Running, to Reporter) events.Result {
	r := &Rollout{Target: target, Reporter: to, Release: Release{Settings: live.Release.Settings}}
	r.Undo("give the traffic back", func(ctx context.Context) error { return r.Weights(ctx, map[Group]int{live.Group: 100}) })
	err := r.Weights(ctx, nil)
	if err == nil {
		err = ctx.Err() // the last moment at which a cancel still counts
	}
	if err == nil {
		err = r.Commit(ctx, "")
	}
	if err != nil {
		return r.fail(ctx, err)
	}
	if err := clear(context.WithoutCancel(ctx), r, live.Group); err != nil {
		to.Note("clearing away after the undo: " + err.Error())
	}
	r.Progress("took " + short(live.Release.Artifact) + " away; nothing was live before it")
	return succeeded(Release{}, live.Release.Artifact, 0)
}

func succeeded(r Release, previous string, instances int) events.Result {
	return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"artifact": r.Artifact, "previous": previous, "instances": instances}}
}
