package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
)

// place is where the log stands.
type place struct {
	seq    uint64 // of its last message
	digest string // of that
	pos    uint64 // of LOG: everything up to here is in the log

	// have are sequences behind pos that are in the log already, of a group
	// that was torn; to is the last of them.
	have map[uint64]bool
	to   uint64
}

// open reports whether a group is torn.
func (p *place) open() bool { return len(p.have) > 0 }

// window is how many messages are read back at once: at least the largest
// group.
const window = 512

// find reads where the log stands from its last message, and, where a group is
// torn, from those before it.
func find(ctx context.Context, s Store) (place, error) {
	raw, err := s.Last(ctx)
	if err != nil || raw.Seq == 0 {
		return place{}, err
	}
	last, err := decode(raw)
	if err != nil {
		return place{}, err
	}
	p := place{seq: last.Raw.Seq, digest: last.digest, pos: last.Pos}
	if !last.Open {
		return p, nil
	}
	for back := uint64(window); ; back *= 4 {
		have, whole, err := torn(ctx, s, p, back)
		if err != nil {
			return p, err
		}
		if whole {
			p.have = have
			for seq := range have {
				p.to = max(p.to, seq)
			}
			return p, nil
		}
	}
}

// torn gives the sequences behind p.pos that are in the log. whole says that
// the beginning of the torn group was among the messages that were read.
func torn(ctx context.Context, s Store, p place, back uint64) (have map[uint64]bool, whole bool, err error) {
	from := uint64(1)
	if p.seq > back {
		from = p.seq - back + 1
	}
	have, whole = map[uint64]bool{}, from == 1
	err = s.Read(ctx, Query{From: from}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		if !m.Open {
			clear(have)
			whole = true
		}
		for _, r := range m.Header.Records {
			if r.Seq > p.pos {
				have[r.Seq] = true
			}
		}
		if m.Loss != nil {
			for seq := range have {
				if seq >= m.Loss.From {
					delete(have, seq)
				}
			}
		}
		return nil
	})
	return have, whole, err
}

// put stores a message that stands by itself, whoever else writes meanwhile.
func put(ctx context.Context, s Store, h Header, at time.Time) error {
	var sent []byte // whose outcome is not known
	var after uint64
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		p, err := find(ctx, s)
		if err == nil && sent != nil {
			var there bool
			if there, err = stored(ctx, s, after+1, sent); there {
				return nil
			}
		}
		if err == nil {
			h.Format, h.Pos, h.Open, h.Prev = FormatVersion, p.pos, p.open(), p.digest
			line, fault := json.Marshal(h)
			if fault != nil {
				return fault
			}
			sent, after = line, p.seq
			if err = s.Append(ctx, p.seq, []Out{{Subject: subject(h.VP, at), Data: line}}); err == nil {
				return nil
			}
		}
		if errors.Is(err, errFormat) {
			return err
		}
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
	}
}

// stored reports whether the message with a sequence is what was sent.
func stored(ctx context.Context, s Store, seq uint64, sent []byte) (same bool, err error) {
	err = s.Read(ctx, Query{From: seq}, func(raw Raw) error {
		same = raw.Seq == seq && bytes.Equal(raw.Data, sent)
		return ErrEnough
	})
	return same, err
}

// compare finds out whether LOG still has at its end what the audit log says.
// It gives the loss, where there is one, and the partitions of records that
// were changed.
func compare(ctx context.Context, s Store, log Source, p place) (loss *Loss, changed map[int]error, err error) {
	limit := max(p.pos, p.to)
	if limit == 0 {
		return nil, nil, nil
	}
	for back := uint64(window); ; back *= 4 {
		tail, whole, err := tailOf(ctx, s, p, back)
		if err != nil {
			return nil, nil, err
		}
		loss, changed, sure, err := tail.against(ctx, log, limit)
		if err != nil || sure || whole {
			return loss, changed, err
		}
	}
}

// tail is the end of the audit log: hashes and partitions by sequence in LOG.
type tail struct {
	entries map[uint64]tailEntry
	low     uint64 // lowest sequence
}

type tailEntry struct {
	hash [sha256.Size]byte
	vp   int
	key  string
}

func tailOf(ctx context.Context, s Store, p place, back uint64) (t tail, whole bool, err error) {
	from := uint64(1)
	if p.seq > back {
		from = p.seq - back + 1
	}
	t.entries = map[uint64]tailEntry{}
	err = s.Read(ctx, Query{From: from}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		for _, e := range m.Entries() {
			t.entries[e.Seq] = tailEntry{hash: sha256.Sum256(e.Data), vp: e.VP, key: e.Key}
		}
		if m.Loss != nil {
			for seq := range t.entries {
				if seq >= m.Loss.From {
					delete(t.entries, seq)
				}
			}
		}
		return nil
	})
	for seq := range t.entries {
		if t.low == 0 || seq < t.low {
			t.low = seq
		}
	}
	return t, from == 1, err
}

// against compares the tail with LOG. sure says that nothing further back
// would give another answer.
func (t tail) against(ctx context.Context, log Source, limit uint64) (loss *Loss, changed map[int]error, sure bool, err error) {
	if t.low == 0 {
		return nil, nil, false, nil
	}
	same, end := t.low-1, t.low-1
	var differ []uint64
	err = log.From(ctx, t.low, func(e journal.Entry) error {
		if e.Seq > limit {
			end = limit
			return ErrEnough
		}
		if e.Damaged {
			for seq := end + 1; seq <= e.Seq; seq++ {
				if _, known := t.entries[seq]; known {
					differ = append(differ, seq)
				}
			}
			end = e.Seq
			return nil
		}
		end = e.Seq
		was, known := t.entries[e.Seq]
		if vp, key, err := split(e.Subject); known && err == nil && vp == was.vp && key == was.key && sha256.Sum256(e.Data) == was.hash {
			same = e.Seq
		} else if known {
			differ = append(differ, e.Seq)
		}
		return nil
	})
	if errors.Is(err, ErrEnough) || errors.Is(err, journal.ErrLost) {
		err = nil
	}
	if err != nil {
		return nil, nil, false, err
	}
	lost := end < limit
	changed = map[int]error{}
	for _, seq := range differ {
		if seq > same {
			lost = true
			continue
		}
		changed[t.entries[seq].vp] = fmt.Errorf("the record with sequence %d is not the one that was stored, says the audit log: it was changed", seq)
	}
	if !lost {
		return nil, changed, true, nil
	}
	loss = &Loss{From: same + 1, To: limit}
	var hit [256]bool
	for seq, e := range t.entries {
		if seq > same && e.key != "" {
			hit[e.vp] = true
		}
	}
	for vp, is := range hit {
		if is {
			loss.Partitions = append(loss.Partitions, vp)
		}
	}
	return loss, changed, same >= t.low, nil
}

// Position is the sequence of LOG up to which the audit log has everything.
func Position(ctx context.Context, s Store) (uint64, error) {
	p, err := find(ctx, s)
	return p.pos, err
}
