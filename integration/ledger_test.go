package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// drawn gives the random numbers of a test and how many rounds it goes. Both
// are printed: PENSTOCK_SEED repeats a run, PENSTOCK_ROUNDS makes it longer
// (make proof).
func drawn(t testing.TB, rounds int) (*rand.Rand, int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("PENSTOCK_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		require(t, err)
		seed = n
	}
	if v := os.Getenv("PENSTOCK_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		require(t, err)
		rounds = n
	}
	t.Logf("PENSTOCK_SEED=%d PENSTOCK_ROUNDS=%d", seed, rounds)
	return rand.New(rand.NewPCG(seed, 1)), rounds
}

// reckoning is what the ledger says in the end. The ledger lies outside of
// Penstock: the test notes what it was promised, the worker what it did.
type reckoning struct {
	Runs        int // that were looked at
	Acked, Lost int // inputs that were acknowledged, and those of them that no record holds
	Transitions int // records of these runs
	Doubled     int // records with a version or an input that another one has
	Effects     int // what the worker did
	Missing     int // states of finished runs that claim an effect which is not there
	Twice       int // effects of what must not run twice, beyond the first
}

func (r reckoning) String() string {
	return fmt.Sprintf("%d runs: %d inputs acknowledged, %d lost; %d transitions, %d doubled; %d effects, %d missing, %d twice that must not be",
		r.Runs, r.Acked, r.Lost, r.Transitions, r.Doubled, r.Effects, r.Missing, r.Twice)
}

// note writes down that an input of a run was acknowledged.
func (c *client) note(run, input string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.promised == nil {
		c.promised = map[string][]string{}
	}
	c.promised[run] = append(slices.Clip(c.promised[run]), input) // a copied client may have the rest
}

// changes is how many changes have been driven.
func (c *client) changes() int { return len(c.driven) }

// reckon waits for the end of everything that was driven and compares the
// record with the ledger. What does not fit is an error of the test.
func (c *client) reckon(ledger string) {
	c.t.Helper()
	for _, run := range c.driven {
		if v := c.untilDone(run); v.Outcome != events.Succeeded {
			c.t.Errorf("run %s ended %s: %+v", run, v.Outcome, v.Path)
		}
		c.audit(run)
		c.effects(ledger, run)
	}
	c.reckonCancelled()
}

// reckonCancelled is reckon of the runs whose cancel was acknowledged. They
// are many: several are asked about at a time.
func (c *client) reckonCancelled() {
	c.t.Helper()
	next, looked := make(chan string, len(c.cancelled)), make(chan found, len(c.cancelled))
	for _, run := range c.cancelled {
		next <- run
	}
	close(next)
	for range 8 {
		go func() {
			for run := range next {
				looked <- c.look(run)
			}
		}()
	}
	for range c.cancelled {
		f := <-looked
		if f.err != nil {
			c.gaveUp(f.view, f.run, "done", f.err)
		}
		if f.view.Outcome != events.Cancelled {
			c.t.Errorf("run %s ended %s, and its cancel was acknowledged", f.run, f.view.Outcome)
		}
		c.judge(f)
	}
}

// crowd has n people start runs and cancel them, as fast as they are answered,
// or at the client's pace. When leave returns, every run of which a start was
// acknowledged is known, and whether its cancel was.
func (c *client) crowd(n int) (leave func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	tick, stop := c.ticks()
	var people sync.WaitGroup
	c.crowds++
	for person := range n {
		people.Go(func() {
			for i := 0; awaits(ctx, tick); i++ {
				id := fmt.Sprintf("crowd-%d-%d-%d", c.crowds, person, i)
				var v events.RunView
				if _, err := c.askIn(ctx, c.marta, events.VerbStart, events.StartRun{ID: id, Workflow: "hold"}, &v); err != nil {
					if ctx.Err() == nil {
						c.t.Errorf("%s is not started: %v", id, err)
					}
					return
				}
				_, err := c.askIn(ctx, c.li, events.VerbCancel, events.CancelRun{ID: id, Run: v.ID}, nil)
				if err != nil && ctx.Err() == nil {
					c.t.Errorf("%s is not cancelled: %v", id, err)
				}
				c.note(v.ID, id)
				if err == nil {
					c.note(v.ID, "li:"+id)
					c.mu.Lock()
					c.cancelled = append(c.cancelled, v.ID)
					c.mu.Unlock()
				}
			}
		})
	}
	return func() { cancel(); people.Wait(); stop() }
}

// ticks says when the next of a crowd may begin a run.
func (c *client) ticks() (tick <-chan time.Time, stop func()) {
	if c.pace == 0 {
		always := make(chan time.Time)
		close(always)
		return always, func() {}
	}
	t := time.NewTicker(c.pace)
	return t.C, t.Stop
}

// awaits waits for a tick; false when ctx ended first.
func awaits(ctx context.Context, tick <-chan time.Time) bool {
	select {
	case <-tick:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// effects compares what the worker did for a run with what had to be done:
// everything at least once, and what must not run twice once.
func (c *client) effects(ledger, run string) {
	c.t.Helper()
	all, err := readLedger(ledger)
	require(c.t, err)
	done := map[string]int{}
	for _, e := range all {
		if e.Run == run {
			done[e.State]++
			c.sum.Effects++
		}
	}
	for _, state := range []string{"build", "verify.unit", "verify.lint", "ship", "finally.1"} {
		if done[state] == 0 {
			c.sum.Missing++
			c.t.Errorf("run %s succeeded, and %s was never done", run, state)
		}
	}
	if n := done["ship"]; n > 1 {
		c.sum.Twice += n - 1
		c.t.Errorf("run %s: ship was done %d times", run, n)
	}
}

// found is what the engine has to say about a run: how it is, and its record.
type found struct {
	run    string
	view   events.RunView
	proof  events.Verification
	stored events.Records
	err    error // why the rest is not complete
}

// look waits for the end of a run and reads its record. It does not end the
// test, so several may look at once.
func (c *client) look(run string) found {
	v, err := c.becomes(run, isDone)
	if err != nil {
		return found{run: run, view: v, err: err}
	}
	f := c.read(run)
	f.view = v
	return f
}

// read reads a run's record and has it verified.
func (c *client) read(run string) found {
	f, about := found{run: run}, events.GetRun{Run: run}
	if _, f.err = c.ask(c.admin, events.VerbVerify, about, &f.proof); f.err == nil {
		_, f.err = c.ask(c.admin, events.VerbRecords, about, &f.stored)
	}
	return f
}

// audit reads a run's records and judges them.
func (c *client) audit(run string) []record.Record {
	c.t.Helper()
	f := c.read(run)
	require(c.t, f.err)
	return c.judge(f)
}

// judge verifies the records of a run: the chain is whole, no input stands in
// it twice, and nothing that was promised is missing.
func (c *client) judge(f found) []record.Record {
	c.t.Helper()
	if !f.proof.OK {
		c.t.Errorf("run %s does not verify: %v", f.run, f.proof.Problems)
	}
	seen := map[string]int64{}
	var all []record.Record
	for i, s := range f.stored.Records {
		var r record.Record
		require(c.t, json.Unmarshal(s.Record, &r))
		if r.V != int64(i+1) {
			c.sum.Doubled++
			c.t.Errorf("run %s: record %d has the version %d", f.run, i+1, r.V)
		}
		if at, twice := seen[r.In.ID]; twice {
			c.sum.Doubled++
			c.t.Errorf("run %s: input %s stands in record %d and again in %d", f.run, r.In.ID, at, r.V)
		}
		seen[r.In.ID] = r.V
		all = append(all, r)
	}
	c.sum.Runs++
	c.sum.Transitions += len(all)
	for _, id := range c.promised[f.run] {
		c.sum.Acked++
		if _, there := seen[id]; !there && id != "start" {
			c.sum.Lost++
			c.t.Errorf("run %s: the input %s was acknowledged and is not in the record", f.run, id)
		}
	}
	return all
}

// onceOnly fails the test when something that must not happen twice did, or
// one of the states was worked on more or less than once. Of the kind make,
// which begins at once, a worker that is killed leaves its attempt to the next.
func onceOnly(t testing.TB, ledger, run string, states ...string) {
	t.Helper()
	all, err := readLedger(ledger)
	require(t, err)
	tasks := map[string]int{}
	ran := map[string]int{}
	for _, e := range all {
		if tasks[e.Task]++; tasks[e.Task] > 1 && e.Kind != "make" {
			t.Errorf("attempt %s (%s of run %s) was done %d times", e.Task, e.State, e.Run, tasks[e.Task])
		}
		if e.Run == run {
			ran[e.State]++
		}
	}
	for _, s := range states {
		if ran[s] != 1 {
			t.Errorf("run %s: %s had %d effects, want 1", run, s, ran[s])
		}
	}
}
