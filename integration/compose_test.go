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
		"PENSTOCK_TAG=" + tag, "PENSTOCK_NATS_PORT=0", "PENSTOCK_HTTP_PORT=0", "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0"}}
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
	url := "nats://" + strings.TrimSpace(c.run("port", "nats", "4222"))
	connect := func(name string) *bus.Conn {
		cred, err := bus.ReadCredential(filepath.Join(c.dir, "deployments", "compose", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return outsider(t, url, cred.Kind, cred.Name, cred.Password)
	}
	bot := connect("bot")
	told := following(t, bot, events.ApprovalRequested, events.RunFinished)
	next := func(typ string) *events.Event {
		select {
		case e := <-told:
			if e.Type != typ {
				t.Fatalf("%s was told, want %s", e.Type, typ)
			}
			return e
		case <-ctx.Done():
			t.Fatalf("%s is not told", typ)
		}
		return nil
	}

	p, err := os.ReadFile(filepath.Join(c.dir, "deployments", "compose", "event.json"))
	if err != nil {
		t.Fatal(err)
	}
	change, err := events.Parse(map[string][]string{"Content-Type": {events.ContentType}}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect("ci").Publish(ctx, change); err != nil {
		t.Fatal(err)
	}
	asked := next(events.ApprovalRequested)
	var request events.Happening
	if err := json.Unmarshal(asked.Data, &request); err != nil {
		t.Fatal(err)
	}
	decide := func(name string) error {
		_, err := connect(name).Request(ctx, events.VerbDecide, events.Decide{ID: name, Run: request.Run, Decision: events.Approve, Content: request.Content}, nil)
		return err
	}
	if decide("bot") == nil {
		t.Error("the bot may approve, though its role only reads")
	}
	if err := decide("marta"); err != nil {
		t.Fatal(err)
	}
	next(events.RunFinished)
	waitForWorker(ctx, t, connect("admin"), []string{"notify", "scan"})
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
	url = "nats://" + strings.TrimSpace(c.run("port", "nats", "4222"))
	var view events.RunView
	if _, err := connect("bot").Request(ctx, events.VerbGet, events.GetRun{Run: request.Run}, &view); err != nil || view.Outcome != events.Succeeded {
		t.Errorf("the run after a restart: %+v, %v", view, err)
	}
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
