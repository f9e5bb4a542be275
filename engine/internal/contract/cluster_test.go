package contract_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// three are three servers with the stream LOG, three times stored.
func three(t *testing.T, sync bool) ([]*server.Server, *nats.Conn, jetstream.Stream) {
	t.Helper()
	servers := newCluster(t, 3, func(o *server.Options) { o.SyncAlways = sync })
	var urls string
	for _, s := range servers {
		urls += s.ClientURL() + ","
	}
	nc, err := nats.Connect(urls[:len(urls)-1], nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	check(t, err)
	t.Cleanup(nc.Close)
	cfg := logStream
	cfg.Replicas = 3
	return servers, nc, stream(t, jetStream(t, nc), cfg)
}

// Probe 6. In a cluster a batch costs what a single message costs, and when
// the stream's leader leaves another one takes over within a moment.
func TestClusterGoesOnWithoutTheStreamsLeader(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync always %t", sync), func(t *testing.T) {
			servers, nc, s := three(t, sync)
			one := time.Now()
			var last uint64
			for range 50 {
				a := ask(t, nc, expects("log.a", last))
				if a.code() != 0 {
					t.Fatalf("a single message: %+v", a.Error)
				}
				last = a.Seq
			}
			batches := time.Now()
			for i := range 50 {
				if a := batch(t, nc, fmt.Sprint("b", i), expects("log.b"+fmt.Sprint(i), 0), message("log.c", ""), message("log.c", "")); a.code() != 0 || a.Count != 3 {
					t.Fatalf("a batch: %+v", a)
				}
			}
			t.Logf("a single message takes %v, a batch of three %v", batches.Sub(one)/50, time.Since(batches)/50)
			info, err := s.Info(t.Context())
			check(t, err)
			for _, srv := range servers {
				if srv.Name() == info.Cluster.Leader {
					stop(srv)
				}
			}
			left := time.Now()
			eventually(t, "a message is stored without the leader", func() error {
				reply, err := nc.RequestMsg(message("log.after", "x"), time.Second)
				if err != nil {
					return err
				}
				if a := parse(t, reply.Data); a.code() != 0 {
					return errors.New(a.Error.Description)
				}
				return nil
			})
			t.Logf("the next message was stored %v after the leader had left", time.Since(left))
			if n := stored(t, s, "log.a") + stored(t, s, "log.c"); n != 150 {
				t.Errorf("%d messages are left, want 150", n)
			}
		})
	}
}

// In a cluster a message is refused with 10164 while another one under the
// same fence is in process, which says nothing about who owns the partition.
// One commit at a time, as the journal keeps it, is always taken.
func TestClusterTakesOneCommitUnderAFenceAtATime(t *testing.T) {
	t.Parallel()
	_, nc, s := three(t, false)
	fence := ask(t, nc, message("own.7", "me")).Seq
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	check(t, err)
	const n = 200
	for i := range n {
		m := fenced("log.7.run."+strconv.Itoa(i), 7, fence)
		m.Reply = inbox
		check(t, nc.PublishMsg(m))
	}
	codes := map[int]int{}
	for range n {
		m, err := sub.NextMsg(patience)
		check(t, err)
		codes[parse(t, m.Data).code()]++
	}
	if codes[0] == 0 || codes[stillInFlight] == 0 || codes[0]+codes[stillInFlight] != n {
		t.Errorf("pipelined under one fence: %v, want some stored and the others refused with %d", codes, stillInFlight)
	}
	if got := stored(t, s, "log.7.>"); got != codes[0] {
		t.Errorf("%d messages are stored, %d were acknowledged", got, codes[0])
	}
	for i := range 20 {
		msgs := []*nats.Msg{fenced("log.7.batch.1", 7, fence), fenced("log.7.batch.2", 7, fence)}
		if a := batch(t, nc, fmt.Sprint("one-", i), msgs...); a.code() != 0 {
			t.Errorf("batch %d, alone on its way: %+v", i, a.Error)
		}
	}
	ask(t, nc, message("own.7", "another"))
	if a := batch(t, nc, "late", fenced("log.7.batch.1", 7, fence), fenced("log.7.batch.2", 7, fence)); a.code() != wrongLastSequence {
		t.Errorf("a former owner's batch: %+v", a)
	}
	if a := ask(t, nc, fenced("log.7.run.late", 7, fence)); a.code() != wrongLastSequence {
		t.Errorf("a former owner's message: %+v", a)
	}
}

// The leader has every acknowledged message; it is asked, not a follower that
// may lag.
func TestLeaderGivesEveryAcknowledgedMessage(t *testing.T) {
	t.Parallel()
	_, nc, _ := three(t, false)
	for i := range 200 {
		want := ask(t, nc, message("log.a", strconv.Itoa(i))).Seq
		var got struct {
			Message struct{ Seq uint64 }
		}
		getLast(t, nc, "LOG", "log.a", &got)
		if got.Message.Seq != want {
			t.Fatalf("message %d was acknowledged, the leader's last is %d", want, got.Message.Seq)
		}
	}
}
