package relay

import (
	"context"
	"fmt"
	"slices"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Take implements owner.Relay: it reads what was not carried out before,
// compares it with the checkpoints on the way, and begins.
func (r *Relay) Take(ctx context.Context, taken map[int]owner.Taken) (map[int]error, error) {
	r.once.Do(func() {
		r.work.Go(r.loop)
		r.work.Go(r.checkpoints)
	})
	t := &taking{relay: r, parts: map[int]*part{}, behind: map[int]uint64{}, newest: map[int]uint64{}, known: map[uint64]int{}, chains: map[string]link{}, bad: map[int]error{}}
	for vp, x := range taken {
		t.add(vp, x)
	}
	if t.from > 0 {
		if err := r.o.Journal.From(ctx, t.from, t.read); err != nil {
			return nil, fmt.Errorf("read what was not carried out yet: %w", err)
		}
	}
	t.begin()
	return t.bad, r.settle(ctx, t.anew)
}

// taking is a Take under way.
type taking struct {
	relay  *Relay
	from   uint64 // where the reading begins; 0: nothing is to be read
	parts  map[int]*part
	behind map[int]uint64  // up to where each partition was carried out
	newest map[int]uint64  // last record of each partition that is to be read
	known  map[uint64]int  // partition by the sequence that its checkpoint knows
	chains map[string]link // last record that was read, by subject
	undone []*ticket       // what is to be carried out, in order
	anew   []*part         // whose checkpoints are replaced
	bad    map[int]error
}

// link is a record that the next one of its aggregate must name.
type link struct {
	v    int64
	hash string
}

// add notes from where a partition is to be read: from behind what was
// carried out, or from the record that the checkpoint knows, to see that it
// still is that one.
func (t *taking) add(vp int, x owner.Taken) {
	c := x.Checkpoint
	p := &part{relay: t.relay, vp: vp, stored: x.Newest, ckpt: c}
	t.parts[vp], t.behind[vp] = p, c.Seq
	if x.Anew {
		p.ckpt, p.anew = owner.Checkpoint{Skip: c.Skip}, true
		t.anew = append(t.anew, p)
	}
	if x.Newest.Seq <= c.Seq {
		return
	}
	from := c.Seq + 1
	if !x.Anew && c.Hash != "" && c.Last < x.Newest.Seq {
		t.known[c.Last] = vp
		from = min(from, c.Last)
	}
	t.newest[vp] = x.Newest.Seq
	if t.from == 0 || from < t.from {
		t.from = from
	}
}

// read takes a record that is stored behind one of the checkpoints.
func (t *taking) read(e journal.Entry) error {
	if e.Damaged {
		t.damaged(e.Seq)
		return nil
	}
	vp := events.LogPartition(e.Subject)
	if of, ok := t.known[e.Seq]; ok {
		err := t.parts[of].ckpt.Check(owner.Mark{Seq: e.Seq, Hash: record.Hash(e.Data)})
		if err != nil {
			t.bad[of] = err
		}
	}
	p := t.parts[vp]
	if p == nil || t.bad[vp] != nil || e.Seq <= t.behind[vp] || e.Seq > t.newest[vp] || slices.Contains(p.ckpt.Skip, e.Seq) {
		return nil
	}
	if err := t.take(p, e); err != nil && !p.anew {
		t.bad[vp] = fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, err)
	}
	return nil
}

// damaged stops every partition that may have a record there which was not
// carried out: what the store cannot read, it cannot tell the partition of.
func (t *taking) damaged(seq uint64) {
	for vp, newest := range t.newest {
		p := t.parts[vp]
		if newest > 0 && t.behind[vp] < seq && t.bad[vp] == nil && !p.anew && !slices.Contains(p.ckpt.Skip, seq) {
			t.bad[vp] = fmt.Errorf("a record up to sequence %d cannot be read, since the store's file is damaged; it may be one of this partition that was not carried out", seq)
		}
	}
}

// take notes what a record says that was not carried out, and sees that it
// names the one before it.
func (t *taking) take(p *part, e journal.Entry) error {
	rec, err := record.Decode(e.Data)
	if err != nil {
		return err
	}
	if before, ok := t.chains[e.Subject]; ok && !p.anew && (rec.V != before.v+1 || rec.Prev != before.hash) {
		return fmt.Errorf("version %d does not follow version %d, the record before it", rec.V, before.v)
	}
	t.chains[e.Subject] = link{rec.V, record.Hash(e.Data)}
	if len(rec.Tasks)+len(rec.Events) == 0 {
		return nil
	}
	rec.State = nil // large, and not needed
	x := p.begin(e.Seq - 1)
	x.r = rec
	t.undone = append(t.undone, x)
	return nil
}

// begin makes the partitions that are good known, and carries out what was
// found.
func (t *taking) begin() {
	r := t.relay
	for vp, p := range t.parts {
		if t.bad[vp] != nil {
			p.gone.Store(true)
			continue
		}
		r.parts[vp].Store(p)
	}
	r.queue.put(t.undone...)
	r.queue.nudge()
}
