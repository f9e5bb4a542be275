package journal_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// BenchmarkAppend keeps a number of records in flight, each on a subject of
// its own, and does the same with bare nats.go on the same server: "floor"
// is how long a record takes there, "ratio" is floor/journal; 1 is as fast.
func BenchmarkAppend(b *testing.B) {
	for _, mode := range []string{journal.SyncAlways, journal.SyncLazy} {
		for _, inFlight := range []int{1, 100, 500, 4000} {
			b.Run(fmt.Sprintf("%s/inflight=%d", mode, inFlight), func(b *testing.B) {
				benchAppend(b, mode, inFlight)
			})
		}
	}
}

const benchVPs = 16

var benchData = make([]byte, 400)

func benchAppend(b *testing.B, mode string, inFlight int) {
	s := newBroker(b, mode)
	nc := s.connect("", nats.InProcessServer(s.server))
	j := s.open(b, nc, slow)
	vps := make([]int, benchVPs)
	for i := range vps {
		vps[i] = i
	}
	if err := j.Own(b.Context(), vps, []byte("bench")); err != nil {
		b.Fatal(err)
	}
	fence := make([]uint64, benchVPs)
	for i := range fence {
		fence[i], _ = j.Fence(i)
	}
	// In turns, because the machine may be busy with other things as well.
	const turns = 8
	var bare time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for turn := range turns {
		n := b.N*(turn+1)/turns - b.N*turn/turns
		b.StopTimer()
		began := time.Now()
		floor(b, nc, mode, fence, n, inFlight)
		bare += time.Since(began)
		b.StartTimer()
		keepInFlight(n, inFlight, func(slot, i int, done func()) {
			vp := slot % benchVPs
			j.Append(vp, benchSubject("j", vp, slot), benchData, func(_ uint64, err error) {
				if err != nil {
					b.Error(err)
				}
				done()
			})
		})
	}
	b.StopTimer()
	per, perFloor := float64(b.Elapsed())/float64(b.N), float64(bare)/float64(b.N)
	b.ReportMetric(perFloor, "floor-ns/op")
	b.ReportMetric(perFloor/per, "ratio")
	b.ReportMetric(1e9/per, "records/s")
}

func benchSubject(who string, vp, slot int) string {
	return "penstock.log." + strconv.Itoa(vp) + "." + who + "." + strconv.Itoa(slot)
}

// keepInFlight calls do n times, at most so many at once; do's slot is free
// again when it calls done.
func keepInFlight(n, slots int, do func(slot, i int, done func())) {
	var next atomic.Int64
	var wg sync.WaitGroup
	wg.Add(min(n, slots))
	var again func(slot int)
	again = func(slot int) {
		i := int(next.Add(1))
		if i > n {
			wg.Done()
			return
		}
		do(slot, i, func() { again(slot) })
	}
	for slot := range min(n, slots) {
		again(slot)
	}
	wg.Wait()
}

// floor is the best bare loop known: it gathers what waits while two groups
// are on their way, and sends few records singly and many as a batch.
func floor(b *testing.B, nc *nats.Conn, mode string, fence []uint64, n, inFlight int) {
	type item struct {
		vp, slot int
		done     func()
	}
	from := 16
	if mode == journal.SyncLazy {
		from = 1 << 30
	}
	queue := make(chan item, inFlight)
	message := func(it item) *nats.Msg {
		m := nats.NewMsg(benchSubject("f", it.vp, it.slot))
		m.Data = benchData
		m.Header["Nats-Expected-Last-Subject-Sequence"] = []string{strconv.FormatUint(fence[it.vp], 10)}
		m.Header["Nats-Expected-Last-Subject-Sequence-Subject"] = []string{events.OwnSubject(it.vp)}
		return m
	}
	var mu sync.Mutex
	pending := map[string][]item{}
	slots := make(chan struct{}, 1<<20)
	groups := 2
	if mode == journal.SyncLazy {
		groups = 1000
	}
	for range groups {
		slots <- struct{}{}
	}
	inbox := nc.NewInbox() + "."
	left := map[string]*atomic.Int64{}
	sub, err := nc.Subscribe(inbox+"*", func(m *nats.Msg) {
		mu.Lock()
		items, count := pending[m.Subject], left[m.Subject]
		delete(pending, m.Subject)
		delete(left, m.Subject)
		mu.Unlock()
		for _, it := range items {
			it.done()
		}
		if count.Add(-1) == 0 {
			slots <- struct{}{}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	defer sub.Unsubscribe()
	tokens := 0
	send := func(items []item, batch bool, count *atomic.Int64) {
		tokens++
		reply := inbox + strconv.Itoa(tokens)
		mu.Lock()
		pending[reply], left[reply] = items, count
		mu.Unlock()
		id := ""
		if batch {
			id = nuid.Next()
		}
		for i, it := range items {
			m := message(it)
			if batch {
				m.Header["Nats-Batch-Id"] = []string{id}
				m.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
			}
			if i == len(items)-1 {
				m.Reply = reply
				if batch {
					m.Header["Nats-Batch-Commit"] = []string{"1"}
				}
			}
			if err := nc.PublishMsg(m); err != nil {
				b.Error(err)
			}
		}
	}
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-slots:
			}
			var group []item
			select {
			case <-stop:
				return
			case it := <-queue:
				group = append(group, it)
			}
			limit := 500
			if mode == journal.SyncLazy {
				limit = 1
			}
			for len(group) < limit && len(queue) > 0 {
				group = append(group, <-queue)
			}
			count := new(atomic.Int64)
			if len(group) >= from {
				count.Store(1)
				send(group, true, count)
				continue
			}
			count.Store(int64(len(group)))
			for _, it := range group {
				send([]item{it}, false, count)
			}
		}
	})
	keepInFlight(n, inFlight, func(slot, _ int, done func()) {
		queue <- item{slot % benchVPs, slot, done}
	})
	close(stop)
	sender.Wait()
}
