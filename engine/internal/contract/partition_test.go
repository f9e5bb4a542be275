package contract_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/natstest"
)

// link is the way from one server to another. While it is held nothing comes
// through and nothing is lost, as where packets are dropped and sent again.
type link struct {
	to string

	mu   sync.Mutex
	more *sync.Cond
	held bool
}

func newLink(t *testing.T, to int) (l *link, port int) {
	t.Helper()
	l = &link{to: fmt.Sprint("127.0.0.1:", to)}
	l.more = sync.NewCond(&l.mu)
	in, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { in.Close(); l.hold(false) })
	go func() {
		for {
			c, err := in.Accept()
			if err != nil {
				return
			}
			go l.carry(c)
		}
	}()
	return l, in.Addr().(*net.TCPAddr).Port
}

func (l *link) carry(a net.Conn) {
	b, err := net.Dial("tcp", l.to)
	if err != nil {
		a.Close()
		return
	}
	go l.copy(b, a)
	go l.copy(a, b)
}

func (l *link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	var mu sync.Mutex
	var waiting []byte
	arrived, over := make(chan struct{}, 1), make(chan struct{})
	go func() { // the sender is never kept waiting
		defer close(over)
		p := make([]byte, 64<<10)
		for {
			n, err := from.Read(p)
			mu.Lock()
			waiting = append(waiting, p[:n]...)
			mu.Unlock()
			select {
			case arrived <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-arrived:
		case <-over:
			return
		}
		l.mu.Lock()
		for l.held {
			l.more.Wait()
		}
		l.mu.Unlock()
		mu.Lock()
		p := waiting
		waiting = nil
		mu.Unlock()
		if _, err := to.Write(p); err != nil {
			return
		}
	}
}

func (l *link) hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	l.more.Broadcast()
}

// apart are three servers with the stream LOG, three times stored, and the
// links between them.
type apart struct {
	t       *testing.T
	servers []*server.Server
	conns   []*nats.Conn
	links   map[[2]int]*link
	log     jetstream.Stream
}

func newApart(t *testing.T) *apart {
	t.Helper()
	a := &apart{t: t, links: map[[2]int]*link{}}
	ports := []int{natstest.FreePort(t), natstest.FreePort(t), natstest.FreePort(t)}
	for i, port := range ports {
		o := options(t.TempDir())
		o.ServerName = fmt.Sprint("s", i)
		// One connection for all that goes from one to the other, and no way
		// around the links: what servers tell each other of the third leads nowhere.
		o.Cluster = server.ClusterOpts{Name: "apart", Host: "127.0.0.1", Port: port, PoolSize: -1, Advertise: "127.0.0.1:1"}
		for j, other := range ports {
			if i == j {
				continue
			}
			l, through := newLink(t, other)
			a.links[[2]int{i, j}] = l
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", through)})
		}
		a.servers = append(a.servers, start(t, o))
	}
	for _, s := range a.servers {
		a.conns = append(a.conns, connect(t, s))
	}
	cfg := logStream
	cfg.Replicas = 3
	a.log = stream(t, jetStream(t, a.conns[0]), cfg)
	return a
}

// hold holds or lets go what passes between two servers.
func (a *apart) hold(i, j int, held bool) {
	a.links[[2]int{i, j}].hold(held)
	a.links[[2]int{j, i}].hold(held)
}

// cut holds or lets go all that passes between a server and the others.
func (a *apart) cut(i int, held bool) {
	a.hold(i, (i+1)%3, held)
	a.hold(i, (i+2)%3, held)
}

func (a *apart) leads(i int) bool { return a.servers[i].JetStreamIsStreamLeader("$G", "LOG") }

// leader gives the server that leads LOG, other than one that may still think that it does.
func (a *apart) leader(but int) (leader int) {
	a.t.Helper()
	eventually(a.t, "LOG has a leader", func() error {
		for i := range a.servers {
			if i != but && a.leads(i) {
				leader = i
				return nil
			}
		}
		return fmt.Errorf("none")
	})
	return leader
}

// send publishes a message, or several as a batch, by way of a server. The
// answers come to the inbox that it gives.
func (a *apart) send(by int, msgs ...*nats.Msg) *nats.Subscription {
	a.t.Helper()
	nc := a.conns[by]
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	check(a.t, err)
	for i, m := range msgs {
		if len(msgs) > 1 {
			m.Header.Set("Nats-Batch-Id", strings.TrimPrefix(inbox, "_INBOX."))
			m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
		}
		if i == len(msgs)-1 {
			m.Reply = inbox
			if len(msgs) > 1 {
				m.Header.Set("Nats-Batch-Commit", "1")
			}
		}
		check(a.t, nc.PublishMsg(m))
	}
	check(a.t, nc.Flush())
	return sub
}

func (a *apart) answer(sub *nats.Subscription) pubAck {
	a.t.Helper()
	m, err := sub.NextMsg(patience)
	check(a.t, err)
	return parse(a.t, m.Data)
}

// A leader that is cut off from the others takes a message and does not answer,
// and refuses everything else under the same condition with 10164 from then on,
// the same message above all. When the others are back in time, what it took is
// stored. What it refused is not.
func TestCutOffLeaderTakesAMessageAndRefusesTheNextUnderItsFence(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	t.Parallel()
	a := newApart(t)
	own, l := a.owned(2)
	a.cut(l, true)
	one := a.send(l, fenced("log.1.run.a", 1, own[1]))
	two := a.send(l, fenced("log.2.run.a", 2, own[2]), fenced("log.2.run.a", 2, own[2]))
	for what, msgs := range map[string][]*nats.Msg{
		"the same":                       {fenced("log.1.run.a", 1, own[1])},
		"the same batch":                 {fenced("log.2.run.a", 2, own[2]), fenced("log.2.run.a", 2, own[2])},
		"another":                        {fenced("log.1.run.refused", 1, own[1])},
		"a batch under both fences":      {fenced("log.1.run.refused", 1, own[1]), fenced("log.2.run.refused", 2, own[2])},
		"an owner record, instead of it": {expects("own.1", own[1])},
	} {
		if code := a.answer(a.send(l, msgs...)).code(); code != stillInFlight {
			t.Errorf("%s: the answer is %d, want %d", what, code, stillInFlight)
		}
	}
	// An owner record without a condition is taken, as often as it is sent.
	free := []*nats.Subscription{a.send(l, message("own.2", "me")), a.send(l, message("own.2", "me"))}
	last := a.answer(a.send(l, fenced("log.1.run.refused", 1, own[1]))) // it is through
	for _, sub := range append(free, one, two) {
		if n, _, err := sub.Pending(); err != nil || n > 0 || last.code() != stillInFlight {
			t.Errorf("it was answered: %d, %v, %+v", n, err, last)
		}
	}
	a.cut(l, false)
	a.settled()
	kept := 1
	if !a.leads(l) { // the machine is so slow that another one leads
		t.Log("another server leads: what was taken is lost")
		kept = 0
	}
	for subject, want := range map[string]int{"log.1.run.a": kept, "log.2.run.a": 2 * kept, "own.1": 1, "own.2": 1 + 2*kept, "log.*.run.refused": 0} {
		if n := stored(t, a.log, subject); n != want {
			t.Errorf("%d messages are stored on %s, want %d", n, subject, want)
		}
	}
}

// A refusal is one server's word. While a leader that was cut off has not heard
// yet that another one leads, both get what is published by way of a third. The
// former one refuses it, with 10164 when it has something in process, or with
// 10071 when the owner record has been renewed without it, and the other one
// stores it. Who is told first of the refusal knows nothing.
func TestFormerLeaderRefusesWhatTheNewOneStores(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers, and an election")
	}
	t.Parallel()
	for range 5 {
		if twoLeaders(t) {
			return
		}
		t.Log("the former leader knew before it was asked")
	}
	t.Error("no leader ever refused what another one stored")
}

func twoLeaders(t *testing.T) bool {
	a := newApart(t)
	own, former := a.owned(4)
	a.cut(former, true)
	a.send(former, fenced("log.1.run.lost", 1, own[1]))
	a.send(former, fenced("log.2.run.lost", 2, own[2]), fenced("log.2.run.lost", 2, own[2]))
	leader := a.leader(former)
	third := 3 - former - leader
	for _, vp := range []int{3, 4} { // the former leader hears nothing of it
		own[vp] = a.answer(a.send(leader, expects(fmt.Sprint("own.", vp), own[vp]))).Seq
	}
	a.hold(third, leader, true)
	asked := map[int]*nats.Subscription{}
	for vp := 1; vp <= 4; vp++ {
		msgs := []*nats.Msg{fenced(fmt.Sprintf("log.%d.run.a", vp), vp, own[vp])}
		if vp%2 == 0 {
			msgs = append(msgs, fenced(fmt.Sprintf("log.%d.run.b", vp), vp, own[vp]))
		}
		asked[vp] = a.send(third, msgs...)
	}
	a.hold(third, former, false)
	for vp, want := range map[int]int{1: stillInFlight, 2: stillInFlight, 3: wrongLastSequence, 4: wrongLastSequence} {
		m, err := asked[vp].NextMsg(20 * time.Millisecond)
		for err != nil && a.leads(former) {
			m, err = asked[vp].NextMsg(20 * time.Millisecond)
		}
		if err != nil {
			return false
		}
		if code := parse(t, m.Data).code(); code != want {
			t.Errorf("partition %d: the former leader answers %d, want %d", vp, code, want)
		}
	}
	a.hold(third, leader, false)
	for vp, sub := range asked {
		if answer := a.answer(sub); answer.code() != 0 {
			t.Errorf("partition %d: the second answer is %+v", vp, answer.Error)
		}
	}
	a.cut(former, false)
	a.settled()
	for subject, want := range map[string]int{"log.*.run.a": 4, "log.*.run.b": 2, "log.*.run.lost": 0} {
		if n := stored(t, a.log, subject); n != want {
			t.Errorf("%d messages are stored on %s, want %d", n, subject, want)
		}
	}
	return true
}

// owned stores owner records of the partitions 1 to n, and gives the leader.
func (a *apart) owned(n int) (own map[int]uint64, leader int) {
	own = map[int]uint64{}
	for vp := 1; vp <= n; vp++ {
		own[vp] = ask(a.t, a.conns[0], message(fmt.Sprint("own.", vp), "me")).Seq
	}
	a.settled()
	return own, a.leader(-1)
}

// settled waits until messages are stored by way of every server.
func (a *apart) settled() {
	a.t.Helper()
	for _, nc := range a.conns {
		eventually(a.t, "a message is stored", func() error {
			reply, err := nc.RequestMsg(message("log.after", ""), time.Second)
			if err != nil {
				return err
			}
			if answer := parse(a.t, reply.Data); answer.code() != 0 {
				return errors.New(answer.Error.Description)
			}
			return nil
		})
	}
}
