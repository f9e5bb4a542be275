package owner

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
)

// watchStore looks, whenever the connection was interrupted, whether the store
// still has what it had acknowledged: a server that is started again after a
// power cut may have lost the end of the record. A checkpoint tells whoever
// takes the partition next; who holds it must not go on either.
func (o *Owner) watchStore() {
	for seen := uint64(0); pause(o.ctx, 250*time.Millisecond); {
		now := o.o.Journal.Interruptions()
		if now == seen {
			continue
		}
		err := o.compare()
		if err == nil {
			seen = now
			continue
		}
		o.o.Log.Warn("the connection was interrupted, and whether the store has lost something cannot be seen yet", "error", err)
		if !pause(o.ctx, time.Second) {
			return
		}
	}
}

// compare stops the partitions whose newest record the store has lost. Each is
// looked at: what was stored since, in place of what is lost, is there.
func (o *Owner) compare() error {
	for p := range o.held {
		m := o.o.Relay.Newest(p.vp)
		if m.Seq == 0 || p.refusing() != nil {
			continue
		}
		e, err := o.o.Journal.At(p.ctx, m.Seq)
		switch {
		case err == nil && record.Hash(e.Data) == m.Hash, errors.Is(err, journal.ErrNotFound): // it may have been removed
		case err == nil, errors.Is(err, journal.ErrLost):
			p.stop(fmt.Errorf("its newest record, with sequence %d, is not in the store any more: the tail of the record was lost", m.Seq))
		case p.ctx.Err() == nil: // else it is not ours any more
			return err
		}
	}
	return nil
}
