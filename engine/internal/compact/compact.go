// Package compact keeps what must be known of very many things in little
// memory.
//
// An identifier that record.Derive has made, 16 characters of which each is
// one of 32, is kept as the 10 bytes that it is worth. Others are kept once, as
// they are, and known by a number: they cost more, and there should be few. A
// Table finds rows by their identifiers at 5 to 8 bytes for each, and those
// whose identifiers begin in the same way.
//
// Nothing here is safe for use by several goroutines at once.
package compact

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/bits"
	"strings"
)

// ID is an identifier. It means nothing without the IDs that it is of.
type ID [11]byte // what it is: packed or odd; its 80 bits, or its number

const (
	packed = iota
	odd
)

const (
	length   = 16
	alphabet = "0123456789abcdefghjkmnpqrstvwxyz" // in ascending order, so that packed identifiers compare as texts do
)

// digits are the values of the characters of the alphabet, and 255.
var digits = func() (d [256]byte) {
	for i := range d {
		d[i] = 255
	}
	for i := range len(alphabet) {
		d[alphabet[i]] = byte(i)
	}
	return d
}()

// IDs knows the identifiers that cannot be packed. The zero value is ready.
type IDs struct {
	odd     []string
	numbers map[string]uint32
}

// Of gives the ID of an identifier, which is remembered where that is needed.
func (x *IDs) Of(text string) ID {
	id, ok := x.Find(text)
	if ok {
		return id
	}
	if x.numbers == nil {
		x.numbers = map[string]uint32{}
	}
	n := uint32(len(x.odd))
	text = strings.Clone(text)
	x.odd, x.numbers[text] = append(x.odd, text), n
	return numbered(n)
}

// Find gives the ID of an identifier; false when it is not known.
func (x *IDs) Find(text string) (ID, bool) {
	if id, ok := Pack(text); ok {
		return id, true
	}
	n, ok := x.numbers[text]
	return numbered(n), ok
}

// Text gives the identifier again.
func (x *IDs) Text(id ID) string {
	if id[0] == odd {
		return x.odd[id.number()]
	}
	return unpack(id)
}

// Compare orders IDs as their texts.
func (x *IDs) Compare(a, b ID) int {
	if a[0] == packed && b[0] == packed {
		return bytes.Compare(a[:], b[:])
	}
	return strings.Compare(x.Text(a), x.Text(b))
}

// Odd gives the IDs of what cannot be packed and begins with prefix.
func (x *IDs) Odd(prefix string) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for n, text := range x.odd {
			if strings.HasPrefix(text, prefix) && !yield(numbered(uint32(n))) {
				return
			}
		}
	}
}

// Span gives the first and the last packed identifier that begin with prefix;
// false when none can.
func Span(prefix string) (first, last ID, ok bool) {
	if len(prefix) > length {
		return first, last, false
	}
	rest := length - len(prefix)
	first, ok = Pack(prefix + strings.Repeat(alphabet[:1], rest))
	last, _ = Pack(prefix + strings.Repeat(alphabet[len(alphabet)-1:], rest))
	return first, last, ok
}

// Pack gives the ID of an identifier that record.Derive may have made; false
// for any other.
func Pack(text string) (id ID, ok bool) {
	if len(text) != length {
		return id, false
	}
	for half := range 2 { // 8 characters are 40 bits, which are 5 bytes
		var n uint64
		for i := range length / 2 {
			d := digits[text[half*length/2+i]]
			if d == 255 {
				return ID{}, false
			}
			n = n<<5 | uint64(d)
		}
		part := id[1+5*half:]
		part[0] = byte(n >> 32)
		binary.BigEndian.PutUint32(part[1:], uint32(n))
	}
	return id, true
}

func unpack(id ID) string {
	var text [length]byte
	for half := range 2 {
		part := id[1+5*half:]
		n := uint64(part[0])<<32 | uint64(binary.BigEndian.Uint32(part[1:]))
		for i := length/2 - 1; i >= 0; i-- {
			text[half*length/2+i] = alphabet[n&31]
			n >>= 5
		}
	}
	return string(text[:])
}

func numbered(n uint32) ID {
	id := ID{0: odd}
	binary.BigEndian.PutUint32(id[1:], n)
	return id
}

func (id ID) number() uint32 { return binary.BigEndian.Uint32(id[1:]) }

// rank is where an identifier stands among all that there might be: in the
// order of packed ones, which are hashes and spread evenly.
func (id ID) rank() uint64 {
	if id[0] == odd {
		return uint64(id.number()+1) * 0x9e3779b97f4a7c15 // spreads, too
	}
	return binary.BigEndian.Uint64(id[1:])
}

// Table finds rows by their identifiers. A row stands where the rank of its
// identifier is among the slots, or in the next free slot behind it, so that
// identifiers that begin alike stand together.
type Table struct {
	of    func(row uint32) ID
	slots []uint32 // row+1, 0 for none
	n     int
}

// NewTable makes an empty table; of gives the identifier of a row.
func NewTable(of func(row uint32) ID) *Table { return &Table{of: of} }

// Len is the number of rows.
func (t *Table) Len() int { return t.n }

// home is the slot in which an identifier stands if it is free.
func (t *Table) home(id ID) int {
	at, _ := bits.Mul64(id.rank(), uint64(len(t.slots)))
	return int(at)
}

func (t *Table) next(i int) int {
	if i++; i == len(t.slots) {
		return 0
	}
	return i
}

// Get gives the row of an identifier.
func (t *Table) Get(id ID) (row uint32, ok bool) {
	i, ok := t.find(id)
	if !ok {
		return 0, false
	}
	return t.slots[i] - 1, true
}

// find gives the slot of an identifier.
func (t *Table) find(id ID) (slot int, ok bool) {
	if t.n == 0 {
		return 0, false
	}
	i := t.home(id)
	for ; t.slots[i] != 0; i = t.next(i) {
		if t.of(t.slots[i]-1) == id {
			return i, true
		}
	}
	return i, false
}

// Add puts a row in, whose identifier must not be there yet.
func (t *Table) Add(row uint32) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.resize(max(16, len(t.slots)+len(t.slots)/2))
	}
	t.put(row)
	t.n++
}

func (t *Table) put(row uint32) {
	i := t.home(t.of(row))
	for t.slots[i] != 0 {
		i = t.next(i)
	}
	t.slots[i] = row + 1
}

// Delete takes the row of an identifier out, while it still has it.
func (t *Table) Delete(id ID) {
	hole, ok := t.find(id)
	if !ok {
		return
	}
	t.n--
	// What was put behind it for want of a free slot moves up.
	for i := t.next(hole); t.slots[i] != 0; i = t.next(i) {
		home := t.home(t.of(t.slots[i] - 1))
		if t.distance(home, i) >= t.distance(hole, i) {
			t.slots[hole] = t.slots[i]
			hole = i
		}
	}
	t.slots[hole] = 0
	if len(t.slots) > 64 && 8*t.n < len(t.slots) {
		t.resize(len(t.slots) / 4)
	}
}

// distance is how far it is from a slot on to another one.
func (t *Table) distance(from, to int) int {
	if to < from {
		to += len(t.slots)
	}
	return to - from
}

func (t *Table) resize(n int) {
	old := t.slots
	t.slots = make([]uint32, n)
	for _, s := range old {
		if s != 0 {
			t.put(s - 1)
		}
	}
}

// Between gives the rows of the packed identifiers from first to last, in no
// order.
func (t *Table) Between(first, last ID) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if t.n == 0 {
			return
		}
		i := t.home(first)
		for span, steps := t.home(last)-i, 0; steps < len(t.slots) && (steps <= span || t.slots[i] != 0); steps++ {
			if s := t.slots[i]; s != 0 {
				id := t.of(s - 1)
				if bytes.Compare(first[:], id[:]) <= 0 && bytes.Compare(id[:], last[:]) <= 0 && !yield(s-1) {
					return
				}
			}
			i = t.next(i)
		}
	}
}
