package owner

import (
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
)

// stored carries on after a record was stored: deadlines, heartbeats to
// expect, messages to send.
func (o *Owner) stored(k key, l *lane, seq uint64, r *record.Record) {
	o.follow(k, *r.Summary, l.state)
	if o.o.Observe != nil {
		o.o.Observe(Entry{Aggregate: k.agg, ID: k.id, V: l.v, T: r.T, Seq: seq, Summary: *r.Summary, State: l.state})
	}
}

// follow derives from a state what is to be watched and sent.
func (o *Owner) follow(k key, sum record.Summary, state any) {
	o.watch(k, sum, state)
	o.deliver(k, outboxOf(state))
}

// watch notes the deadline and the heartbeats that an aggregate waits for.
// state is nil when nothing is to be done for it.
func (o *Owner) watch(k key, sum record.Summary, state any) {
	o.due.set(k, sum.Due)
	if k.agg != record.Run {
		return
	}
	if s, ok := state.(*run.State); ok {
		o.beats.expect(k.id, s.Running(), time.Duration(s.BeatLimit)*time.Millisecond)
	}
	o.ears.set(k.id, sum.Listen)
}

// outboxOf gives the messages of an aggregate that wait for an answer.
func outboxOf(state any) []record.Send {
	switch s := state.(type) {
	case *run.State:
		return s.Outbox
	case interface{ Messages() []record.Send }:
		return s.Messages()
	}
	return nil
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
		if answer.Final() {
			sent := &record.Sent{ID: m.Input.ID, Status: answer.Status, Reason: answer.Reason}
			reply := o.Do(o.ctx, from.agg, from.id, record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: sent})
			if reply.Final() {
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
			wait := 100 * time.Millisecond
			for !o.Do(o.ctx, k.agg, k.id, in).Final() && pause(o.ctx, wait) {
				wait = min(2*wait, 10*time.Second)
			}
		})
	}
}

// watchBeats gives up attempts whose workers are not heard of any more.
func (o *Owner) watchBeats() {
	const every = 250 * time.Millisecond
	last := time.Now()
	for pause(o.ctx, every) {
		// While this process stood still nobody's heartbeat could be heard.
		if gap := time.Since(last) - every; gap > time.Second {
			o.o.Log.Warn("the engine stood still; workers are given that time", "for", gap)
			o.beats.forgive(gap)
		}
		last = time.Now()
		for _, lost := range o.beats.lost() {
			o.work.Go(func() {
				in := record.Input{ID: "lost:" + lost.task, Kind: record.InAttemptLost, By: "engine", Attempt: &record.Attempt{Task: lost.task, Worker: lost.worker}}
				if a := o.Do(o.ctx, record.Run, lost.run, in); !a.Final() {
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
