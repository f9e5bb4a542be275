package owner

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// write is a record whose publish did not simply succeed.
type write struct {
	vp      int
	subject string
	stored  []byte
	fence   uint64 // under which it was appended
	v       int64  // version of the aggregate before it
	head    string // hash of the record before it
}

// errUnsettled says that the owner stopped before it could find out.
var errUnsettled = errors.New("the outcome is unknown")

// settling is the lock under which a partition is owned anew: two at a time
// would each invalidate what the other has found.
func (o *Owner) settling(vp int) *sync.Mutex {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.settle[vp] == nil {
		o.settle[vp] = &sync.Mutex{}
	}
	return o.settle[vp]
}

// findOut settles a record whose outcome is unknown: own the partition anew,
// so that nothing of before can still get in, and read what is there.
func (o *Owner) findOut(w *write) (uint64, error) {
	lock := o.settling(w.vp)
	lock.Lock()
	defer lock.Unlock()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		seq, err := o.look(w)
		if err == nil || errors.Is(err, errAgain) || errors.Is(err, ErrStopped) || errors.Is(err, errTaken) {
			return seq, err
		}
		o.o.Log.Warn("it is not known yet whether a record was stored", "subject", w.subject, "error", err)
		if !pause(o.ctx, wait) {
			return 0, fmt.Errorf("%w: %w", errUnsettled, err)
		}
	}
}

// look makes one try to find out. The caller holds the partition's lock.
func (o *Owner) look(w *write) (uint64, error) {
	if err := o.stoppedBecause(w.vp); err != nil {
		return 0, err
	}
	if fence, owned := o.o.Journal.Fence(w.vp); !owned || fence == w.fence {
		if err := o.ownAgain(w.vp); err != nil {
			return 0, err
		}
	}
	e, err := o.o.Journal.Last(o.ctx, w.subject)
	switch {
	case err == nil && record.Hash(e.Data) == record.Hash(w.stored):
		return e.Seq, nil
	case errors.Is(err, journal.ErrNotFound) && w.v == 0, err == nil && record.Hash(e.Data) == w.head:
		return 0, errAgain
	case err != nil && !errors.Is(err, journal.ErrNotFound):
		return 0, err
	}
	stop := fmt.Errorf("%w: %s: its last record is not the one that was acknowledged last; the store has lost or changed something", ErrStopped, w.subject)
	o.stop(w.vp, stop)
	return 0, stop
}

// ownAgain stores a new owner record, unless the one that stands is another
// engine's: who was taken over does not take back.
func (o *Owner) ownAgain(vp int) error {
	if err := o.stillOurs(vp); err != nil {
		return err
	}
	return o.o.Journal.Own(o.ctx, []int{vp}, o.token)
}

// stillOurs reads the owner record that stands.
func (o *Owner) stillOurs(vp int) error {
	e, err := o.o.Journal.Last(o.ctx, events.OwnSubject(vp))
	if err != nil {
		return err
	}
	if !bytes.Equal(e.Data, o.token) {
		return errTaken
	}
	return nil
}

// fenced settles a record that was refused by the fence, so that nothing of it
// is stored: the partition may have been owned anew by ourselves meanwhile, may
// be stopped, or may be another engine's now.
func (o *Owner) fenced(w *write) error {
	lock := o.settling(w.vp)
	lock.Lock()
	defer lock.Unlock()
	if err := o.stoppedBecause(w.vp); err != nil {
		return err
	}
	err := o.stillOurs(w.vp)
	if err == nil {
		if _, owned := o.o.Journal.Fence(w.vp); !owned {
			err = o.o.Journal.Own(o.ctx, []int{w.vp}, o.token)
		}
	}
	if err == nil {
		return errAgain
	}
	return err
}

func (o *Owner) stoppedBecause(vp int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stopped[vp]
}
