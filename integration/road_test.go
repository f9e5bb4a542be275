package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/penstock-cd/penstock/workers"
)

// people are the roles of all tests: two releasers, and somebody without.
const people = `
apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  users: {marta: {}, li: {}, zoe: {}}
  roles:
    releaser: {users: [marta, li]}
    developer: {users: [zoe]}
  permissions:
    - {roles: [releaser], allow: [run.read, run.start, run.approve, run.cancel, event.publish]}
    - {roles: [developer], allow: [run.read, run.start]}
`

// kinds are what the test's worker does: make may be done again, ship must
// not, and can say afterwards what became of it; blast must not and cannot.
const kinds = `
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: make}
spec: {runs: repeatable, inputs: {change: string}, outputs: {size: int}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: ship}
spec: {runs: once, status: true, inputs: {change: string}, outputs: {place: string}}
---
apiVersion: penstock/v1
kind: TaskKind
metadata: {name: blast}
spec: {runs: once, inputs: {change: string}, outputs: {place: string}}
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: harbour}
spec: {}
`

// road has one of everything that a run can go through; hold waits for ever.
const road = `
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: road}
spec:
  inputs: {change: {type: string}}
  triggers:
    - {event: com.example.change.merged, inputs: {change: '${{ event.data.change }}'}}
  initial: build
  states:
    build:
      task: make
      with: {change: '${{ inputs.change }}'}
      retry: {attempts: 9, backoff: 100ms, max: 200ms}
      next: verify
      onFail: broken
    verify:
      parallel:
        unit: {task: make, with: {change: unit}, retry: {attempts: 9, backoff: 100ms, max: 200ms}}
        lint: {task: make, with: {change: lint}, retry: {attempts: 9, backoff: 100ms, max: 200ms}}
      gate:
        - {name: sizes, require: unit.size > 0 && lint.size > 0}
      next: approve
      onFail: broken
    approve:
      approval: {quorum: [{role: releaser, count: 2}], expires: 1h}
      next: ship
      onFail: broken
    ship:
      task: ship
      environment: harbour
      with: {change: '${{ inputs.change }}'}
      retry: {attempts: 9, backoff: 100ms, max: 200ms}
      next: rest
      onFail: broken
    rest: {wait: {for: 50ms}, next: done}
    done: {final: succeeded}
    broken: {final: failed}
  finally:
    - {task: make, with: {change: tidy}, retry: {attempts: 9, backoff: 100ms, max: 200ms}}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: hold}
spec:
  initial: ask
  states:
    ask:
      approval: {quorum: [{role: releaser, count: 1}], expires: 1h}
      next: done
      onFail: broken
    done: {final: succeeded}
    broken: {final: failed}
`

// effect is a line of the ledger: something that a worker did to the world.
// The ledger lies outside of Penstock, so it shows what happened twice.
type effect struct {
	Task, Run, State, Kind string
	Fence                  events.Fence
}

func writeEffect(ledger string, e effect) error {
	f, err := os.OpenFile(ledger, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	return errors.Join(err, f.Close())
}

func readLedger(ledger string) ([]effect, error) {
	p, err := os.ReadFile(ledger)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var all []effect
	for s := bufio.NewScanner(bytes.NewReader(p)); s.Scan(); {
		var e effect
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("ledger %s: %w", ledger, err)
		}
		all = append(all, e)
	}
	return all, err
}

// workerPlan is what a worker process is told.
type workerPlan struct {
	Credential, Ledger, Dir string
	KillAt                  string // a step, "kind/step"; "" lives on
}

func workerProcess(plan []byte) error {
	var p workerPlan
	if err := json.Unmarshal(plan, &p); err != nil {
		return err
	}
	cred, err := bus.ReadCredential(p.Credential)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	conn, err := bus.Connect(ctx, cred, bus.WithLogger(log), bus.Wait())
	if err != nil {
		return err
	}
	defer conn.Close()
	step := func(kind, step string) {
		if p.KillAt == kind+"/"+step {
			die(p.KillAt)
		}
	}
	w, err := workers.New(workers.Options{Conn: &watchedBus{workers.OnBus(conn), step}, Pool: cred.Pool, Concurrency: 4, Dir: p.Dir, Log: log,
		Kinds: handlers(p.Ledger, step)})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return w.Run(ctx)
}

// handlers do the kinds of the tests by writing into the ledger.
func handlers(ledger string, step func(kind, step string)) map[string]workers.Handler {
	do := func(ctx context.Context, job *workers.Job) events.Result {
		e := effect{job.ID, job.Run, job.State, job.Kind, job.Fence}
		if job.Mode == events.ModeStatus {
			return whatBecameOf(ledger, job)
		}
		step(job.Kind, "before the effect")
		if err := writeEffect(ledger, e); err != nil {
			return workers.Fail("ledger", err.Error(), false)
		}
		step(job.Kind, "after the effect")
		return done(job.Kind)
	}
	all := map[string]workers.Handler{}
	for _, kind := range []string{"make", "ship", "blast"} {
		all[kind] = workers.HandlerFunc(do)
	}
	return all
}

func done(kind string) events.Result {
	if kind == "make" {
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"size": 7}}
	}
	return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"place": "harbour"}}
}

// whatBecameOf looks into the ledger for the effect of a lost attempt.
func whatBecameOf(ledger string, job *workers.Job) events.Result {
	all, err := readLedger(ledger)
	if err != nil {
		return workers.Fail("ledger", err.Error(), false)
	}
	if slices.ContainsFunc(all, func(e effect) bool { return e.Task == job.With["attempt"] }) {
		return done(job.Kind)
	}
	return workers.Fail("not_begun", "the lost attempt had no effect", true)
}

// watchedBus tells each step of a task's way through a worker.
type watchedBus struct {
	workers.Bus
	step func(kind, step string)
}

func (b *watchedBus) Fetch(ctx context.Context, pool, kind string, n int, wait time.Duration) ([]workers.Message, error) {
	got, err := b.Bus.Fetch(ctx, pool, kind, n, wait)
	for i, m := range got {
		b.step(kind, "fetched")
		got[i] = watchedMessage{m, b.step}
	}
	return got, err
}

func (b *watchedBus) Request(ctx context.Context, verb string, request any) (events.Answer, error) {
	kind := ""
	if hb, ok := request.(events.FinishRequest); ok { // its outputs tell the kind
		if kind = "ship"; hb.Result.Outputs["size"] != nil {
			kind = "make"
		}
	}
	b.step(kind, "before "+verb)
	a, err := b.Bus.Request(ctx, verb, request)
	b.step(kind, "after "+verb)
	return a, err
}

type watchedMessage struct {
	workers.Message
	step func(kind, step string)
}

func (m watchedMessage) Ack() error {
	m.step(m.Task().Kind, "before the acknowledgement")
	err := m.Message.Ack()
	m.step(m.Task().Kind, "after the acknowledgement")
	return err
}

// client is the people and services of a test, and what they were promised.
type client struct {
	t         testing.TB
	s         *server
	admin     *bus.Conn
	marta, li *bus.Conn
	git       *bus.Conn
	source    string // what git publishes as
	patient   bool   // repeats what failed within the engine
	unclear   bool   // a worker may be lost in the midst of a task that is not repeated
	mu        sync.Mutex
	pace      time.Duration       // between two runs that a crowd begins; 0: as fast as they are answered
	promised  map[string][]string // ids of inputs that were acknowledged, by run
	driven    []string            // runs that were approved
	cancelled []string            // runs that were cancelled
	crowds    int
	sum       reckoning
}

func newClient(s *server) *client {
	s.t.Helper()
	if s.apart != nil {
		as := func(kind, name string) *bus.Conn { return s.connect(s.apart.credential(kind, name)) }
		return &client{t: s.t, s: s, source: "ci", admin: as(bus.KindAdmin, "admin"), marta: as(bus.KindUser, "marta"), li: as(bus.KindUser, "li"), git: as(bus.KindPublisher, "ci")}
	}
	c := &client{t: s.t, s: s, source: "git", admin: s.connect(s.credential(engine.AdminFile))}
	c.marta, c.li, c.git = c.login(bus.KindUser, "marta"), c.login(bus.KindUser, "li"), c.login(bus.KindPublisher, "git")
	return c
}

// login makes a principal and connects as it.
func (c *client) login(kind, name string) *bus.Conn {
	c.t.Helper()
	return c.s.connect(c.principal(events.AddPrincipal{Kind: kind, Name: name}))
}

func (c *client) principal(p events.AddPrincipal) *bus.Credential {
	c.t.Helper()
	var cred bus.Credential
	c.must(c.admin, events.VerbAuthAdd, p, &cred)
	return &cred
}

// ask asks and gives a refusal as an error.
func (c *client) ask(conn *bus.Conn, verb string, request, result any) (events.Answer, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return c.askIn(ctx, conn, verb, request, result)
}

// askIn is ask within ctx. A patient client repeats what the engine could not
// do for the time being, as the documentation of a refusal has it.
func (c *client) askIn(ctx context.Context, conn *bus.Conn, verb string, request, result any) (events.Answer, error) {
	for {
		a, err := conn.Request(ctx, verb, request, result)
		var r *bus.Refusal
		if !c.patient || !errors.As(err, &r) || r.Code != events.CodeInternal {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// must asks; the test ends unless the answer is good.
func (c *client) must(conn *bus.Conn, verb string, request, result any) {
	c.t.Helper()
	_, err := c.ask(conn, verb, request, result)
	if err != nil {
		c.t.Fatalf("%s: %v", verb, err)
	}
}

// promise asks for a change of a run that must not be lost once it is answered.
func (c *client) promise(conn *bus.Conn, verb, run, id string, request any) {
	c.t.Helper()
	c.must(conn, verb, request, nil)
	c.note(run, id)
}

func (c *client) get(run string) events.RunView {
	c.t.Helper()
	var v events.RunView
	c.must(c.admin, events.VerbGet, events.GetRun{Run: run}, &v)
	return v
}

// until waits until a run is as is wants it.
func (c *client) until(run, what string, is func(events.RunView) bool) events.RunView {
	c.t.Helper()
	v, err := c.becomes(run, is)
	if err != nil {
		c.gaveUp(v, run, what, err)
	}
	return v
}

// gaveUp ends the test, since a run was never what it should be.
func (c *client) gaveUp(v events.RunView, run, what string, err error) {
	c.t.Helper()
	if !errors.Is(err, errNotYet) {
		c.t.Fatalf("run %s, until it is %s: %v", run, what, err)
	}
	c.t.Fatalf("run %s: never %s; it is %s", run, what, c.told(v, 3))
}

// becomes is until for those who may not end the test; the error is errNotYet
// when the run is something else in the end.
func (c *client) becomes(run string, is func(events.RunView) bool) (events.RunView, error) {
	var v events.RunView
	for end := time.Now().Add(patience); time.Now().Before(end); {
		v = events.RunView{}
		if _, err := c.ask(c.admin, events.VerbGet, events.GetRun{Run: run}, &v); err != nil || is(v) {
			return v, err
		}
		if v.Status == "done" {
			break
		}
		select {
		case <-time.After(30 * time.Millisecond):
		case <-c.t.Context().Done():
			return v, c.t.Context().Err()
		}
	}
	return v, errNotYet
}

// free gives an environment back that a run has kept beyond its end, since its
// worker was lost in the midst of a task and nobody knows what it left there.
func (c *client) free(v events.RunView) {
	for _, w := range v.Waiting {
		if w.Holder == "" || w.Environment == "" || c.get(w.Holder).State != "unclear" {
			continue
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		_, err := c.askIn(ctx, c.admin, events.VerbEnvFree, events.FreeEnvironment{ID: w.Holder, Environment: w.Environment, Reason: "looked at"}, nil)
		cancel()
		if err != nil { // somebody else has it by now
			c.t.Logf("environment %s is not freed of run %s: %v", w.Environment, w.Holder, err)
		}
	}
}

// told is a run as it is, and those that it waits for, so many deep.
func (c *client) told(v events.RunView, deep int) string {
	p, _ := json.MarshalIndent(v, "", "  ") // it was read from JSON
	text := string(p)
	for _, w := range v.Waiting {
		if w.Holder == "" || deep == 0 {
			continue
		}
		text += "\nwhich waits for " + c.told(c.get(w.Holder), deep-1)
		for _, e := range c.environments() {
			text += fmt.Sprintf("\n%+v", e)
		}
	}
	return text
}

func (c *client) environments() []events.EnvironmentView {
	var list events.Environments
	c.must(c.admin, events.VerbEnvironments, struct{}{}, &list)
	return list.Environments
}

func (c *client) untilDone(run string) events.RunView {
	c.t.Helper()
	return c.until(run, "done", isDone)
}

func isDone(v events.RunView) bool { return v.Status == "done" }

// asked waits until a run asks for an approval and gives its content.
func (c *client) asked(run string) string {
	c.t.Helper()
	v := c.until(run, "waiting for approval", func(v events.RunView) bool { return approval(v) != nil })
	return approval(v).Content
}

func approval(v events.RunView) *events.WaitReason {
	for i := range v.Waiting {
		if v.Waiting[i].What == "approval" {
			return &v.Waiting[i]
		}
	}
	return nil
}

// started waits for the one run that an event started.
func (c *client) started(event string) string {
	c.t.Helper()
	var id string
	defer func() {
		if id == "" {
			c.tellOf(event)
		}
	}()
	eventually(c.t, "event "+event+" starts a run", func() (bool, error) {
		var list events.RunList // of one workflow: a crowd's runs would soon push it off the page
		c.must(c.admin, events.VerbList, events.ListRuns{Workflow: "road", Limit: 1000}, &list)
		var ids []string
		for _, r := range list.Runs {
			if r.Cause != nil && r.Cause.ID == event {
				ids = append(ids, r.ID)
			}
		}
		if len(ids) > 1 {
			c.t.Fatalf("event %s started the runs %v", event, ids)
		}
		id = strings.Join(ids, "")
		return id != "", errNotYet
	})
	return id
}

// publish sends an event of a merged change; nil means that it is stored.
func (c *client) publish(id string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	require(c.t, c.git.Publish(ctx, &events.Event{ID: id, Source: c.source, Type: "com.example.change.merged", Subject: "shop",
		Data: json.RawMessage(`{"change": "` + id + `"}`)}))
}

// tellOf logs what there is to say of an event that started nothing.
func (c *client) tellOf(event string) {
	var info events.ServerInfo
	_, err := c.ask(c.admin, events.VerbServer, struct{}{}, &info)
	c.t.Logf("engines: %+v, %v", info.Engines, err)
	var list events.RunList
	_, err = c.ask(c.admin, events.VerbList, events.ListRuns{Limit: 3}, &list)
	c.t.Logf("newest runs: %+v, %v", list.Runs, err)
	for next := uint64(0); ; {
		var page events.EventPage
		if _, err := c.ask(c.admin, events.VerbEvents, events.ReadEvents{After: next, Limit: 1000}, &page); err != nil || page.Next == next {
			c.t.Logf("that is all that is told of it, %v", err)
			return
		}
		for _, e := range page.Events {
			if strings.Contains(string(e.Data), `"`+event+`"`) {
				c.t.Logf("%s %s %s %s", e.Time, e.Type, e.Subject, e.Data)
			}
		}
		next = page.Next
	}
}

// drive takes one change all the way, and another run to its cancel.
func (c *client) drive(name string) (run, held string) {
	c.t.Helper()
	c.publish(name)
	run = c.started(name)
	c.note(run, "start")
	v := c.until(run, "waiting for approval", func(v events.RunView) bool { return approval(v) != nil || c.unclear && v.State == "unclear" })
	if approval(v) == nil { // its worker was lost in the midst of what it did
		c.mu.Lock()
		defer c.mu.Unlock()
		c.driven = append(c.driven, run)
		return run, ""
	}
	content := approval(v).Content
	c.promise(c.marta, events.VerbDecide, run, "marta:m-"+name, events.Decide{ID: "m-" + name, Run: run, Decision: events.Approve, Content: content})
	var view events.RunView
	c.must(c.li, events.VerbStart, events.StartRun{ID: "h-" + name, Workflow: "hold"}, &view)
	c.note(view.ID, "h-"+name)
	c.promise(c.li, events.VerbCancel, view.ID, "li:c-"+name, events.CancelRun{ID: "c-" + name, Run: view.ID, Reason: "not today"})
	c.promise(c.li, events.VerbDecide, run, "li:l-"+name, events.Decide{ID: "l-" + name, Run: run, Decision: events.Approve, Content: content})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.driven, c.cancelled = append(c.driven, run), append(c.cancelled, view.ID)
	return run, view.ID
}
