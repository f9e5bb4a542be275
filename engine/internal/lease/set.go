package lease

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"

	"github.com/penstock-cd/penstock/events"
)

// Set is what an engine holds: partitions, and singletons by name. The zero
// value is empty; sets are values, nothing changes one in place.
type Set struct {
	Partitions Bits     `json:"vps"`
	Singletons []string `json:"names,omitempty"` // sorted
}

// Bits is a set of partitions.
type Bits [events.Partitions / 64]uint64

// Partitions makes the set of some partitions.
func Partitions(vps ...int) Set {
	var s Set
	for _, vp := range vps {
		s.Partitions[vp/64] |= 1 << (vp % 64)
	}
	return s
}

// Singletons makes the set of some singletons.
func Singletons(names ...string) Set {
	names = slices.Clone(names)
	slices.Sort(names)
	return Set{Singletons: slices.Compact(names)}
}

// Has reports whether a partition is in the set.
func (b Bits) Has(vp int) bool { return b[vp/64]&(1<<(vp%64)) != 0 }

// Len counts the partitions.
func (b Bits) Len() (n int) {
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// List gives the partitions in order.
func (b Bits) List() []int {
	var vps []int
	for vp := range events.Partitions {
		if b.Has(vp) {
			vps = append(vps, vp)
		}
	}
	return vps
}

// MarshalText writes the bits as hex digits, partition 0 in the first one.
func (b Bits) MarshalText() ([]byte, error) {
	var p [events.Partitions / 8]byte
	for vp := range events.Partitions {
		if b.Has(vp) {
			p[vp/8] |= 0x80 >> (vp % 8)
		}
	}
	return hex.AppendEncode(nil, p[:]), nil
}

// UnmarshalText reads what MarshalText writes.
func (b *Bits) UnmarshalText(text []byte) error {
	p, err := hex.DecodeString(string(text))
	if err != nil || len(p) != events.Partitions/8 {
		return fmt.Errorf("partitions %.80q are not %d hex digits", text, events.Partitions/4)
	}
	*b = Bits{}
	for vp := range events.Partitions {
		if p[vp/8]&(0x80>>(vp%8)) != 0 {
			b[vp/64] |= 1 << (vp % 64)
		}
	}
	return nil
}

// Empty reports whether nothing is in the set.
func (s Set) Empty() bool { return s.Partitions == Bits{} && len(s.Singletons) == 0 }

// Has reports whether a singleton is in the set.
func (s Set) Has(name string) bool { return slices.Contains(s.Singletons, name) }

// Union gives what is in either set.
func (s Set) Union(o Set) Set {
	for i := range s.Partitions {
		s.Partitions[i] |= o.Partitions[i]
	}
	s.Singletons = Singletons(slices.Concat(s.Singletons, o.Singletons)...).Singletons
	return s
}

// Minus gives what is in s and not in o.
func (s Set) Minus(o Set) Set {
	for i := range s.Partitions {
		s.Partitions[i] &^= o.Partitions[i]
	}
	s.Singletons = slices.DeleteFunc(slices.Clone(s.Singletons), o.Has)
	return s
}

// Intersect gives what is in both sets.
func (s Set) Intersect(o Set) Set { return s.Minus(s.Minus(o)) }
