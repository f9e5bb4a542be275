package owner

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
)

// Epoch is how a stopped partition goes on, once somebody has confirmed what
// was lost.
type Epoch struct {
	Partition  int
	Stopped    string       // why it was
	Known      Checkpoint   // what was known of it
	Newest     Mark         // the newest record that there is, behind which it goes on
	Unreadable []Unreadable // aggregates for which nothing more can be done
}

// Unreadable is the last record of an aggregate that cannot be read.
type Unreadable struct {
	Seq     uint64
	Subject string
	Why     string
}

// NewEpoch lets a stopped partition go on from what there is of its record.
// confirm is told of it before anything goes on, to have it recorded; when it
// gives an error, the partition stays stopped. So it does when it was not
// stopped for a loss, but since a newer version of Penstock has written it.
func (o *Owner) NewEpoch(ctx context.Context, vp int, confirm func(Epoch) error) error {
	p := o.parts[vp].Load()
	switch begins := o.Stopped()[vp] != nil; {
	case p == nil && begins:
		return fmt.Errorf("a new epoch of partition %d begins already; ask again in a moment", vp)
	case p == nil:
		return fmt.Errorf("partition %d: %w", vp, ErrNotOwner)
	}
	why := p.refusing()
	if !errors.Is(why, ErrStopped) {
		return fmt.Errorf("partition %d is not stopped; there is nothing to confirm", vp)
	}
	o.resume(vp, why)
	defer o.resume(vp, nil)
	if err := o.Release(ctx, []int{vp}); err != nil {
		o.o.Log.Warn("a stopped partition was not given back cleanly", "partition", vp, "error", err)
	}
	err := o.begin(ctx, vp, &Epoch{Partition: vp, Stopped: why.Error()}, confirm)
	if err != nil { // it is stopped again, for what is the case
		return errors.Join(err, o.Take(ctx, []int{vp}))
	}
	return nil
}

// resume notes that a new epoch of a partition begins, or, without a reason for
// which it is stopped, that it has begun or not. Until then it is stopped.
func (o *Owner) resume(vp int, why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if why == nil {
		delete(o.resuming, vp)
		return
	}
	if o.resuming == nil {
		o.resuming = map[int]error{}
	}
	o.resuming[vp] = why
}

// begin takes a partition as it is.
func (o *Owner) begin(ctx context.Context, vp int, epoch *Epoch, confirm func(Epoch) error) error {
	t, err := o.claim(ctx, []int{vp})
	if err != nil {
		return err
	}
	t.epoch, t.confirm = epoch, confirm
	if err := t.take(ctx); err != nil {
		t.giveUp()
		return err
	}
	t.hold()
	return nil
}

// begins has the beginning of an epoch recorded.
func (t *taking) begins() error {
	vp := t.epoch.Partition
	if err := t.bad[vp]; newer(err) {
		return fmt.Errorf("partition %d has lost nothing: %w", vp, err)
	}
	delete(t.bad, vp) // its checkpoint is replaced
	t.epoch.Known, t.epoch.Newest = t.ckpts[vp], t.mark(vp)
	return t.confirm(*t.epoch)
}

// newer reports whether a record is of a newer version of Penstock.
func newer(err error) bool {
	_, unknown := errors.AsType[*record.FormatError](err)
	return unknown || errors.Is(err, errUnknownAggregate)
}
