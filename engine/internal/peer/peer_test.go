package peer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/peer"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// errNotOwner is what the owners of these tests give.
var errNotOwner = errors.New("not the owner")

func codeOf(err error) string {
	if errors.Is(err, errNotOwner) {
		return events.CodeNotOwner
	}
	return ""
}

// desk is an owner that notes what it is asked.
type desk struct {
	name  string
	owns  [events.Partitions]atomic.Bool
	valid atomic.Bool

	mu   sync.Mutex
	got  []record.Input
	hold chan struct{} // that it waits for, when not nil
}

func (d *desk) Do(_ context.Context, agg, id string, in record.Input) events.Answer {
	if !d.Owns(events.Partition(agg, id)) {
		return events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner, Reason: "not mine"}
	}
	d.mu.Lock()
	d.got = append(d.got, in)
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if strings.HasPrefix(in.ID, "lapses") { // the engine stood still in the midst of it
		d.valid.Store(false)
	}
	if strings.HasPrefix(in.ID, "lapses stale") {
		return events.Answer{Status: events.StatusStale, Reason: d.name}
	}
	if strings.HasPrefix(in.ID, "large") {
		return events.Answer{Status: events.StatusError, Reason: strings.Repeat("x", 2<<20)}
	}
	return events.Answer{Status: events.StatusApplied, Reason: d.name, Record: 7}
}

func (d *desk) State(_ context.Context, agg, id string) (any, int64, error) {
	if !d.Owns(events.Partition(agg, id)) {
		return nil, 0, fmt.Errorf("partition: %w", errNotOwner)
	}
	if id == "none" {
		return nil, 0, nil
	}
	if id == "bad" {
		return nil, 0, errors.New("it cannot be read")
	}
	return &env.Environment{Name: d.name, Now: 5}, 3, nil
}

func (d *desk) Go(agg, id string, in record.Input, reply func(events.Answer)) {
	go func() { reply(d.Do(context.Background(), agg, id, in)) }()
}

func (d *desk) Heartbeat(_ context.Context, hb events.HeartbeatRequest) events.Answer {
	return events.Answer{Status: events.StatusApplied, Verdict: events.Stale, Reason: d.name + " " + hb.Task}
}

func (d *desk) Progress(run, task string) string { return d.name + " " + run + " " + task }
func (d *desk) Now() int64                       { return 42 }
func (d *desk) Owns(vp int) bool                 { return d.owns[vp].Load() }

func (d *desk) inputs() []record.Input {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.got)
}

func natsServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	return s
}

// engine is a desk with what reaches others.
type engine struct {
	*desk
	*peer.Peers
	nc *nats.Conn
}

func start(t *testing.T, s *server.Server, name string, owns ...int) *engine {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{name: name}
	d.valid.Store(true)
	e := &engine{desk: d, nc: nc, Peers: peer.New(peer.Options{Conn: nc, Instance: name, Owner: d, Code: codeOf, Valid: d.valid.Load})}
	t.Cleanup(func() { e.Peers.Close(); nc.Close() })
	e.take(t, owns...)
	return e
}

func (e *engine) take(t *testing.T, vps ...int) {
	t.Helper()
	for _, vp := range vps {
		e.owns[vp].Store(true)
	}
	if err := e.Serve(vps...); err != nil {
		t.Fatal(err)
	}
	if err := e.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// in gives the id of an environment in a partition.
func in(vp int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprint("e", i); events.Partition(record.Environment, id) == vp {
			return id
		}
	}
}

func input(id string) record.Input {
	return record.Input{ID: id, Kind: record.InEnvFree, By: "marta"}
}

func TestTheOwnerIsReachedWhereverItIs(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a", 1), start(t, s, "b", 2)
	ctx := t.Context()
	for vp, want := range map[int]string{1: "a", 2: "b"} {
		for _, from := range []*engine{a, b} {
			if got := from.Peers.Do(ctx, record.Environment, in(vp), input("1")); got.Reason != want || got.Record != 7 {
				t.Errorf("%s asks for partition %d: %+v", from.name, vp, got)
			}
			st, v, err := from.Peers.State(ctx, record.Environment, in(vp))
			if e, ok := st.(*env.Environment); err != nil || !ok || e.Name != want || v != 3 {
				t.Errorf("%s reads partition %d: %+v, %d, %v", from.name, vp, st, v, err)
			}
		}
	}
	var run string
	for i := 0; events.Partition(record.Run, run) != 2; i++ {
		run = fmt.Sprint("r", i)
	}
	if got := a.Peers.Heartbeat(ctx, events.HeartbeatRequest{Run: run, Task: "t"}); got.Verdict != events.Stale || got.Reason != "b t" {
		t.Errorf("a heartbeat is answered %+v", got)
	}
	if got := a.Peers.Progress(ctx, run, "t"); got["t"] != "b "+run+" t" {
		t.Errorf("progress: %v", got)
	}
	if a.Peers.Now() != 42 {
		t.Error("another time")
	}
}

func TestStatesThatAreNotThere(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a"), start(t, s, "b")
	b.take(t, events.Partition(record.Environment, "none"), events.Partition(record.Environment, "bad"))
	if st, v, err := a.Peers.State(t.Context(), record.Environment, "none"); st != nil || v != 0 || err != nil {
		t.Errorf("%v, %d, %v", st, v, err)
	}
	if _, _, err := a.Peers.State(t.Context(), record.Environment, "bad"); err == nil || !strings.Contains(err.Error(), "it cannot be read") {
		t.Errorf("got %v", err)
	}
}

// TestNobodyListensIsNotTheSameAsNotKnown: the two must arrive as they were.
func TestNobodyListensIsNotTheSameAsNotKnown(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a"), start(t, s, "b", 2)
	for id, listening := range map[string][]string{"unknown": nil, "none": {}, "one": {"r1"}} {
		i := input(id)
		i.Listening = listening
		if got := a.Peers.Do(t.Context(), record.Environment, in(2), i); got.Reason != "b" {
			t.Fatalf("%+v", got)
		}
		got := b.inputs()[len(b.inputs())-1]
		if (got.Listening == nil) != (listening == nil) || !slices.Equal(got.Listening, listening) {
			t.Errorf("%s: %#v became %#v", id, listening, got.Listening)
		}
	}
}

func TestAMoveIsWaitedFor(t *testing.T) {
	s := natsServer(t)
	a, b, c := start(t, s, "a"), start(t, s, "b"), start(t, s, "c", 2)
	c.owns[2].Store(false) // it answers still, and holds it no more
	got := make(chan events.Answer)
	go func() { got <- a.Peers.Do(t.Context(), record.Environment, in(2), input("1")) }()
	c.Quit(2)
	b.take(t, 2)
	if a := <-got; a.Reason != "b" {
		t.Errorf("%+v", a)
	}
	if n := len(b.inputs()); n != 1 {
		t.Errorf("carried out %d times", n)
	}
}

func TestALapsedLeaseAnswersNothing(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a"), start(t, s, "b", 2)
	b.valid.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, from := range []*engine{a, b} {
		got := from.Peers.Do(ctx, record.Environment, in(2), input("1"))
		if got.Status != events.StatusBusy || got.Code != events.CodeNotOwner || !strings.Contains(got.Reason, "partition 2") {
			t.Errorf("%s: %+v", from.name, got)
		}
		if _, _, err := from.Peers.State(ctx, record.Environment, in(2)); err == nil {
			t.Errorf("%s reads what may be out of date", from.name)
		}
	}
	if n := len(b.inputs()); n != 0 {
		t.Errorf("carried out %d times", n)
	}
}

// An engine that stands still while it answers may have lost the partition by
// the time it goes on: what it remembers is no answer then, and what is recorded
// is one.
func TestALeaseThatLapsesMeanwhileAnswersOnlyWhatIsRecorded(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a"), start(t, s, "b", 2)
	for _, from := range []*engine{a, b} {
		for id, want := range map[string]string{"lapses stale": events.CodeNotOwner, "lapses recorded": ""} {
			for how, do := range map[string]func(context.Context) events.Answer{
				"Do": func(ctx context.Context) events.Answer {
					return from.Peers.Do(ctx, record.Environment, in(2), input(id))
				},
				"Go": func(ctx context.Context) events.Answer {
					got := make(chan events.Answer, 1)
					from.Peers.Go(ctx, record.Environment, in(2), input(id), func(a events.Answer) { got <- a })
					return <-got
				},
			} {
				b.valid.Store(true)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if got := do(ctx); got.Code != want || got.Status == events.StatusStale {
					t.Errorf("%s, %s, %s: %+v", from.name, how, id, got)
				}
				cancel()
			}
		}
	}
}

func TestACallerThatGivesUpIsAnsweredBusy(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a"), start(t, s, "b", 2)
	b.hold = make(chan struct{})
	defer close(b.hold)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got := a.Peers.Do(ctx, record.Environment, in(2), input("1")); got.Status != events.StatusBusy {
		t.Errorf("%+v", got)
	}
}

func TestSizesAreBounded(t *testing.T) {
	s := natsServer(t)
	a, _ := start(t, s, "a"), start(t, s, "b", 2)
	i := input("1")
	i.By = strings.Repeat("x", 2<<20)
	if got := a.Peers.Do(t.Context(), record.Environment, in(2), i); got.Status != events.StatusError || !strings.Contains(got.Reason, "passes on") {
		t.Errorf("a large command: %s %.200s", got.Status, got.Reason)
	}
	if got := a.Peers.Do(t.Context(), record.Environment, in(2), input("large")); got.Status != events.StatusError || !strings.Contains(got.Reason, "passes on") {
		t.Errorf("a large answer: %s %.200s", got.Status, got.Reason)
	}
}

func TestAnotherVersionIsRefusedInWords(t *testing.T) {
	s := natsServer(t)
	a, b := start(t, s, "a", 1), start(t, s, "b")
	for question, want := range map[string]string{
		`{"f":2,"op":"do"}`:                     "has form 2",
		`{"f":1,"op":"fly"}`:                    `"fly"`,
		`{"op":"do"}`:                           "has form 0",
		`{"f":1,"op":"do"}`:                     "not complete",
		`{"f":1,"op":"heartbeat"}`:              "not complete",
		`nonsense`:                              "cannot be read",
		`{"f":1,"op":"state","id":"elsewhere"}`: "not in the partition",
	} {
		m, err := b.nc.Request(peer.Subject(1), []byte(question), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Answer events.Answer `json:"answer"`
		}
		if err := json.Unmarshal(m.Data, &got); err != nil || got.Answer.Code != events.CodeInternal || !strings.Contains(got.Answer.Reason, want) {
			t.Errorf("%s is answered %s", question, m.Data)
		}
	}
	sub, err := b.nc.Subscribe(peer.Subject(9), func(m *nats.Msg) { _ = m.Respond([]byte(`{"f":7,"answer":{"status":"applied"}}`)) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := a.Peers.Do(t.Context(), record.Environment, in(9), input("1")); got.Status != events.StatusBusy || !strings.Contains(got.Reason, "has form 7") {
		t.Errorf("%+v", got)
	}
	if n := len(a.inputs()); n != 0 {
		t.Errorf("carried out: %d", n)
	}
}

func TestAllOthersAreToldAndAsked(t *testing.T) {
	s := natsServer(t)
	a, b, c := start(t, s, "a"), start(t, s, "b"), start(t, s, "c")
	heard := make(chan string, 10)
	for _, e := range []*engine{a, b, c} {
		err := e.Listen("news", func(_ context.Context, body []byte) (any, error) {
			heard <- e.name + string(body)
			if string(body) == `"fail"` && e == c {
				return nil, errors.New("it does not work")
			}
			return e.name, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	a.Tell("news", "hello")
	if got := []string{<-heard, <-heard}; !slices.Contains(got, `b"hello"`) || !slices.Contains(got, `c"hello"`) {
		t.Errorf("heard %v", got)
	}
	got, err := a.Gather(t.Context(), "news", "well?", 2, 30*time.Second)
	if err != nil || len(got) != 2 {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := a.Gather(t.Context(), "news", "fail", 2, 30*time.Second); err == nil || !strings.Contains(err.Error(), "engine c: it does not work") {
		t.Errorf("got %v", err)
	}
	if _, err := a.Gather(t.Context(), "nothing", nil, 1, 50*time.Millisecond); err == nil {
		t.Error("nobody has answered, and nothing is said")
	}
}

func TestAloneNothingIsSent(t *testing.T) {
	d := &desk{name: "a"}
	for vp := range events.Partitions {
		d.owns[vp].Store(true)
	}
	p := peer.New(peer.Options{Owner: d})
	defer p.Close()
	if err := errors.Join(p.Serve(1, 2), p.Listen("x", nil)); err != nil {
		t.Error(err)
	}
	p.Tell("x", 1)
	p.Quit(1)
	if got := p.Do(t.Context(), record.Environment, "e", input("1")); got.Reason != "a" {
		t.Errorf("%+v", got)
	}
	if st, _, err := p.State(t.Context(), record.Environment, "e"); err != nil || st == nil {
		t.Errorf("%v, %v", st, err)
	}
}
