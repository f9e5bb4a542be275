package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// policy says how to send; it depends on the server.
type policy struct {
	batchFrom int // as many waiting records go as an atomic batch
	groups    int // so many groups may be on their way at once
	alongside int // as many must wait for a group to go alongside another
	window    int // so many records may be
}

// A batch costs the server some milliseconds by itself and saves a sync for
// each record; the numbers are where that begins to pay.
func choose(sync string, replicas int) policy {
	switch {
	case replicas > 1:
		// The leader refuses a write that names a subject which another write
		// in process names too: one commit at a time.
		return policy{batchFrom: 2, groups: 1, window: maxBatch}
	case sync == SyncLazy:
		// Without a sync for each record a batch only costs.
		return policy{batchFrom: math.MaxInt, groups: math.MaxInt, window: 1000}
	default:
		// Halves of what could go as one cost a sync more than they gain.
		return policy{batchFrom: 16, groups: 2, alongside: maxBatch, window: 2 * maxBatch}
	}
}

const (
	maxBatch      = 500     // records; the server's limit is 1,000
	maxBatchBytes = 4 << 20 // of data
	maxAttempts   = 10      // of a batch that is refused for some of its records
)

// committer gathers records while others are on their way and sends them as
// groups: a few singly, many as one atomic batch.
type committer struct {
	wire    *wire
	policy  policy
	max     int  // of the queue
	ordered bool // keep the order of each subject, come what may
	check   func(*record) error
	sort    func([]*record) (rest, stale []*record, err error) // who is it that was fenced?

	wake chan struct{}
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	queue    []*record
	head     int
	flying   map[string]uint64    // subject → group, when ordered
	held     map[string][]*record // behind a record of the same subject in flight
	heldN    int
	group    uint64
	groups   int
	inFlight int
	closing  bool
	idle     chan struct{} // closed when closing and nothing is left
	batches  atomic.Uint64 // sent, for tests and benchmarks
}

func newCommitter(w *wire, p policy, o Options) *committer {
	return &committer{
		wire: w, policy: p, max: o.MaxQueue,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), idle: make(chan struct{}),
		flying: map[string]uint64{}, held: map[string][]*record{},
	}
}

func (c *committer) start() { c.wg.Go(c.run) }

func (c *committer) add(records ...*record) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		go func() {
			for _, r := range records {
				r.done(0, fmt.Errorf("%s: %w", r.subject, ErrClosed))
			}
		}()
		return
	}
	for _, r := range records {
		if r.err == nil && len(c.queue)-c.head+c.heldN >= c.max {
			// It still goes through the queue, so that what was appended
			// after it is not stored without it.
			r.err = fmt.Errorf("%s: %d records wait already: %w", r.subject, c.max, ErrFull)
			r.data, r.header = nil, nil
		}
		c.queue = append(c.queue, r)
	}
	c.mu.Unlock()
	c.nudge()
}

func (c *committer) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) run() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
		}
		for {
			group, id, batch, failed := c.gather()
			c.fail(failed)
			if len(group) == 0 {
				if len(failed) == 0 {
					break
				}
				continue
			}
			c.launch(group, id, batch)
		}
	}
}

// gather takes the next group from the queue, and with it the records that
// need not be sent.
func (c *committer) gather() (group []*record, id uint64, batch bool, failed []*record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	room := min(c.policy.window-c.inFlight, maxBatch)
	waiting := len(c.queue) - c.head
	if waiting == 0 || room <= 0 || c.groups >= c.policy.groups || c.groups > 0 && waiting < c.policy.alongside {
		return nil, 0, false, nil
	}
	c.group++
	id = c.group
	batch = waiting >= c.policy.batchFrom
	bytes := 0
	for c.head < len(c.queue) && len(group) < room {
		r := c.queue[c.head]
		if bytes += len(r.data); bytes > maxBatchBytes && len(group) > 0 {
			break
		}
		c.queue[c.head] = nil
		c.head++
		if r.err == nil && c.check != nil {
			r.err = c.check(r)
		}
		if c.hold(r, id, batch && r.err == nil) {
			bytes -= len(r.data)
			continue
		}
		if r.err != nil {
			// It fails, with what was appended after it, before anything
			// else of its subject is looked at.
			failed = append(failed, r)
			c.inFlight++
			break
		}
		group = append(group, r)
	}
	c.compact()
	c.inFlight += len(group)
	if len(group) > 0 {
		c.groups++
	}
	// Held back records may have left too few for a batch to pay.
	return group, id, batch && len(group) > 1, failed
}

// hold keeps r back while a record of its subject is on its way, except in
// the same batch, and marks the subject otherwise.
func (c *committer) hold(r *record, id uint64, sameBatch bool) bool {
	if !c.ordered {
		return false
	}
	_, behind := c.held[r.subject]
	if other, ok := c.flying[r.subject]; behind || ok && (other != id || !sameBatch) {
		c.held[r.subject] = append(c.held[r.subject], r)
		c.heldN++
		return true
	}
	c.flying[r.subject] = id
	return false
}

func (c *committer) compact() {
	if c.head == len(c.queue) {
		c.queue, c.head = c.queue[:0], 0
	} else if c.head > 1024 && c.head > len(c.queue)/2 {
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
}

// sending is a group on its way; it is over when all its records are.
type sending struct {
	id       uint64
	left     int // guarded by committer.mu
	attempts atomic.Int32
}

func (c *committer) launch(group []*record, id uint64, batch bool) {
	s := &sending{id: id, left: len(group)}
	if batch {
		c.batch(s, group)
		return
	}
	for _, r := range group {
		c.single(s, r, nil)
	}
}

func (c *committer) batch(s *sending, group []*record) {
	c.batches.Add(1)
	c.wire.send(group, true, func(first uint64, err error) {
		if err == nil {
			c.finish(s, group, first, nil)
			return
		}
		switch code(err) {
		case 0:
			c.finish(s, group, 0, err)
		case codeWrongSequence, codeInFlight:
			go c.sortOut(s, group, err)
		default:
			if errors.Is(err, ErrUnknown) || errors.Is(err, ErrFull) {
				c.finish(s, group, 0, err)
				return
			}
			// One record spoils the batch and the answer does not say which:
			// each one for itself, one after the other.
			c.single(s, group[0], group[1:])
		}
	})
}

// sortOut sends a refused batch again without the records of partitions
// that somebody else owns by now. Where there are none, who has refused it was
// wrong: a server that leads no longer and does not know it yet. The one that
// leads may have stored the batch.
func (c *committer) sortOut(s *sending, group []*record, refused error) {
	if c.sort == nil || code(refused) == codeInFlight || s.attempts.Add(1) > maxAttempts {
		c.finish(s, group, 0, fmt.Errorf("%w: %w", refused, ErrUnknown))
		return
	}
	rest, stale, err := c.sort(group)
	if err != nil {
		c.finish(s, group, 0, fmt.Errorf("%w, and who owns the partitions cannot be read: %w: %w", refused, err, ErrUnknown))
		return
	}
	if len(stale) == 0 {
		c.finish(s, group, 0, fmt.Errorf("%w, and nobody else owns the partitions: %w", refused, ErrUnknown))
		return
	}
	c.finish(s, stale, 0, fmt.Errorf("%w: %w", refused, ErrFenced))
	good := rest[:0]
	for _, r := range rest {
		if gone := c.check(r); gone != nil {
			c.finish(s, []*record{r}, 0, gone)
		} else {
			good = append(good, r)
		}
	}
	switch len(good) {
	case 0:
	case 1:
		c.single(s, good[0], nil)
	default:
		c.batch(s, good)
	}
}

// single sends r, and the rest singly after it. What is refused is not sent
// again: it may be stored all the same.
func (c *committer) single(s *sending, r *record, rest []*record) {
	c.wire.send([]*record{r}, false, func(seq uint64, err error) {
		over := []*record{r}
		if err != nil && c.ordered {
			over, rest = withFollowers(r, rest)
		}
		c.finish(s, over, seq, err)
		c.next(s, rest)
	})
}

func (c *committer) next(s *sending, rest []*record) {
	if len(rest) > 0 {
		c.single(s, rest[0], rest[1:])
	}
}

// withFollowers splits rest into what shares r's subject, with r, and others.
func withFollowers(r *record, rest []*record) (same, others []*record) {
	same = []*record{r}
	for _, x := range rest {
		if x.subject == r.subject {
			same = append(same, x)
		} else {
			others = append(others, x)
		}
	}
	return same, others
}

// fail ends records that were never sent.
func (c *committer) fail(records []*record) {
	for _, r := range records {
		c.finish(nil, []*record{r}, 0, r.err)
	}
}

// finish says what became of records: they are stored from sequence first
// on, or err. With failed ones their followers fail, before any done is
// called, so that what a done appends comes after them.
func (c *committer) finish(s *sending, records []*record, first uint64, err error) {
	var followers []*record
	if c.ordered {
		c.mu.Lock()
		followers = c.release(records, err != nil)
		c.mu.Unlock()
	}

	for i, r := range records {
		if err != nil {
			r.done(0, fmt.Errorf("%s: %w", r.subject, err))
		} else {
			r.done(first+uint64(i), nil)
		}
	}
	for _, r := range followers {
		r.done(0, fmt.Errorf("%s: not sent, because the record before it failed: %w", r.subject, err))
	}
	// Only now: what the dones append shall go as one group, not as one for
	// the first and one for the rest.
	c.mu.Lock()
	c.inFlight -= len(records)
	if s != nil {
		if s.left -= len(records); s.left == 0 {
			c.groups--
		}
	}
	c.mu.Unlock()
	c.settled()
	c.nudge()
}

// release takes the subjects of records out of flight and puts what they
// held back in front of the queue, or, when they failed, gives it back
// together with what else of these subjects waits.
func (c *committer) release(records []*record, failed bool) (followers []*record) {
	var front []*record
	for _, r := range records {
		delete(c.flying, r.subject)
		if held, ok := c.held[r.subject]; ok {
			delete(c.held, r.subject)
			c.heldN -= len(held)
			if failed {
				followers = append(followers, held...)
			} else {
				front = append(front, held...)
			}
		}
	}
	if failed && c.head < len(c.queue) {
		followers = append(followers, c.removeQueued(records)...)
	}
	if len(front) > 0 {
		c.queue = append(front, c.queue[c.head:]...)
		c.head = 0
	}
	return followers
}

func (c *committer) removeQueued(records []*record) (removed []*record) {
	subjects := make(map[string]bool, len(records))
	for _, r := range records {
		subjects[r.subject] = true
	}
	kept := c.queue[:0:0]
	for _, r := range c.queue[c.head:] {
		if subjects[r.subject] {
			removed = append(removed, r)
		} else {
			kept = append(kept, r)
		}
	}
	c.queue, c.head = kept, 0
	return removed
}

// settled tells close that nothing is left.
func (c *committer) settled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing && c.head == len(c.queue) && c.heldN == 0 && c.inFlight == 0 {
		select {
		case <-c.idle:
		default:
			close(c.idle)
		}
	}
}

func (c *committer) close(ctx context.Context) error {
	c.mu.Lock()
	was := c.closing
	c.closing = true
	c.mu.Unlock()
	if was {
		return nil
	}
	c.settled()
	var err error
	select {
	case <-c.idle:
	case <-ctx.Done():
		err = fmt.Errorf("stream %s: not everything was stored before closing: %w", c.wire.stream, ctx.Err())
	}
	close(c.stop)
	c.wg.Wait()
	c.wire.close()
	c.abandon()
	return err
}

// abandon fails what was never sent.
func (c *committer) abandon() {
	c.mu.Lock()
	left := c.queue[c.head:]
	c.queue, c.head = nil, 0
	for _, held := range c.held {
		left = append(left, held...)
	}
	clear(c.held)
	c.heldN = 0
	c.mu.Unlock()
	for _, r := range left {
		r.done(0, fmt.Errorf("%s: %w", r.subject, ErrClosed))
	}
}
