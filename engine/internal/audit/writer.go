package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// What is stored at once.
const (
	groupBytes = 4 << 20   // of records: a group under load
	partBytes  = 256 << 10 // of records of one message, unless one alone is larger
	manyProbes = 720       // without a record between them, which is an hour of nothing
)

// Source is what the writer reads: LOG. A journal.Journal is one.
type Source interface {
	From(ctx context.Context, seq uint64, fn func(journal.Entry) error) error
	Tail(ctx context.Context, seq uint64, fn func(journal.Entry) error) error
}

// Options configure a Writer.
type Options struct {
	Source   Source
	Store    Store
	Instance string
	// Stop is told of partitions whose records do not fit. It may be called
	// for one that is stopped already, or that another engine owns.
	Stop func(vp int, err error)
	Log  *slog.Logger
	Now  func() time.Time // time.Now when nil
}

// Writer brings LOG into the audit log. One at a time does; more do no harm.
type Writer struct {
	o         Options
	every     time.Duration // a group is stored at least so often
	looks     time.Duration // and so often it is looked whether the log still ends as it was left
	confirmed atomic.Uint64
}

// NewWriter makes a writer; Run does the work.
func NewWriter(o Options) *Writer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Writer{o: o, every: time.Second, looks: lookEvery}
}

// Confirmed is the sequence of LOG up to which everything is in the audit log,
// as far as this writer knows.
func (w *Writer) Confirmed() uint64 { return w.confirmed.Load() }

// first is how long Run waits when it went well until then.
const first = 100 * time.Millisecond

// Run writes until ctx ends. It stands off and begins anew, from what the log
// itself says, whenever anything is amiss.
func (w *Writer) Run(ctx context.Context) {
	for wait := first; ; wait = min(2*wait, 10*time.Second) {
		before := w.Confirmed()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if w.Confirmed() > before {
			wait = first
		}
		level := slog.LevelWarn
		if wait == first && errors.Is(err, ErrBehind) { // somebody has noted something
			level = slog.LevelDebug
		}
		w.o.Log.Log(ctx, level, "the audit log is not written for a moment; it goes on from where it stands", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// session writes until something is amiss.
func (w *Writer) session(ctx context.Context) error {
	at, err := find(ctx, w.o.Store)
	if err != nil {
		return err
	}
	if at, err = w.reconcile(ctx, at); err != nil {
		return err
	}
	w.confirmed.Store(at.pos)
	g := &group{w: w, turn: make(chan struct{}, 1), at: at, next: at.pos + 1, chain: newChain()}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var work sync.WaitGroup
	work.Go(func() {
		tick, looked := time.NewTicker(w.every), time.Now()
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-reading.Done():
				return
			}
			err := g.flush(reading)
			if err == nil && time.Since(looked) >= w.looks {
				looked = time.Now()
				err = g.look(reading)
			}
			if err != nil {
				stop(err)
				return
			}
		}
	})
	err = w.o.Source.Tail(reading, g.next, func(e journal.Entry) error { return g.take(reading, e) })
	if cause := context.Cause(reading); cause != nil {
		err = cause
	}
	stop(err)
	work.Wait()
	if ctx.Err() != nil { // a clean end: what was read is stored
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		return g.flush(last)
	}
	return err
}

// reconcile compares the end of the audit log with LOG and writes down what
// LOG has lost.
func (w *Writer) reconcile(ctx context.Context, at place) (place, error) {
	loss, changed, err := compare(ctx, w.o.Store, w.o.Source, at)
	if err != nil {
		return at, err
	}
	for vp, err := range changed {
		w.stop(vp, err)
	}
	if loss == nil {
		return at, nil
	}
	w.o.Log.Error("the end of the record was lost: the audit log has more of it than the store", "from", loss.From, "to", loss.To, "partitions", loss.Partitions)
	for _, vp := range loss.Partitions {
		w.stop(vp, loss.err())
	}
	now := w.o.Now()
	pos := min(at.pos, loss.From-1)
	for seq := range at.have {
		if seq >= loss.From {
			delete(at.have, seq)
		}
	}
	h := Header{Format: FormatVersion, Kind: KindLoss, Writer: w.o.Instance, At: now.UnixMilli(), Pos: pos, Open: at.open(), Prev: at.digest, VP: epochVP, Loss: loss}
	line, err := json.Marshal(h)
	if err != nil {
		return at, err
	}
	if err := w.o.Store.Append(ctx, at.seq, []Out{{Subject: subject(epochVP, now), Data: line}}); err != nil {
		return at, err
	}
	return find(ctx, w.o.Store)
}

func (w *Writer) stop(vp int, err error) {
	w.o.Log.Error("the audit log has found records that do not fit", "partition", vp, "error", err)
	if w.o.Stop != nil {
		w.o.Stop(vp, err)
	}
}

// group is what was read and not stored yet.
type group struct {
	w     *Writer
	chain *chain

	turn    chan struct{} // full while somebody uses what follows; it is held while the store answers
	at      place
	next    uint64 // sequence that comes next
	entries []taken
	size    int
	missing [][2]uint64
	probes  [][2]uint64
	broken  bool // the session is over
}

// taken is a record that was read.
type taken struct {
	journal.Entry
	vp   int
	key  string
	hash [sha256.Size]byte
	why  string // it does not fit
}

// take takes the next record of LOG.
func (g *group) take(ctx context.Context, e journal.Entry) error {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if e.Damaged { // it is missing, as the next one shows
		return nil
	}
	if e.Seq > g.next {
		g.missing = append(g.missing, [2]uint64{g.next, e.Seq - 1})
		g.w.o.Log.Error("records are missing in the store", "from", g.next, "to", e.Seq-1)
	}
	g.next = e.Seq + 1
	if journal.IsProbe(e) {
		g.probed(e.Seq)
		return nil
	}
	t := taken{Entry: e, hash: sha256.Sum256(e.Data)}
	var err error
	if t.vp, t.key, err = split(e.Subject); err != nil {
		return err // nobody can have stored it: the stream takes no other subjects
	}
	fault := g.chain.check(&t)
	if fault != nil {
		// Where a partition was let go on after a loss, what was seen before
		// does not count any more, and the log has more than we know.
		if last, err := g.w.o.Store.Last(ctx); err != nil || last.Seq != g.at.seq {
			return cmp.Or(err, ErrBehind)
		}
		t.why = fault.Error()
	}
	if g.at.have[e.Seq] {
		return nil
	}
	g.entries = append(g.entries, t)
	if g.size += len(e.Data); g.size >= groupBytes || fault != nil {
		if err := g.store(ctx); err != nil {
			return err
		}
	}
	if fault != nil { // it is written down, so that it is told once
		g.w.stop(t.vp, fmt.Errorf("%s, sequence %d: %w", e.Subject, e.Seq, fault))
	}
	return nil
}

// probed notes that LOG has a probe at a sequence.
func (g *group) probed(seq uint64) {
	if n := len(g.probes); n > 0 && g.probes[n-1][1] == seq-1 {
		g.probes[n-1][1] = seq
		return
	}
	g.probes = append(g.probes, [2]uint64{seq, seq})
}

// idle reports whether there is nothing to store but that nothing has happened,
// which is done now and then: probes can be removed when the audit log has
// passed them.
func (g *group) idle() bool {
	if len(g.entries) > 0 {
		return false
	}
	n := uint64(0)
	for _, p := range g.probes {
		n += p[1] - p[0] + 1
	}
	return n < manyProbes
}

// flush stores what was read.
func (g *group) flush(ctx context.Context) error {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	return g.store(ctx)
}

// store stores what was read as one group. It is the caller's turn.
func (g *group) store(ctx context.Context) error {
	if g.idle() || g.broken || g.next <= g.at.to { // of a torn group all that is missing goes at once
		return nil
	}
	msgs, digest, err := g.encode()
	if err == nil {
		err = g.w.o.Store.Append(ctx, g.at.seq, msgs)
	}
	if err != nil {
		g.broken = true
		return err
	}
	g.at = place{seq: g.at.seq + uint64(len(msgs)), digest: digest, pos: g.next - 1}
	clear(g.entries)
	g.entries, g.size, g.missing, g.probes = g.entries[:0], 0, nil, nil
	g.w.confirmed.Store(g.at.pos)
	return nil
}

// lookEvery is how often it is looked whether the audit log still ends where it
// was left, also while there is nothing to store: a power cut may have taken its
// end, and then what was there is to be stored again.
const lookEvery = 5 * time.Second

func (g *group) look(ctx context.Context) error {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	last, err := g.w.o.Store.Last(ctx)
	if err == nil && !g.broken && last.Seq != g.at.seq {
		g.broken = true
		return ErrBehind
	}
	return nil // whether the store answers, the next that is to be stored tells
}

// encode makes the messages of a group and the digest of the last.
func (g *group) encode() ([]Out, string, error) {
	slices.SortStableFunc(g.entries, func(a, b taken) int { return cmp.Compare(a.vp, b.vp) })
	var parts [][]taken
	for rest := g.entries; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && rest[n].vp == rest[0].vp && (n == 0 || size+len(rest[n].Data) <= partBytes) {
			size += len(rest[n].Data)
			n++
		}
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	if len(parts) == 0 {
		parts = append(parts, nil)
	}
	now := g.w.o.Now()
	h := Header{Format: FormatVersion, Kind: KindLog, Writer: g.w.o.Instance, At: now.UnixMilli(), Prev: g.at.digest,
		From: g.at.pos + 1, To: g.next - 1, Parts: len(parts)}
	msgs := make([]Out, len(parts))
	for i, part := range parts {
		h.Part, h.VP, h.Pos, h.Open, h.Missing, h.Probes = i+1, epochVP, g.at.pos, true, nil, nil
		if len(part) > 0 {
			h.VP = part[0].vp
		}
		if i == 0 {
			h.Missing, h.Probes = g.missing, g.probes
		}
		if i == len(parts)-1 {
			h.Pos, h.Open = h.To, false
		}
		data, digest, err := encode(h, part)
		if err != nil {
			return nil, "", err
		}
		msgs[i] = Out{Subject: subject(h.VP, now), Data: data}
		h.Prev = digest
	}
	return msgs, h.Prev, nil
}

// encode makes a message.
func encode(h Header, part []taken) (data []byte, digest string, err error) {
	h.Records, h.Breaks = make([]Stored, len(part)), nil
	size := 0
	for i, t := range part {
		h.Records[i] = Stored{Seq: t.Seq, Time: t.Time.UnixMilli(), Key: t.key, Size: len(t.Data)}
		size += len(t.Data) + 1
		if t.why != "" {
			h.Breaks = append(h.Breaks, Break{Seq: t.Seq, Why: t.why})
		}
	}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, "", err
	}
	d := newDigest(h.Prev, line)
	data = make([]byte, 0, len(line)+1+size)
	data = append(append(data, line...), '\n')
	for _, t := range part {
		data = append(append(data, t.Data...), '\n')
		d.record(t.hash)
	}
	return data, d.sum(), nil
}

// errChain is a record that does not follow the one before.
var errChain = errors.New("the chain of records is broken")
