package journal

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// echo is a transport behind which everything is stored at once.
type echo struct {
	Transport
	heard nats.MsgHandler
	seq   int
}

func (e *echo) Connected() bool                           { return true }
func (e *echo) Interrupted() (<-chan nats.Status, func()) { return nil, func() {} }
func (e *echo) Listen(fn nats.MsgHandler) (string, func(), error) {
	e.heard = fn
	return "inbox.", func() {}, nil
}

func (e *echo) Send(m *nats.Msg) error {
	e.seq++
	if m.Reply == "" {
		return nil
	}
	ack := fmt.Appendf(nil, `{"stream":"PENSTOCK_LOG","seq":%d}`, e.seq)
	if n := m.Header["Nats-Batch-Sequence"]; n != nil {
		ack = fmt.Appendf(nil, `{"stream":"PENSTOCK_LOG","seq":%d,"batch":"b","count":%s}`, e.seq, n[0])
	}
	go e.heard(&nats.Msg{Subject: m.Reply, Data: ack})
	return nil
}

// BenchmarkCommit is the committer and the wire without a server: a group of
// records from being added to being called stored.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 256} {
		b.Run("group="+strconv.Itoa(n), func(b *testing.B) {
			w, err := newWire(&echo{}, "PENSTOCK_LOG", 1, time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			c := newCommitter(w, choose(SyncAlways, 1), Options{}.withDefaults())
			c.ordered = true
			c.start()
			defer c.close(context.Background())
			subjects := make([]string, n)
			for i := range subjects {
				subjects[i] = "penstock.log.7.run." + strconv.Itoa(i)
			}
			data := make([]byte, 2500)
			b.ReportAllocs()
			for b.Loop() {
				var stored sync.WaitGroup
				stored.Add(n)
				group := make([]*record, n)
				for i := range group {
					group[i] = &record{subject: subjects[i], data: data, vp: 7, expectOn: ownSubjects[7], expect: 7, done: func(_ uint64, err error) {
						if err != nil {
							b.Error(err)
						}
						stored.Done()
					}}
				}
				c.add(group...)
				stored.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
		})
	}
}
