package contract_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/natstest"
)

// patience is how long anything may take on a busy machine before a test
// gives up. It says nothing about how long it should take.
const patience = 100 * time.Second

// roles are what this test binary does when it is started as a process that
// may be killed.
var roles = map[string]func(dir string) error{}

const roleVariable, dirVariable = "PENSTOCK_CONTRACT_ROLE", "PENSTOCK_CONTRACT_DIR"

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name != "" {
		if err := roles[name](os.Getenv(dirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is this test binary in a role; what it prints comes line by line.
func child(t *testing.T, role, dir string, in ...string) (lines *bufio.Scanner, wait func()) {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	args := append(slices.Clone(in), self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, dirVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may be gone already
	return bufio.NewScanner(out), func() { _ = cmd.Wait() }
}

// options are those of a server in this process, on a port that nobody else has.
func options(dir string) *server.Options {
	return &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true}
}

func start(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	check(t, err)
	go s.Start()
	t.Cleanup(func() { stop(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not get ready")
	}
	return s
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// restart stops a server and starts another one on what it has stored.
func restart(t testing.TB, s *server.Server, o *server.Options) *server.Server {
	t.Helper()
	stop(s)
	return start(t, o)
}

func connect(t testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", append(opts, nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	check(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// as connects as a user of a configuration below; all have the same password.
func as(t testing.TB, s *server.Server, user string) *nats.Conn {
	t.Helper()
	return connect(t, s, nats.UserInfo(user, "p"))
}

// configured are options with accounts and users.
func configured(t testing.TB, conf string) *server.Options {
	t.Helper()
	o := options(t.TempDir())
	check(t, o.ProcessConfigString(conf))
	return o
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	check(t, err)
	return js
}

func stream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	var s jetstream.Stream
	eventually(t, "stream "+cfg.Name+" is made", func() (err error) {
		s, err = js.CreateStream(t.Context(), cfg)
		return err
	})
	return s
}

func publish(t testing.TB, js jetstream.JetStream, subject, body string, opts ...jetstream.PublishOpt) *jetstream.PubAck {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte(body), opts...)
	check(t, err)
	return ack
}

// message is one with headers, given as name and value in turn.
func message(subject, body string, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

// pubAck is the server's answer to a publish, as it stands on the wire.
type pubAck struct {
	Seq       uint64 `json:"seq"`
	Batch     string `json:"batch"`
	Count     int    `json:"count"`
	Duplicate bool   `json:"duplicate"`
	Error     *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// code is the server's error code, 0 when it stored what was sent.
func (a pubAck) code() int {
	if a.Error == nil {
		return 0
	}
	return a.Error.ErrCode
}

func ask(t testing.TB, nc *nats.Conn, m *nats.Msg) pubAck {
	t.Helper()
	reply, err := nc.RequestMsg(m, patience)
	// In a cluster it takes a moment until every server knows who answers.
	for from := time.Now(); errors.Is(err, nats.ErrNoResponders) && time.Since(from) < patience; {
		time.Sleep(10 * time.Millisecond)
		reply, err = nc.RequestMsg(m, patience)
	}
	check(t, err)
	return parse(t, reply.Data)
}

func parse(t testing.TB, p []byte) pubAck {
	t.Helper()
	var a pubAck
	if err := json.Unmarshal(p, &a); err != nil {
		t.Fatalf("the answer %q: %v", p, err)
	}
	return a
}

// batch publishes messages as one atomic batch.
func batch(t testing.TB, nc *nats.Conn, id string, msgs ...*nats.Msg) pubAck {
	t.Helper()
	for i, m := range msgs {
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(msgs)-1 {
			check(t, nc.PublishMsg(m))
		}
	}
	last := msgs[len(msgs)-1]
	last.Header.Set("Nats-Batch-Commit", "1")
	return ask(t, nc, last)
}

// getLast asks a stream's leader for the last message of a subject.
func getLast(t testing.TB, nc *nats.Conn, stream, subject string, answer any) {
	t.Helper()
	reply, err := nc.Request("$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"last_by_subj":%q}`, subject), patience)
	check(t, err)
	check(t, json.Unmarshal(reply.Data, answer))
}

// stored is how many messages of a stream match a filter.
func stored(t testing.TB, s jetstream.Stream, filter string) int {
	t.Helper()
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	check(t, err)
	n := 0
	for _, count := range info.State.Subjects {
		n += int(count)
	}
	return n
}

func apiCode(err error) int {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return int(e.ErrorCode)
	}
	return 0
}

// eventually asks until there is no error.
func eventually(t testing.TB, what string, is func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = is(); err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		}
	}
	t.Fatalf("%s: not within %v: %v", what, patience, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newCluster starts n servers that know each other.
func newCluster(t *testing.T, n int, change func(*server.Options)) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range n {
		port := natstest.FreePort(t)
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	var servers []*server.Server
	for i, port := range ports {
		o := options(t.TempDir())
		o.ServerName = fmt.Sprint("s", i)
		o.Cluster = server.ClusterOpts{Name: "contract", Host: "127.0.0.1", Port: port}
		o.Routes = routes
		change(o)
		servers = append(servers, start(t, o))
	}
	return servers
}

// required says that this machine lacks what a test needs: the test is
// skipped, and fails where $PENSTOCK_REQUIRE names it.
func required(t *testing.T, what, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("PENSTOCK_REQUIRE"), ","), what) {
		t.Fatalf("%s is required by PENSTOCK_REQUIRE: %s", what, why)
	}
	t.Skipf("needs %s: %s", what, why)
}

// contextFor is for processes that are no test.
func contextFor() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}
