package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Fault is what befalls a write to a Memory.
type Fault int

const (
	FaultNone          Fault = iota
	FaultUnknownStored       // stored, but the answer is lost: ErrUnknown
	FaultUnknownLost         // lost on the way: ErrUnknown
	FaultUnknownLate         // ErrUnknown now; stored at DeliverLate if its fence still holds
	FaultFull                // ErrFull
	FaultUnavailable         // ErrUnavailable
	FaultFencedStored        // stored, and refused by a server that leads no longer: ErrFenced
)

// Memory is the twin of the streams in memory, for simulations: what the
// journals that it opens have in common, as engines have a server in common.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	entries []Entry // sequence-1 is the index
	last    map[string]int
	ckpt    map[int]checkpoint
	ckptSeq uint64
	sent    map[string][]Entry // by stream of the publishers
	headers map[string][]map[string][]string
	changed chan struct{} // closed and replaced at every change
	fault   func(subject string, data []byte) Fault
	late    []func()

	interruptions atomic.Uint64
}

type checkpoint struct {
	seq  uint64
	data []byte
}

// NewMemory gives an empty store whose clock is now; nil is the real one.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{
		now: now, last: map[string]int{}, ckpt: map[int]checkpoint{}, changed: make(chan struct{}),
		sent: map[string][]Entry{}, headers: map[string][]map[string][]string{},
	}
}

// Inject has f asked about every write of a record or an owner record, also
// those of publishers; nil ends it. f is called with the store locked.
func (m *Memory) Inject(f func(subject string, data []byte) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// DeliverLate lets what FaultUnknownLate kept arrive now.
func (m *Memory) DeliverLate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	late := m.late
	m.late = nil
	for _, arrive := range late {
		arrive()
	}
}

// LoseTail drops the last n records, as a power cut does under lazy sync:
// their sequences will be used again. Every connection is interrupted.
func (m *Memory) LoseTail(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = slices.Clone(m.entries[:max(0, len(m.entries)-n)]) // readers hold the old ones
	clear(m.last)
	for i, e := range m.entries {
		m.last[e.Subject] = i
	}
	m.interruptions.Add(1)
	m.notify()
}

// At implements Journal. Nothing is removed here.
func (j *memoryJournal) At(_ context.Context, seq uint64) (Entry, error) {
	entries := j.snapshot()
	if err := endsBefore("memory", uint64(len(entries)), seq+1); err != nil {
		return Entry{}, err
	}
	if seq == 0 {
		return Entry{}, ErrNotFound
	}
	return entries[seq-1], nil
}

// Interruptions implements Journal.
func (j *memoryJournal) Interruptions() uint64 { return j.m.interruptions.Load() }

// Open gives one more journal on the store.
func (m *Memory) Open() Journal {
	j := &memoryJournal{m: m, wake: make(chan struct{}, 1), over: make(chan struct{}), ckptAt: map[int]uint64{}}
	go j.run()
	return j
}

func (m *Memory) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// holds says whether the condition of r holds.
func (m *Memory) holds(r *record) bool {
	return r.expectOn == "" || m.lastSeq(r.expectOn) == r.expect
}

func (m *Memory) lastSeq(subject string) uint64 {
	if i, ok := m.last[subject]; ok {
		return uint64(i) + 1
	}
	return 0
}

func (m *Memory) put(r *record) uint64 {
	i := len(m.entries)
	m.entries = append(m.entries, Entry{Seq: uint64(i) + 1, Subject: r.subject, Data: bytes.Clone(r.data), Time: m.now()})
	m.last[r.subject] = i
	m.notify()
	return uint64(i) + 1
}

// store does what the server does with one record.
func (m *Memory) store(r *record, put func(*record) uint64) (uint64, error) {
	fault := FaultNone
	if m.fault != nil {
		fault = m.fault(r.subject, r.data)
	}
	switch {
	case fault == FaultFull:
		return 0, ErrFull
	case fault == FaultUnavailable:
		return 0, ErrUnavailable
	case fault == FaultUnknownLost:
		return 0, ErrUnknown
	case fault == FaultUnknownLate:
		m.late = append(m.late, func() {
			if m.holds(r) {
				put(r)
			}
		})
		return 0, ErrUnknown
	case !m.holds(r) && fault == FaultUnknownStored:
		return 0, ErrUnknown
	case !m.holds(r):
		return 0, ErrFenced
	}
	seq := put(r)
	switch fault {
	case FaultUnknownStored:
		return 0, ErrUnknown
	case FaultFencedStored:
		return 0, ErrFenced
	}
	return seq, nil
}

type memoryJournal struct {
	m      *Memory
	fences fences
	wake   chan struct{}
	over   chan struct{} // the committer has ended

	mu     sync.Mutex
	queue  []*record
	closed bool
	ckptAt map[int]uint64
}

func (j *memoryJournal) Own(ctx context.Context, vps []int, owner []byte) error {
	if err := checkPartitions(vps); err != nil {
		return err
	}
	if len(owner) > MaxRecord {
		return fmt.Errorf("owner record: %w", tooLarge(len(owner), MaxRecord))
	}
	j.Disown(vps)
	j.mu.Lock()
	for _, vp := range vps {
		delete(j.ckptAt, vp)
	}
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return fmt.Errorf("taking partitions: %w", ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	seqs := make([]uint64, len(vps))
	for i, vp := range vps {
		seq, err := j.m.store(&record{subject: ownSubjects[vp], data: owner, vp: -1}, j.m.put)
		if err != nil {
			return fmt.Errorf("taking %d partitions: %w", len(vps), err)
		}
		seqs[i] = seq
	}
	j.fences.set(vps, func(i int) uint64 { return seqs[i] })
	return nil
}

func (j *memoryJournal) Renew(ctx context.Context, vp int, expect uint64, owner []byte) error {
	if err := checkPartitions([]int{vp}); err != nil {
		return err
	}
	j.Disown([]int{vp})
	if err := ctx.Err(); err != nil {
		return err
	}
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	seq, err := j.m.store(&record{subject: ownSubjects[vp], data: owner, vp: -1, expectOn: ownSubjects[vp], expect: expect}, j.m.put)
	if err != nil {
		return fmt.Errorf("owning partition %d again: %w", vp, err)
	}
	j.fences.set([]int{vp}, func(int) uint64 { return seq })
	return nil
}

func (j *memoryJournal) Disown(vps []int) {
	j.fences.set(slices.DeleteFunc(slices.Clone(vps), func(vp int) bool {
		return vp < 0 || vp >= events.Partitions
	}), func(int) uint64 { return 0 })
}

func (j *memoryJournal) Fence(vp int) (uint64, bool) {
	seq := j.fences.get(vp)
	return seq, seq != 0
}

func (j *memoryJournal) Append(vp int, subject string, data []byte, done func(uint64, error)) {
	r := newRecord(&j.fences, vp, subject, data, MaxRecord, done)
	j.mu.Lock()
	closed := j.closed
	if !closed {
		j.queue = append(j.queue, r)
	}
	j.mu.Unlock()
	if closed {
		go done(0, fmt.Errorf("%s: %w", subject, ErrClosed))
		return
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *memoryJournal) run() {
	defer close(j.over)
	for range j.wake {
		for j.step() {
		}
		j.mu.Lock()
		ended := j.closed && len(j.queue) == 0
		j.mu.Unlock()
		if ended {
			return
		}
	}
}

// step stores the first record that waits.
func (j *memoryJournal) step() bool {
	j.mu.Lock()
	if len(j.queue) == 0 {
		j.mu.Unlock()
		return false
	}
	r := j.queue[0]
	j.queue = j.queue[1:]
	j.mu.Unlock()

	var seq uint64
	err := r.err
	if err == nil {
		err = j.fences.check(r)
	}
	if err == nil {
		j.m.mu.Lock()
		seq, err = j.m.store(r, j.m.put)
		j.m.mu.Unlock()
	}
	if err == nil {
		r.done(seq, nil)
		return true
	}
	for _, x := range j.withFollowers(r) {
		x.done(0, fmt.Errorf("%s: %w", x.subject, err))
	}
	return true
}

func (j *memoryJournal) withFollowers(r *record) []*record {
	j.mu.Lock()
	defer j.mu.Unlock()
	same, others := withFollowers(r, j.queue)
	j.queue = others
	return same
}

func (j *memoryJournal) Last(_ context.Context, subject string) (Entry, error) {
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	if i, ok := j.m.last[subject]; ok {
		return j.m.entries[i].clone(), nil
	}
	if strings.ContainsAny(subject, "*>") { // the server takes a filter here too
		for _, e := range slices.Backward(j.m.entries) {
			if events.MatchSubject(subject, e.Subject) {
				return e.clone(), nil
			}
		}
	}
	return Entry{}, fmt.Errorf("%s: %w", subject, ErrNotFound)
}

func (e Entry) clone() Entry {
	e.Data = bytes.Clone(e.Data)
	return e
}

func (j *memoryJournal) snapshot() []Entry {
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	return slices.Clone(j.m.entries)
}

func (j *memoryJournal) History(ctx context.Context, subject string) ([]Entry, error) {
	var all []Entry
	for _, e := range j.snapshot() {
		if e.Subject == subject {
			all = append(all, e.clone())
		}
	}
	return all, ctx.Err()
}

func (j *memoryJournal) LastPerSubject(ctx context.Context, filters []string, fn func(Entry) error) error {
	entries := j.snapshot()
	last := map[string]uint64{}
	for _, e := range entries {
		last[e.Subject] = e.Seq
	}
	for _, e := range entries {
		if last[e.Subject] != e.Seq || !slices.ContainsFunc(filters, func(f string) bool { return events.MatchSubject(f, e.Subject) }) {
			continue
		}
		if err := give(ctx, e, fn); err != nil {
			return err
		}
	}
	return nil
}

func give(ctx context.Context, e Entry, fn func(Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return fn(e.clone())
}

func (j *memoryJournal) From(ctx context.Context, seq uint64, fn func(Entry) error) error {
	entries := j.snapshot()
	if err := endsBefore("memory", uint64(len(entries)), seq); err != nil {
		return err
	}
	for _, e := range entries[max(seq, 1)-1:] {
		if err := give(ctx, e, fn); err != nil {
			return err
		}
	}
	return nil
}

func (j *memoryJournal) Tail(ctx context.Context, seq uint64, fn func(Entry) error) error {
	next := max(seq, 1)
	for {
		j.m.mu.Lock()
		entries, changed := j.m.entries, j.m.changed
		j.m.mu.Unlock()
		if err := endsBefore("memory", uint64(len(entries)), next); err != nil {
			return err
		}
		for _, e := range entries[next-1:] {
			if err := give(ctx, e, fn); err != nil {
				return err
			}
			next++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (j *memoryJournal) Checkpoint(ctx context.Context, data map[int][]byte) error {
	vps := slices.Sorted(maps.Keys(data))
	if err := checkPartitions(vps); err != nil {
		return err
	}
	var problems []error
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, vp := range vps {
		if len(data[vp]) > MaxRecord {
			return fmt.Errorf("checkpoint of partition %d: %w", vp, tooLarge(len(data[vp]), MaxRecord))
		}
		at, known := j.ckptAt[vp]
		if known && at != j.m.ckpt[vp].seq {
			problems = append(problems, fmt.Errorf("checkpoint of partition %d: %w", vp, ErrFenced))
			continue
		}
		j.m.ckptSeq++
		j.m.ckpt[vp] = checkpoint{seq: j.m.ckptSeq, data: bytes.Clone(data[vp])}
		j.ckptAt[vp] = j.m.ckptSeq
	}
	return errors.Join(problems...)
}

func (j *memoryJournal) LoadCheckpoints(ctx context.Context) (map[int][]byte, error) {
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	all := map[int][]byte{}
	for vp, c := range j.m.ckpt {
		all[vp] = bytes.Clone(c.data)
	}
	return all, ctx.Err()
}

func (j *memoryJournal) Close(ctx context.Context) error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	select {
	case <-j.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not everything was stored before closing: %w", ctx.Err())
	}
}
