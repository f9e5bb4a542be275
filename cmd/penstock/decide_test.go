package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

func TestEveryDecisionIsSentAsItWasMeant(t *testing.T) {
	content := approvalReason().Content
	for _, c := range []struct {
		args []string
		want events.Decide
		out  string
	}{
		{[]string{"approve", "k3f9", "--not-before", "2h", "--yes"}, events.Decide{Decision: events.Defer, NotBefore: now.Add(2 * time.Hour), Content: content}, "approved from "},
		{[]string{"approve", "k3f9", "--not-before", "2026-05-01T10:00:00+02:00", "-y"},
			events.Decide{Decision: events.Defer, NotBefore: time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC), Content: content}, "approved from 2026-05-01 08:00:00Z on: approve"},
		{[]string{"request-changes", "k3f9", "-m", "not yet", "-y"}, events.Decide{Decision: events.RequestChanges, Comment: "not yet", Content: content}, "asked for changes to approve"},
		{[]string{"withdraw", "k3f9"}, events.Decide{Decision: events.Withdraw}, "withdrawn approve"},
		{[]string{"delegate", "k3f9", "--to", "li", "-m", "away"}, events.Decide{Decision: events.Delegate, To: "li", Comment: "away"}, "left to li: approve"},
		{[]string{"escalate", "k3f9"}, events.Decide{Decision: events.Escalate}, "escalated approve"},
	} {
		f := newFake(t)
		f.gives(events.VerbWhy, events.WhyView{Run: waitingRun(), Waiting: waitingRun().Waiting})
		f.gives(events.VerbGet, waitingRun())
		f.gives(events.VerbDecide, nil)
		got := penstock(t, c.args...)
		d := asked[events.Decide](f, events.VerbDecide)
		if got.code != 0 || !strings.HasPrefix(got.out, c.out) {
			t.Errorf("%q: exit %d, %q, %s", c.args, got.code, got.out, got.stderr)
		}
		c.want.Run, c.want.State, c.want.Via, c.want.ID, c.want.NotAfter = runID, "approve", "cli", d.ID, d.NotAfter
		if diff := cmp.Diff(c.want, d); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.args, diff)
		}
	}
	for _, bad := range [][]string{{"delegate", "k3f9"}, {"approve", "k3f9", "--not-before", "soon"}, {"withdraw"}} {
		if got := penstock(t, bad...); got.code != exitUsage {
			t.Errorf("%q: exit %d, %s", bad, got.code, got.stderr)
		}
	}
}
