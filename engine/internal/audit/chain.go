package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/penstock-cd/penstock/engine/record"
)

// remembered is how many aggregates the writer's check knows at least of those
// that it saw last.
const remembered = 1 << 15

// chain checks that the records of an aggregate follow each other. It
// remembers those that it saw lately, in two generations, and takes what it
// does not know as it is.
type chain struct {
	seed     maphash.Seed
	now, old map[uint64]link
}

type link struct {
	v    int64
	hash [16]byte // the beginning of it
}

func newChain() *chain { return &chain{seed: maphash.MakeSeed(), now: map[uint64]link{}} }

// check looks at the next record of LOG. One that does not fit is taken as
// what the next has to follow, so that it is told once.
func (c *chain) check(t *taken) error {
	if t.key == "" {
		return nil // an owner record
	}
	h, err := record.DecodeHead(t.Data)
	key := maphash.String(c.seed, t.Subject)
	if newer := new(record.FormatError); errors.As(err, &newer) && newer.Format > record.FormatVersion {
		// A newer version of Penstock has written it, which can check it. What
		// the next one has to follow is not known here.
		delete(c.now, key)
		delete(c.old, key)
		return nil
	}
	if err != nil {
		return err
	}
	before, known := c.now[key]
	if !known {
		before, known = c.old[key]
	}
	next := link{v: h.V}
	copy(next.hash[:], t.hash[:])
	c.now[key] = next
	if len(c.now) >= remembered {
		c.now, c.old = make(map[uint64]link, remembered/4), c.now
	}
	switch {
	case !known:
		return follows(h, 0, "", h.V != 1)
	default:
		return follows(h, before.v, hex.EncodeToString(before.hash[:]), false)
	}
}

// follows checks a record against the version and the beginning of the hash
// of the one before it. unknown says that these are not known.
func follows(h record.Head, v int64, hash string, unknown bool) error {
	switch {
	case unknown:
		return nil
	case h.V != v+1:
		return fmt.Errorf("%w: version %d follows version %d", errChain, h.V, v)
	case len(h.Prev) < len(hash) || h.Prev[:len(hash)] != hash || hash == "" && h.Prev != "":
		return fmt.Errorf("%w: version %d follows the hash %.12s, and the record before it has %.12s", errChain, h.V, h.Prev, hash)
	}
	return nil
}
