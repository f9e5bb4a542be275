package owner

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// stored carries on after a record was stored: deadlines, heartbeats to
// expect, messages to send.
func (p *partition) stored(k key, l *lane, seq uint64, r *record.Record) {
	p.follow(k, *r.Summary, l.state)
	if o := p.o; o.o.Observe != nil {
		o.o.Observe(Entry{Aggregate: k.agg, ID: k.id, V: l.v, Prev: r.Prev, T: r.T, Seq: seq, Summary: *r.Summary, State: l.state})
	}
}

// follow derives from a state what is to be watched and sent.
func (p *partition) follow(k key, sum record.Summary, state any) {
	p.watch(k, sum, state)
	p.deliver(k, outboxOf(state))
}

// watch notes the deadline and the heartbeats that an aggregate waits for.
// state is nil when nothing is to be done for it.
func (p *partition) watch(k key, sum record.Summary, state any) {
	p.due.set(k, sum.Due)
	if k.agg != record.Run {
		return
	}
	if s, ok := state.(*run.State); ok {
		p.beats.expect(k.id, s.Running(), time.Duration(s.BeatLimit)*time.Millisecond)
	}
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

// maxSending is how many messages of one aggregate are under way at once.
const maxSending = 32

// deliver sends the messages of an outbox that are not under way. Those to
// one target go one after the other, the next when the answer to the one
// before it is recorded, so they keep their order; those to different targets
// do not wait for each other.
func (p *partition) deliver(k key, outbox []record.Send) {
	if len(outbox) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing != nil || p.why != nil {
		return
	}
	targets := make([]key, 0, min(len(outbox), maxSending))
	for _, m := range outbox {
		to := key{m.To, m.ID}
		if slices.Contains(targets, to) {
			continue
		}
		if targets = append(targets, to); !p.sending[m.Input.ID] {
			p.sending[m.Input.ID] = true
			p.sends.Go(func() {
				p.transmit(k, m)
				p.mu.Lock()
				delete(p.sending, m.Input.ID)
				p.mu.Unlock()
			})
		}
		if len(targets) == maxSending {
			return
		}
	}
}

// transmit sends a message until it is answered and the answer is recorded.
func (p *partition) transmit(from key, m record.Send) {
	wait := 50 * time.Millisecond
	for {
		answer := p.o.o.Send(p.going, m.To, m.ID, m.Input)
		if answer.Final() {
			sent := &record.Sent{ID: m.Input.ID, Status: answer.Status, Reason: answer.Reason}
			reply := p.o.Do(p.going, from.agg, from.id, record.Input{ID: m.Input.ID + "/answer", Kind: record.InSendAnswer, By: "engine", Sent: sent})
			if reply.Final() {
				return
			}
		}
		if !pause(p.going, apart(wait, m.Input.ID)) {
			return
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// timers fires deadlines as commands.
func (p *partition) timers() {
	for {
		k, at, ok := p.due.wait(p.going, p)
		if !ok {
			return
		}
		p.sends.Go(func() {
			in := record.Input{ID: fmt.Sprintf("timer:%d", at), Kind: record.InTimer, By: "engine"}
			wait := 100 * time.Millisecond
			for !p.o.Do(p.going, k.agg, k.id, in).Final() && pause(p.going, apart(wait, k.id)) {
				wait = min(2*wait, 10*time.Second)
			}
		})
	}
}

// standstill is after how long a standstill of this process somebody else may
// hold its partitions.
const standstill = 3 * time.Second

// watchBeats gives up attempts whose workers are not heard of any more.
func (o *Owner) watchBeats() {
	const every = 250 * time.Millisecond
	last := time.Now()
	for pause(o.ctx, every) {
		// While this process stood still nobody's heartbeat could be heard.
		gap := time.Since(last) - every
		last = time.Now()
		if gap > time.Second {
			o.o.Log.Warn("the engine stood still; workers are given that time", "for", gap)
			for p := range o.held {
				p.beats.forgive(gap)
			}
		}
		if gap > standstill {
			o.work.Go(o.reassure)
		}
		o.clock.tick()
		for p := range o.held {
			p.loseSilent()
		}
	}
}

// loseSilent has the loss of silent workers recorded.
func (p *partition) loseSilent() {
	for _, lost := range p.beats.lost() {
		p.sendOff(func() {
			in := record.Input{ID: "lost:" + lost.task, Kind: record.InAttemptLost, By: "engine", Attempt: &record.Attempt{Task: lost.task, Worker: lost.worker}}
			if a := p.o.Do(p.going, record.Run, lost.run, in); !a.Final() {
				p.beats.again(lost)
			}
		})
	}
}

// sendOff runs f, unless nothing more is begun in the partition.
func (p *partition) sendOff(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing == nil && p.why == nil {
		p.sends.Go(f)
	}
}

// reassure drops the partitions that another engine has taken over.
func (o *Owner) reassure() {
	var ours [events.Partitions]*partition
	for p := range o.held {
		ours[p.vp] = p
	}
	ctx, cancel := context.WithTimeout(o.ctx, 30*time.Second)
	defer cancel()
	err := o.o.Journal.LastPerSubject(ctx, []string{"penstock.own.*"}, func(e journal.Entry) error {
		var vp int
		if _, err := fmt.Sscanf(e.Subject, "penstock.own.%d", &vp); err != nil || vp < 0 || vp >= len(ours) || ours[vp] == nil {
			return nil
		}
		if !bytes.Equal(e.Data, o.token) {
			o.lost(ours[vp], errTaken)
		}
		return nil
	})
	if err != nil && o.ctx.Err() == nil {
		o.o.Log.Warn("it is not known whether another engine has taken over; the next write tells", "error", err)
	}
}
