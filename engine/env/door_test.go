package env_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// door is a lock whose environment has windows: open on Mondays from 9 to 16.
func door(t *testing.T, atEnd string) *lock {
	l := newLock(t)
	cat := *l.cat
	cat.Environments = map[string]*workflows.Environment{"production": {Metadata: workflows.Metadata{Name: "production"}, Spec: workflows.EnvironmentSpec{
		Windows: &workflows.Windows{Allow: []*workflows.AllowWindow{{Days: []string{"mon"}, From: "09:00", To: "16:00"}}, AtEnd: atEnd}}}}
	l.cat = &cat
	return l
}

func (l *lock) at(s string) *lock { l.now = moment(l.t, s).UnixMilli() - 1; return l }

func (l *lock) look(run string) env.Transition {
	return l.do(record.Input{ID: "l" + run, Kind: record.InEnvLook, Request: &record.EnvRequest{Run: run, State: "s"}})
}

func (l *lock) timer() env.Transition { return l.do(record.Input{Kind: record.InTimer}) }

func (l *lock) hold(id, by, reason string, until time.Time) env.Transition {
	return l.do(record.Input{ID: id, Kind: record.InEnvHold, By: by, Hold: &events.HoldEnvironment{ID: id, Environment: "production", Reason: reason, Until: until}})
}

// told gives what is under way to runs, and answers all of it.
func (l *lock) told(want ...string) {
	l.t.Helper()
	var got []string
	for len(l.state.Outbox) > 0 {
		m := l.state.Outbox[0]
		switch in := m.Input; {
		case in.Granted != nil:
			s := fmt.Sprintf("%s is granted %d", m.ID, in.Granted.Grant)
			if in.Granted.Deployed != nil {
				s += " where " + in.Granted.Deployed.Artifact + " is"
			}
			got = append(got, s)
		case in.EnvState != nil && in.EnvState.Open:
			got = append(got, m.ID+" open")
		case in.EnvState != nil:
			s := m.ID + " closed: " + in.EnvState.Reason
			if in.EnvState.Until > 0 {
				s += " until " + time.UnixMilli(in.EnvState.Until).UTC().Format("Mon 15:04")
			}
			if in.EnvState.AtEnd != "" {
				s += ", " + in.EnvState.AtEnd
			}
			got = append(got, s)
		case in.Proof != nil:
			got = append(got, fmt.Sprintf("%s proven %v by %q", m.ID, in.Proof.Proven, in.Proof.By))
		}
		l.answer(events.StatusApplied)
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("told %q, want %q", got, want)
	}
}

const outside = "outside its windows (mon 09:00–16:00 UTC)"

func TestNothingIsGrantedOutsideAWindow(t *testing.T) {
	l := door(t, "").at("2026-01-05T08:00:00Z") // a Monday
	l.request("a")
	l.request("b")
	l.holds("", 0, "a", "b")
	l.told("a closed: "+outside+" until Mon 09:00", "b closed: "+outside+" until Mon 09:00")
	status(t, l.timer(), events.StatusStale, false)
	if want := moment(t, "2026-01-05T09:00:00Z").UnixMilli(); l.state.NextDeadline() != want {
		t.Errorf("it wants a timer at %d, not at %d", l.state.NextDeadline(), want)
	}
	l.at("2026-01-05T09:00:00Z")
	status(t, l.timer(), events.StatusApplied, true)
	l.holds("a", 1, "b")
	l.told("a is granted 1", "b open")
	l.at("2026-01-05T16:00:00Z").release("a", 1, &record.Deployment{Run: "a", Artifact: "sha256:aa"})
	l.holds("", 0, "b")
	l.told("b closed: " + outside + " until Mon 09:00")
	l.at("2026-01-12T10:00:00Z").timer()
	l.told("b is granted 2 where sha256:aa is")
}

func TestARunThatLooksIsToldWheneverItChanges(t *testing.T) {
	l := door(t, "").at("2026-01-05T08:00:00Z")
	l.look("a")
	status(t, l.look("a"), events.StatusAlready, false)
	l.told("a closed: " + outside + " until Mon 09:00")
	l.at("2026-01-05T09:00:00Z").timer()
	l.told("a open")
	l.hold("h1", "jonas", "an incident", time.Time{})
	l.told("a closed: held by jonas: an incident")
	l.request("a")
	l.told()
	l.holds("", 0, "a")
	l.do(record.Input{ID: "u1", Kind: record.InEnvUnhold, By: "jonas", Hold: &events.HoldEnvironment{Environment: "production", Hold: "h1"}})
	l.told("a is granted 1")
	l.look("b")
	l.at("2026-01-05T16:00:00Z").timer()
	l.do(record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: l.state.Outbox[1].Input.ID, Status: events.StatusStale}})
	if len(l.state.Lookers) != 0 {
		t.Error("a run that does not want to enter any more is still told")
	}
}

func TestARunThatLooksIsToldOfNewDefinitions(t *testing.T) {
	l := door(t, "").at("2026-01-05T10:00:00Z")
	l.look("a")
	l.request("b")
	l.told("a open", "b is granted 1")
	status(t, l.timer(), events.StatusStale, false)
	cat := *l.cat
	cat.Digest = "sha256:another"
	l.cat = &cat
	status(t, l.timer(), events.StatusApplied, true)
	l.told("a open")
	status(t, l.timer(), events.StatusStale, false)
}

func TestARunThatRulesKeepOutIsToldOfNewDefinitionsOnly(t *testing.T) {
	l := door(t, "").at("2026-01-05T10:00:00Z")
	rules := record.Input{ID: "r", Kind: record.InEnvLook, Request: &record.EnvRequest{Run: "a", State: "s", Rules: true}}
	status(t, l.do(rules), events.StatusApplied, true)
	status(t, l.do(rules), events.StatusAlready, false)
	l.told()
	if l.state.NextDeadline() != 0 {
		t.Error("it wants a timer for a run that does not wait for a window")
	}
	l.hold("h", "jonas", "x", time.Time{})
	l.told()
	cat := *l.cat
	cat.Digest = "sha256:another"
	l.cat = &cat
	status(t, l.timer(), events.StatusApplied, true)
	l.told("a closed: held by jonas: x")
	l.look("a") // its rules hold now
	l.told("a closed: held by jonas: x")
}

func TestAHoldEndsWithItsTimeOrByHand(t *testing.T) {
	l := door(t, "").at("2026-01-05T10:00:00Z")
	tr := l.hold("1", "ana", "", time.Time{})
	if tr.Answer.Code != events.CodeDenied || tr.Answer.Reason != "ana may not hold the environment production" || tr.Events[0].Type != events.CommandRefused {
		t.Errorf("%+v", tr)
	}
	status(t, l.hold("2", "jonas", "", moment(t, "2026-01-05T09:00:00Z")), events.StatusRefused, true)
	tr = l.hold("3", "jonas", "a migration", moment(t, "2026-01-05T11:00:00Z"))
	if tr.Events[0].Type != events.EnvironmentHeld || tr.Events[0].Data.Deadline == nil {
		t.Errorf("%+v", tr.Events)
	}
	status(t, l.hold("3", "jonas", "a migration", moment(t, "2026-01-05T11:00:00Z")), events.StatusAlready, false)
	l.request("a")
	l.told("a closed: held by jonas: a migration until Mon 11:00")
	tr = l.at("2026-01-05T11:00:00Z").timer()
	if tr.Events[0].Type != events.EnvironmentUnheld || !strings.Contains(tr.Events[0].Data.Reason, "its time is over") {
		t.Errorf("%+v", tr.Events)
	}
	l.told("a is granted 1")
	unhold := func(id, hold string) env.Transition {
		return l.do(record.Input{ID: id, Kind: record.InEnvUnhold, By: "jonas", Hold: &events.HoldEnvironment{Environment: "production", Hold: hold}})
	}
	status(t, unhold("4", ""), events.StatusRefused, true)
	l.hold("5", "jonas", "", time.Time{})
	status(t, unhold("6", "9"), events.StatusRefused, true)
	status(t, unhold("7", ""), events.StatusApplied, true)
}

func TestAHoldThatEndsOutsideTheWindowsOpensWithThem(t *testing.T) {
	l := door(t, "").at("2026-01-05T15:00:00Z")
	l.hold("1", "jonas", "x", moment(t, "2026-01-05T20:00:00Z"))
	l.request("a")
	l.told("a closed: held by jonas: x until Mon 09:00")
}

func TestBrokenGlassEntersAClosedEnvironment(t *testing.T) {
	l := door(t, "").at("2026-01-06T10:00:00Z")
	l.request("a")
	l.request("b")
	l.told("a closed: "+outside+" until Mon 09:00", "b closed: "+outside+" until Mon 09:00")
	glass := record.Input{ID: "g", Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: "b", State: "s", Glass: true}}
	status(t, l.do(glass), events.StatusApplied, true)
	l.holds("b", 1, "a")
	l.told("b is granted 1")
	l.do(record.Input{ID: "g2", Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: "c", Glass: true}})
	l.holds("b", 1, "a", "c") // the lock is never passed
	l.release("b", 1, nil)
	l.holds("c", 2, "a")
}

func TestTheHolderIsToldWhenItsWindowEnds(t *testing.T) {
	for _, c := range []struct {
		atEnd string
		told  []string
	}{{"", nil}, {"finish", nil}, {"hold", []string{"a closed: " + outside + " until Mon 09:00, hold"}}, {"undo", []string{"a closed: " + outside + " until Mon 09:00, undo"}}} {
		l := door(t, c.atEnd).at("2026-01-05T15:00:00Z")
		l.request("a")
		l.told("a is granted 1")
		if (l.state.NextDeadline() > 0) != (c.told != nil) {
			t.Errorf("%q: it wants a timer at %d", c.atEnd, l.state.NextDeadline())
		}
		l.hold("1", "jonas", "x", time.Time{})
		l.told() // a hold keeps out; what is in goes on
		l.at("2026-01-05T16:00:00Z").timer()
		l.told(c.told...)
		l.at("2026-01-12T09:00:00Z").timer()
		if c.told != nil {
			c.told = []string{"a open"}
		}
		l.told(c.told...)
	}
}

func TestAnArtifactIsProvenByWhatSucceededThere(t *testing.T) {
	l := door(t, "").at("2026-01-05T10:00:00Z")
	ask := func(run, artifact string) env.Transition {
		return l.do(record.Input{ID: run + artifact, Kind: record.InEnvProve, Proof: &record.Proof{Run: run, Environment: "production", Artifact: artifact}})
	}
	deploy := func(run, artifact string) {
		l.request(run)
		l.release(run, l.state.Holder.Grant, &record.Deployment{Run: run, Artifact: artifact})
		l.state.Outbox = nil
	}
	ask("a", "sha256:aa")
	status(t, ask("a", "sha256:aa"), events.StatusAlready, false)
	l.told(`a proven false by ""`)
	l.request("b")
	l.release("b", 1, &record.Deployment{Run: "b", Artifact: "sha256:aa"})
	l.told("b is granted 1", `a proven true by "b"`)
	ask("c", "sha256:aa")
	l.told(`c proven true by "b"`)
	l.request("b")
	l.do(record.Input{ID: "back", Kind: record.InEnvRelease, Release: &record.EnvRelease{Run: "b", Grant: l.state.Holder.Grant, Undone: []string{"sha256:aa"}}})
	l.state.Outbox = nil
	ask("d", "sha256:aa")
	l.told(`d proven false by ""`)
	for i := range 250 {
		deploy("r", fmt.Sprint("sha256:", i))
	}
	deploy("z", "sha256:249")
	if n := len(l.state.Succeeded); n != 200 || l.state.Succeeded[0].Run != "z" || l.state.Succeeded[1].Artifact != "sha256:248" {
		t.Errorf("%d artifacts are known, newest %+v", n, l.state.Succeeded[:2])
	}
}

// TestRunsEnterOneAtATimeInTheirOrder gives an environment random inputs and
// keeps a plain list beside it.
func TestRunsEnterOneAtATimeInTheirOrder(t *testing.T) {
	cat := door(t, "").cat
	start := moment(t, "2026-01-05T08:00:00Z").UnixMilli()
	rapid.Check(t, func(r *rapid.T) {
		var e *env.Environment
		now, v, id, last := start, int64(0), 0, int64(0)
		var waiting []string // in the order of asking
		glass, held := map[string]bool{}, 0
		holder, grant := "", int64(0)
		for range rapid.IntRange(1, 60).Draw(r, "inputs") {
			id++
			run := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(r, "run")
			in := record.Input{ID: fmt.Sprint(id), By: "jonas"}
			switch rapid.IntRange(0, 6).Draw(r, "kind") {
			case 0, 1:
				g := rapid.IntRange(0, 5).Draw(r, "glass") == 0
				in.Kind, in.Request = record.InEnvRequest, &record.EnvRequest{Run: run, Glass: g}
				if run == holder {
					continue // it has it
				}
				if !slices.Contains(waiting, run) {
					waiting, glass[run] = append(waiting, run), false
				}
				glass[run] = glass[run] || g
			case 2:
				in.Kind, in.Release = record.InEnvRelease, &record.EnvRelease{Run: holder, Grant: grant}
				holder = ""
			case 3:
				in.Kind, in.Release = record.InEnvRelease, &record.EnvRelease{Run: run}
				waiting = slices.DeleteFunc(waiting, func(w string) bool { return w == run })
			case 4:
				in.Kind, in.Hold = record.InEnvHold, &events.HoldEnvironment{ID: in.ID}
				held++
			case 5:
				in.Kind, in.Hold = record.InEnvUnhold, &events.HoldEnvironment{}
				held = 0
			case 6:
				now += int64(rapid.IntRange(1, 600).Draw(r, "minutes")) * 60_000
				in.Kind = record.InTimer
				if e == nil || e.NextDeadline() == 0 || e.NextDeadline() > now {
					continue // nobody fires a timer that is not asked for
				}
			}
			tr := env.StepEnvironment(cat, "production", e, v+1, in, now)
			if tr.Record {
				p, err := json.Marshal(tr.State)
				if err != nil {
					r.Fatal(err)
				}
				if e, err = env.LoadEnvironment(p); err != nil {
					r.Fatal(err)
				}
				v++
				for len(e.Outbox) > 0 { // every run takes what it is told
					sent := record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: e.Outbox[0].Input.ID, Status: events.StatusApplied}}
					e = env.StepEnvironment(cat, "production", e, v+1, sent, now).State.(*env.Environment)
					v++
				}
			}
			if e == nil {
				continue
			}
			at := time.UnixMilli(now).UTC()
			open := held == 0 && at.Weekday() == time.Monday && at.Hour() >= 9 && at.Hour() < 16
			if i := slices.IndexFunc(waiting, func(w string) bool { return open || glass[w] }); holder == "" && i >= 0 && tr.Record {
				holder, grant = waiting[i], last+1
				last++
				waiting = slices.Delete(waiting, i, i+1)
			}
			got := ""
			if e.Holder != nil {
				got = e.Holder.Run
			}
			var queue []string
			for _, h := range e.Queue {
				queue = append(queue, h.Run)
			}
			if got != holder || holder != "" && e.Holder.Grant != grant || !slices.Equal(queue, waiting) {
				r.Fatalf("after %s at %v (open %v): %q has it with grant %d and %v wait; want %q, %d, %v", in.Kind, at, open, got, last, queue, holder, grant, waiting)
			}
		}
	})
}

// What people may repeat is remembered in every record of an environment.
func TestAnEnvironmentThatPeopleFloodStaysSmallAndCanBeFreed(t *testing.T) {
	l := door(t, "")
	l.at("2026-03-02T10:00:00Z")
	l.do(record.Input{ID: "e1", Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: "r1", State: "s"}})
	order := func(i int, by string) record.Answer {
		in := record.Input{ID: fmt.Sprint("f", i), Kind: record.InEnvHold, By: by, Admin: true, Hold: &events.HoldEnvironment{ID: fmt.Sprint("f", i), Environment: "production", Reason: "a look"}}
		if i%2 == 1 {
			in.Kind = record.InEnvUnhold
		}
		return l.do(in).Answer
	}
	for i := range 1000 {
		order(i, "bot")
	}
	if a := order(1000, "bot"); a.Status != events.StatusBusy || !strings.Contains(a.Reason, "100 of them by bot") {
		t.Errorf("somebody who floods it is answered %+v", a)
	}
	for i := range 1000 {
		order(2000+i, fmt.Sprint("bot", i%10))
	}
	if a := order(4000, "jonas"); a.Status != events.StatusBusy {
		t.Errorf("when many flood it, somebody else is answered %+v", a)
	}
	if p, err := json.Marshal(l.state); err != nil || len(p) > 64<<10 {
		t.Errorf("the state has %d bytes: %v", len(p), err)
	}
	free := func(id string) record.Answer {
		return l.do(record.Input{ID: id, Kind: record.InEnvFree, By: "root", Admin: true}).Answer
	}
	if a := free("free"); a.Status != events.StatusApplied {
		t.Errorf("who frees it is answered %+v", a)
	}
	if a := free("again"); a.Status == events.StatusApplied {
		t.Errorf("when it is free, who frees it is answered %+v", a)
	}
	l.now += 15*time.Minute.Milliseconds() + 1
	if a := order(5000, "bot"); a.Status != events.StatusApplied {
		t.Errorf("15 minutes later it is answered %+v", a)
	}
}
