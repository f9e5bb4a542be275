package main

import (
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// fourEyes is a rule that does not hold yet.
func fourEyes() events.RuleReason {
	return events.RuleReason{Name: "four eyes", Of: "Environment/production", At: "environments.yaml:14:19",
		Source: "approvals.exists(a, a.user != run.requestedBy && !(a.user in run.authors))", Value: false, Missing: "someone other than ana must approve",
		Parts: []events.EvaluationPart{
			{Source: "approvals.exists(a, a.user != run.requestedBy && !(a.user in run.authors))", Value: false},
			{Source: "approvals", Depth: 1, Value: []any{}},
			{Source: "run.requestedBy", Depth: 1, Value: "ana"},
			{Source: "run.authors", Depth: 1, Value: []any{"ana"}}},
		Residual: `approvals.exists(a, a.user != "ana" && !(a.user in ["ana"]))`}
}

func TestWhyShowsEachRuleWithWhatItRead(t *testing.T) {
	f := newFake(t)
	r := approvalReason("1 more release-manager", "production: someone other than ana must approve")
	r.Rules = []events.RuleReason{
		{Name: "quorum", Of: "Workflow/checkout-release", Source: "2 × release-manager", Value: false, Missing: "1 more release-manager"},
		{Name: "auto", Of: "Workflow/checkout-release", At: "release.yaml:40:15", Source: `run.labels["risk"] == "low"`, Error: "no such key: risk"},
		fourEyes(),
		{Name: "signed", Of: "Policy/supply-chain", At: "policies.yaml:9:19", Source: "attestations.exists(a, a.verified)", Value: true}}
	r.Cannot = append(r.Cannot, "zoe may not approve runs of checkout-release: no role is held by that name")
	lock := events.WaitReason{State: "staging", What: "lock", Environment: "staging", Holder: "aaaa", Place: 2,
		Summary: "waits for the lock of environment staging, which run aaaa has since 14:20:00; number 2 in the queue", Next: []string{"penstock why aaaa"}}
	closed := events.WaitReason{State: "production", What: "window", Environment: "production", Until: ptr(now.Add(13 * time.Hour)),
		Summary: "environment production is closed: frozen: year end; it opens at 2026-03-03T04:00:00Z"}
	f.gives(events.VerbWhy, events.WhyView{Run: waitingRun(), Short: "waits for three things", Waiting: []events.WaitReason{r, lock, closed}})
	args := []string{"why", "k3f9"}
	golden(t, "why-rules", args, penstock(t, args...))
}

func TestWhyExplainsARecord(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbWhy, events.WhyView{Run: waitingRun(), Short: "waits for 1 more approval", Waiting: waitingRun().Waiting,
		At: &events.RecordWhy{Record: 9, Time: ago(3 * time.Minute), Cause: "ana decided: approved: looks good",
			Answer: "refused: ana wrote this change, and its authors may not approve it", Decisions: []events.RuleReason{fourEyes()},
			Happened: []string{"the decision of ana at approve does not count: ana wrote this change, and its authors may not approve it"}}})
	args := []string{"why", "k3f9", "--at", "9"}
	golden(t, "why-at", args, penstock(t, args...))
	if q := asked[events.GetRun](f, events.VerbWhy); q.At != 9 {
		t.Errorf("asked %+v", q)
	}
	if got := penstock(t, "why", "k3f9", "--at", "0"); got.code != exitUsage {
		t.Errorf("record 0: exit %d, %s", got.code, got.stderr)
	}
}

func TestWhyOfARunThatHasEndedSaysHow(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbWhy, events.WhyView{Run: doneRun("failed"), Short: "failed in state stopped: 2 tests failed",
		Ended: []string{"build succeeded", "verify failed: tests: 2 tests failed", "stopped"}})
	args := []string{"why", "k3f9"}
	golden(t, "why-ended", args, penstock(t, args...))
}
