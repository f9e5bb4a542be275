//go:build unix

package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
	"github.com/penstock-cd/penstock/workers/deploy/local"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// oneArtifact gives one content, whatever is asked for.
type oneArtifact []byte

func (a oneArtifact) Get(_ context.Context, _ string, w io.Writer) error {
	_, err := w.Write(a)
	return err
}
func (a oneArtifact) Put(context.Context, string, io.Reader) (string, int64, error) {
	return "", 0, errors.New("nothing is stored here")
}

type deafReporter struct{}

func (deafReporter) Progress(string) {}
func (deafReporter) Note(string)     {}
func (deafReporter) Output(string)   {}

// bench is a worker with a "shop" environment, and the artifacts that it can deploy.
type bench struct {
	t         *testing.T
	root      string
	driver    *local.Driver
	handler   workers.Handler
	artifacts *workertest.Artifacts
	target    map[string]any
	grant     int64
	note      *workertest.Output
	out       *workertest.Output
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root := t.TempDir()
	d := local.New(local.Options{Dir: root})
	b := &bench{t: t, root: root, driver: d, handler: deploy.New(map[string]deploy.Driver{"local": d}),
		artifacts: workertest.NewArtifacts(), note: &workertest.Output{}, out: &workertest.Output{},
		target: map[string]any{"healthTimeout": "20s"}}
	t.Cleanup(func() {
		if err := local.Down(context.Background(), b.dir()); err != nil {
			t.Errorf("down: %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.dir(), "supervisor.log"))
			t.Logf("notes:\n%s\nsupervisor:\n%s", b.note, log)
		}
	})
	return b
}

func (b *bench) dir() string { return b.driver.Dir("shop") }

// artifact is a program: this binary as a service of a version, in a mode.
func (b *bench) artifact(version, mode string) (digest string, content []byte) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' service %s %s \"$@\"\n", self, version, mode)
	if mode == "stubborn" {
		script = fmt.Sprintf("#!/bin/sh\nPORT=0 '%s' service child stubborn & \nexec '%s' service %s %s\n", self, self, version, mode)
	}
	digest, _, err = b.artifacts.Put(b.t.Context(), version, strings.NewReader(script))
	if err != nil {
		b.t.Fatal(err)
	}
	return digest, []byte(script)
}

// job is a task that deploys version in mode, under a grant of its own.
func (b *bench) job(strategy, version, mode string) *workers.Job {
	b.t.Helper()
	b.grant++
	digest, _ := b.artifact(version, mode)
	j := workertest.New(b.t, map[string]any{"artifact": digest, "strategy": strategy})
	j.ID, j.Run, j.Kind, j.Runs = "task-"+version, "run-"+version, deploy.Kind, events.RunsOnce
	j.Artifacts, j.Note, j.Stdout = b.artifacts, b.note, b.out
	j.Fence = events.Fence{Grant: b.grant, Version: 1}
	j.Environment = &events.TaskEnvironment{Name: "shop", Target: map[string]any{"local": b.target}, Config: map[string]any{"region": "north", "replicas": 2}}
	return j
}

func (b *bench) deploy(strategy, version, mode string) events.Result {
	b.t.Helper()
	return b.handler.Do(b.t.Context(), b.job(strategy, version, mode))
}

// mustDeploy deploys and gives the url of the environment.
func (b *bench) mustDeploy(strategy, version, mode string) string {
	b.t.Helper()
	r := b.deploy(strategy, version, mode)
	if r.Outcome != events.Succeeded {
		b.t.Fatalf("deploying %s: %s", version, failure(r))
	}
	return r.Outputs["url"].(string)
}

func (b *bench) status() local.State {
	b.t.Helper()
	st, err := local.Status(b.dir())
	if err != nil {
		b.t.Fatalf("status: %v", err)
	}
	return st
}

// settle asks what became of an attempt, as a status task does.
func (b *bench) settle(ctx context.Context, attempt string) events.Result {
	b.t.Helper()
	j := b.job("blue-green", "status-of-"+attempt, "ok")
	j.Mode, j.With["attempt"] = events.ModeStatus, attempt
	return b.handler.Do(ctx, j)
}

// get asks path of url, on a connection of its own.
func get(t *testing.T, url string) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// hammer asks url all the time on kept connections until stop, which gives
// how many requests were sent and what went wrong.
func hammer(t *testing.T, url string) (stop func() (sent int64, failed []string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var sent atomic.Int64
	var mu sync.Mutex
	var failed []string
	for range 4 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for i := 0; ctx.Err() == nil; i++ {
				if err := once(c, url, i); err != nil {
					mu.Lock()
					failed = append(failed, err.Error())
					mu.Unlock()
				}
				sent.Add(1)
				time.Sleep(time.Millisecond) // the load, not a wait
			}
		})
	}
	return func() (int64, []string) {
		cancel()
		wg.Wait()
		return sent.Load(), failed
	}
}

// once sends a request; every fourth one has a body and effects.
func once(c *http.Client, url string, i int) error {
	resp, err := c.Get(url)
	if i%4 == 3 {
		if err == nil {
			resp.Body.Close()
		}
		resp, err = c.Post(url, "text/plain", strings.NewReader("order"))
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %v %s", resp.Status, err, body)
	}
	return nil
}

// pids are those of everything in the environment, supervisor included.
func pids(st local.State) []int {
	list := []int{st.Supervisor}
	for _, g := range st.Groups {
		for _, in := range g.Instances {
			list = append(list, in.PID)
		}
	}
	return list
}

// isUndone reports whether a result says that nothing is left.
func isUndone(r events.Result) bool {
	done, _ := r.Facts[deploy.FactUndone].(bool)
	return done
}

func environment(t *testing.T, url string) map[string]string {
	t.Helper()
	var list []string
	if err := json.Unmarshal([]byte(get(t, url+"/env")), &list); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, v := range list {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}
