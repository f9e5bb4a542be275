package env_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

const definitions = `apiVersion: penstock/v1
kind: Roles
metadata: {name: acme}
spec:
  roles: {oncall: {users: [jonas]}}
  permissions: [{roles: [oncall], allow: [environment.free, environment.hold]}]
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: production}
spec: {target: {local: {}}}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: release}
spec:
  inputs:
    commit: {type: string, pattern: '^[0-9a-f]+$'}
    channel: {type: string, default: stable}
    count: {type: int, default: 1}
  triggers:
    - event: com.acme.merged.*
      when: event.data.branch == "main"
      inputs: {commit: '${{ event.data.sha }}', channel: '${{ event.data.channel }}', count: '${{ int(event.data.count) }}'}
    - event: com.acme.tagged
      inputs: {commit: '${{ event.data.sha }}'}
  initial: build
  states:
    build: {task: build, with: {repository: r, commit: '${{ inputs.commit }}'}, next: released, onFail: stopped}
    released: {final: succeeded}
    stopped: {final: failed}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: audit}
spec:
  inputs: {sha: {type: string, default: none}}
  triggers: [{event: com.acme.*, inputs: {sha: '${{ event.data.sha }}'}}]
  initial: nap
  states:
    nap: {wait: {for: 1m}, transitions: [{to: released}]}
    released: {final: succeeded}
`

func catalog(t testing.TB) *workflows.Catalog {
	t.Helper()
	set, problems := parse.Files([]parse.File{{Name: "w.yaml", Content: []byte(definitions)}})
	if parse.Failed(problems) {
		t.Fatal(parse.Text(problems))
	}
	return set.Catalog()
}

// lock is the environment production; every input goes through its stored state.
type lock struct {
	t     *testing.T
	cat   *workflows.Catalog
	state *env.Environment
	v     int64
	now   int64
}

func newLock(t *testing.T) *lock { return &lock{t: t, cat: catalog(t), now: 1_800_000_000_000} }

func (l *lock) do(in record.Input) env.Transition {
	l.t.Helper()
	l.now++
	tr := env.StepEnvironment(l.cat, "production", l.state, l.v+1, in, l.now)
	if tr.Record {
		p, err := json.Marshal(tr.State)
		if err != nil {
			l.t.Fatal(err)
		}
		if l.state, err = env.LoadEnvironment(p); err != nil {
			l.t.Fatal(err)
		}
		l.v++
	}
	return tr
}

func (l *lock) request(run string) env.Transition {
	return l.do(record.Input{ID: "q" + run, Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: run, State: "s"}})
}

func (l *lock) release(run string, grant int64, d *record.Deployment) env.Transition {
	return l.do(record.Input{ID: "r" + run, Kind: record.InEnvRelease, Release: &record.EnvRelease{Run: run, Grant: grant, Deployed: d}})
}

func (l *lock) free(id, by string) env.Transition {
	return l.do(record.Input{ID: id, Kind: record.InEnvFree, By: by})
}

// answer answers the first message that is under way.
func (l *lock) answer(status string) env.Transition {
	l.t.Helper()
	if len(l.state.Outbox) == 0 {
		l.t.Fatal("nothing is under way")
	}
	return l.do(record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: l.state.Outbox[0].Input.ID, Status: status}})
}

// holds checks who holds the environment, with which grant, and who waits.
func (l *lock) holds(run string, grant int64, queue ...string) {
	l.t.Helper()
	var got string
	var n int64
	if h := l.state.Holder; h != nil {
		got, n = h.Run, h.Grant
	}
	var waiting []string
	for _, h := range l.state.Queue {
		waiting = append(waiting, h.Run)
	}
	if got != run || n != grant || !slices.Equal(waiting, queue) {
		l.t.Fatalf("%q holds it with grant %d, %v wait; want %q, %d, %v", got, n, waiting, run, grant, queue)
	}
}

func status(t *testing.T, tr env.Transition, want string, recorded bool) {
	t.Helper()
	if tr.Answer.Status != want || tr.Record != recorded {
		t.Fatalf("answered %+v, recorded %v; want %s, %v", tr.Answer, tr.Record, want, recorded)
	}
}

func TestRunsGetAnEnvironmentInTheOrderInWhichTheyAsked(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	l.request("c")
	l.holds("a", 1, "b", "c")
	if l.state.Place("c") != 2 || l.state.Place("a") != 0 || l.state.Place("x") != 0 {
		t.Error("the places in the queue are wrong")
	}
	status(t, l.request("b"), events.StatusAlready, false)
	l.answer(events.StatusApplied)
	status(t, l.request("a"), events.StatusAlready, false)
	l.release("a", 1, &record.Deployment{Run: "a", Artifact: "sha256:aa", Grant: 1})
	l.holds("b", 2, "c")
	l.release("b", 2, nil)
	l.holds("c", 3)
	l.release("c", 3, nil)
	l.holds("", 0)
	l.request("a")
	l.holds("a", 4)
	if l.state.Deployed == nil || l.state.Deployed.Artifact != "sha256:aa" {
		t.Errorf("what is deployed is forgotten: %+v", l.state.Deployed)
	}
}

func TestAReleaseThatIsNotOfTheHolderChangesNothing(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	status(t, l.release("b", 1, nil), events.StatusStale, false)
	status(t, l.release("a", 7, nil), events.StatusStale, false)
	l.holds("a", 1, "b")
	l.release("a", 1, nil)
	status(t, l.release("a", 1, &record.Deployment{Artifact: "old"}), events.StatusStale, false)
	l.holds("b", 2)
	if l.state.Deployed != nil {
		t.Error("an old release says what is deployed")
	}
}

func TestARequestCanBeWithdrawn(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	l.request("c")
	status(t, l.release("b", 0, nil), events.StatusApplied, true)
	l.holds("a", 1, "c")
}

func TestAGrantThatIsRefusedGoesToTheNext(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	for _, s := range []string{events.StatusRefused, events.StatusError} {
		l.answer(s)
		if s == events.StatusRefused {
			l.holds("b", 2)
		}
	}
	l.holds("", 0)
}

func TestARunThatAsksAgainBeforeItRefusesStillWaits(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	status(t, l.request("a"), events.StatusApplied, true) // its first request is granted, it does not know yet
	status(t, l.request("a"), events.StatusAlready, false)
	l.answer(events.StatusRefused)
	l.holds("b", 2, "a")
	l.release("b", 2, nil)
	l.holds("a", 3)
	glass := record.Input{ID: "g", Kind: record.InEnvRequest, Request: &record.EnvRequest{Run: "a", Glass: true}}
	status(t, l.request("a"), events.StatusApplied, true)
	status(t, l.do(glass), events.StatusApplied, true) // it is not forgotten that the glass was broken
	status(t, l.do(glass), events.StatusAlready, false)
	l.request("b")
	l.state.Outbox = l.state.Outbox[len(l.state.Outbox)-1:]
	l.answer(events.StatusRefused)
	l.holds("b", 4, "a")
	if !l.state.Queue[0].Glass {
		t.Error("it is forgotten that the glass was broken")
	}
}

func TestOnlyWhoMayFreesByHand(t *testing.T) {
	l := newLock(t)
	l.request("a")
	l.request("b")
	tr := l.free("1", "ana")
	status(t, tr, events.StatusRefused, true)
	if tr.Answer.Code != events.CodeDenied || len(tr.Events) != 1 || tr.Events[0].Type != events.CommandRefused {
		t.Errorf("the refusal is not told: %+v", tr)
	}
	l.holds("a", 1, "b")
	status(t, l.free("2", "jonas"), events.StatusApplied, true)
	l.holds("b", 2)
	if m := l.state.Outbox[1]; m.ID != "a" || m.Input.Freed == nil || m.Input.Freed.Grant != 1 {
		t.Errorf("a is not told that its grant was taken back: %+v", l.state.Outbox)
	}
	status(t, l.free("2", "jonas"), events.StatusAlready, false) // the next holder is not freed by a repeat
	l.holds("b", 2)
	l.free("3", "jonas")
	status(t, l.free("4", "jonas"), events.StatusRefused, true)
	if tr := l.do(record.Input{ID: "5", Kind: record.InEnvFree, By: "root", Admin: true}); tr.Answer.Code != events.CodeConflict {
		t.Errorf("an administrator is refused with %+v", tr.Answer)
	}
}

func TestAnAnswerCountsOnce(t *testing.T) {
	l := newLock(t)
	l.request("a")
	id := l.state.Outbox[0].Input.ID
	l.answer(events.StatusApplied)
	status(t, l.do(record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: id, Status: events.StatusRefused}}), events.StatusAlready, false)
	l.holds("a", 1)
}

func TestAnEnvironmentTakesOnlyItsOwnInputs(t *testing.T) {
	l := newLock(t)
	for _, in := range []record.Input{{Kind: record.InEnvRequest}, {Kind: "nonsense"}, {Kind: record.InSendAnswer}, {Kind: record.InEnvHold}, {Kind: record.InEnvLook}} {
		status(t, l.do(in), events.StatusError, false)
	}
	status(t, l.do(record.Input{Kind: record.InTimer}), events.StatusStale, false)
}

// send gives an event of the publisher forge to its aggregate.
func send(t *testing.T, cat *workflows.Catalog, ev string) (env.Transition, *env.Event) {
	t.Helper()
	return sendBy(t, cat, "event:forge", ev)
}

func sendBy(t *testing.T, cat *workflows.Catalog, by, ev string) (env.Transition, *env.Event) {
	t.Helper()
	tr := env.StepEvent(cat, nil, 1, record.Input{ID: "e", Kind: record.InEvent, By: by, Event: json.RawMessage(ev)}, 1_800_000_000_000)
	if !tr.Record || len(tr.Events) != 1 {
		t.Fatalf("an event makes one record with one event: %+v", tr)
	}
	p, err := json.Marshal(tr.State)
	if err != nil {
		t.Fatal(err)
	}
	e, err := env.LoadEvent(p)
	if err != nil {
		t.Fatal(err)
	}
	return tr, e
}

func event(typ, data string) string {
	return `{"specversion":"1.0","id":"1","source":"/git","type":"` + typ + `","data":` + data + `}`
}

func TestWhatAnEventStarts(t *testing.T) {
	cat := catalog(t)
	for _, c := range []struct {
		name, event string
		told        string // type of the event that is told
		started     map[string]record.Values
		reason      string
	}{
		{"all that match", event("com.acme.merged.x", `{"branch":"main","sha":"abc","channel":"beta","count":3}`), events.EventMatched,
			map[string]record.Values{"release": {"commit": "abc", "channel": "beta", "count": int64(3)}, "audit": {"sha": "abc"}}, "release, trigger 1 (com.acme.merged.*) starts run"},
		{"what is missing takes the default", event("com.acme.merged.x", `{"branch":"main","sha":"abc"}`), events.EventMatched,
			map[string]record.Values{"release": {"commit": "abc"}, "audit": {"sha": "abc"}}, ""},
		{"what is missing without a default", event("com.acme.tagged", `{}`), events.EventMatched,
			map[string]record.Values{"audit": {}}, `release, trigger 2 (com.acme.tagged): workflow release: input "commit" (string) is missing`},
		{"an input of the wrong shape", event("com.acme.tagged", `{"sha":"XYZ"}`), events.EventMatched,
			map[string]record.Values{"audit": {"sha": "XYZ"}}, "does not match the pattern"},
		{"an input that errs takes no default", event("com.acme.merged.x", `{"branch":"main","sha":"abc","count":"many"}`), events.EventMatched,
			map[string]record.Values{"audit": {"sha": "abc"}}, `input "count" cannot be evaluated`},
		{"a condition that does not hold", event("com.acme.merged.x", `{"branch":"dev","sha":"abc"}`), events.EventMatched,
			map[string]record.Values{"audit": {"sha": "abc"}}, `its condition does not hold: event.data.branch == "main"`},
		{"a condition that errs", event("com.acme.merged.x", `{"sha":"abc"}`), events.EventMatched,
			map[string]record.Values{"audit": {"sha": "abc"}}, "its condition cannot be evaluated"},
		{"nothing matches", event("org.other", `{}`), events.EventIgnored, nil, "no workflow has a trigger for events of type org.other"},
		{"no CloudEvent", `{"specversion":"0.3"}`, events.EventRefused, nil, "not a CloudEvent"},
		{"a number that there is not", event("com.acme.tagged", `{"sha":1e999}`), events.EventRefused, nil, "cannot be evaluated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, e := send(t, cat, c.event)
			if tr.Events[0].Type != c.told {
				t.Errorf("told %s: %v, want %s", tr.Events[0].Type, e.Reasons, c.told)
			}
			if !strings.Contains(strings.Join(e.Reasons, "\n"), c.reason) {
				t.Errorf("the reasons are %q, want %q", e.Reasons, c.reason)
			}
			if len(e.Outbox) != len(c.started) || len(e.Runs) != len(c.started) {
				t.Fatalf("%d runs are started: %v", len(e.Runs), e.Reasons)
			}
			for i, m := range e.Outbox {
				want, ok := c.started[m.Input.Start.Workflow]
				a, _ := json.Marshal(want)
				b, _ := json.Marshal(m.Input.Start.Inputs)
				if len(want) == 0 {
					b = a // none at all
					ok = ok && len(m.Input.Start.Inputs) == 0
				}
				if !ok || string(a) != string(b) || m.ID != e.Runs[i] || m.Input.By != "event:forge" || m.Input.Start.Cause == nil || m.Input.Start.Cause.ID != "1" {
					t.Errorf("started %s with %s by %s, want %s", m.Input.Start.Workflow, b, m.Input.By, a)
				}
			}
		})
	}
}

func TestTheSameEventStartsTheSameRuns(t *testing.T) {
	cat := catalog(t)
	_, a := send(t, cat, event("com.acme.tagged", `{"sha":"abc"}`))
	_, b := send(t, cat, event("com.acme.tagged", `{"sha":"abc"}`))
	if len(a.Runs) != 2 || !slices.Equal(a.Runs, b.Runs) || a.Runs[0] == a.Runs[1] {
		t.Errorf("the same event starts %v and %v", a.Runs, b.Runs)
	}
	_, c := send(t, cat, strings.Replace(event("com.acme.tagged", `{"sha":"abc"}`), `"id":"1"`, `"id":"2"`, 1))
	if c.Runs[0] == a.Runs[0] {
		t.Error("another event starts the same run")
	}
}

func TestAnEventIsItsPublishersWhateverSourceItClaims(t *testing.T) {
	cat := catalog(t)
	_, claimed := sendBy(t, cat, "ana", event("com.acme.tagged", `{"sha":"bad"}`))
	_, own := sendBy(t, cat, "event:/git", event("com.acme.tagged", `{"sha":"abc"}`))
	for i := range own.Outbox {
		a, b := claimed.Outbox[i], own.Outbox[i]
		if a.ID == b.ID || a.Input.ID == b.Input.ID {
			t.Error("an event with a claimed source takes the place of the source's own event")
		}
		if a.Input.By != "ana" || b.Input.By != "event:/git" {
			t.Errorf("the runs are requested by %q and %q, not by who published", a.Input.By, b.Input.By)
		}
	}
}

func TestARepeatedEventChangesNothing(t *testing.T) {
	cat := catalog(t)
	_, e := send(t, cat, event("com.acme.tagged", `{"sha":"abc"}`))
	tr := env.StepEvent(cat, e, 2, record.Input{Kind: record.InEvent, Event: json.RawMessage(event("com.acme.tagged", `{"sha":"abc"}`))}, 0)
	status(t, tr, events.StatusAlready, false)
	for _, in := range []record.Input{{Kind: record.InTimer}, {Kind: record.InSendAnswer}} {
		status(t, env.StepEvent(cat, e, 2, in, 0), events.StatusError, false)
	}
}

func TestARunThatIsRefusedIsTold(t *testing.T) {
	cat := catalog(t)
	_, e := send(t, cat, event("com.acme.tagged", `{"sha":"abc"}`))
	before := slices.Clone(e.Runs)
	m := e.Outbox[0]
	in := record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: m.Input.ID, Status: events.StatusError, Reason: "no such workflow"}}
	tr := env.StepEvent(cat, e, 2, in, 1_800_000_000_001)
	status(t, tr, events.StatusApplied, true)
	after := tr.State.(*env.Event)
	if slices.Contains(after.Runs, m.ID) || len(tr.Events) != 1 || !strings.Contains(after.Reasons[len(after.Reasons)-1], "was not started: no such workflow") {
		t.Errorf("after the refusal: %+v, told %+v", after, tr.Events)
	}
	if !slices.Equal(e.Runs, before) {
		t.Error("the state before was changed")
	}
	status(t, env.StepEvent(cat, after, 3, in, 0), events.StatusAlready, false)
}

func TestAnEventThatIsNoneSaysWhy(t *testing.T) {
	tr := env.StepEvent(catalog(t), nil, 1, record.Input{Kind: record.InEvent, Bad: "not JSON"}, 1)
	if e := tr.State.(*env.Event); !tr.Record || tr.Events[0].Type != events.EventRefused || !slices.Equal(e.Reasons, []string{"not JSON"}) {
		t.Errorf("%+v", tr)
	}
}

func TestAnEventIsToldToRunsThatListenForIt(t *testing.T) {
	ev := events.Event{ID: "e1", Source: "git", Type: "com.acme.ready", Data: []byte(`{"version": 4}`)}
	raw, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	tr := env.StepEvent(catalog(t), nil, 1, record.Input{Kind: record.InEvent, By: "event:git", Event: raw, Listening: []string{"r1", "r2"}}, 1)
	e := tr.State.(*env.Event)
	if tr.Events[0].Type != events.EventMatched || len(e.Outbox) != 1 || len(e.Messages()) != 1 ||
		!strings.Contains(strings.Join(e.Reasons, "\n"), "2 runs listen for it and are told: r1, r2") {
		t.Fatalf("%+v", e)
	}
	answer := func(v int64, status string) *env.Event {
		m := e.Messages()[0]
		tr := env.StepEvent(catalog(t), e, v, record.Input{Kind: record.InSendAnswer, Sent: &record.Sent{ID: m.Input.ID, Status: status, Reason: "it has gone on"}}, v)
		if len(tr.Events) != 0 {
			t.Errorf("%+v", tr.Events)
		}
		return stored(t, tr.State, env.LoadEvent)
	}
	e = answer(2, events.StatusApplied) // the run that it starts
	for i, run := range []string{"r1", "r2"} {
		m := e.Messages()[0]
		if m.To != record.Run || m.ID != run || m.Input.Kind != record.InSignal || m.Input.Signal.Cause.ID != "e1" ||
			m.Input.By != "event:git" || string(m.Input.Signal.Event) != string(raw) {
			t.Errorf("%+v", m)
		}
		e = answer(int64(3+i), events.StatusStale)
	}
	if len(e.Messages()) != 0 || e.Raw != nil {
		t.Errorf("%+v", e)
	}
}
