package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// compose is a project of docker-compose.yml, of either version of Compose.
type compose struct {
	t       *testing.T
	command []string
	dir     string
	env     []string
	// runs that were approved
	approved []string
}

// newCompose gives a project of which nothing is started yet. Ports and names
// are this test's own.
func newCompose(t *testing.T) *compose {
	t.Helper()
	dockerClient(t)
	for _, tool := range []string{"docker", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "compose", err.Error())
		}
	}
	program := composeProgram()
	if program == nil {
		missing(t, "compose", "neither docker-compose nor docker compose is installed")
	}
	made, err := buildShipped()
	require(t, err)
	c := &compose{t: t, dir: made.dir, command: slices.Concat(program, []string{"-p", "penstock-" + randomName()}), env: []string{
		"PENSTOCK_TAG=" + made.tag, "PENSTOCK_NATS_PORT=0", "PENSTOCK_HTTP_PORT=0",
		"PENSTOCK_NATS_PORT_2=0", "PENSTOCK_NATS_PORT_3=0", "PENSTOCK_HTTP_PORT_2=0", "PENSTOCK_HTTP_PORT_3=0"}}
	t.Cleanup(c.down)
	return c
}

// composeProgram is how Compose is called here; nil when it is not installed.
func composeProgram() []string {
	if _, err := exec.LookPath("docker-compose"); err == nil {
		return []string{"docker-compose"}
	}
	if err := exec.Command("docker", "compose", "version").Run(); err == nil {
		return []string{"docker", "compose"}
	}
	return nil
}

// shipped is a folder with docker-compose.yml and what it needs, and the tag
// of the images that were built as it says.
type shipped struct{ dir, tag string }

// buildShipped makes what is shipped once for all tests of this run, where
// nothing of the checkout is touched.
var buildShipped = sync.OnceValues(func() (shipped, error) {
	dir, err := temporary()
	if err != nil {
		return shipped{}, err
	}
	made := shipped{dir, randomName()}
	atTheEnd(func() {
		if out, err := exec.Command("docker", "rmi", "-f", "penstock:"+made.tag, "penstock-nats:"+made.tag).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "the images %s stay: %v\n%s", made.tag, err, out)
		}
	})
	for _, step := range []struct {
		in   string
		args []string
	}{
		{"..", []string{"cp", "-R", "docker-compose.yml", "deployments", dir}},
		{"..", []string{"make", "dist", "DIST=" + filepath.Join(dir, "dist")}},
		{dir, append(composeProgram(), "build")},
	} {
		cmd := exec.Command(step.args[0], step.args[1:]...)
		cmd.Dir, cmd.Env = step.in, append(os.Environ(), "PENSTOCK_TAG="+made.tag, "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return shipped{}, &buildError{strings.Join(step.args, " "), string(out), err}
		}
	}
	return made, nil
})

func (c *compose) run(args ...string) string {
	c.t.Helper()
	return output(c.t, c.dir, c.env, slices.Concat(c.command, args)...)
}

// down removes everything, also when the test has failed in the middle.
func (c *compose) down() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	all := slices.Concat(c.command, []string{"down", "--volumes", "--remove-orphans"})
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Errorf("docker-compose down: %v\n%s", err, out)
	}
}

func TestComposeFileWorksAsItIsShipped(t *testing.T) {
	t.Parallel()
	c := newCompose(t)
	c.run("config", "--quiet")
	defer func() {
		if t.Failed() {
			t.Log(c.run("logs"))
		}
	}()
	c.run("up", "-d") // waits until the server, and then the engine, is healthy
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := c.approveOne(ctx, c.url("nats"))
	c.run("exec", "-T", "engine", "/penstock", "status")

	// Everything is there again after a restart of everything.
	c.run("stop")
	for id := range strings.Lines(c.run("ps", "-q", "-a")) {
		id = strings.TrimSpace(id)
		if code := strings.TrimSpace(output(t, c.dir, nil, "docker", "inspect", "--format", "{{.State.ExitCode}}", id)); code != "0" {
			t.Errorf("a container that was asked to stop ended with %s:\n%s", code, output(t, c.dir, nil, "docker", "logs", "--tail", "20", id))
		}
	}
	c.run("up", "-d")
	var view events.RunView
	if _, err := c.connect(c.url("nats"), "bot").Request(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil || view.Outcome != events.Succeeded {
		t.Errorf("the run after a restart: %+v, %v", view, err)
	}
}

// TestComposeFileHasACluster starts three NATS servers, three engines and a
// worker, and stops one of the servers and one of the engines.
func TestComposeFileHasACluster(t *testing.T) {
	t.Parallel()
	c := newCompose(t)
	defer func() {
		if t.Failed() {
			t.Log(c.run("logs"))
		}
	}()
	c.run("--profile", "cluster", "up", "-d", "cluster-worker") // and what it depends on
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run := c.approveOne(ctx, c.url("nats-1"))
	c.run("kill", "nats-1", "engine-1")
	second := c.url("nats-2")
	var view events.RunView
	if _, err := c.connect(second, "bot").Request(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil || view.Outcome != events.Succeeded {
		t.Errorf("the run without a server and an engine: %+v, %v", view, err)
	}
	next := c.approveOne(ctx, second)
	if next == run {
		t.Error("the same run was approved again")
	}
}

// url is where a NATS server is reached until it is started again.
func (c *compose) url(nats string) string {
	c.t.Helper()
	return "nats://" + strings.TrimSpace(c.run("port", nats, "4222"))
}

// connect reaches a NATS server with one of the shipped credentials.
func (c *compose) connect(url, name string) *bus.Conn {
	c.t.Helper()
	cred, err := bus.ReadCredential(filepath.Join(c.dir, "deployments", "compose", name+".json"))
	require(c.t, err)
	return outsider(c.t, url, cred.Kind, cred.Name, cred.Password)
}

// approveOne publishes the shipped event, approves the run that it starts and
// waits for its end.
func (c *compose) approveOne(ctx context.Context, url string) (run string) {
	c.t.Helper()
	t := c.t
	bot := c.connect(url, "bot")
	told := following(t, bot, events.ApprovalRequested, events.RunFinished)
	next := func(typ string) (h events.Happening) {
		for {
			select {
			case e := <-told:
				require(t, json.Unmarshal(e.Data, &h))
				switch {
				case slices.Contains(c.approved, h.Run):
					continue // was told before
				case e.Type != typ:
					t.Fatalf("%s was told, want %s", e.Type, typ)
				}
				return h
			case <-ctx.Done():
				t.Fatalf("%s is not told", typ)
			}
		}
	}

	p, err := os.ReadFile(filepath.Join(c.dir, "deployments", "compose", "event.json"))
	if err != nil {
		t.Fatal(err)
	}
	change, err := events.Parse(map[string][]string{"Content-Type": {events.ContentType}}, p)
	if err != nil {
		t.Fatal(err)
	}
	change.ID = randomName()
	require(t, c.connect(url, "ci").Publish(ctx, change))
	request := next(events.ApprovalRequested)
	decide := func(name string) error {
		_, err := c.connect(url, name).Request(ctx, events.VerbDecide, events.Decide{ID: name, Run: request.Run, Decision: events.Approve, Content: request.Content}, nil)
		return err
	}
	if decide("bot") == nil {
		t.Error("the bot may approve, though its role only reads")
	}
	if err := decide("marta"); err != nil {
		t.Fatal(err)
	}
	next(events.RunFinished)
	waitForWorker(ctx, t, c.connect(url, "admin"), []string{"notify", "scan"})
	c.approved = append(c.approved, request.Run)
	return request.Run
}

// waitForWorker waits until a worker that serves the kinds has said hello.
func waitForWorker(ctx context.Context, t *testing.T, conn *bus.Conn, kinds []string) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var info events.ServerInfo
		if _, err := conn.Request(ctx, events.VerbServer, nil, &info); err != nil {
			t.Fatal(err)
		}
		for _, w := range info.Workers {
			if slices.Equal(w.Kinds, kinds) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no worker for %v is there: %+v", kinds, info.Workers)
		}
	}
}
