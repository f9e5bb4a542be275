package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// ErrFrozen is why an engine ends whose embedded server has a stream that
// takes nothing more: it has to be started again, and then it takes what it
// can.
var ErrFrozen = errors.New("a stream of the store takes nothing more")

const (
	probeEvery   = 5 * time.Second
	probeWait    = 2 * time.Second
	probesToTell = 2 // failures in a row until it is told: one may be a slow disk
	probesToEnd  = 4 // and until the embedded server is given up
)

// Frozen is what Watch tells of a stream: Err is nil when it takes writes again.
type Frozen struct {
	Stream string
	Err    error
}

// Watch probes the streams of the record until ctx ends: one that nothing was
// written to is written to. tell is called when one is found frozen, and when
// it takes writes again. See Broken.
//
// An embedded server whose stream stays frozen is given up: Lost ends with
// ErrFrozen. Nothing else makes such a stream take writes again.
func (b *Broker) Watch(ctx context.Context, tell func(Frozen)) {
	js, err := jetstream.New(b.Engine)
	if err != nil {
		b.log.Error("the streams are not probed", "error", err)
		return
	}
	var work sync.WaitGroup
	for _, stream := range journal.Probed {
		p := &prober{stream: stream, every: probeEvery, tell: tell, broken: b.setBroken,
			last:  func(ctx context.Context) (uint64, error) { return lastOf(ctx, js, stream) },
			write: func(ctx context.Context) error { return journal.Probe(ctx, js, stream) }}
		if b.server != nil {
			p.giveUp = b.lose
		}
		work.Go(func() { p.run(ctx) })
	}
	work.Wait()
}

func lastOf(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.LastSeq, nil
}

// prober looks after one stream.
type prober struct {
	stream string
	every  time.Duration
	last   func(context.Context) (uint64, error) // its last sequence
	write  func(context.Context) error
	tell   func(Frozen)
	broken func(stream string, err error)
	giveUp func(error) // nil when that would mend nothing

	seen     uint64 // last sequence at the last look
	failures int    // in a row
}

func (p *prober) run(ctx context.Context) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look writes to the stream unless somebody has done so since the last look.
func (p *prober) look(ctx context.Context) {
	err := p.probe(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil || errors.Is(err, journal.ErrFull) { // it works, and says so
		told := p.failures >= probesToTell
		p.failures = 0
		p.broken(p.stream, nil)
		if told {
			p.tell(Frozen{p.stream, nil})
		}
		return
	}
	p.failures++
	err = fmt.Errorf("stream %s takes no writes: %w", p.stream, err)
	p.broken(p.stream, err)
	if p.failures == probesToTell {
		p.tell(Frozen{p.stream, err})
	}
	if p.failures == probesToEnd && p.giveUp != nil {
		p.giveUp(fmt.Errorf("%w: %w", ErrFrozen, err))
	}
}

func (p *prober) probe(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, probeWait, fmt.Errorf("no acknowledgement within %v", probeWait))
	defer cancel()
	last, err := p.last(limited)
	if err == nil && last != p.seen {
		p.seen = last
		return nil
	}
	if err == nil {
		err = p.write(limited)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return context.Cause(limited)
	}
	if err != nil {
		return err
	}
	p.seen++
	return nil
}

// setBroken takes note of what is wrong with a stream; nil is nothing.
func (b *Broker) setBroken(stream string, err error) {
	b.brokenMu.Lock()
	defer b.brokenMu.Unlock()
	if err == nil {
		delete(b.broken, stream)
		return
	}
	if b.broken == nil {
		b.broken = map[string]error{}
	}
	b.broken[stream] = err
}

// Broken says why the store takes no writes, by stream; it is empty when it does.
func (b *Broker) Broken() map[string]error {
	b.brokenMu.Lock()
	defer b.brokenMu.Unlock()
	return maps.Clone(b.broken)
}
