package owner

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/compact"
	"github.com/penstock-cd/penstock/engine/record"
)

// deadlines knows the next deadline of each aggregate: a heap of slots, which
// stay where they are. A deadline takes about 40 bytes.
type deadlines struct {
	mu     sync.Mutex
	ids    compact.IDs
	slots  []due
	free   []uint32 // slots without a deadline
	heap   []uint32 // slots, so that none is due before its parent at (i-1)/2
	where  *compact.Table
	alarm  int64         // until when wait sleeps
	change chan struct{} // there is an earlier one
}

type due struct {
	at    int64
	place uint32 // in heap
	id    compact.ID
}

const never = math.MaxInt64

func newDeadlines() *deadlines {
	d := &deadlines{alarm: never, change: make(chan struct{}, 1)}
	d.where = compact.NewTable(func(slot uint32) compact.ID { return d.slots[slot].id })
	return d
}

// id is what an aggregate is known by here: nearly all that have deadlines are runs.
func (d *deadlines) id(k key) compact.ID {
	if id, ok := compact.Pack(k.id); ok && k.agg == record.Run {
		return id
	}
	return d.ids.Of(k.agg + "/" + k.id)
}

func (d *deadlines) key(id compact.ID) key {
	text := d.ids.Text(id)
	if agg, id, ok := strings.Cut(text, "/"); ok {
		return key{agg, id}
	}
	return key{record.Run, text}
}

// set replaces an aggregate's deadline; 0 is none.
func (d *deadlines) set(k key, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at == 0 && len(d.heap) == 0 {
		return
	}
	id := d.id(k)
	slot, known := d.where.Get(id)
	switch {
	case known && at == 0:
		d.remove(slot)
	case known:
		d.slots[slot].at = at
		d.settle(int(d.slots[slot].place))
	case at != 0:
		d.add(id, at)
	}
	if first := d.earliest(); first < d.alarm {
		d.alarm = first
		d.poke()
	}
}

func (d *deadlines) earliest() int64 {
	if len(d.heap) == 0 {
		return never
	}
	return d.slots[d.heap[0]].at
}

// take gives and removes the earliest deadline if it has come by now. Else it
// gives what is to be waited for: never, when there is none.
func (d *deadlines) take(now int64) (k key, at int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at = d.earliest(); at > now {
		d.alarm = at
		return key{}, at, false
	}
	first := d.heap[0]
	k = d.key(d.slots[first].id)
	d.remove(first)
	return k, at, true
}

// poke has wait look again.
func (d *deadlines) poke() {
	select {
	case d.change <- struct{}{}:
	default:
	}
}

// pace is the time by which deadlines come. While it holds none does.
type pace interface {
	now() int64
	holds() bool
}

// heldPoll is how often a deadline that has come is looked at while it is held.
const heldPoll = time.Second

// wait gives the next deadline when it has come; false when ctx ended.
func (d *deadlines) wait(ctx context.Context, c pace) (key, int64, bool) {
	for {
		now := c.now()
		until, held := now, c.holds()
		if held {
			until = math.MinInt64
		}
		k, at, ok := d.take(until)
		if ok {
			return k, at, true
		}
		sleep := time.Duration(min(at-now, time.Minute.Milliseconds())) * time.Millisecond
		if held {
			sleep = max(sleep, heldPoll)
		}
		t := time.NewTimer(sleep)
		select {
		case <-t.C:
		case <-d.change:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return key{}, 0, false
		}
	}
}

func (d *deadlines) add(id compact.ID, at int64) {
	var slot uint32
	if n := len(d.free); n > 0 {
		slot, d.free = d.free[n-1], d.free[:n-1]
	} else {
		slot = uint32(len(d.slots))
		d.slots = append(d.slots, due{})
	}
	d.slots[slot] = due{at: at, id: id}
	d.where.Add(slot)
	d.heap = append(d.heap, 0)
	d.put(slot, len(d.heap)-1)
	d.settle(len(d.heap) - 1)
}

func (d *deadlines) remove(slot uint32) {
	d.where.Delete(d.slots[slot].id)
	d.free = append(d.free, slot)
	hole, last := int(d.slots[slot].place), len(d.heap)-1
	moved := d.heap[last]
	d.heap = d.heap[:last]
	if hole < last {
		d.put(moved, hole)
		d.settle(hole)
	}
}

func (d *deadlines) put(slot uint32, i int) { d.heap[i], d.slots[slot].place = slot, uint32(i) }

// settle moves what stands at i to where it belongs.
func (d *deadlines) settle(i int) {
	slot := d.heap[i]
	at := d.slots[slot].at
	for i > 0 && at < d.slots[d.heap[(i-1)/2]].at {
		d.put(d.heap[(i-1)/2], i)
		i = (i - 1) / 2
	}
	for {
		child := 2*i + 1
		if child+1 < len(d.heap) && d.slots[d.heap[child+1]].at < d.slots[d.heap[child]].at {
			child++
		}
		if child >= len(d.heap) || at <= d.slots[d.heap[child]].at {
			break
		}
		d.put(d.heap[child], i)
		i = child
	}
	d.put(slot, i)
}
