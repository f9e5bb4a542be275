package broker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// With the index of a stream at hand the server believes what the headers of
// messages say, and counts up to a sequence one by one: a bit that has changed
// there has it count for ever. Without the index it checks every message, and
// cuts off what comes behind the damage.

// farApart is by how much sequences that follow each other in a file can not
// differ, however many messages were removed between them.
const farApart = 1 << 26

// forgetWrongIndexes removes the index of each stream that has a file with
// sequences that cannot be.
func (b *Broker) forgetWrongIndexes() {
	streams, _ := filepath.Glob(filepath.Join(b.opts.Dir, "jetstream", "*", "streams", "*", "msgs")) // the pattern is good
	for _, dir := range streams {
		path := newestFile(dir)
		err := sequencesRise(path)
		if err == nil {
			continue
		}
		index := filepath.Join(dir, "index.db")
		if fault := os.Remove(index); fault != nil {
			if !errors.Is(fault, fs.ErrNotExist) {
				b.log.Error("a file of the store is damaged, and the index beside it could not be removed", "file", path, "damage", err, "error", fault)
			}
			continue // without an index it is checked anyway
		}
		b.log.Error("a file of the store is damaged: the server keeps what comes before the damage", "file", path, "damage", err)
	}
}

// newestFile is the one to which messages were added last. The server reads no
// other at its start, and those of the record are compressed, with checksums of
// their own.
func newestFile(dir string) (path string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.blk"))
	most := -1
	for _, f := range files {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(f), ".blk"))
		if err == nil && n > most {
			most, path = n, f
		}
	}
	return path
}

// sequencesRise walks from header to header of a file of messages.
func sequencesRise(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // the server says why
	}
	defer f.Close()
	const header = 22
	var h [header]byte
	last := uint64(0)
	r := bufio.NewReaderSize(f, 256<<10)
	for at := int64(0); ; {
		if _, err := io.ReadFull(r, h[:]); err != nil || at == 0 && strings.HasPrefix(string(h[:]), "cmp") {
			return nil // a torn end is checked by the server
		}
		size := int64(binary.LittleEndian.Uint32(h[:]) &^ (1 << 31))
		seq := binary.LittleEndian.Uint64(h[4:])
		const removed, tombstone = 1 << 63, 1 << 62
		if size < header {
			return nil // so is a size that cannot be
		}
		if seq &^= removed; seq&tombstone == 0 && seq > 0 {
			if last > 0 && seq > last+farApart {
				return fmt.Errorf("at byte %d sequence %d follows %d", at, seq, last)
			}
			last = max(last, seq)
		}
		if _, err := r.Discard(int(size - header)); err != nil {
			return nil
		}
		at += size
	}
}
