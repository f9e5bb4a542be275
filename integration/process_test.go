package integration_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events/bus"
)

// The tests start servers and workers as processes of their own, to kill them
// like a power cut would: this test binary again, with a role.
const (
	roleVariable = "PENSTOCK_TEST_ROLE"
	planVariable = "PENSTOCK_TEST_PLAN"
)

func init() {
	role := os.Getenv(roleVariable)
	if role == "" {
		return
	}
	run := map[string]func([]byte) error{"server": serverProcess, "worker": workerProcess, "nats": natsProcess}[role]
	if run == nil {
		fmt.Fprintln(os.Stderr, "no such role:", role)
		os.Exit(2)
	}
	if err := run([]byte(os.Getenv(planVariable))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serverPlan is what a server process is told.
type serverPlan struct {
	Dir, Listen, Workflows    string
	External, Sync, Instance  string
	MaxStore                  int64
	Heartbeat, HeartbeatLimit time.Duration
	// The process kills itself when it logs KillAt about a record that is not
	// among Killed, having said which.
	KillAt string
	Killed []string
}

func serverProcess(plan []byte) error {
	var p serverPlan
	if err := json.Unmarshal(plan, &p); err != nil {
		return err
	}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})
	if p.KillAt != "" {
		h = &killer{Handler: h, at: p.KillAt, killed: p.Killed}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return serve(ctx, p, slog.New(h), func(nats string) { fmt.Println("ready", nats) })
}

func serve(ctx context.Context, p serverPlan, log *slog.Logger, ready func(nats string)) error {
	o := engine.Options{Dir: p.Dir, Listen: p.Listen, HTTP: "none", MaxStore: p.MaxStore,
		External: p.External, Sync: p.Sync, Instance: p.Instance, Heartbeat: p.Heartbeat, HeartbeatTimeout: p.HeartbeatLimit, Log: log}
	if p.Workflows != "" {
		o.Workflows = []string{p.Workflows}
	}
	e, err := engine.New(o)
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-e.Ready():
			ready(e.Info().NATS)
		case <-ctx.Done():
		}
	}()
	return e.Run(ctx)
}

// killer is a log handler that kills its process.
type killer struct {
	slog.Handler
	at     string
	killed []string
	once   sync.Once
}

func (k *killer) Enabled(context.Context, slog.Level) bool { return true }

func (k *killer) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == k.at {
		id := ""
		r.Attrs(func(a slog.Attr) bool { id += "/" + a.Value.String(); return true })
		if !slices.Contains(k.killed, id) {
			k.once.Do(func() { die(id) })
			select {} // somebody else is about to kill us
		}
	}
	if !k.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return k.Handler.Handle(ctx, r)
}

func (k *killer) WithAttrs(a []slog.Attr) slog.Handler {
	return &killer{Handler: k.Handler.WithAttrs(a), at: k.at, killed: k.killed}
}

// die says where and ends the process as a power cut would.
func die(where string) {
	fmt.Println("killed", where)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// process is a child of the test.
type process struct {
	cmd   *exec.Cmd
	lines chan string   // its standard output, in pieces of a line
	ended chan struct{} // closed when it has been waited for
	err   error         // valid once ended
	log   *tail
}

// spawn starts this test binary in a role; the test's end kills it.
func spawn(t testing.TB, role string, plan any) *process {
	t.Helper()
	return spawnIn(t, nil, role, plan)
}

// spawnIn is spawn by way of another program, which must become it.
func spawnIn(t testing.TB, in []string, role string, plan any) *process {
	t.Helper()
	p, err := json.Marshal(plan)
	require(t, err)
	self, err := os.Executable()
	require(t, err)
	command := slices.Concat(in, []string{self})
	x := &process{cmd: exec.Command(command[0], command[1:]...), lines: make(chan string, 100), ended: make(chan struct{}), log: &tail{}}
	x.cmd.Env = append(os.Environ(), roleVariable+"="+role, planVariable+"="+string(p))
	x.cmd.Stderr = x.log
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := x.cmd.StdoutPipe()
	require(t, err)
	require(t, x.cmd.Start())
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			x.lines <- s.Text()
		}
		close(x.lines)
		x.err = x.cmd.Wait()
		close(x.ended)
	}()
	t.Cleanup(func() {
		x.kill()
		if t.Failed() {
			t.Logf("%s %d said:\n%s", role, x.cmd.Process.Pid, x.log)
		}
	})
	return x
}

// kill is kill -9; it returns when the process is gone.
func (x *process) kill() {
	_ = x.cmd.Process.Kill() // it may be gone already
	for range x.lines {
	}
	<-x.ended
}

// stop is SIGTERM; it returns how the process ended.
func (x *process) stop(t testing.TB) error {
	t.Helper()
	require(t, x.cmd.Process.Signal(syscall.SIGTERM))
	for range x.lines {
	}
	<-x.ended
	return x.err
}

// line waits for a line that begins with what, and gives the rest of it;
// false when the process ended first.
func (x *process) line(t testing.TB, what string) (string, bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case l, more := <-x.lines:
			if !more {
				return "", false
			}
			if rest, ok := strings.CutPrefix(l, what); ok {
				return strings.TrimSpace(rest), true
			}
		case <-limit:
			t.Fatalf("the process did not say %q; its log:\n%s", what, x.log)
		}
	}
}

// tail keeps the end of a log.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 8<<10 {
		l.b = l.b[len(l.b)-4<<10:]
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

var _ io.Writer = (*tail)(nil)

// freeAddress is an address on this host that stays free between two lives of
// a server: below the ports that connections are given, and those that the
// local deploy target gives to what it starts. No two tests get the same.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(9500))
		if _, given := addresses.LoadOrStore(addr, true); given {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port was found")
	return ""
}

// addresses are those that were given.
var addresses sync.Map

// server is a data directory whose server is started and killed.
type server struct {
	t     testing.TB
	plan  serverPlan
	proc  *process
	apart *natsServer // nil: NATS is in the server's process
}

// newServer starts a server with definitions, by file name.
func newServer(t testing.TB, plan serverPlan, definitions string) *server {
	t.Helper()
	if plan.Dir == "" {
		plan.Dir = filepath.Join(t.TempDir(), "data")
	}
	plan.Listen = freeAddress(t)
	plan.Workflows = t.TempDir()
	require(t, os.WriteFile(filepath.Join(plan.Workflows, "all.yaml"), []byte(definitions), 0o600))
	s := &server{t: t, plan: plan}
	return s
}

// start starts the server and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.proc = spawn(s.t, "server", s.plan)
	if alive, err := s.ready(); err != nil || !alive {
		s.t.Fatalf("the server ended before it was ready: %v\n%s", err, s.proc.log)
	}
}

// ready waits until the server answers; false when it has killed itself.
func (s *server) ready() (bool, error) { return s.readyOf(s.proc) }

func (s *server) readyOf(proc *process) (bool, error) {
	limit := time.After(patience)
	for {
		select {
		case l, more := <-proc.lines:
			switch {
			case !more:
				<-proc.ended
				return false, fmt.Errorf("it ended by itself: %v", proc.err)
			case strings.HasPrefix(l, "ready"):
				return true, nil
			case strings.HasPrefix(l, "killed"):
				s.buried(l)
				return false, nil
			}
		case <-limit:
			return false, errors.New("it did not become ready in time")
		}
	}
}

// buried notes where the server killed itself.
func (s *server) buried(line string) {
	s.plan.Killed = append(s.plan.Killed, strings.TrimSpace(strings.TrimPrefix(line, "killed")))
	s.proc.kill()
}

// keepAlive starts the server, and again whenever it has killed itself, until
// stop is called.
func (s *server) keepAlive() (stop func()) {
	leave, ended := make(chan struct{}), make(chan struct{})
	first := spawn(s.t, "server", s.plan)
	go func() {
		defer close(ended)
		for s.proc = first; ; s.proc = spawn(s.t, "server", s.plan) {
			alive, err := s.ready()
			if err != nil {
				s.t.Errorf("the server: %v\n%s", err, s.proc.log)
				return
			}
			if !alive {
				continue
			}
			select {
			case l, more := <-s.proc.lines:
				if !more {
					<-s.proc.ended
					s.t.Errorf("the server ended by itself: %v\n%s", s.proc.err, s.proc.log)
					return
				}
				s.buried(l)
			case <-leave:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(leave); <-ended })
}

// connect connects with a credential; it waits for the server.
func (s *server) connect(c *bus.Credential) *bus.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := bus.Connect(ctx, c, bus.Wait())
	require(s.t, err)
	s.t.Cleanup(conn.Close)
	return conn
}

// credential reads a credential that the server wrote.
func (s *server) credential(file string) *bus.Credential {
	s.t.Helper()
	c, err := bus.ReadCredential(filepath.Join(s.plan.Dir, file))
	require(s.t, err)
	return c
}

// patience is how long anything may take before a test gives up. It says
// nothing about how long it should take.
const patience = 100 * time.Second

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, is func() (bool, error)) {
	t.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		ok, err := is()
		if ok {
			return
		}
		last = err
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		}
	}
	t.Fatalf("%s: not within %v (last: %v)", what, patience, last)
}

var errNotYet = errors.New("not yet")

func require(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
