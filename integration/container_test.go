package integration_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// probeRoad is a workflow that a worker FROM scratch can do: its commands are
// the penstock binary itself, which asks the engine over the private network.
const probeRoad = `
apiVersion: penstock/v1
kind: Workflow
metadata: {name: probe}
spec:
  inputs: {service: {type: string}}
  triggers:
    - event: com.example.deployed
      inputs: {service: '${{ event.data.service }}'}
  initial: check
  states:
    check:
      parallel:
        ready:
          task: command
          with: {run: [/penstock, healthcheck, --url, '${{ inputs.service }}/readyz']}
          timeout: 1m
        sound:
          task: command
          with: {run: [/penstock, check, /definitions]}
          timeout: 1m
      gate:
        - {name: ready, require: ready.exitCode == 0, message: it does not answer}
        - {name: sound, require: sound.exitCode == 0, message: its definitions are not sound}
      next: done
      onFail: failed
    done: {final: succeeded}
    failed: {final: failed}
---
apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  users: {admin: {}, bot: {}}
  roles: {reader: {users: [bot]}}
  permissions:
    - {roles: [reader], allow: [run.read]}
`

func TestEventBecomesAFinishedRunAcrossContainers(t *testing.T) {
	t.Parallel()
	cli := dockerClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	net := privateNetwork(t)
	home := []layerFile{{"tmp/", 0o1777, nil}, {"data/", 0o700, nil}}
	passwords := map[string]string{"PENSTOCK_SERVER_NAME": "nats", "PENSTOCK_STORE_DIR": "/data"}
	for _, who := range []string{"SYS", "ENGINE", "WORKER", "PUBLISHER", "ADMIN", "MARTA", "LI", "BOT"} {
		passwords["PENSTOCK_"+who+"_PASSWORD"] = "p" + randomName()
	}
	natsImage := loadImage(t, cli, "nats", []string{"/nats-server"}, append(home, binary(t, buildNATS, "nats-server"), inRepository(t, "deployments/nats.conf", "nats.conf"))...)
	image := loadImage(t, cli, "penstock", []string{"/penstock"}, append(home, binary(t, buildPenstock, "penstock"),
		layerFile{"definitions/", 0o755, nil}, layerFile{"definitions/probe.yaml", 0o644, []byte(probeRoad)},
		inRepository(t, "deployments/compose/external.json", "external.json"), inRepository(t, "deployments/compose/worker.json", "worker.json"))...)

	natsServer := run(t, net, testcontainers.ContainerRequest{Image: natsImage, Cmd: []string{"-c", "/nats.conf", "-m", "8222"}, Env: passwords,
		ExposedPorts: []string{"4222/tcp", "8222/tcp"}, NetworkAliases: map[string][]string{net: {"nats"}},
		WaitingFor: wait.ForHTTP("/healthz").WithPort("8222/tcp").WithStartupTimeout(time.Minute)})
	engine := run(t, net, testcontainers.ContainerRequest{Image: image,
		Cmd:          []string{"server", "--no-remember", "--data", "/data", "--nats", "/external.json", "--workflows", "/definitions", "--http", "0.0.0.0:8420"},
		Env:          map[string]string{"PENSTOCK_ENGINE_PASSWORD": passwords["PENSTOCK_ENGINE_PASSWORD"]},
		ExposedPorts: []string{"8420/tcp"}, NetworkAliases: map[string][]string{net: {"engine"}},
		WaitingFor: wait.ForHTTP("/readyz").WithPort("8420/tcp").WithStartupTimeout(time.Minute)})
	worker := run(t, net, testcontainers.ContainerRequest{Image: image, Cmd: []string{"worker", "--kinds", "command", "--targets", "/data", "--credential", "/worker.json"},
		Env: map[string]string{"NATS_URL": "nats://nats:4222", "NATS_PASSWORD": passwords["PENSTOCK_WORKER_PASSWORD"]}})

	url, err := natsServer.PortEndpoint(ctx, "4222/tcp", "nats")
	if err != nil {
		t.Fatal(err)
	}
	as := func(kind, name, password string) *bus.Conn { return outsider(t, url, kind, name, passwords[password]) }
	bot, ci := as(bus.KindUser, "bot", "PENSTOCK_BOT_PASSWORD"), as(bus.KindPublisher, "ci", "PENSTOCK_PUBLISHER_PASSWORD")
	told := following(t, bot, events.RunFinished, events.DefinitionRefused, events.EventIgnored, events.EventRefused)
	if err := ci.Publish(ctx, &events.Event{ID: "d-1", Source: "ci", Type: "com.example.deployed", Data: []byte(`{"service": "http://engine:8420"}`)}); err != nil {
		t.Fatal(err)
	}
	var end *events.Event
	select {
	case end = <-told:
	case <-ctx.Done():
		t.Fatalf("the run does not finish\nengine: %s\nworker: %s", logsOf(engine), logsOf(worker))
	}

	var happened events.Happening
	if err := json.Unmarshal(end.Data, &happened); err != nil || end.Type != events.RunFinished {
		t.Fatalf("%s was told: %s, %v", end.Type, end.Data, err)
	}
	about := events.GetRun{Run: happened.Run}
	var view events.RunView
	if _, err := bot.Request(ctx, events.VerbGet, about, &view); err != nil {
		t.Fatal(err)
	}
	if view.Outcome != events.Succeeded || view.RequestedBy != "event:ci" || view.State != "done" {
		t.Errorf("the run: %+v\nworker: %s", view, logsOf(worker))
	}
	var proof events.Verification
	if _, err := bot.Request(ctx, events.VerbVerify, about, &proof); err != nil || !proof.OK || proof.Decisions != 2 {
		t.Errorf("the record of the run: %+v, %v", proof, err)
	}
	for name, c := range map[string]testcontainers.Container{"worker": worker, "engine": engine, "nats": natsServer} {
		if err := c.Stop(ctx, new(30*time.Second)); err != nil {
			t.Fatal(err)
		}
		if state, err := c.State(ctx); err != nil || state.ExitCode != 0 {
			t.Errorf("%s was asked to stop and ended so: %+v, %v\n%s", name, state, err, logsOf(c))
		}
	}
}

// privateNetwork makes a network of this test alone.
func privateNetwork(t testing.TB) string {
	t.Helper()
	net, err := network.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testcontainers.CleanupNetwork(t, net)
	return net.Name
}

// run starts a container that may do no more than it must.
func run(t testing.TB, net string, r testcontainers.ContainerRequest) testcontainers.Container {
	t.Helper()
	r.Networks = []string{net}
	r.HostConfigModifier = func(h *container.HostConfig) {
		h.CapDrop = []string{"ALL"}
		h.SecurityOpt = []string{"no-new-privileges:true"}
	}
	c, err := testcontainers.GenericContainer(t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: r, Started: true})
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatalf("container %v: %v\n%s", r.Cmd, err, logsOf(c))
	}
	return c
}

func logsOf(c testcontainers.Container) string {
	if c == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := c.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	p, _ := io.ReadAll(r) // what there is helps
	return string(p)
}

// outsider is a program on this host that reaches the bus of the containers.
func outsider(t testing.TB, url, kind, name, password string) *bus.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := bus.Connect(ctx, &bus.Credential{URL: url, User: name, Password: password, Kind: kind, Name: name}, bus.Wait())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// following gives the events of some types, those that have been told as well.
func following(t testing.TB, conn *bus.Conn, types ...string) <-chan *events.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan *events.Event, 64), make(chan struct{})
	go func() {
		defer close(ended)
		err := conn.Follow(ctx, bus.FollowOptions{Types: types, After: 1}, func(_ context.Context, e *events.Event) error { seen <- e; return nil })
		if ctx.Err() == nil {
			t.Errorf("following %s ended: %v", strings.Join(types, ", "), err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return seen
}
