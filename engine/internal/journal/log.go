package journal

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Log is the journal on JetStream.
type Log struct {
	t      Transport
	c      *committer
	limit  int // of a record, in bytes
	fences fences

	ckptMu lock           // one Checkpoint at a time, so that expectations hold
	ckptAt map[int]uint64 // last sequence of a partition's checkpoint, as far as known
}

var _ Journal = (*Log)(nil)

// Open opens the journal in the account of js. The streams must exist
// (EnsureStreams). It owns no partition yet.
func Open(ctx context.Context, js jetstream.JetStream, opts Options) (*Log, error) {
	return OpenOn(ctx, On(js), opts)
}

// OpenOn is Open on another transport.
func OpenOn(ctx context.Context, t Transport, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	lim, err := streamLimits(ctx, t, events.StreamLog)
	if err != nil {
		return nil, err
	}
	w, err := newWire(t, events.StreamLog, lim.replicas, opts.AckTimeout)
	if err != nil {
		return nil, err
	}
	l := &Log{
		t: t, limit: min(MaxRecord, lim.maxSize-headerRoom),
		c:      newCommitter(w, choose(opts.Sync, lim.replicas), opts),
		ckptMu: make(lock, 1), ckptAt: map[int]uint64{},
	}
	l.c.ordered = true
	l.c.check = l.fences.check
	l.c.sort = l.sortFenced
	l.c.start()
	return l, nil
}

// lock is a lock that is held while others are waited for. Who waits for it
// waits for a channel, which a simulation can tell from a goroutine that runs.
type lock chan struct{}

func (l lock) lock()   { l <- struct{}{} }
func (l lock) unlock() { <-l }

// fences are the owner records under which a journal appends.
type fences struct {
	mu  sync.RWMutex
	seq [events.Partitions]uint64 // 0: not the owner
}

func (f *fences) get(vp int) uint64 {
	if vp < 0 || vp >= events.Partitions {
		return 0
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.seq[vp]
}

func (f *fences) set(vps []int, seq func(i int) uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, vp := range vps {
		f.seq[vp] = seq(i)
	}
}

// lose forgets the fence of vp if it still is seq.
func (f *fences) lose(vp int, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seq[vp] == seq {
		f.seq[vp] = 0
	}
}

// check refuses what was appended under a fence that is no longer ours: the
// server would refuse it too, and with it the batch that it is in.
func (f *fences) check(r *record) error {
	if f.get(r.vp) != r.expect || r.expect == 0 {
		return fmt.Errorf("partition %d: %w", r.vp, ErrFenced)
	}
	return nil
}

var ownSubjects = func() (s [events.Partitions]string) {
	for vp := range s {
		s[vp] = events.OwnSubject(vp)
	}
	return s
}()

func checkPartitions(vps []int) error {
	for i, vp := range vps {
		if vp < 0 || vp >= events.Partitions {
			return fmt.Errorf("partition %d: there are only 0 to %d", vp, events.Partitions-1)
		}
		if slices.Contains(vps[:i], vp) {
			return fmt.Errorf("partition %d is named twice", vp)
		}
	}
	return nil
}

// Own implements Journal.
func (l *Log) Own(ctx context.Context, vps []int, owner []byte) error {
	if err := checkPartitions(vps); err != nil {
		return err
	}
	if len(owner) > l.limit {
		return fmt.Errorf("owner record of %d bytes, at most %d: %w", len(owner), l.limit, ErrTooLarge)
	}
	l.Disown(vps)
	l.forgetCheckpoints(vps)
	if len(vps) == 0 {
		return nil
	}
	records := make([]*record, len(vps))
	for i, vp := range vps {
		records[i] = &record{subject: ownSubjects[vp], data: owner, vp: -1}
	}
	first, err := l.send(ctx, records)
	if err != nil {
		return fmt.Errorf("taking %d partitions: %w", len(vps), err)
	}
	l.fences.set(vps, func(i int) uint64 { return first + uint64(i) })
	return nil
}

// Renew implements Journal.
func (l *Log) Renew(ctx context.Context, vp int, expect uint64, owner []byte) error {
	if err := checkPartitions([]int{vp}); err != nil {
		return err
	}
	l.Disown([]int{vp})
	seq, err := l.send(ctx, []*record{{subject: ownSubjects[vp], data: owner, vp: -1, expectOn: ownSubjects[vp], expect: expect}})
	if err != nil {
		return fmt.Errorf("owning partition %d again: %w", vp, err)
	}
	l.fences.set([]int{vp}, func(int) uint64 { return seq })
	return nil
}

// send sends records outside of the queue, as one commit, and waits.
func (l *Log) send(ctx context.Context, records []*record) (first uint64, err error) {
	type answer struct {
		seq uint64
		err error
	}
	landed := make(chan answer, 1)
	l.c.wire.send(records, len(records) > 1, func(seq uint64, err error) { landed <- answer{seq, err} })
	select {
	case a := <-landed:
		return a.seq, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ctx.Err(), ErrUnknown)
	}
}

// Disown implements Journal.
func (l *Log) Disown(vps []int) {
	l.fences.set(slices.DeleteFunc(slices.Clone(vps), func(vp int) bool {
		return vp < 0 || vp >= events.Partitions
	}), func(int) uint64 { return 0 })
}

// Fence implements Journal.
func (l *Log) Fence(vp int) (uint64, bool) {
	seq := l.fences.get(vp)
	return seq, seq != 0
}

// Interruptions implements Journal.
func (l *Log) Interruptions() uint64 { return l.c.wire.interruptions.Load() }

// Append implements Journal.
func (l *Log) Append(vp int, subject string, data []byte, done func(uint64, error)) {
	l.c.add(newRecord(&l.fences, vp, subject, data, l.limit, done))
}

func newRecord(f *fences, vp int, subject string, data []byte, limit int, done func(uint64, error)) *record {
	r := &record{subject: subject, data: data, vp: vp, expect: f.get(vp), done: done}
	switch {
	case r.expect == 0:
		r.err = fmt.Errorf("partition %d: %w", vp, ErrFenced)
	case !strings.HasPrefix(subject, "penstock.log."):
		r.err = errors.New("a record's subject begins with penstock.log")
	case len(data) > limit:
		r.err = tooLarge(len(data), limit)
	default:
		r.expectOn = ownSubjects[vp]
	}
	return r
}

func tooLarge(size, limit int) error {
	return fmt.Errorf("%d bytes, at most %d; store large values as artifacts and refer to them: %w", size, limit, ErrTooLarge)
}

// sortFenced reads who owns the partitions of records now: of the stale ones
// somebody has since.
func (l *Log) sortFenced(records []*record) (rest, stale []*record, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	owned := map[int]uint64{}
	for _, r := range records {
		at, known := owned[r.vp]
		if !known {
			e, err := l.Last(ctx, ownSubjects[r.vp])
			if err != nil && !errors.Is(err, ErrNotFound) {
				return nil, nil, err
			}
			at = e.Seq
			owned[r.vp] = at
		}
		if at > r.expect {
			l.fences.lose(r.vp, r.expect)
			stale = append(stale, r)
		} else {
			rest = append(rest, r)
		}
	}
	return rest, stale, nil
}

// Last implements Journal.
func (l *Log) Last(ctx context.Context, subject string) (Entry, error) {
	return l.last(ctx, events.StreamLog, subject)
}

// last asks the stream's leader. It does not use direct reads, which a
// replica may answer that lags behind.
func (l *Log) last(ctx context.Context, stream, subject string) (Entry, error) {
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	return l.get(ctx, stream, subject, map[string]any{"last_by_subj": subject})
}

// At implements Journal.
func (l *Log) At(ctx context.Context, seq uint64) (Entry, error) {
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	e, err := l.get(ctx, events.StreamLog, fmt.Sprint("sequence ", seq), map[string]any{"seq": seq})
	if !errors.Is(err, ErrNotFound) {
		return e, err
	}
	s, looked := l.t.Stream(ctx, events.StreamLog)
	if looked != nil {
		return Entry{}, fmt.Errorf("stream %s: %w", events.StreamLog, looked)
	}
	if gone := endsBefore(events.StreamLog, s.CachedInfo().State.LastSeq, seq+1); gone != nil {
		return Entry{}, gone
	}
	return Entry{}, err
}

// get asks the stream's leader for a message.
func (l *Log) get(ctx context.Context, stream, what string, query map[string]any) (Entry, error) {
	body, err := json.Marshal(query)
	if err != nil {
		return Entry{}, err
	}
	answer, err := l.t.API(ctx, "STREAM.MSG.GET."+stream, body)
	if unreachable(err) {
		return Entry{}, fmt.Errorf("stream %s: reading %s: %w: %w", stream, what, err, ErrUnavailable)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("stream %s: reading %s: %w", stream, what, err)
	}
	return parseStored(stream, what, answer)
}

func parseStored(stream, subject string, data []byte) (Entry, error) {
	var got struct {
		Error   *refusal `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    string    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		return Entry{}, fmt.Errorf("stream %s: reading %s: unreadable answer: %w", stream, subject, err)
	}
	const codeNoMessage = 10037
	switch {
	case got.Error != nil && got.Error.Code == codeNoMessage:
		return Entry{}, fmt.Errorf("%s: %w", subject, ErrNotFound)
	case got.Error != nil:
		got.Error.stream = stream
		return Entry{}, fmt.Errorf("reading %s: %w", subject, got.Error)
	case got.Message == nil:
		return Entry{}, fmt.Errorf("stream %s: reading %s: answer without a message", stream, subject)
	}
	body, err := base64.StdEncoding.DecodeString(got.Message.Data)
	if err != nil {
		return Entry{}, fmt.Errorf("stream %s: reading %s: unreadable answer: %w", stream, subject, err)
	}
	m := got.Message
	return Entry{Seq: m.Seq, Subject: m.Subject, Data: body, Time: m.Time}, nil
}

// Close implements Journal.
func (l *Log) Close(ctx context.Context) error { return l.c.close(ctx) }

// Checkpoint implements Journal.
func (l *Log) Checkpoint(ctx context.Context, data map[int][]byte) error {
	vps := slices.Sorted(maps.Keys(data))
	if err := checkPartitions(vps); err != nil {
		return err
	}
	l.ckptMu.lock()
	defer l.ckptMu.unlock()
	records := make([]*record, 0, len(vps))
	for _, vp := range vps {
		if len(data[vp]) > l.limit {
			return fmt.Errorf("checkpoint of partition %d: %w", vp, tooLarge(len(data[vp]), l.limit))
		}
		at, err := l.checkpointAt(ctx, vp)
		if err != nil {
			return err
		}
		subject := events.CkptSubject(vp)
		records = append(records, &record{subject: subject, data: data[vp], vp: vp, expectOn: subject, expect: at})
	}
	if len(records) > 1 {
		err := l.storeCheckpoints(ctx, records)
		if c := code(err); c != codeWrongSequence && c != codeInFlight {
			return err
		}
	}
	// Somebody else's checkpoint spoils the batch: each one for itself.
	var problems []error
	for _, r := range records {
		problems = append(problems, l.storeCheckpoints(ctx, []*record{r}))
	}
	return errors.Join(problems...)
}

func (l *Log) storeCheckpoints(ctx context.Context, records []*record) error {
	first, err := l.send(ctx, records)
	for i, r := range records {
		switch {
		case err == nil:
			l.ckptAt[r.vp] = first + uint64(i)
		case code(err) == codeWrongSequence && len(records) == 1:
			l.lostCheckpoint(ctx, r.vp)
		case code(err) == codeWrongSequence, code(err) == codeInFlight: // the next one will tell
		case errors.Is(err, ErrUnknown):
			delete(l.ckptAt, r.vp) // look again
		}
	}
	if err != nil && len(records) == 1 {
		return fmt.Errorf("checkpoint of partition %d: %w", records[0].vp, err)
	}
	return err
}

// lostCheckpoint looks whether a partition of which a checkpoint was refused is
// still ours. Then a power cut has taken the one before it, and the next replaces
// what there was when it was still ours: never one of a new owner.
func (l *Log) lostCheckpoint(ctx context.Context, vp int) {
	at, err := l.last(ctx, events.StreamCkpt, events.CkptSubject(vp))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return
	}
	own, err := l.Last(ctx, ownSubjects[vp])
	if err == nil && own.Seq == l.fences.get(vp) {
		l.ckptAt[vp] = at.Seq
	}
}

// checkpointAt gives the sequence of the checkpoint that vp's next replaces.
// It is read once for each time that the partition is owned: a former owner
// goes on expecting its own and is refused.
func (l *Log) checkpointAt(ctx context.Context, vp int) (uint64, error) {
	if at, ok := l.ckptAt[vp]; ok {
		return at, nil
	}
	e, err := l.last(ctx, events.StreamCkpt, events.CkptSubject(vp))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return 0, fmt.Errorf("checkpoint of partition %d: %w", vp, err)
	}
	l.ckptAt[vp] = e.Seq
	return e.Seq, nil
}

func (l *Log) forgetCheckpoints(vps []int) {
	l.ckptMu.lock()
	defer l.ckptMu.unlock()
	for _, vp := range vps {
		delete(l.ckptAt, vp)
	}
}

// LoadCheckpoints implements Journal.
func (l *Log) LoadCheckpoints(ctx context.Context) (map[int][]byte, error) {
	all := map[int][]byte{}
	r := &reader{l: l, stream: events.StreamCkpt, filters: []string{ckptFilter}, lasts: true, fn: records(func(e Entry) error {
		if e.Damaged {
			return nil
		}
		vp, _, err := checkpointOf(e.Subject)
		if err != nil {
			return err
		}
		all[vp] = e.Data
		return nil
	})}
	if err := r.untilLasts(ctx); err != nil {
		return all, err
	}
	return all, l.missedCheckpoints(ctx, all)
}

const ckptFilter = "penstock.ckpt.*"

// checkpointOf gives the partition whose checkpoints lie on a subject.
func checkpointOf(subject string) (vp int, probe bool, err error) {
	if subject == probeCkpt {
		return 0, true, nil
	}
	if _, err := fmt.Sscanf(subject, "penstock.ckpt.%d", &vp); err != nil || checkPartitions([]int{vp}) != nil {
		return 0, false, fmt.Errorf("checkpoint on %s: no such partition", subject)
	}
	return vp, false, nil
}
