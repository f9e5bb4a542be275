package broker

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events"
)

// A stream of the server that meets a full disk in the middle of a write takes
// nothing more until the server is started again. So it must not come to that:
// while less than a reserve is free, the accounts are allowed no further byte,
// and every write is refused before anything of it is written. Reading goes
// on, and writing does when there is space again.
const (
	leastReserve = 32 << 20
	mostReserve  = 256 << 20
	lookEvery    = 200 * time.Millisecond
)

// reserveOf is what is kept free of a disk of this size: a fiftieth, within bounds.
func reserveOf(total int64) int64 { return min(max(total/50, leastReserve), mostReserve) }

// space watches the disk of the data directory.
type space struct {
	dir     string
	reserve int64
	free    func(dir string) (int64, error)
	limit   func(closed bool) error
	log     *slog.Logger

	mu   sync.Mutex
	full error // why nothing is stored; nil while there is space

	stop chan struct{}
	work sync.WaitGroup
}

// watchSpace begins to watch; it is an error when there is too little already.
func (b *Broker) watchSpace() error {
	total, err := diskBytes(b.opts.Dir)
	if err != nil {
		return err
	}
	s := &space{dir: b.opts.Dir, reserve: reserveOf(total), free: freeBytes, limit: b.limitAccounts, log: b.log, stop: make(chan struct{})}
	if s.look(); s.why() != nil {
		return s.why()
	}
	b.space = s
	s.work.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.look()
			case <-s.stop:
				return
			}
		}
	})
	return nil
}

// look compares what is free with the reserve. A quarter more than it must be
// free again before writing goes on, so that it does not flap.
func (s *space) look() {
	free, err := s.free(s.dir)
	if err != nil {
		s.log.Warn("the free space of the data directory is not known", "error", err)
		return
	}
	was := s.why()
	var now error
	if free < s.reserve || was != nil && free < s.reserve+s.reserve/4 {
		now = fmt.Errorf("the disk of data directory %s is nearly full: %d MiB are free, and the last %d MiB are not used; make space, and it goes on by itself", s.dir, free>>20, s.reserve>>20)
	}
	s.mu.Lock()
	s.full = now
	s.mu.Unlock()
	if (was != nil) == (now != nil) {
		return
	}
	if err := s.limit(now != nil); err != nil {
		s.log.Error("the store could not be limited to the space that there is", "error", err)
	}
	if now != nil {
		s.log.Error("nothing is stored until there is space", "reason", now)
	} else {
		s.log.Info("there is space again, writing goes on", "freeMiB", free>>20)
	}
}

func (s *space) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

func (s *space) close() {
	close(s.stop)
	s.work.Wait()
}

// limitAccounts lets the accounts of the embedded server store nothing more,
// or as much as there is.
func (b *Broker) limitAccounts(closed bool) error {
	limits := server.JetStreamAccountLimits{MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1}
	if closed {
		limits.MaxStore = 1
	}
	for _, name := range []string{events.AccountEngine, events.AccountWork, events.AccountNotify, events.AccountExt} {
		account, err := b.server.LookupAccount(name)
		if err == nil {
			err = account.UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": limits})
		}
		if err != nil {
			return fmt.Errorf("account %s: %w", name, err)
		}
	}
	return nil
}

// Full says why the embedded server stores nothing more, as far as that is
// known; nil when it does, or the server is an external one.
func (b *Broker) Full() error {
	if b.space == nil {
		return nil
	}
	if why := b.space.why(); why != nil {
		return why
	}
	if used, err := b.server.Jsz(nil); err == nil && b.maxStore > 0 && used.Store > uint64(b.maxStore)/20*19 {
		return fmt.Errorf("the store has reached its limit: %d of %d MiB are used; start the server with a larger one (--max-store)", used.Store>>20, b.maxStore>>20)
	}
	return nil
}
