package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"
	moby "github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/network"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// clusterRoad is what workers in containers FROM scratch can do: the one
// program there asks the ledger of the test, which writes down that it was.
// A worker that is lost in the midst of it leaves a run unclear.
const clusterRoad = `
---
apiVersion: penstock/v1
kind: Environment
metadata: {name: harbour}
spec: {}
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
      task: command
      with: {run: [/penstock, healthcheck, --url, 'LEDGER/${{ run.id }}/build']}
      next: approve
      onFail: broken
      onInconclusive: unclear
    approve:
      approval: {quorum: [{role: releaser, count: 2}], expires: 1h}
      next: ship
      onFail: broken
    ship:
      task: command
      environment: harbour
      with: {run: [/penstock, healthcheck, --url, 'LEDGER/${{ run.id }}/ship']}
      next: done
      onFail: broken
      onInconclusive: unclear
    done: {final: succeeded}
    broken: {final: failed}
    unclear: {final: failed}
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

// node is a container of the cluster.
type node struct {
	name string
	id   string
	c    testcontainers.Container
}

// cluster is three NATS servers, engines and workers as containers, and the
// people outside.
type cluster struct {
	t                      *testing.T
	cli                    *testcontainers.DockerClient
	bus, routes            string // networks: of all, and of the NATS servers among each other
	nats, engines, workers []*node
	password               string
	url                    string // of the NATS servers, from this host
	mu                     sync.Mutex
	effects                map[string]int // by "run/state"
	natsImage, image       string
}

// newCluster starts everything and waits until it is ready.
func newCluster(t *testing.T, engines, workers int) *cluster {
	t.Helper()
	c := &cluster{t: t, cli: dockerClient(t), password: "p" + randomName(), effects: map[string]int{}}
	c.bus = privateNetwork(t)
	routes, err := network.New(t.Context(), network.WithInternal())
	require(t, err)
	testcontainers.CleanupNetwork(t, routes)
	c.routes = routes.Name
	home := []layerFile{{"tmp/", 0o1777, nil}, {"data/", 0o700, nil}}
	c.natsImage = loadImage(t, c.cli, "nats", []string{"/nats-server"}, append(home, binary(t, buildNATS, "nats-server"),
		inRepository(t, "deployments/nats.conf", "nats.conf"), inRepository(t, "deployments/compose/cluster.conf", "cluster.conf"))...)
	definitions := people + strings.ReplaceAll(clusterRoad, "LEDGER", c.ledger())
	c.image = loadImage(t, c.cli, "penstock", []string{"/penstock"}, append(home, binary(t, buildPenstock, "penstock"),
		layerFile{"definitions/", 0o755, nil}, layerFile{"definitions/all.yaml", 0o644, []byte(definitions)},
		inRepository(t, "deployments/compose/external.json", "external.json"), inRepository(t, "deployments/compose/worker.json", "worker.json"))...)
	c.startNATS()
	for i := range engines {
		c.engines = append(c.engines, c.engine(fmt.Sprint("engine-", i+1)))
	}
	for _, n := range c.engines {
		c.ready(n)
	}
	for i := range workers {
		c.workers = append(c.workers, c.run(fmt.Sprint("worker-", i+1), testcontainers.ContainerRequest{Image: c.image,
			Cmd: []string{"worker", "--kinds", "command", "--credential", "/worker.json"},
			Env: map[string]string{"NATS_URL": "nats://nats:4222", "NATS_PASSWORD": c.password}}))
	}
	return c
}

// ledger is where workers say what they do: "/run/state" of a server in this
// process, which the containers reach by the address of this host.
func (c *cluster) ledger() (url string) {
	c.t.Helper()
	found, err := c.cli.NetworkInspect(c.t.Context(), c.bus, moby.NetworkInspectOptions{})
	require(c.t, err)
	host := found.Network.IPAM.Config[0].Gateway.String()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require(c.t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.effects[strings.Trim(r.URL.Path, "/")]++
	})}
	go s.Serve(l)
	c.t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

func (c *cluster) startNATS() {
	c.t.Helper()
	var urls []string
	for i := range 3 {
		name := fmt.Sprint("nats-", i+1)
		_, port, err := net.SplitHostPort(freeAddress(c.t))
		require(c.t, err)
		env := map[string]string{"PENSTOCK_SERVER_NAME": name, "PENSTOCK_STORE_DIR": "/data"}
		for _, who := range everybody {
			env["PENSTOCK_"+who+"_PASSWORD"] = c.password
		}
		c.nats = append(c.nats, c.run(name, testcontainers.ContainerRequest{Image: c.natsImage, Cmd: []string{"-c", "/cluster.conf", "-m", "8222"}, Env: env,
			ExposedPorts: []string{"4222/tcp", "8222/tcp"}, Networks: []string{c.routes},
			NetworkAliases: map[string][]string{c.bus: {"nats"}, c.routes: {name + ".routes"}}}, port))
		urls = append(urls, "nats://127.0.0.1:"+port)
	}
	c.url = strings.Join(urls, ",")
	for _, n := range c.nats {
		c.healthy(n, "8222/tcp", "/healthz")
	}
}

func (c *cluster) engine(name string) *node {
	c.t.Helper()
	return c.run(name, testcontainers.ContainerRequest{Image: c.image,
		Cmd: []string{"server", "--no-remember", "--data", "/data", "--nats", "/external.json", "--replicas", "3", "--workflows", "/definitions", "--http", "0.0.0.0:8420"},
		Env: map[string]string{"PENSTOCK_ENGINE_PASSWORD": c.password}, ExposedPorts: []string{"8420/tcp"},
		NetworkAliases: map[string][]string{c.bus: {name}},
	})
}

// run starts a container. Its port for the bus, if it has one, is natsPort on
// this host, and stays that when the container is started again.
func (c *cluster) run(name string, r testcontainers.ContainerRequest, natsPort ...string) *node {
	c.t.Helper()
	r.Networks = append([]string{c.bus}, r.Networks...)
	r.HostConfigModifier = func(h *container.HostConfig) {
		h.CapDrop = []string{"ALL"}
		h.SecurityOpt = []string{"no-new-privileges:true"}
		h.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyUnlessStopped} // as in docker-compose.yml
		for _, port := range natsPort {
			h.PortBindings = dockernet.PortMap{dockernet.MustParsePort("4222/tcp"): {{HostPort: port}}, dockernet.MustParsePort("8222/tcp"): {{}}}
		}
	}
	made, err := testcontainers.GenericContainer(c.t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: r, Started: true})
	testcontainers.CleanupContainer(c.t, made)
	if err != nil {
		c.t.Fatalf("container %s: %v\n%s", name, err, logsOf(made))
	}
	c.t.Cleanup(func() {
		if !c.t.Failed() {
			return
		}
		logs, enough := logsOf(made), 6000
		if strings.HasPrefix(name, "engine") {
			enough = 60_000
		}
		c.t.Logf("%s said: %s", name, logs[max(0, len(logs)-enough):])
	})
	return &node{name, made.GetContainerID(), made}
}

// The faults. They are called from where the faults are drawn, so they do not
// end the test.

func (c *cluster) kill(n *node, signal string) {
	_, err := c.cli.ContainerKill(c.t.Context(), n.id, moby.ContainerKillOptions{Signal: signal})
	c.report(n, "kill "+signal, err)
}

func (c *cluster) start(n *node) {
	_, err := c.cli.ContainerStart(c.t.Context(), n.id, moby.ContainerStartOptions{})
	c.report(n, "start", err)
}

// restart asks a container to stop, and starts it again.
func (c *cluster) restart(n *node) {
	_, err := c.cli.ContainerStop(c.t.Context(), n.id, moby.ContainerStopOptions{Timeout: new(40)})
	c.report(n, "stop", err)
	c.start(n)
}

// pause is SIGSTOP for a time, as far as the processes within can tell.
func (c *cluster) pause(n *node, d time.Duration) {
	_, err := c.cli.ContainerPause(c.t.Context(), n.id, moby.ContainerPauseOptions{})
	c.report(n, "pause", err)
	time.Sleep(d) // how long is what is tested
	_, err = c.cli.ContainerUnpause(c.t.Context(), n.id, moby.ContainerUnpauseOptions{})
	c.report(n, "unpause", err)
}

// part takes a container off a network for a time.
func (c *cluster) part(n *node, from string, d time.Duration, aliases ...string) {
	_, err := c.cli.NetworkDisconnect(c.t.Context(), from, moby.NetworkDisconnectOptions{Container: n.id, Force: true})
	c.report(n, "disconnect", err)
	time.Sleep(d) // how long is what is tested
	_, err = c.cli.NetworkConnect(c.t.Context(), from, moby.NetworkConnectOptions{Container: n.id, EndpointConfig: &dockernet.EndpointSettings{Aliases: aliases}})
	c.report(n, "connect", err)
}

func (c *cluster) report(n *node, what string, err error) {
	if err != nil && c.t.Context().Err() == nil {
		c.t.Errorf("%s %s: %v", what, n.name, err)
	}
}

// people are the client of the cluster.
func (c *cluster) people() *client {
	c.t.Helper()
	as := func(kind, name string) *bus.Conn { return outsider(c.t, c.url, kind, name, c.password) }
	return &client{t: c.t, source: "ci", patient: true, unclear: true, pace: 50 * time.Millisecond, admin: as(bus.KindAdmin, "admin"), marta: as(bus.KindUser, "marta"), li: as(bus.KindUser, "li"), git: as(bus.KindPublisher, "ci")}
}

// ready waits until an engine that was started again takes part.
func (c *cluster) ready(n *node) { c.healthy(n, "8420/tcp", "/readyz") }

// asker gives up soon: a port of a container takes connections before anybody
// in it listens, and such a connection is never answered.
var asker = &http.Client{Timeout: 5 * time.Second}

// healthy waits until a container says that it is well.
func (c *cluster) healthy(n *node, port, path string) {
	c.t.Helper()
	eventually(c.t, n.name+" is ready", func() (bool, error) {
		url, err := n.c.PortEndpoint(c.t.Context(), port, "http") // another one after each start
		if err != nil {
			return false, err
		}
		r, err := asker.Get(url + path)
		if err != nil {
			return false, err
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK, errors.New(r.Status)
	})
}

// takeover measures how long people wait for an answer about some of n runs
// when what happens: from then until the last of them has been answered.
func (c *cluster) takeover(p *client, n int, what func()) time.Duration {
	c.t.Helper()
	var runs []string
	for range n {
		p.crowds++
		runs = append(runs, p.waiting(fmt.Sprint("waits-", p.crowds)))
	}
	began := time.Now()
	what()
	var asked sync.WaitGroup
	for _, run := range runs {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(c.t.Context(), patience)
			defer cancel()
			if _, err := p.askIn(ctx, p.li, events.VerbCancel, events.CancelRun{ID: "away", Run: run}, nil); err != nil {
				c.t.Errorf("run %s cannot be cancelled: %v", run, err)
				return
			}
			p.note(run, "li:away")
			p.mu.Lock()
			p.cancelled = append(p.cancelled, run)
			p.mu.Unlock()
		})
	}
	asked.Wait()
	return time.Since(began)
}

// reckon compares record and ledger, as client.reckon does for processes.
func (c *cluster) reckon(p *client) {
	c.t.Helper()
	unclear := 0
	for _, run := range p.driven {
		v := p.until(run, "done", func(v events.RunView) bool {
			p.free(v)
			return isDone(v)
		})
		p.audit(run)
		c.mu.Lock()
		build, ship := c.effects[run+"/build"], c.effects[run+"/ship"]
		c.mu.Unlock()
		p.sum.Effects += build + ship
		if v.State == "unclear" {
			unclear++
		} else if v.Outcome != events.Succeeded || build == 0 || ship == 0 {
			p.sum.Missing++
			c.t.Errorf("run %s ended %s in %s; build had %d effects, ship %d", run, v.Outcome, v.State, build, ship)
		}
		if build > 1 || ship > 1 {
			p.sum.Twice++
			c.t.Errorf("run %s: build was done %d times, ship %d times", run, build, ship)
		}
	}
	p.reckonCancelled()
	c.t.Logf("%s; %d unclear because a worker was lost", p.sum, unclear)
}

// clusterEngines is how many engines the cluster has: $PENSTOCK_ENGINES.
var clusterEngines = func() int {
	if n, err := strconv.Atoi(os.Getenv("PENSTOCK_ENGINES")); err == nil {
		return n
	}
	return 3
}()

// TestClusterLosesNothingAndIsTakenOver kills, pauses and cuts off the
// containers of a cluster, and restarts all of them in turn, while people
// start, approve and cancel runs. What the ledger then says must be that
// nothing was lost and nothing was done twice.
func TestClusterLosesNothingAndIsTakenOver(t *testing.T) {
	random, rounds := drawn(t, 4)
	c := newCluster(t, clusterEngines, 2)
	p := c.people()
	p.drive("first")

	if len(c.engines) > 1 {
		graceful := c.takeover(p, 64, func() { c.kill(c.engines[0], "TERM") })
		eventually(t, "the engine has stopped", func() (bool, error) {
			s, err := c.engines[0].c.State(t.Context())
			return err == nil && !s.Running, err
		})
		c.start(c.engines[0])
		c.ready(c.engines[0])
		killed := c.takeover(p, 64, func() { c.kill(c.engines[1], "KILL") })
		c.kill(c.nats[2], "TERM") // an engine starts while a server is away
		c.start(c.engines[1])
		c.ready(c.engines[1])
		c.start(c.nats[2])
		t.Logf("an engine was asked to stop: everything was answered %v later; one was killed: %v later", graceful, killed)
		if killed > patience/2 {
			t.Errorf("what a killed engine had was taken over after %v", killed)
		}
	}

	leave := p.crowd(4)
	faults := make(chan string)
	go func() {
		defer close(faults)
		for range rounds {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond) // the moment is what is drawn
			faults <- c.fault(random.IntN(7), random.IntN(3))
		}
		for _, n := range append(append([]*node{}, c.nats...), c.engines...) { // the rolling restart
			c.restart(n)
			time.Sleep(time.Second) // not all at once
		}
		faults <- "rolling restart"
	}()
	for what := range faults {
		t.Log(what)
		p.drive(fmt.Sprint("change-", p.changes()))
	}
	leave()
	c.reckon(p)
}

// fault does one thing to one container and mends it again.
func (c *cluster) fault(what, which int) string {
	n, e, w := c.nats[which], c.engines[which%len(c.engines)], c.workers[which%len(c.workers)]
	switch what {
	case 0:
		c.kill(n, "KILL")
		c.start(n)
		return n.name + " killed"
	case 1:
		c.kill(e, "KILL")
		c.start(e)
		return e.name + " killed"
	case 2:
		c.pause(n, 8*time.Second)
		return n.name + " paused"
	case 3:
		c.pause(e, 10*time.Second) // longer than the others wait for a sign of it
		return e.name + " paused"
	case 4:
		c.part(n, c.routes, 12*time.Second, n.name+".routes")
		return n.name + " cut off from the others"
	case 5:
		c.part(e, c.bus, 10*time.Second, e.name)
		return e.name + " cut off"
	default:
		c.kill(w, "KILL")
		c.start(w)
		return w.name + " killed"
	}
}
