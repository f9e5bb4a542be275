package owner

import (
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// stored carries on after a record was stored: deadlines, heartbeats to
// expect, messages to send.
func (o *Owner) stored(k key, l *lane, seq uint64) {
	o.follow(k, l.state)
	if o.o.Observe != nil {
		o.o.Observe(Entry{Aggregate: k.agg, ID: k.id, V: l.v, Seq: seq, State: l.state})
	}
}

// follow derives from a state what is to be watched and sent.
func (o *Owner) follow(k key, state any) {
	switch s := state.(type) {
	case *run.State:
		o.due.set(k, s.NextDeadline())
		o.beats.expect(k.id, s.Running(), time.Duration(s.BeatLimit)*time.Millisecond)
		o.deliver(k, s.Outbox)
	case *env.Environment:
		o.deliver(k, s.Outbox)
	case *env.Event:
		o.deliver(k, s.Outbox)
	}
}

// deliver sends the first message of an outbox, unless it is under way; the
// next one goes when that one's answer is recorded, so they keep their order.
func (o *Owner) deliver(k key, outbox []record.Send) {
	if len(outbox) == 0 {
		return
	}
	m := outbox[0]
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sending[m.Input.ID] || o.closed {
		return
	}
	o.sending[m.Input.ID] = true
	o.work.Go(func() {
		o.transmit(k, m)
		o.mu.Lock()
		delete(o.sending, m.Input.ID)
		o.mu.Unlock()
	})
}

// transmit sends a message until it is answered and the answer is recorded.
func (o *Owner) transmit(from key, m record.Send) {
	wait := 50 * time.Millisecond
	for {
		answer := o.Do(o.ctx, m.To, m.ID, m.Input)
		if answer.Status != events.StatusBusy {
			sent := &record.Sent{ID: m.Input.ID, Status: answer.Status, Reason: answer.Reason}
			reply := o.Do(o.ctx, from.agg, from.id, record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: sent})
			if reply.Status != events.StatusBusy {
				return
			}
		}
		if !pause(o.ctx, wait) {
			return
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// timers fires deadlines as commands, until the owner stops.
func (o *Owner) timers() {
	for {
		k, at, ok := o.due.wait(o.ctx, o.clock)
		if !ok {
			return
		}
		o.work.Go(func() {
			in := record.Input{ID: fmt.Sprintf("timer:%d", at), Kind: record.InTimer, By: "engine"}
			if a := o.Do(o.ctx, k.agg, k.id, in); a.Status == events.StatusBusy && pause(o.ctx, time.Second) {
				o.due.set(k, at)
			}
		})
	}
}

// watchBeats gives up attempts whose workers are not heard of any more.
func (o *Owner) watchBeats() {
	for pause(o.ctx, 250*time.Millisecond) {
		for _, lost := range o.beats.lost() {
			o.work.Go(func() {
				in := record.Input{ID: "lost:" + lost.task, Kind: record.InAttemptLost, By: "engine", Attempt: &record.Attempt{Task: lost.task, Worker: lost.worker}}
				if a := o.Do(o.ctx, record.Run, lost.run, in); a.Status == events.StatusBusy {
					o.beats.again(lost)
				}
			})
		}
	}
}

// evict forgets states that have not been used for a while; they are read
// again when they are needed.
func (o *Owner) evict() {
	for pause(o.ctx, 10*time.Second) {
		o.mu.Lock()
		for k, l := range o.lanes {
			if !l.running && len(l.queue) == 0 && time.Since(l.used) > time.Minute {
				delete(o.lanes, k)
			}
		}
		o.mu.Unlock()
	}
}
