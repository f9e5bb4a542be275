package lease

import (
	"hash/fnv"
	"io"
	"slices"
	"strconv"

	"github.com/penstock-cd/penstock/events"
)

// Decide says what an engine has to do so that everything is held by the
// engine that should hold it: take what it should hold and nobody holds,
// release what it holds and should not. members are the live engines as it
// sees them, itself included.
func Decide(self string, members []Member) (take, release Set) {
	var mine, others Set
	for _, m := range members {
		if m.Instance == self {
			mine = m.Holds
		} else {
			others = others.Union(m.Holds)
		}
	}
	want := Desired(self, members)
	return want.Minus(mine).Minus(others), mine.Minus(want)
}

// Desired is what an engine should hold among the live ones: each partition,
// and each singleton that it can run, belongs to the one whose hash with it is
// the highest (rendezvous hashing). Singletons read the records of all, so they
// belong to those that read the newest form of any. One that leaves should hold
// nothing.
func Desired(self string, members []Member) Set {
	i := slices.IndexFunc(members, func(m Member) bool { return m.Instance == self })
	if i < 0 || members[i].Leaving {
		return Set{}
	}
	var want Set
	for vp := range events.Partitions {
		if highest("partition "+strconv.Itoa(vp), members, func(Member) bool { return true }) == self {
			want.Partitions[vp/64] |= 1 << (vp % 64)
		}
	}
	for _, name := range members[i].Offers {
		newest := 0
		offers := func(m Member) bool { return slices.Contains(m.Offers, name) }
		for _, m := range members {
			if !m.Leaving && offers(m) {
				newest = max(newest, m.Record)
			}
		}
		if highest("singleton "+name, members, func(m Member) bool { return offers(m) && m.Record == newest }) == self {
			want = want.Union(Singletons(name))
		}
	}
	return want
}

// highest is the instance that should hold a thing, of those that can.
func highest(thing string, members []Member, can func(Member) bool) (instance string) {
	var best uint64
	for _, m := range members {
		if m.Leaving || !can(m) {
			continue
		}
		if w := weight(m.Instance, thing); instance == "" || w > best || w == best && m.Instance < instance {
			instance, best = m.Instance, w
		}
	}
	return instance
}

// weight is the same in every engine of every version: a change of it would
// have two versions disagree for as long as both run.
func weight(instance, thing string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, instance) // a hash takes everything
	h.Write([]byte{0})
	io.WriteString(h, thing)
	// FNV alone barely lets the last bytes reach the upper bits.
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
