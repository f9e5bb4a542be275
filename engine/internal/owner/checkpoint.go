package owner

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Mark is a record of a partition: its sequence in the stream and its hash.
type Mark struct {
	Seq  uint64
	Hash string
}

// Checkpoint is what is stored for a partition, apart from its records, so
// that lost records do not take the proof of their loss with them.
type Checkpoint struct {
	Seq  uint64   `json:"seq"`            // everything of the partition up to here has been carried out
	Last uint64   `json:"last,omitempty"` // sequence of its newest record that is known as stored
	Hash string   `json:"hash,omitempty"` // and that record's hash
	Skip []uint64 `json:"skip,omitempty"` // records that cannot be read, which somebody has confirmed
	Stop string   `json:"stop,omitempty"` // why the partition has to stay stopped until a new epoch: it was restored
}

// newest is the record that the checkpoint knows as stored. Checkpoints of
// before hashes were kept know a sequence only.
func (c Checkpoint) newest() Mark { return Mark{max(c.Last, c.Seq), c.Hash} }

// readCheckpoint reads a stored checkpoint; nil is that of a partition without one.
func readCheckpoint(p []byte) (c Checkpoint, err error) {
	switch {
	case p == nil:
		return c, nil
	case len(p) == 0:
		return c, errors.New("the store cannot read its checkpoint: its file is damaged")
	}
	if err := json.Unmarshal(p, &c); err != nil {
		return c, fmt.Errorf("its checkpoint cannot be read: %w", err)
	}
	return c, nil
}

// Check compares a record with what the checkpoint knows of its sequence.
func (c Checkpoint) Check(m Mark) error {
	if known := c.newest(); m.Seq == known.Seq && known.Hash != "" && m.Hash != known.Hash {
		return fmt.Errorf("its checkpoint knows another record at sequence %d: records were lost or changed, and their sequences used again", m.Seq)
	}
	return nil
}

// reaches compares the newest record that there is with the checkpoint.
func (c Checkpoint) reaches(newest Mark) error {
	if c.Stop != "" {
		return errors.New(c.Stop)
	}
	if known := c.newest(); newest.Seq < known.Seq {
		return fmt.Errorf("its checkpoint stands at %d, its last record at %d: the tail of the record was lost", known.Seq, newest.Seq)
	}
	return c.Check(newest)
}
