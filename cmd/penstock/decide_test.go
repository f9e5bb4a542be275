package main

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

func whyApproval(missing ...string) events.WhyView {
	return events.WhyView{Run: waitingRun(), Short: "waits for an approval", Waiting: []events.WaitReason{approvalReason(missing...)}}
}

// fakeRun is a fake whose run waits for an approval.
func fakeRun(t *testing.T) *fake {
	f := newFake(t)
	f.gives(events.VerbGet, waitingRun())
	return f
}

func TestApprovalIsBoundToWhatIsShown(t *testing.T) {
	f := fakeRun(t)
	short := whyApproval("1 release-manager") // an answer to run.why has the run without its inputs
	short.Run.Inputs, short.Run.Path = nil, nil
	f.gives(events.VerbWhy, short, events.WhyView{Run: doneRun("succeeded")})
	f.gives(events.VerbDecide, nil)
	args := []string{"approve", "k3f9", "--comment", "looks good"}
	golden(t, "approve", args, penstock(t, args...))
	d := asked[events.Decide](f, events.VerbDecide)
	if d.Run != runID || d.State != "approve" || d.Decision != events.Approve || d.Content != approvalReason().Content || d.Via != "cli" || d.Comment != "looks good" {
		t.Errorf("sent %+v", d)
	}
	if life := d.NotAfter.Sub(now); life <= 0 || life > 15*time.Minute || len(d.ID) != 36 {
		t.Errorf("sent id %q, valid for %s", d.ID, life)
	}
}

func TestApprovalSaysWhatIsStillMissing(t *testing.T) {
	f := fakeRun(t)
	f.gives(events.VerbWhy, whyApproval("2 release-managers"), whyApproval("1 release-manager"))
	f.gives(events.VerbDecide, nil)
	got := penstock(t, "approve", runID, "approve", "--yes")
	if got.code != 0 || !strings.Contains(got.out, "still missing: 1 release-manager\n") {
		t.Errorf("exit %d\n%s", got.code, got.out)
	}
}

func TestDecisionOnGivenContentIsSentAsGiven(t *testing.T) {
	f := fakeRun(t)
	f.gives(events.VerbWhy, whyApproval("1 release-manager"))
	f.refuses(events.VerbDecide, events.CodeConflict, "what is approved has changed since it was shown")
	got := penstock(t, "reject", runID, "--content", "sha256:old")
	if d := asked[events.Decide](f, events.VerbDecide); got.code != exitFailed || d.Content != "sha256:old" || d.Decision != events.Reject {
		t.Errorf("exit %d, sent %+v\n%s", got.code, d, got.stderr)
	}
}

func TestApprovalOfTheWrongPersonExitsWith4(t *testing.T) {
	f := fakeRun(t)
	f.gives(events.VerbWhy, whyApproval("1 release-manager"))
	f.refuses(events.VerbDecide, events.CodeDenied, "ana is an author of the change")
	args := []string{"approve", "k3f9"}
	golden(t, "approve-denied", args, penstock(t, args...))
}

func TestThereMustBeSomethingToDecide(t *testing.T) {
	f := newFake(t)
	second := approvalReason()
	second.State = "judge"
	both := events.WhyView{Run: waitingRun(), Waiting: []events.WaitReason{approvalReason(), second}}
	running := events.WhyView{Run: events.RunView{ID: runID, Status: "running", State: "build"}}
	for _, c := range []struct {
		why  events.WhyView
		args []string
		code int
		want string
	}{
		{events.WhyView{Run: doneRun("failed")}, nil, exitFailed, "has ended (failed)"},
		{running, nil, exitFailed, "waits for no approval; it is in build"},
		{both, nil, exitUsage, "name one of: approve, judge"},
		{both, []string{"nope"}, exitNotFound, `no approval in "nope", but in: approve, judge`},
	} {
		f.gives(events.VerbWhy, c.why)
		got := penstock(t, append([]string{"approve", runID}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.stderr, c.want) {
			t.Errorf("want exit %d with %q, got %d\n%s", c.code, c.want, got.code, got.stderr)
		}
	}
	if len(f.asks[events.VerbDecide]) > 0 {
		t.Error("a decision was sent")
	}
}
