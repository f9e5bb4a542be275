package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

// natsApart runs a server with the accounts of deployments/nats.conf, and
// gives the file that tells engines of it.
func natsApart(t *testing.T) string {
	t.Helper()
	for _, who := range []string{"SYS", "ENGINE", "WORKER", "PUBLISHER", "ADMIN", "MARTA", "LI", "BOT"} {
		t.Setenv("PENSTOCK_"+who+"_PASSWORD", "p"+strings.ToLower(who)+"-secret")
	}
	t.Setenv("PENSTOCK_SERVER_NAME", "one")
	t.Setenv("PENSTOCK_STORE_DIR", t.TempDir())
	o, err := server.ProcessConfigFile(filepath.FromSlash("../deployments/nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not get ready")
	}
	p, err := os.ReadFile(filepath.FromSlash("../deployments/external.json"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "external.json")
	if err := os.WriteFile(file, []byte(strings.Replace(string(p), "nats://127.0.0.1:4222", s.ClientURL(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// member is an engine among others.
type member struct {
	*Engine
	stop  context.CancelFunc
	ended chan error
}

func join(t *testing.T, external, name string, prepare ...func(*Engine)) *member {
	t.Helper()
	e, err := New(Options{Dir: t.TempDir(), HTTP: "none", External: external, Instance: name})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(e)
	}
	m := &member{Engine: e, ended: make(chan error, 1)}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	go func() { m.ended <- e.Run(ctx) }()
	t.Cleanup(func() { m.stop() })
	select {
	case <-e.Ready():
	case err := <-m.ended:
		t.Fatalf("%s: %v", name, err)
	case <-time.After(time.Minute):
		t.Fatalf("%s does not get ready", name)
	}
	return m
}

func (m *member) asks(t *testing.T, verb string, req, result any) {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var a events.Answer
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if a = m.svc.Handle(t.Context(), service.Principal{Kind: "admin", Name: "admin", Via: "bus"}, verb, body); a.Status != events.StatusBusy {
			break
		}
	}
	if a.Status != events.StatusApplied && a.Status != events.StatusAlready {
		t.Fatalf("%s of %s: %+v", verb, m.o.Instance, a)
	}
	if result != nil {
		if err := json.Unmarshal(a.Result, result); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits until the engines hold all partitions among them.
func until(t *testing.T, members ...*member) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		n, each := 0, true
		for _, m := range members {
			held := m.keeper.Held().Partitions.Len()
			n, each = n+held, each && held > 0
		}
		if n == events.Partitions && each {
			return
		}
	}
	t.Fatal("the partitions are not held by these engines")
}

const asking = `apiVersion: penstock/v1
kind: Workflow
metadata: {name: asking}
spec:
  initial: ask
  states:
    ask: {approval: {quorum: [{role: administrator, count: 1}], expires: 1h}, next: done, onFail: stopped}
    done: {final: succeeded}
    stopped: {final: failed}
`

func TestEnginesShareThePartitionsAndGoOnForEachOther(t *testing.T) {
	external := natsApart(t)
	a := join(t, external, "a")
	b := join(t, external, "b")
	until(t, a, b)
	a.asks(t, events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: asking}}}, nil)
	var runs []string
	for i := range 16 {
		var r events.RunView
		from, other := a, b
		if i%2 == 1 {
			from, other = b, a
		}
		from.asks(t, events.VerbStart, events.StartRun{ID: fmt.Sprint("s", i), Workflow: "asking"}, &r)
		other.asks(t, events.VerbGet, events.GetRun{Run: r.ID}, &r)
		runs = append(runs, r.ID)
	}
	// b is killed: what it holds goes over, and nothing of it is lost.
	for _, c := range []*nats.Conn{b.broker.Engine, b.broker.Work, b.broker.Notify, b.broker.Ext} {
		c.Close()
	}
	until(t, a)
	for i, id := range runs {
		var r events.RunView
		a.asks(t, events.VerbCancel, events.CancelRun{ID: fmt.Sprint("c", i), Run: id}, nil)
		for deadline := time.Now().Add(time.Minute); r.Status != "done" && time.Now().Before(deadline); {
			a.asks(t, events.VerbGet, events.GetRun{Run: id}, &r)
		}
		if r.Status != "done" {
			t.Errorf("run %s is %s", id, r.Status)
		}
	}
	// c comes, and a is stopped: it hands over.
	c := join(t, external, "c")
	until(t, a, c)
	a.stop()
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
	until(t, c)
}
