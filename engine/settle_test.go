package engine

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/lease"
)

// brief holds the sources of definitions for a moment only: another engine
// comes, and is to look at them.
type brief struct {
	lease.Keeper
	asked atomic.Int64
}

func (b *brief) Settled() <-chan struct{} {
	settled := make(chan struct{})
	close(settled)
	return settled
}

func (b *brief) Held() (held lease.Set) {
	if b.asked.Add(1) < 3 {
		held.Singletons = []string{watching}
	}
	return held
}

func TestAnEngineThatNeedNotLookAtDefinitionsAnyMoreGetsReady(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	e.keeper = &brief{}
	if !e.settle(ctx) {
		t.Error("it waits for what another engine does")
	}
}
