package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// TestServerKilledAtEveryStepLosesNothing kills the server at each record of
// a run and of everything around it, once: before the record goes to the
// journal, when it is stored and nobody has heard of it, when it has been
// answered, and when its tasks and events are out but no checkpoint says so.
func TestServerKilledAtEveryStepLosesNothing(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"record goes to the journal", "record stored", "record carried out within the engine", "record relayed"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, serverPlan{Heartbeat: time.Second, HeartbeatLimit: 30 * time.Second}, people+kinds+road)
			s.start()
			ledger := filepath.Join(t.TempDir(), "ledger")
			c := newClient(s)
			spawn(t, "worker", workerPlan{Credential: filepath.Join(s.plan.Dir, engine.WorkerFile), Ledger: ledger, Dir: t.TempDir()}).line(t, "ready")
			s.proc.kill()

			s.plan.KillAt = at
			stop := s.keepAlive()
			run, held := c.drive("one")
			v, h := c.untilDone(run), c.untilDone(held)
			stop()

			if v.Outcome != events.Succeeded || h.Outcome != events.Cancelled {
				t.Errorf("the runs ended %s and %s, want succeeded and cancelled", v.Outcome, h.Outcome)
			}
			if t.Failed() {
				return
			}
			s.proc.kill()
			s.plan.KillAt = ""
			s.start()
			records := len(c.audit(run)) + len(c.audit(held))
			onceOnly(t, ledger, run, "build", "verify.unit", "verify.lint", "ship", "finally.1")
			// The last records of all may be stored after the test has its answer.
			if kills := len(s.plan.Killed); at != "record relayed" && kills < records-1 {
				t.Errorf("%d kills for %d records of the runs alone: the server was not killed at every step", kills, records)
			}
			t.Logf("%d records, %d kills", records, len(s.plan.Killed))
			// The ones that were relayed have no tasks or events that were lost: a good run still goes through.
			again, _ := c.drive("two")
			if v := c.untilDone(again); v.Outcome != events.Succeeded {
				t.Errorf("the next run ended %s", v.Outcome)
			}
		})
	}
}

// TestWorkerKilledAtEveryStep kills a worker at each step of a task. A task
// that may run again is done by the next worker; of one that must not, the
// next worker finds out what became of it. In the end everything is done, and
// what must be done once was done once.
func TestWorkerKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	steps := []string{"make/fetched", "/before attempt.start", "/after attempt.start", "ship/fetched"}
	for _, kind := range []string{"make", "ship"} {
		for _, step := range []string{"before the acknowledgement", "after the acknowledgement", "before the effect", "after the effect",
			"before attempt.finish", "after attempt.finish"} {
			steps = append(steps, kind+"/"+step)
		}
	}
	definitions := people + kinds
	for i := range steps {
		definitions += fmt.Sprintf(`
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: small-%[1]d}
spec:
  initial: build
  states:
    build: {task: make, pool: p%[1]d, with: {change: x}, retry: {attempts: 3, backoff: 100ms}, next: ship, onFail: broken}
    ship: {task: ship, pool: p%[1]d, with: {change: x}, retry: {attempts: 3, backoff: 100ms}, next: done, onFail: broken}
    done: {final: succeeded}
    broken: {final: failed}
`, i)
	}
	s := newServer(t, serverPlan{Heartbeat: 200 * time.Millisecond, HeartbeatLimit: time.Second}, definitions)
	s.start()
	c := newClient(s)
	// Not parallel to each other: the server ends with this function.
	done := make(chan func(), len(steps))
	for i, step := range steps {
		pool := fmt.Sprintf("p%d", i)
		cred := filepath.Join(t.TempDir(), "worker.json")
		require(t, c.principal(events.AddPrincipal{Kind: bus.KindWorker, Name: "w" + pool, Pool: pool}).Write(cred))
		plan := workerPlan{Credential: cred, Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
		var view events.RunView
		c.must(c.marta, events.VerbStart, events.StartRun{ID: step, Workflow: fmt.Sprintf("small-%d", i)}, &view)
		doomed := plan
		doomed.KillAt = step
		w := spawn(t, "worker", doomed)
		go func() {
			for l := range w.lines {
				if strings.HasPrefix(l, "killed") {
					break
				}
			}
			w.kill()
			done <- func() { spawn(t, "worker", plan) }
		}()
	}
	for range steps {
		(<-done)()
	}
	var list events.RunList
	c.must(c.admin, events.VerbList, events.ListRuns{}, &list)
	for _, r := range list.Runs {
		v := c.untilDone(r.ID)
		if v.Outcome != events.Succeeded {
			t.Errorf("%s: the run of %s ended %s: %+v", v.Workflow, v.RequestedBy, v.Outcome, v.Path)
		}
		c.audit(r.ID)
	}
}

// TestLostWorkerOfWhatCannotBeAskedIsInconclusive kills the worker of a task
// that must not run twice and whose fate nobody can find out.
func TestLostWorkerOfWhatCannotBeAskedIsInconclusive(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverPlan{Heartbeat: 200 * time.Millisecond, HeartbeatLimit: time.Second}, people+kinds+`
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: rocket}
spec:
  initial: launch
  states:
    launch: {task: blast, with: {change: x}, retry: {attempts: 3, backoff: 100ms}, next: done, onInconclusive: look, onFail: broken}
    look: {approval: {quorum: [{role: releaser, count: 1}], expires: 1h}, next: done, onFail: broken}
    done: {final: succeeded}
    broken: {final: failed}
`)
	s.start()
	c := newClient(s)
	plan := workerPlan{Credential: filepath.Join(s.plan.Dir, engine.WorkerFile), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir(), KillAt: "blast/after the effect"}
	w := spawn(t, "worker", plan)
	var view events.RunView
	c.must(c.marta, events.VerbStart, events.StartRun{ID: "1", Workflow: "rocket"}, &view)
	if _, died := w.line(t, "killed"); !died {
		t.Fatal("the worker was not killed")
	}
	w.kill()
	plan.KillAt = ""
	spawn(t, "worker", plan)
	c.asked(view.ID)
	v := c.get(view.ID)
	if got := v.Path[0]; got.Outcome != events.Inconclusive || got.Error.Code != events.CodeWorkerLost || !strings.Contains(got.Error.Message, "was not heard of for 1s") {
		t.Errorf("launch ended %s: %+v", got.Outcome, got.Error)
	}
	onceOnly(t, plan.Ledger, view.ID, "launch")
}

// TestKilledAtRandomMoments kills the engine, its worker and the NATS server,
// in the engine's process or apart, at moments drawn from a seed, and has the
// ledger say what became of what was promised.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	plan := serverPlan{Heartbeat: 300 * time.Millisecond, HeartbeatLimit: 3 * time.Second}
	for name, prepare := range map[string]func(testing.TB, serverPlan, string) *server{"NATS in the engine": newServer, "NATS apart": newServerApart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random, rounds := drawn(t, 10)
			s := prepare(t, plan, people+kinds+road)
			s.start()
			c := newClient(s)
			wp := workerPlan{Credential: s.workerCredential(), Ledger: filepath.Join(t.TempDir(), "ledger"), Dir: t.TempDir()}
			w := spawn(t, "worker", wp)
			leave := c.crowd(4)
			killed := make(chan string)
			go func() {
				defer close(killed)
				for range rounds {
					time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond) // the moment is what is drawn
					switch n := random.IntN(6); {
					case n < 2:
						w.kill()
						w = spawn(t, "worker", wp)
						killed <- "worker"
					case n < 4 && s.apart != nil:
						s.apart.again()
						killed <- "NATS"
					default:
						s.proc.kill()
						s.proc = spawn(t, "server", s.plan)
						if _, err := s.ready(); err != nil {
							t.Errorf("the server: %v\n%s", err, s.proc.log)
							return
						}
						killed <- "engine"
					}
				}
			}()
			kills := map[string]int{}
			for going := true; going; {
				c.drive(fmt.Sprintf("change-%d", c.changes()))
				for waiting := true; waiting; {
					select {
					case what, more := <-killed:
						if going, waiting = more, more; more {
							kills[what]++
						}
					default:
						waiting = false
					}
				}
			}
			leave()
			c.reckon(wp.Ledger)
			t.Logf("killed %v; %s", kills, c.sum)
		})
	}
}
