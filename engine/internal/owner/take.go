package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Take takes partitions over: it stores owner records, which keeps out
// everybody else, reads what is in the partitions, compares it with their
// checkpoints, and carries on from there. Only then are commands for them
// answered. Without an error every one of them is held, or was lost on the
// way again; a partition whose record is not what it was is held and stopped,
// and the others go on. With an error none of them is held that was not
// before.
//
// Take and Release may be called at once for different partitions.
func (o *Owner) Take(ctx context.Context, vps []int) error {
	t, err := o.claim(ctx, vps)
	if err != nil || len(t.vps) == 0 {
		return err
	}
	if err := t.take(ctx); err != nil {
		t.giveUp()
		return err
	}
	t.hold()
	return nil
}

// Start takes all partitions over.
func (o *Owner) Start(ctx context.Context) error {
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	return o.Take(ctx, vps)
}

// Release gives partitions back: no more commands are taken, those that wait
// are carried out, what they lead to is published and noted in the
// checkpoints. Afterwards, also with an error, none of them is held.
func (o *Owner) Release(ctx context.Context, vps []int) error {
	parts := o.leave(vps)
	for _, p := range parts {
		p.close(fmt.Errorf("partition %d: %w", p.vp, ErrNotOwner))
	}
	var errs []error
	var left []int
	for _, p := range parts {
		left = append(left, p.vp)
		select {
		case <-p.idle:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("partition %d is given back with commands under way: %w", p.vp, ctx.Err()))
		}
	}
	if len(left) > 0 {
		errs = append(errs, o.o.Relay.Release(ctx, left))
	}
	for _, p := range parts {
		o.remove(p, fmt.Errorf("partition %d: %w", p.vp, ErrNotOwner))
		o.changed(p)
	}
	return errors.Join(errs...)
}

// leave marks those of the partitions that are held as being given back.
func (o *Owner) leave(vps []int) (parts []*partition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, vp := range vps {
		if p := o.parts[vp].Load(); p != nil && o.changing[vp] == nil {
			o.changing[vp] = p
			parts = append(parts, p)
		}
	}
	return parts
}

// changed ends the taking or giving back of a partition.
func (o *Owner) changed(p *partition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changing[p.vp], o.before[p.vp] = nil, p
}

// taking is a Take under way.
type taking struct {
	o       *Owner
	vps     []int
	parts   map[int]*partition
	ckpts   map[int]Checkpoint
	newest  map[int]journal.Entry // last record of each
	bad     map[int]error         // why it has to be stopped
	outbox  map[int]map[key]any   // states with messages that wait for an answer
	epoch   *Epoch                // a loss was confirmed: what is there counts
	confirm func(Epoch) error     // records that
}

// claim makes sure that nobody else changes who holds the partitions, and
// that nothing of an earlier holding is under way.
func (o *Owner) claim(ctx context.Context, vps []int) (*taking, error) {
	t := &taking{o: o, parts: map[int]*partition{}, ckpts: map[int]Checkpoint{}, newest: map[int]journal.Entry{}, bad: map[int]error{}, outbox: map[int]map[key]any{}}
	var before []*partition
	o.mu.Lock()
	for _, vp := range vps {
		if o.closed.Load() || o.changing[vp] != nil {
			o.mu.Unlock()
			t.giveUp()
			if o.closed.Load() {
				return nil, errClosing
			}
			return nil, fmt.Errorf("partition %d is being taken or given back already", vp)
		}
		if o.parts[vp].Load() != nil {
			continue
		}
		p := o.newPartition(vp)
		o.changing[vp], t.parts[vp], t.vps = p, p, append(t.vps, vp)
		if o.before[vp] != nil {
			before = append(before, o.before[vp])
		}
	}
	o.mu.Unlock()
	for _, p := range before {
		// What it has decided and not appended yet must not get in under the
		// new fence.
		select {
		case <-p.idle:
		case <-ctx.Done():
			t.giveUp()
			return nil, fmt.Errorf("partition %d has commands of before under way: %w", p.vp, ctx.Err())
		}
	}
	return t, nil
}

// giveUp leaves the partitions as they were: not held.
func (t *taking) giveUp() {
	t.o.mu.Lock()
	for vp, p := range t.parts {
		t.o.o.Journal.Disown([]int{vp})
		t.o.changing[vp] = nil
		p.cancel()
	}
	t.o.mu.Unlock()
	for vp := range t.parts {
		t.o.o.Relay.Drop(vp)
	}
}

func (t *taking) take(ctx context.Context) error {
	if err := t.o.o.Journal.Own(ctx, t.vps, t.o.token); err != nil {
		return fmt.Errorf("take the partitions over: %w", err)
	}
	stored, err := t.o.o.Journal.LoadCheckpoints(ctx)
	if err != nil {
		return fmt.Errorf("read the checkpoints: %w", err)
	}
	for _, vp := range t.vps {
		if t.ckpts[vp], err = readCheckpoint(stored[vp]); err != nil {
			t.bad[vp] = err
		}
		t.parts[vp].skip = t.ckpts[vp].Skip
	}
	if err := t.o.o.Journal.LastPerSubject(ctx, Filters(t.vps), t.read); err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	if t.epoch != nil {
		err = t.begins()
	} else {
		err = t.missing(ctx)
	}
	if err != nil {
		return err
	}
	return t.relay(ctx)
}

// missing stops what has lost records that nothing in it tells of.
func (t *taking) missing(ctx context.Context) error {
	if t.o.o.Missing == nil {
		return nil
	}
	lost, err := t.o.o.Missing(ctx, t.vps)
	if err != nil {
		return fmt.Errorf("compare the record with the audit log: %w", err)
	}
	stopped := map[int][]byte{}
	for _, vp := range t.vps {
		if t.bad[vp] != nil || lost[vp] == nil {
			continue
		}
		t.bad[vp] = lost[vp]
		if c := t.ckpts[vp]; c.Stop == "" {
			c.Stop = lost[vp].Error()
			stopped[vp], _ = json.Marshal(c) // numbers and texts always encode
		}
	}
	if len(stopped) == 0 {
		return nil
	}
	// Who tells of it now may not do so at the next start.
	return t.o.o.Journal.Checkpoint(ctx, stopped)
}

// fewFilters is up to how many partitions are read one by one; for more all
// is read, and what is others' passed over.
const fewFilters = 128

// Filters are those for the records of partitions. There may be others among
// what they give.
func Filters(vps []int) []string {
	if len(vps) > fewFilters {
		return []string{journal.AllRecords}
	}
	var filters []string
	for _, vp := range vps {
		filters = append(filters, fmt.Sprintf("penstock.log.%d.>", vp))
	}
	return filters
}

// read takes over the last record of an aggregate.
func (t *taking) read(e journal.Entry) error {
	vp := events.LogPartition(e.Subject)
	p := t.parts[vp]
	if p == nil {
		return nil
	}
	if e.Seq > t.newest[vp].Seq {
		t.newest[vp] = e
	}
	if slices.Contains(p.skip, e.Seq) {
		return nil
	}
	err := errDamaged
	if !e.Damaged {
		err = t.recover(p, e)
	}
	switch {
	case err == nil:
	case t.epoch != nil && !newer(err):
		t.epoch.Unreadable = append(t.epoch.Unreadable, Unreadable{e.Seq, e.Subject, err.Error()})
		p.skip = append(p.skip[:len(p.skip):len(p.skip)], e.Seq)
	default:
		t.bad[vp] = fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, err)
	}
	return nil
}

// errDamaged is a record that the store has and cannot read.
var errDamaged = errors.New("the store cannot read the record: its file is damaged")

// relay has the relay carry out what was not carried out yet.
func (t *taking) relay(ctx context.Context) error {
	taken := map[int]Taken{}
	for _, vp := range t.vps {
		c, m := t.ckpts[vp], t.mark(vp)
		c.Skip = t.parts[vp].skip
		if t.bad[vp] == nil && t.epoch == nil {
			if err := c.reaches(m); err != nil {
				t.bad[vp] = err
			}
		}
		if t.bad[vp] == nil {
			taken[vp] = Taken{Newest: m, Checkpoint: c, Anew: t.epoch != nil}
		}
	}
	bad, err := t.o.o.Relay.Take(ctx, taken)
	if err != nil {
		return err
	}
	for vp, err := range bad {
		t.bad[vp] = err
	}
	return nil
}

// mark is the newest record of a partition.
func (t *taking) mark(vp int) Mark {
	e, ok := t.newest[vp]
	if !ok || e.Damaged { // of which the hash is not known
		return Mark{Seq: e.Seq}
	}
	return Mark{e.Seq, record.Hash(e.Data)}
}

// hold makes the partitions held: from now on their commands are answered.
func (t *taking) hold() {
	o := t.o
	for vp, p := range t.parts {
		if err := t.bad[vp]; err != nil {
			p.stop(err)
		}
	}
	o.mu.Lock()
	for vp, p := range t.parts {
		o.parts[vp].Store(p)
		o.changing[vp], o.before[vp] = nil, p
	}
	closed := o.closed.Load()
	o.mu.Unlock()
	for vp, p := range t.parts {
		switch {
		case closed:
			p.end(errClosing)
		case t.bad[vp] == nil:
			p.sendOff(p.timers)
			for k, state := range t.outbox[vp] {
				p.deliver(k, outboxOf(state))
			}
		}
	}
	t.tellClock()
	o.watching.Do(func() {
		o.work.Go(o.watchBeats)
		o.work.Go(o.watchStore)
		o.work.Go(o.evict)
	})
}
