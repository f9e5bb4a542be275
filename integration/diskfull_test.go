package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// TestFullDiskRefusesWritesAndRecovers fills the disk below the data
// directory of a server that is at work, and empties it again.
func TestFullDiskRefusesWritesAndRecovers(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v): it takes root, as in unshare -rm", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", disk, err)
		}
	})
	s := newServer(t, serverPlan{Dir: filepath.Join(disk, "data")}, people+kinds+road)
	s.start()
	c := newClient(s)
	ledger := filepath.Join(t.TempDir(), "ledger")
	spawn(t, "worker", workerPlan{Credential: filepath.Join(s.plan.Dir, engine.WorkerFile), Ledger: ledger, Dir: t.TempDir()}).line(t, "ready")
	run, held := c.drive("before")
	c.untilDone(run)
	c.publish("waits")
	waits := c.started("waits")
	content := c.asked(waits)

	ballast := fill(t, disk)
	yes := events.Decide{ID: "m", Run: waits, Decision: events.Approve, Content: content}
	n := 0
	eventually(t, "writes are refused", func() (bool, error) {
		n++
		_, err := c.ask(c.marta, events.VerbStart, events.StartRun{ID: fmt.Sprint("full-", n), Workflow: "hold"}, nil)
		return err != nil, errNotYet
	})
	var refusal *bus.Refusal
	if _, err := c.ask(c.marta, events.VerbDecide, yes, nil); !errors.As(err, &refusal) {
		t.Fatalf("the decision was not refused: %v", err)
	}
	if refusal.Code != events.CodeFull {
		t.Errorf("the code is %q", refusal.Code)
	}
	says(t, refusal.Error(), "nothing was stored", "is nearly full", "MiB are free", "make space")
	b := &bad{client: c}
	b.refused(t, c.li, events.VerbStart, events.StartRun{ID: "x", Workflow: "hold"}, events.CodeFull, "nothing was stored", "is nearly full")
	b.refused(t, c.admin, events.VerbApply, events.Apply{ID: "x", Files: []events.SourceFile{{Name: "x.yaml",
		Content: "apiVersion: penstock/v1\nkind: TaskKind\nmetadata: {name: new}\nspec: {runs: once}\n"}}}, events.CodeFull, "in force still are", "is nearly full")
	b.refused(t, c.marta, events.VerbPublish, events.Event{ID: "x", Source: "marta", Type: "com.example.change.merged"}, events.CodeFull, "was not stored")
	err := c.git.Publish(t.Context(), &events.Event{ID: "y", Source: "git", Type: "com.example.change.merged"})
	if err == nil {
		t.Error("an event was taken though the disk is full")
	} else {
		says(t, err.Error(), "was not stored", "the event store is full")
	}

	// Reading goes on.
	if v := c.get(run); v.Outcome != events.Succeeded {
		t.Errorf("run %s is shown as %+v", run, v)
	}
	c.audit(run)
	var why events.WhyView
	c.must(c.admin, events.VerbWhy, events.GetRun{Run: waits}, &why)
	says(t, why.Short, "2 more releaser")
	var page events.EventPage
	c.must(c.admin, events.VerbEvents, events.ReadEvents{Run: run}, &page)
	if len(page.Events) == 0 {
		t.Error("no events can be read")
	}

	// And so does everything when there is space again.
	require(t, os.Remove(ballast))
	eventually(t, "the decision counts", func() (bool, error) {
		_, err := c.ask(c.marta, events.VerbDecide, yes, nil)
		return err == nil, err
	})
	c.note(waits, "marta:m")
	c.promise(c.li, events.VerbDecide, waits, "li:l", events.Decide{ID: "l", Run: waits, Decision: events.Approve, Content: content})
	if v := c.untilDone(waits); v.Outcome != events.Succeeded {
		t.Errorf("the run that waited ended %s: %+v", v.Outcome, v.Path)
	}
	after, _ := c.drive("after")
	if v := c.untilDone(after); v.Outcome != events.Succeeded {
		t.Errorf("the next run ended %s", v.Outcome)
	}

	// Full once more, and killed: what was acknowledged is there, before and after.
	ballast = fill(t, disk)
	s.proc.kill()
	x := spawn(t, "server", s.plan)
	if ok, _ := s.readyOf(x); ok {
		t.Error("a server started on a full disk")
	}
	says(t, x.log.String(), "is nearly full")
	require(t, os.Remove(ballast))
	s.start()
	for _, r := range []string{run, held, waits, after} {
		c.audit(r)
		onceOnly(t, ledger, run, "ship")
	}
}

// fill fills a disk up to the last MiB and gives the file that does it.
func fill(t *testing.T, disk string) string {
	t.Helper()
	path := filepath.Join(disk, "ballast")
	f, err := os.Create(path)
	require(t, err)
	defer f.Close()
	var st syscall.Statfs_t
	require(t, syscall.Statfs(disk, &st))
	block := make([]byte, 1<<20)
	for range int64(st.Bavail)*int64(st.Bsize)>>20 - 16 {
		_, err := f.Write(block)
		require(t, err)
	}
	return path
}

// TestFullStoreRefusesWritesUntilItIsLarger meets the limit of the store
// itself, which no tidying of the disk moves.
func TestFullStoreRefusesWritesUntilItIsLarger(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverPlan{MaxStore: 3 << 20}, people+kinds+road+`
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: large}
spec:
  inputs: {text: {type: string}}
  initial: ask
  states:
    ask: {approval: {quorum: [{role: releaser, count: 1}], expires: 1h}, next: done, onFail: done}
    done: {final: succeeded}
`)
	s.start()
	c := newClient(s)
	var started []string
	var refusal *bus.Refusal
	for i := 0; refusal == nil; i++ {
		if i == 500 {
			t.Fatal("the store never became full")
		}
		var v events.RunView
		text := make([]byte, 24<<10)
		for j := range text { // what cannot be compressed
			text[j] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[(i*7919+j*j*31+j*i)%62]
		}
		_, err := c.ask(c.marta, events.VerbStart, events.StartRun{ID: fmt.Sprint(i), Workflow: "large", Inputs: map[string]any{"text": string(text)}}, &v)
		if !errors.As(err, &refusal) {
			require(t, err)
			started = append(started, v.ID)
		}
	}
	if refusal.Code != events.CodeFull {
		t.Errorf("the code is %q: %v", refusal.Code, refusal)
	}
	says(t, refusal.Error(), "nothing was stored", "the store has reached its limit", "--max-store")
	for _, r := range started {
		c.audit(r)
	}
	require(t, s.proc.stop(t))
	s.plan.MaxStore = 1 << 30
	s.start()
	var v events.RunView
	c.must(c.marta, events.VerbStart, events.StartRun{ID: "more", Workflow: "hold"}, &v)
	for _, r := range append(started, v.ID) {
		c.audit(r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.li.Request(ctx, events.VerbDecide, events.Decide{ID: "yes-" + r, Run: r, Decision: events.Approve, Content: c.asked(r)}, nil)
		cancel()
		require(t, err)
		if v := c.untilDone(r); v.Outcome != events.Succeeded {
			t.Errorf("run %s ended %s", r, v.Outcome)
		}
	}
}
