//go:build unix

package local_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
	"github.com/penstock-cd/penstock/workers/deploy/local"
)

func TestBlueGreenLosesNoRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	url := b.mustDeploy("blue-green", "v0", "ok")
	stop := hammer(t, url)
	switches := 20
	if testing.Short() {
		switches = 5
	}
	for i := 1; i <= switches; i++ {
		version := fmt.Sprintf("v%d", i)
		r := b.deploy("blue-green", version, "ok")
		if r.Outcome != events.Succeeded {
			t.Fatal(failure(r))
		}
		if got := get(t, url); got != version {
			t.Errorf("after the deployment of %s the router answers %q", version, got)
		}
	}
	sent, failed := stop()
	if sent == 0 || len(failed) > 0 {
		t.Errorf("%d requests sent, %d failed: %v", sent, len(failed), failed[:min(5, len(failed))])
	}
	if n := b.status().Requests; n.Failed != 0 || n.Errors != 0 || n.Total < sent {
		t.Errorf("router counts %+v of %d requests", n, sent)
	}
	if groups := b.status().Groups; len(groups) != 1 {
		t.Errorf("after all deployments these run: %+v", groups)
	}
}

func TestResultTellsWhatIsLiveAndWhatWasBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target["instances"] = 2
	first := b.job("blue-green", "v1", "ok")
	r := b.handler.Do(t.Context(), first)
	if r.Outcome != events.Succeeded || r.Outputs["previous"] != "" || r.Outputs["artifact"] != first.With["artifact"] || r.Outputs["instances"] != 2.0 {
		t.Fatalf("first: %s %v", failure(r), r.Outputs)
	}
	second := b.handler.Do(t.Context(), b.job("recreate", "v2", "ok"))
	if second.Outcome != events.Succeeded || second.Outputs["previous"] != first.With["artifact"] || second.Outputs["url"] != r.Outputs["url"] {
		t.Fatalf("second: %s %v", failure(second), second.Outputs)
	}
	st := b.status()
	if st.Live == nil || st.Live.Run != "run-v2" || len(st.Groups) != 1 || len(st.Groups[0].Instances) != 2 || st.Groups[0].Weight != 100 {
		t.Errorf("status: %+v", st)
	}
	for _, want := range []string{"healthy after", "switched 100 % to new", "stopped sha256:"} {
		if !strings.Contains(b.note.String(), want) {
			t.Errorf("notes do not say %q:\n%s", want, b.note)
		}
	}
}

// undoJob is a task that takes version back.
func (b *bench) undoJob(strategy, before, version string) *workers.Job {
	j := b.job(strategy, "undo-"+version, "ok")
	j.With["artifact"], j.With["undo"] = before, b.digest(version)
	return j
}

func (b *bench) digest(version string) string { d, _ := b.artifact(version, "ok"); return d }

func TestAnUndoBringsBackWhatWasThere(t *testing.T) {
	for _, strategy := range []string{"recreate", "blue-green"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			url := b.mustDeploy(strategy, "v1", "ok")
			b.mustDeploy(strategy, "v2", "ok")
			if r := b.handler.Do(t.Context(), b.undoJob(strategy, b.digest("v0"), "v1")); r.Error == nil || r.Error.Code != "not_ours" || !isUndone(r) || get(t, url) != "v2" {
				t.Errorf("an undo of what is not live: %s, live %s", failure(r), get(t, url))
			}
			if r := b.handler.Do(t.Context(), b.undoJob(strategy, b.digest("v1"), "v2")); r.Outcome != events.Succeeded || r.Outputs["previous"] != b.digest("v2") || get(t, url) != "v1" {
				t.Errorf("the undo of v2: %s %v, live %s", failure(r), r.Outputs, get(t, url))
			}
			j := b.undoJob(strategy, "", "v1")
			j.ID = "remove"
			if r := b.handler.Do(t.Context(), j); r.Outcome != events.Succeeded || r.Outputs["artifact"] != "" {
				t.Errorf("the undo of v1, before which nothing was: %s %v", failure(r), r.Outputs)
			}
			if st := b.status(); st.Live != nil || len(st.Groups) != 0 {
				t.Errorf("after that there is %+v", st)
			}
			if url2 := b.mustDeploy(strategy, "v3", "ok"); url2 != url || get(t, url) != "v3" {
				t.Errorf("the next deployment is at %s, not at %s, and answers %s", url2, url, get(t, url))
			}
		})
	}
}

func TestACanaryIsRefusedInWords(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.job("canary", "v1", "ok")
	j.With["weight"], j.With["step"] = 10, 1
	r := b.handler.Do(t.Context(), j)
	if r.Outcome != events.Failed || r.Error.Code != "invalid_input" || !isUndone(r) || !strings.Contains(r.Error.Message, "cannot give a release a part of the traffic") {
		t.Error(failure(r))
	}
}

func TestInstanceSeesItsSettingsAndNotTheWorkers(t *testing.T) {
	t.Setenv("PENSTOCK_CREDENTIAL", "secret of the worker")
	b := newBench(t)
	b.target["env"], b.target["args"] = map[string]any{"A": "target", "B": "target"}, []any{"one"}
	j := b.job("blue-green", "v1", "ok")
	j.With["env"], j.With["args"] = map[string]any{"B": "task"}, []any{"two", "three"}
	r := b.handler.Do(t.Context(), j)
	if r.Outcome != events.Succeeded {
		t.Fatal(failure(r))
	}
	url := r.Outputs["url"].(string)
	env := environment(t, url)
	want := map[string]string{"A": "target", "B": "task", "PENSTOCK_ENVIRONMENT": "shop", "PENSTOCK_RUN": "run-v1", "PENSTOCK_CREDENTIAL": "",
		"PENSTOCK_ARTIFACT": j.With["artifact"].(string), "PENSTOCK_CONFIG_REGION": "north", "PENSTOCK_CONFIG_REPLICAS": "2"}
	got := map[string]string{}
	for name := range want {
		got[name] = env[name]
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("environment (-got +want):\n%s", diff)
	}
	if got := get(t, url+"/args"); strings.TrimSpace(got) != `["two","three"]` {
		t.Errorf("arguments %s", got)
	}
}

func TestNeverHealthyLeavesTheOldReleaseServing(t *testing.T) {
	for _, c := range []struct{ mode, timeout, want string }{
		{"sick", "1s", "500 Internal Server Error database is away"},
		{"crash", "20s", "exit status 7"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			url := b.mustDeploy("blue-green", "v1", "ok")
			before := b.status()
			stop := hammer(t, url)
			j := b.job("blue-green", "v2", c.mode)
			j.With["healthTimeout"] = c.timeout
			r := b.handler.Do(t.Context(), j)
			sent, failed := stop()
			if r.Outcome != events.Failed || r.Error.Code != "never_healthy" || !isUndone(r) || !strings.Contains(r.Error.Message, c.want) {
				t.Errorf("got %s, want never_healthy with %q, undone", failure(r), c.want)
			}
			if c.mode == "crash" && !strings.Contains(b.out.String(), "no database") {
				t.Errorf("the task's output does not have what the program printed: %s", b.out)
			}
			if sent == 0 || len(failed) > 0 || get(t, url) != "v1" {
				t.Errorf("%d requests, failed: %v; live: %s", sent, failed, get(t, url))
			}
			if diff := cmp.Diff(atRest(b.status()), atRest(before)); diff != "" {
				t.Errorf("what runs has changed (-after +before):\n%s", diff)
			}
		})
	}
}

// atRest is what runs, whatever requests it has in hand at the moment.
func atRest(s local.State) []local.GroupStatus {
	groups := slices.Clone(s.Groups)
	for i := range groups {
		groups[i].InFlight = 0
	}
	return groups
}

func TestRecreateThatFailsStartsTheOldReleaseAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	url := b.mustDeploy("recreate", "v1", "ok")
	live := b.status().Live
	r := b.deploy("recreate", "v2", "crash")
	if r.Outcome != events.Failed || r.Error.Code != "never_healthy" || !isUndone(r) {
		t.Errorf("got %s", failure(r))
	}
	if got := get(t, url); got != "v1" {
		t.Errorf("the router answers %q, want v1", got)
	}
	if diff := cmp.Diff(b.status().Live, live); diff != "" {
		t.Errorf("live (-after +before):\n%s", diff)
	}
}

func TestCancelAndTimeoutUndo(t *testing.T) {
	for _, c := range []struct {
		name, strategy, outcome string
		cause                   error
	}{
		{"cancel blue-green", "blue-green", events.Cancelled, workers.ErrCancelled},
		{"cancel recreate", "recreate", events.Cancelled, workers.ErrCancelled},
		{"timeout", "blue-green", events.TimedOut, workers.ErrTimeout},
		{"worker stops", "blue-green", events.Failed, workers.ErrStopping},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			url := b.mustDeploy("blue-green", "v1", "ok")
			ctx, cancel := context.WithCancelCause(t.Context())
			result := make(chan events.Result, 1)
			j := b.job(c.strategy, "v2", "sick")
			go func() { result <- b.handler.Do(ctx, j) }()
			eventually(t, "v2 runs", func() bool {
				return slices.ContainsFunc(b.status().Groups, func(g local.GroupStatus) bool { return g.Artifact == j.With["artifact"] })
			})
			cancel(c.cause)
			r := <-result
			if r.Outcome != c.outcome || !isUndone(r) {
				t.Errorf("got %s, want %s, undone", failure(r), c.outcome)
			}
			if st := b.status(); get(t, url) != "v1" || len(st.Groups) != 1 {
				t.Errorf("live: %s, running: %+v", get(t, url), st.Groups)
			}
			if again := b.settle(t.Context(), "task-v2"); again.Outcome != c.outcome {
				t.Errorf("asked afterwards: %s", failure(again))
			}
		})
	}
}

func TestTimeoutHoldsInTheSupervisorItself(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.job("blue-green", "v1", "sick")
	j.Timeout = 500 // the job's context, which the worker ends, does not end
	if r := b.handler.Do(t.Context(), j); r.Outcome != events.TimedOut || !isUndone(r) {
		t.Errorf("got %s", failure(r))
	}
}

func TestKilledWorkerLeavesNothingHalfWay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustDeploy("blue-green", "v1", "ok")
	gate := filepath.Join(t.TempDir(), "gate")
	digest, content := b.artifact("v2", "gated")
	o := order{b.root, content, deploy.Request{Attempt: "task-v2", Run: "run-v2", Environment: "shop", Fence: events.Fence{Grant: 50}, Strategy: "blue-green",
		Artifact: digest, Target: map[string]any{"healthTimeout": "30s", "env": map[string]any{"GATE": gate}}}}
	text, _ := json.Marshal(o)
	file := filepath.Join(t.TempDir(), "order")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	worker := exec.Command(self, "client", file)
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two groups run", func() bool { return len(b.status().Groups) == 2 })
	worker.Process.Kill()
	worker.Wait()
	settled := make(chan events.Result, 1)
	go func() { settled <- b.settle(t.Context(), "task-v2") }()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := <-settled
	if r.Outcome != events.Succeeded || r.Outputs["artifact"] != digest {
		t.Fatalf("what became of it: %s", failure(r))
	}
	if got := get(t, r.Outputs["url"].(string)); got != "v2" {
		t.Errorf("live: %s", got)
	}
}

func TestRepeatedAttemptIsDoneOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.job("blue-green", "v1", "ok")
	first := b.handler.Do(t.Context(), j)
	before := b.status()
	again := b.handler.Do(t.Context(), j)
	if diff := cmp.Diff(again, first); diff != "" {
		t.Errorf("result of the repeat (-again +first):\n%s", diff)
	}
	if diff := cmp.Diff(atRest(b.status()), atRest(before)); diff != "" {
		t.Errorf("what runs (-after +before):\n%s", diff)
	}
}

func TestOlderFenceIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	old := b.job("blue-green", "v0", "ok")
	url := b.mustDeploy("blue-green", "v1", "ok")
	r := b.handler.Do(t.Context(), old)
	if r.Outcome != events.Failed || r.Error.Code != "stale_fence" || !isUndone(r) || get(t, url) != "v1" {
		t.Errorf("got %s; live: %s", failure(r), get(t, url))
	}
	syscall.Kill(b.status().Supervisor, syscall.SIGKILL) // the fence outlives the supervisor
	if r := b.handler.Do(t.Context(), old); r.Error == nil || r.Error.Code != "stale_fence" {
		t.Errorf("after a crash: %s", failure(r))
	}
}

func TestNewerFenceTakesOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	result := make(chan events.Result, 1)
	old := b.job("blue-green", "v1", "sick")
	go func() { result <- b.handler.Do(t.Context(), old) }()
	eventually(t, "v1 runs", func() bool { st, err := local.Status(b.dir()); return err == nil && len(st.Groups) == 1 })
	url := b.mustDeploy("blue-green", "v2", "ok")
	if r := <-result; r.Outcome != events.Failed || r.Error.Code != "stale_fence" || !isUndone(r) {
		t.Errorf("old: %s", failure(r))
	}
	if get(t, url) != "v2" || len(b.status().Groups) != 1 {
		t.Errorf("live: %s, running %+v", get(t, url), b.status().Groups)
	}
}

func TestSameGrantHasOneDeploymentAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan events.Result, 1)
	one, two := b.job("blue-green", "v1", "sick"), b.job("blue-green", "v2", "ok")
	two.Fence = one.Fence
	go func() { result <- b.handler.Do(ctx, one) }()
	eventually(t, "v1 runs", func() bool { st, err := local.Status(b.dir()); return err == nil && len(st.Groups) == 1 })
	if r := b.handler.Do(t.Context(), two); r.Error == nil || r.Error.Code != "busy" || !isUndone(r) {
		t.Errorf("got %s", failure(r))
	}
	cancel()
	<-result
}

func TestAttemptThatNeverArrivedIsRefusedWhenItComesLate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	late := b.job("blue-green", "v1", "ok")
	if r := b.settle(t.Context(), late.ID); r.Outcome != events.Failed || r.Error.Code != "not_started" || !isUndone(r) {
		t.Fatalf("settled: %s", failure(r))
	}
	if r := b.handler.Do(t.Context(), late); r.Error == nil || r.Error.Code != "not_started" {
		t.Errorf("late: %s", failure(r))
	}
	if st := b.status(); st.Live != nil || len(st.Groups) > 0 {
		t.Errorf("something runs: %+v", st)
	}
}

func TestSupervisorKilledBringsTheLiveReleaseBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	url := b.mustDeploy("blue-green", "v1", "stubborn")
	before := b.status()
	syscall.Kill(before.Supervisor, syscall.SIGKILL)
	eventually(t, "all have ended", func() bool { return !slices.ContainsFunc(pids(before), alive) })
	if st := b.status(); st.Supervisor != 0 || st.Live == nil {
		t.Errorf("status without a supervisor: %+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	guarded := make(chan error)
	go func() { guarded <- b.driver.Guard(ctx) }()
	defer func() { cancel(); <-guarded }()
	eventually(t, "v1 is live again", func() bool { return get(t, url) == "v1" })
	if st := b.status(); st.Live.Attempt != before.Live.Attempt || st.Supervisor == before.Supervisor {
		t.Errorf("before %+v, after %+v", before, st)
	}
}

func TestSupervisorKilledInTheMiddleRestoresAndUndoes(t *testing.T) {
	for _, strategy := range []string{"blue-green", "recreate"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			url := b.mustDeploy("blue-green", "v1", "ok")
			j := b.job(strategy, "v2", "sick")
			result := make(chan events.Result, 1)
			go func() { result <- b.handler.Do(t.Context(), j) }()
			var st local.State
			eventually(t, "v2 runs", func() bool {
				st = b.status()
				return slices.ContainsFunc(st.Groups, func(g local.GroupStatus) bool { return g.Artifact == j.With["artifact"] })
			})
			syscall.Kill(st.Supervisor, syscall.SIGKILL)
			if r := <-result; r.Outcome != events.Failed || r.Error.Code != "supervisor_lost" || !isUndone(r) {
				t.Errorf("got %s", failure(r))
			}
			if got := get(t, url); got != "v1" {
				t.Errorf("live: %s", got)
			}
			if slices.ContainsFunc(pids(st), alive) {
				t.Error("something of the killed supervisor is alive")
			}
		})
	}
}

func TestSupervisorKilledAfterThePointOfNoReturnHasSucceeded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target["drain"] = "10m"
	url := b.mustDeploy("blue-green", "v1", "ok")
	resp, err := http.Get(url + "/hold?file=" + filepath.Join(t.TempDir(), "never")) // keeps v1 from being stopped
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	j := b.job("blue-green", "v2", "ok")
	result := make(chan events.Result, 1)
	go func() { result <- b.handler.Do(t.Context(), j) }()
	var st local.State
	eventually(t, "v2 is the live release", func() bool { st = b.status(); return st.Live.Attempt == j.ID })
	syscall.Kill(st.Supervisor, syscall.SIGKILL)
	r := <-result
	if r.Outcome != events.Succeeded || r.Outputs["url"] != url || r.Outputs["artifact"] != j.With["artifact"] || r.Outputs["previous"] == "" {
		t.Errorf("got %s %v", failure(r), r.Outputs)
	}
	if got := get(t, url); got != "v2" {
		t.Errorf("live: %s", got)
	}
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustDeploy("blue-green", "v1", "ok")
	err := local.Supervise(t.Context(), b.dir())
	if err == nil || !strings.Contains(err.Error(), "another supervisor") {
		t.Errorf("got %v", err)
	}
	self, _ := os.Executable()
	out, err := exec.Command(self, "supervise", "--dir", b.dir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another supervisor") {
		t.Errorf("got %v: %s", err, out)
	}
}

func TestDownLeavesNoProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	url := b.mustDeploy("blue-green", "v1", "stubborn")
	st := b.status()
	children := marked(t, st.Dir)
	if len(children) < 2 {
		t.Fatalf("the instance has no child: %v", children)
	}
	for range 2 { // a repeat is no error
		if err := local.Down(t.Context(), b.dir()); err != nil {
			t.Fatal(err)
		}
	}
	if left := slices.DeleteFunc(append(pids(st), children...), func(pid int) bool { return !alive(pid) }); len(left) > 0 {
		t.Errorf("these are alive: %v", left)
	}
	if st := b.status(); st.Live != nil || st.Supervisor != 0 {
		t.Errorf("status: %+v", st)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("the router answers")
	}
}

// marked are the processes that belong to the environment in dir.
func marked(t *testing.T, dir string) (list []int) {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	if len(found) == 0 {
		t.Skip("this system has no /proc")
	}
	for _, f := range found {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "PENSTOCK_SUPERVISOR="+dir+"\x00") {
			var pid int
			fmt.Sscanf(f, "/proc/%d/", &pid)
			list = append(list, pid)
		}
	}
	return list
}

func TestRemovedDirectoryEndsEverything(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustDeploy("blue-green", "v1", "ok")
	st := b.status()
	if err := os.RemoveAll(b.dir()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all have ended", func() bool { return !slices.ContainsFunc(pids(st), alive) })
}

func TestRequestInFlightEndsOnTheOldRelease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target["drain"] = "20s"
	url := b.mustDeploy("blue-green", "v1", "ok")
	file := filepath.Join(t.TempDir(), "let-go")
	resp, err := http.Get(url + "/hold?file=" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 3)
	if _, err := resp.Body.Read(first); err != nil { // the first bytes come before the end: they are not held back
		t.Fatal(err)
	}
	result := make(chan events.Result, 1)
	j := b.job("blue-green", "v2", "ok")
	go func() { result <- b.handler.Do(t.Context(), j) }()
	eventually(t, "traffic goes to v2", func() bool { return get(t, url) == "v2" })
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, 100)
	n, _ := resp.Body.Read(rest)
	if string(first) != "v1\n" || string(rest[:n]) != "end" {
		t.Errorf("answer %q, %q", first, rest[:n])
	}
	if r := <-result; r.Outcome != events.Succeeded {
		t.Error(failure(r))
	}
}

func TestInstanceThatEndsIsStartedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target["instances"] = 2
	url := b.mustDeploy("blue-green", "v1", "ok")
	stop := hammer(t, url)
	victim := b.status().Groups[0].Instances[0].PID
	syscall.Kill(victim, syscall.SIGKILL)
	eventually(t, "it was started again", func() bool {
		in := b.status().Groups[0].Instances[0]
		return in.Running && in.PID != victim && in.Restarts == 1
	})
	if _, failed := stop(); len(failed) > 4 { // at most what each of the four clients had just there
		t.Errorf("failed: %v", failed)
	}
}

func TestPortOfTheTargetMayChange(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.mustDeploy("blue-green", "v1", "ok")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.target["port"] = taken.Addr().(*net.TCPAddr).Port
	if r := b.deploy("blue-green", "v1b", "ok"); r.Error == nil || r.Error.Code != "port_unavailable" || !isUndone(r) {
		t.Errorf("on a port that somebody else has: %s", failure(r))
	}
	taken.Close()
	second := b.mustDeploy("blue-green", "v2", "ok")
	if second != "http://"+taken.Addr().String() || get(t, second) != "v2" {
		t.Errorf("second at %s answers %s", second, get(t, second))
	}
	eventually(t, "the first port is closed", func() bool { return strings.Contains(get(t, first), "refused") })
}

func TestWhatCannotBeDeployedSaysWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name   string
		change func(*workers.Job)
		code   string
		want   string
	}{
		{"no environment", func(j *workers.Job) { j.Environment = nil }, "invalid_target", "names no environment"},
		{"no target", func(j *workers.Job) { j.Environment.Target = nil }, "invalid_target", "exactly one key"},
		{"unknown target", func(j *workers.Job) { j.Environment.Target = map[string]any{"moon": nil} }, "invalid_target", `"moon" is not known`},
		{"unknown key", func(j *workers.Job) {
			j.Environment.Target = map[string]any{"local": map[string]any{"prot": 1}}
		}, "invalid_target", `"prot"`},
		{"bad duration", func(j *workers.Job) { j.With["drain"] = "soon" }, "invalid_input", "soon"},
		{"bad digest", func(j *workers.Job) { j.With["artifact"] = "v1" }, "invalid_input", "not a digest"},
		{"bad strategy", func(j *workers.Job) { j.With["strategy"] = "magic" }, "invalid_input", "blue-green, recreate"},
		{"bad health", func(j *workers.Job) { j.With["health"] = "healthz" }, "invalid_target", "begins with /"},
		{"no artifact", func(j *workers.Job) { j.With["artifact"] = "sha256:" + strings.Repeat("0", 64) }, "artifact_unavailable", "no artifact"},
		{"wrong content", func(j *workers.Job) { j.Artifacts = oneArtifact("something else") }, "artifact_unavailable", "does not match"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := b.job("blue-green", "bad-"+strings.ReplaceAll(c.name, " ", "-"), "ok")
			c.change(j)
			r := b.handler.Do(t.Context(), j)
			if r.Outcome != events.Failed || r.Error.Code != c.code || !strings.Contains(r.Error.Message, c.want) || !isUndone(r) {
				t.Errorf("got %s, want %s with %q", failure(r), c.code, c.want)
			}
		})
	}
	j := b.job("blue-green", "data", "ok")
	digest, _, _ := b.artifacts.Put(t.Context(), "data", strings.NewReader("\x00\x01 not a program"))
	j.With["artifact"] = digest
	if r := b.handler.Do(t.Context(), j); r.Error == nil || r.Error.Code != "start_failed" || !isUndone(r) {
		t.Errorf("data: %s", failure(r))
	}
}

func TestLongDirectoryHasAShortSocket(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.root = filepath.Join(b.root, strings.Repeat("d", 120))
	b.driver = local.New(local.Options{Dir: b.root})
	b.handler = deploy.New(map[string]deploy.Driver{"local": b.driver})
	if got := get(t, b.mustDeploy("blue-green", "v1", "ok")); got != "v1" {
		t.Errorf("live: %s", got)
	}
}

func TestDamagedStateIsNotTakenForAnEmptyOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustDeploy("blue-green", "v1", "ok")
	if err := local.Down(t.Context(), b.dir()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir(), "state.json")
	whole, _ := os.ReadFile(path)
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(path, whole, 0o600)
	r := b.deploy("blue-green", "v2", "ok")
	if r.Outcome != events.Failed || r.Error.Code != "target_unavailable" || !strings.Contains(r.Error.Message, "state.json") {
		t.Errorf("got %s", failure(r))
	}
}
