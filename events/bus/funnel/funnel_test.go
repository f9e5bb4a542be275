package funnel_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock-cd/penstock/events/bus/funnel"
)

func TestEverythingIsSentOnceInOrderByOneAtATime(t *testing.T) {
	const senders, each = 16, 500
	var busy atomic.Int32
	last := map[int]int{}
	n := 0
	f := funnel.New(func(batch [][2]int) {
		if busy.Add(1) != 1 {
			t.Error("two send at a time")
		}
		for _, v := range batch {
			if last[v[0]] != v[1]-1 {
				t.Errorf("sender %d: %d after %d", v[0], v[1], last[v[0]])
			}
			last[v[0]] = v[1]
			n++
		}
		busy.Add(-1)
	})
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				f.Add([2]int{s, i + 1})
			}
		})
	}
	wg.Wait()
	f.Wait()
	if n != senders*each {
		t.Errorf("%d were sent, not %d", n, senders*each)
	}
}

func TestWhoAddsIsNotKeptForTheOthers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var sent atomic.Int32
	f := funnel.New(func(batch []int) {
		if batch[0] == 0 {
			close(entered)
			<-release
		}
		sent.Add(int32(len(batch)))
	})
	go f.Add(0)
	<-entered
	for i := range 100 {
		f.Add(i + 1) // returns although the first is still being sent
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("%d were sent beside the first", n)
	}
	close(release)
	f.Wait()
	if n := sent.Load(); n != 101 {
		t.Errorf("%d were sent, not 101", n)
	}
}

func TestOneThatAddsFromWithinIsSentLater(t *testing.T) {
	var f *funnel.Funnel[int]
	var got []int
	f = funnel.New(func(batch []int) {
		for _, v := range batch {
			got = append(got, v)
			if v < 3 {
				f.Add(v + 1)
			}
		}
	})
	f.Add(1)
	f.Wait()
	if len(got) != 3 || got[2] != 3 {
		t.Errorf("sent %v", got)
	}
}
