package integration_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// newCompose copies what docker-compose.yml needs and makes dist/, both where
// nothing of the checkout is touched. Ports and names are this test's own.
func newCompose(t *testing.T) *compose {
	t.Helper()
	dockerClient(t)
	command := []string{"docker-compose"}
	if _, err := exec.LookPath(command[0]); err != nil {
		command = []string{"docker", "compose"}
		if err := exec.Command("docker", "compose", "version").Run(); err != nil {
			missing(t, "compose", "neither docker-compose nor docker compose is installed")
		}
	}
	for _, tool := range []string{"docker", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "compose", err.Error())
		}
	}
	tag := randomName()
	c := &compose{t: t, dir: t.TempDir(), command: append(command, "-p", "penstock-"+tag), env: []string{
		"PENSTOCK_TAG=" + tag, "PENSTOCK_NATS_PORT=0", "PENSTOCK_HTTP_PORT=0",
		"PENSTOCK_NATS_PORT_2=0", "PENSTOCK_NATS_PORT_3=0", "PENSTOCK_HTTP_PORT_2=0", "PENSTOCK_HTTP_PORT_3=0", "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0"}}
	copyTree(t, c.dir, "docker-compose.yml", "deployments")
	output(t, repository(t), nil, "make", "dist", "DIST="+filepath.Join(c.dir, "dist"))
	t.Cleanup(c.down)
	return c
}

func (c *compose) run(args ...string) string {
	c.t.Helper()
	return output(c.t, c.dir, c.env, slices.Concat(c.command, args)...)
}

// down removes everything, also when the test has failed in the middle.
func (c *compose) down() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	all := slices.Concat(c.command, []string{"down", "--volumes", "--remove-orphans", "--rmi", "all"})
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Errorf("docker-compose down: %v\n%s", err, out)
	}
}

func TestComposeFileWorksAsItIsShipped(t *testing.T) {
	c := newCompose(t)
	c.run("config", "--quiet")
	c.run("build")
	defer func() {
		if t.Failed() {
			t.Log(c.run("logs"))
		}
	}()
	c.run("up", "-d") // waits until the server, and then the engine, is healthy
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := c.approveOne(ctx, "nats")
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
	if _, err := c.connect("nats", "bot").Request(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil || view.Outcome != events.Succeeded {
		t.Errorf("the run after a restart: %+v, %v", view, err)
	}
}

// TestComposeFileHasACluster starts three NATS servers, three engines and a
// worker, and stops one of the servers and one of the engines.
func TestComposeFileHasACluster(t *testing.T) {
	c := newCompose(t)
	c.run("build")
	defer func() {
		if t.Failed() {
			t.Log(c.run("logs"))
		}
	}()
	c.run("--profile", "cluster", "up", "-d", "cluster-worker") // and what it depends on
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run := c.approveOne(ctx, "nats-1")
	c.run("kill", "nats-1", "engine-1")
	var view events.RunView
	if _, err := c.connect("nats-2", "bot").Request(ctx, events.VerbGet, events.GetRun{Run: run}, &view); err != nil || view.Outcome != events.Succeeded {
		t.Errorf("the run without a server and an engine: %+v, %v", view, err)
	}
	next := c.approveOne(ctx, "nats-2")
	if next == run {
		t.Error("the same run was approved again")
	}
}

// connect reaches a NATS server with one of the shipped credentials.
func (c *compose) connect(nats, name string) *bus.Conn {
	c.t.Helper()
	cred, err := bus.ReadCredential(filepath.Join(c.dir, "deployments", "compose", name+".json"))
	require(c.t, err)
	url := "nats://" + strings.TrimSpace(c.run("port", nats, "4222"))
	return outsider(c.t, url, cred.Kind, cred.Name, cred.Password)
}

// approveOne publishes the shipped event, approves the run that it starts and
// waits for its end.
func (c *compose) approveOne(ctx context.Context, nats string) (run string) {
	c.t.Helper()
	t := c.t
	bot := c.connect(nats, "bot")
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
	require(t, c.connect(nats, "ci").Publish(ctx, change))
	request := next(events.ApprovalRequested)
	decide := func(name string) error {
		_, err := c.connect(nats, name).Request(ctx, events.VerbDecide, events.Decide{ID: name, Run: request.Run, Decision: events.Approve, Content: request.Content}, nil)
		return err
	}
	if decide("bot") == nil {
		t.Error("the bot may approve, though its role only reads")
	}
	if err := decide("marta"); err != nil {
		t.Fatal(err)
	}
	next(events.RunFinished)
	waitForWorker(ctx, t, c.connect(nats, "admin"), []string{"notify", "scan"})
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

// copyTree copies files of the repository, so that a test may write beside them.
func copyTree(t testing.TB, to string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		from, target := filepath.Join(repository(t), path), filepath.Join(to, path)
		info, err := os.Stat(from)
		if err == nil && info.IsDir() {
			err = os.CopyFS(target, os.DirFS(from))
		} else if err == nil {
			var p []byte
			if p, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(target, p, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
