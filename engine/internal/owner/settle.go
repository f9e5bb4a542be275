package owner

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

var (
	// errUnsettled says that the holding ended before it could find out.
	errUnsettled = errors.New("the outcome is unknown")
	// errStands says that the fence under which a record was refused is the one
	// that stands.
	errStands = errors.New("the owner record that was said to be gone stands")
)

// findOut settles a record whose outcome is unknown: own the partition anew,
// so that nothing of before can still get in, and read what is there.
func (p *partition) findOut(w *write) (uint64, error) {
	p.settle <- struct{}{}
	defer func() { <-p.settle }()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		if why := p.refusing(); why != nil {
			return 0, fmt.Errorf("%w: %w", errUnsettled, why)
		}
		seq, err := p.look(w)
		switch {
		case err == nil, errors.Is(err, errAgain):
			return seq, err
		case errors.Is(err, ErrStopped):
			return 0, fmt.Errorf("%w: %w", errUnsettled, err)
		case errors.Is(err, errTaken):
			p.o.lost(p, err)
			return 0, fmt.Errorf("%w: %w", errUnsettled, err)
		}
		p.o.o.Log.Warn("it is not known yet whether a record was stored", "subject", w.subject, "error", err)
		if !pause(p.ctx, wait) {
			return 0, fmt.Errorf("%w: %w", errUnsettled, err)
		}
	}
}

// look makes one try to find out. The caller holds settle.
func (p *partition) look(w *write) (uint64, error) {
	if fence, owned := p.o.o.Journal.Fence(p.vp); !owned || fence == w.fence {
		if err := p.renew(); err != nil {
			return 0, err
		}
	}
	e, err := p.o.o.Journal.Last(p.ctx, w.subject)
	switch {
	case err == nil && record.Hash(e.Data) == w.hash:
		return e.Seq, nil
	case errors.Is(err, journal.ErrNotFound) && w.v == 0, err == nil && record.Hash(e.Data) == w.head:
		return 0, errAgain
	case err != nil && !errors.Is(err, journal.ErrNotFound):
		return 0, err
	}
	p.stop(fmt.Errorf("%s: its last record is not the one that was acknowledged last; the store has lost or changed something", w.subject))
	return 0, p.refusing()
}

// renew stores a new owner record, unless the one that stands is another
// engine's: who was taken over does not take back.
func (p *partition) renew() error {
	seq, err := p.standing()
	if err != nil {
		return err
	}
	return p.o.o.Journal.Renew(p.ctx, p.vp, seq, p.o.token)
}

// standing gives the sequence of the owner record that stands, if it is ours.
func (p *partition) standing() (uint64, error) {
	e, err := p.o.o.Journal.Last(p.ctx, events.OwnSubject(p.vp))
	if errors.Is(err, journal.ErrNotFound) {
		p.stop(errors.New("its owner record is gone; the store has lost something"))
		return 0, p.refusing()
	}
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(e.Data, p.o.token) {
		return 0, fmt.Errorf("partition %d: %w", p.vp, errTaken)
	}
	return e.Seq, nil
}

// fenced settles a record that was refused by the fence, so that nothing of it
// is stored: the partition may have been owned anew by ourselves meanwhile, may
// be stopped or given up, or may be another engine's now.
func (p *partition) fenced() error {
	p.settle <- struct{}{}
	defer func() { <-p.settle }()
	if why := p.refusing(); why != nil {
		return why
	}
	seq, err := p.standing()
	if err == nil {
		// An owner record of ours whose outcome was unknown may have come late.
		if fence, owned := p.o.o.Journal.Fence(p.vp); owned && fence == seq {
			return errStands
		}
		err = p.renew()
	}
	if err == nil {
		return errAgain
	}
	return err
}
