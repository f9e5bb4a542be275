package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	natsd "github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events/bus"
)

// natsPlan is what a process is told that is a NATS server and nothing else.
type natsPlan struct {
	Conf, Store, Password string
	Port                  int
}

func natsProcess(plan []byte) error {
	var p natsPlan
	if err := json.Unmarshal(plan, &p); err != nil {
		return err
	}
	for _, who := range everybody {
		os.Setenv("PENSTOCK_"+who+"_PASSWORD", p.Password)
	}
	os.Setenv("PENSTOCK_SERVER_NAME", "apart")
	os.Setenv("PENSTOCK_STORE_DIR", p.Store)
	o, err := natsd.ProcessConfigFile(p.Conf)
	if err != nil {
		return err
	}
	o.Host, o.Port, o.NoSigs = "127.0.0.1", p.Port, true
	s, err := natsd.NewServer(o)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("the NATS server does not get ready")
	}
	fmt.Println("ready", s.ClientURL())
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// everybody has a password in deployments/nats.conf.
var everybody = []string{"SYS", "ENGINE", "WORKER", "PUBLISHER", "ADMIN", "MARTA", "LI", "BOT"}

// natsServer is a NATS server as a process of its own, with the configuration
// that is shipped.
type natsServer struct {
	t    testing.TB
	plan natsPlan
	proc *process
}

func newNATS(t testing.TB) *natsServer {
	t.Helper()
	var port int
	_, err := fmt.Sscanf(freeAddress(t), "127.0.0.1:%d", &port)
	require(t, err)
	dir := t.TempDir()
	p, err := os.ReadFile(filepath.Join(repository(t), "deployments", "nats.conf"))
	require(t, err)
	// The worker of the tests has kinds of its own.
	conf := strings.NewReplacer("default-build", "default-make", "default-test", "default-ship", "default-scan", "default-blast").Replace(string(p))
	n := &natsServer{t: t, plan: natsPlan{Conf: filepath.Join(dir, "nats.conf"), Store: filepath.Join(dir, "store"), Password: "p" + randomName(), Port: port}}
	require(t, os.WriteFile(n.plan.Conf, []byte(conf), 0o600))
	n.start()
	return n
}

func (n *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.plan.Port) }

func (n *natsServer) start() {
	n.proc = spawn(n.t, "nats", n.plan)
	if _, alive := n.proc.line(n.t, "ready"); !alive {
		n.t.Errorf("the NATS server ended: %s", n.proc.log)
	}
}

// again kills the server and starts it.
func (n *natsServer) again() {
	n.proc.kill()
	n.start()
}

func (n *natsServer) credential(kind, name string) *bus.Credential {
	return &bus.Credential{URL: n.url(), User: name, Password: n.plan.Password, InboxPrefix: bus.InboxPrefix(name), Kind: kind, Name: name}
}

// external writes what tells an engine to use this server.
func (n *natsServer) external() string {
	n.t.Helper()
	p, err := os.ReadFile(filepath.Join(repository(n.t), "deployments", "external.json"))
	require(n.t, err)
	path := filepath.Join(n.t.TempDir(), "external.json")
	text := strings.NewReplacer("nats://127.0.0.1:4222", n.url(), "$PENSTOCK_ENGINE_PASSWORD", n.plan.Password).Replace(string(p))
	require(n.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// newServerApart is newServer with NATS in a process of its own.
func newServerApart(t testing.TB, plan serverPlan, definitions string) *server {
	t.Helper()
	n := newNATS(t)
	plan.External = n.external()
	s := newServer(t, plan, definitions)
	s.apart = n
	return s
}

// workerCredential is the file with which a worker connects.
func (s *server) workerCredential() string {
	s.t.Helper()
	if s.apart == nil {
		return filepath.Join(s.plan.Dir, engine.WorkerFile)
	}
	cred := s.apart.credential(bus.KindWorker, "worker")
	cred.Pool = "default"
	path := filepath.Join(s.t.TempDir(), "worker.json")
	require(s.t, cred.Write(path))
	return path
}
