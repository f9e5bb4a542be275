package service_test

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

const shop = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: ship}
spec:
  initial: approve
  states:
    approve: {approval: {quorum: [{role: managers, count: 1}], expires: 1h}, next: ship, onReject: stopped, onExpire: stopped}
    ship: {task: noop, environment: shop, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: shop}
spec:
  target: {local: {}}
  require: [{name: named, expression: run.workflow != ""}]
  breakGlass: {roles: [managers]}
`

// shipped starts a run that will enter the environment shop; ask asks as marta.
func (s *stand) shipped() (run string, ask func(verb string, req any) events.Answer) {
	s.Helper()
	s.asAdmin(events.VerbApply, events.Apply{ID: "shop", Files: []events.SourceFile{{Name: "shop.yaml", Content: shop}}}, nil)
	marta := s.connect(s.add("user", "marta", ""))
	ask = func(verb string, req any) events.Answer { return s.ask(marta, events.UserSubject("marta", verb), req) }
	var view events.RunView
	s.asAdmin(events.VerbStart, events.StartRun{ID: "s1", Workflow: "ship"}, &view)
	return view.ID, ask
}

// waits waits until a run waits for something of a kind.
func (s *stand) waits(run, what string) events.WaitReason {
	s.Helper()
	var why events.WhyView
	q := events.ReadEvents{Run: run, Wait: 1000}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		s.asAdmin(events.VerbWhy, events.GetRun{Run: run}, &why)
		for _, r := range why.Waiting {
			if r.What == what {
				return r
			}
		}
		var page events.EventPage
		s.asAdmin(events.VerbEvents, q, &page)
		q.After = page.Next
	}
	s.Fatalf("the run does not wait for %s, but: %+v", what, why.Waiting)
	return events.WaitReason{}
}

// approve approves what a run waits for.
func (s *stand) approve(run string, ask func(verb string, req any) events.Answer) {
	s.Helper()
	r := s.waits(run, "approval")
	a := ask(events.VerbDecide, events.Decide{ID: "a" + run, Run: run, State: r.State, Decision: events.Approve, Content: r.Content})
	if a.Status != events.StatusApplied {
		s.Fatalf("approve: %+v", a)
	}
}

func TestAHoldKeepsARunOutUntilItsTimeIsOver(t *testing.T) {
	s := newStand(t)
	run, ask := s.shipped()
	hold := events.HoldEnvironment{ID: "h1", Environment: "shop", Reason: "an incident", Until: time.Now().Add(3 * time.Second)}
	if a := ask(events.VerbEnvHold, hold); a.Code != events.CodeDenied || !strings.Contains(a.Reason, "may not hold the environment shop") {
		t.Errorf("marta: %+v", a)
	}
	s.asAdmin(events.VerbEnvHold, hold, nil)
	var list events.Environments
	s.asAdmin(events.VerbEnvironments, struct{}{}, &list)
	if e := list.Environments; len(e) != 1 || e[0].Open || e[0].Closed != "held by admin: an incident" || len(e[0].Holds) != 1 || e[0].Until == nil {
		t.Errorf("the environments are %+v", e)
	}
	s.approve(run, ask)
	if r := s.waits(run, "window"); !strings.Contains(r.Summary, "held by admin: an incident") || r.Place != 1 || r.Until == nil {
		t.Errorf("why says %+v", r)
	}
	if r := s.waits(run, "worker"); r.Workers == nil || *r.Workers != 0 { // the environment has woken by itself
		t.Errorf("why says %+v", r)
	}
}

func TestBrokenGlassLetsARunPassAHold(t *testing.T) {
	s := newStand(t)
	run, ask := s.shipped()
	s.asAdmin(events.VerbEnvHold, events.HoldEnvironment{ID: "h1", Environment: "shop"}, nil)
	s.approve(run, ask)
	s.waits(run, "window")
	glass := events.BreakGlass{ID: "g1", Run: run, Environment: "shop", Reason: "the shop is down"}
	if a := ask(events.VerbBreakGlass, glass); a.Status != events.StatusApplied {
		t.Fatalf("%+v", a)
	}
	if a := ask(events.VerbBreakGlass, glass); a.Status != events.StatusAlready {
		t.Errorf("a repeat: %+v", a)
	}
	s.waits(run, "worker")
	if a := ask(events.VerbEnvUnhold, events.HoldEnvironment{ID: "u1", Environment: "shop"}); a.Code != events.CodeDenied {
		t.Errorf("marta takes the hold away: %+v", a)
	}
}

func TestDefinitionsThatOpenAnEnvironmentLetItsRunsIn(t *testing.T) {
	s := newStand(t)
	run, ask := s.shipped()
	frozen := strings.Replace(shop, "  target: {local: {}}\n", "  target: {local: {}}\n  windows: {freeze: [{from: '2020-01-01', to: '2100-01-01', reason: for ever}]}\n", 1)
	s.asAdmin(events.VerbApply, events.Apply{ID: "frozen", Files: []events.SourceFile{{Name: "shop.yaml", Content: frozen}}}, nil)
	s.approve(run, ask)
	if r := s.waits(run, "window"); !strings.Contains(r.Summary, "frozen: for ever") {
		t.Errorf("why says %+v", r)
	}
	s.asAdmin(events.VerbApply, events.Apply{ID: "open", Files: []events.SourceFile{{Name: "shop.yaml", Content: shop}}}, nil)
	s.waits(run, "worker")
}

func TestDefinitionsThatChangeARuleLetInWhoItKeptOut(t *testing.T) {
	s := newStand(t)
	run, ask := s.shipped()
	strict := strings.Replace(shop, `run.workflow != ""`, `run.workflow == "other"`, 1)
	s.asAdmin(events.VerbApply, events.Apply{ID: "strict", Files: []events.SourceFile{{Name: "shop.yaml", Content: strict}}}, nil)
	s.approve(run, ask)
	if r := s.waits(run, "rule"); len(r.Rules) != 1 || r.Rules[0].Name != "named" || r.Rules[0].Value != false {
		t.Errorf("why says %+v", r)
	}
	s.asAdmin(events.VerbApply, events.Apply{ID: "mild", Files: []events.SourceFile{{Name: "shop.yaml", Content: shop}}}, nil)
	s.waits(run, "worker")
}

func TestWhyExplainsEveryRecordOfARun(t *testing.T) {
	s := newStand(t)
	run, ask := s.shipped()
	s.approve(run, ask)
	s.waits(run, "worker")
	var view events.RunView
	s.asAdmin(events.VerbGet, events.GetRun{Run: run}, &view)
	named := false
	for n := int64(1); n <= view.Records; n++ {
		var why events.WhyView
		s.asAdmin(events.VerbWhy, events.GetRun{Run: run, At: n}, &why)
		if why.At == nil || why.At.Record != n || why.At.Cause == "" {
			t.Fatalf("record %d: %+v", n, why.At)
		}
		for _, d := range why.At.Decisions {
			named = named || d.Name == "named" && d.Of == "Environment/shop" && d.Value == true && len(d.Parts) > 0 && strings.HasPrefix(d.At, "shop.yaml:")
		}
	}
	if !named {
		t.Error("no record explains the environment's rule")
	}
	a := s.ask(s.admin, events.AdminSubject("admin", events.VerbWhy), events.GetRun{Run: run, At: view.Records + 100})
	if a.Code != events.CodeNotFound || !strings.Contains(a.Reason, "has the records 1 to") {
		t.Errorf("a record that there is not: %+v", a)
	}
}

func TestAnEnvironmentThatAnEndedRunKeepsIsSaidSoAndCanBeFreed(t *testing.T) {
	s := newStand(t)
	first, ask := s.shipped()
	s.approve(first, ask)
	s.waits(first, "worker")
	var r events.RunView
	s.asAdmin(events.VerbGet, events.GetRun{Run: first}, &r)
	worker := s.connect(s.add("worker", "w1", ""))
	report := func(verb string, req any) {
		t.Helper()
		if a := s.ask(worker, events.WorkerSubject("default", "default", "w1", verb), req); a.Status != events.StatusApplied && a.Status != events.StatusAlready {
			t.Fatalf("%s: %+v", verb, a)
		}
	}
	task := r.Tasks[len(r.Tasks)-1].ID
	report(events.VerbAttemptStart, events.StartRequest{Task: task, Run: first, Worker: "w1"})
	report(events.VerbAttemptFinish, events.FinishRequest{Task: task, Run: first, Worker: "w1",
		Result: events.Result{Outcome: events.Inconclusive, Error: &events.TaskError{Code: "unknown", Message: "the power was cut"}}})

	var second events.RunView
	s.asAdmin(events.VerbStart, events.StartRun{ID: "s2", Workflow: "ship"}, &second)
	s.approve(second.ID, ask)
	why := s.waits(second.ID, "lock")
	if why.Holder != first || !strings.Contains(why.Summary, "that run has ended and keeps it, because ship ended inconclusive") ||
		!strings.Contains(strings.Join(why.Next, "\n"), "penstock environments free shop") {
		t.Errorf("why says %+v", why)
	}
	s.asAdmin(events.VerbEnvFree, events.FreeEnvironment{ID: "f1", Environment: "shop", Reason: "looked at"}, nil)
	s.waits(second.ID, "worker")
}
