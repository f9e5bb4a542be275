package lease

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/events"
)

var names = []string{"audit", "janitor", "router", "sources"}

// some gives engines with names of their own, some of which leave, and some of
// which are of a version that knows fewer singletons.
func some(t *rapid.T, least int) []Member {
	n := rapid.IntRange(least, 9).Draw(t, "engines")
	var members []Member
	for i := range n {
		m := Member{Format: 1, Instance: fmt.Sprintf("engine-%d-%d", i, rapid.IntRange(0, 1_000_000).Draw(t, "name")), Offers: names}
		if rapid.Bool().Draw(t, "older") {
			m.Offers = names[1:]
		}
		m.Leaving = rapid.IntRange(0, 5).Draw(t, "leaving") == 0
		members = append(members, m)
	}
	return members
}

func staying(members []Member) []Member {
	return slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Leaving })
}

// Whoever keeps the audit log, for example, has to read what all others write.
func TestSingletonsBelongToThoseThatReadTheNewestFormOfARecord(t *testing.T) {
	for i := range 50 {
		older := Member{Instance: fmt.Sprint("a", i), Record: 1, Offers: names}
		newer := Member{Instance: fmt.Sprint("b", i), Record: 2, Offers: names}
		members := []Member{older, newer}
		if want := Desired(newer.Instance, members); len(want.Singletons) != len(names) {
			t.Fatalf("the newer one should hold %v", want.Singletons)
		}
		if want := Desired(older.Instance, members); len(want.Singletons) != 0 || want.Partitions.Len() == 0 {
			t.Fatalf("the older one should hold %v", want)
		}
		members[1].Leaving = true
		if want := Desired(older.Instance, members); len(want.Singletons) != len(names) {
			t.Fatalf("when the newer one leaves, the older one should hold %v", want.Singletons)
		}
	}
}

func TestEverythingIsDesiredByExactlyOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := some(t, 1)
		var all Set
		count := 0
		for _, m := range members {
			want := Desired(m.Instance, members)
			if m.Leaving && !want.Empty() {
				t.Fatalf("%s leaves and should hold %v", m.Instance, want)
			}
			if both := all.Intersect(want); !both.Empty() {
				t.Fatalf("two should hold %v", both)
			}
			if !want.Minus(Set{want.Partitions, m.Offers}).Empty() {
				t.Fatalf("%s should hold %v, of which it cannot all", m.Instance, want)
			}
			all = all.Union(want)
			count += want.Partitions.Len()
		}
		stay := staying(members)
		if want := min(len(stay), 1) * events.Partitions; count != want {
			t.Fatalf("%d partitions have somebody, want %d", count, want)
		}
		for _, name := range names {
			offered := slices.ContainsFunc(stay, func(m Member) bool { return slices.Contains(m.Offers, name) })
			if all.Has(name) != offered {
				t.Fatalf("%s has somebody: %v, can be had: %v", name, all.Has(name), offered)
			}
		}
	})
}

func TestOnlyTheShareOfWhoComesOrGoesMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := some(t, 2)
		gone := rapid.IntRange(0, len(members)-1).Draw(t, "gone")
		left := slices.Delete(slices.Clone(members), gone, gone+1)
		for _, m := range left {
			before, after := Desired(m.Instance, members), Desired(m.Instance, left)
			if lost := before.Minus(after); !lost.Empty() {
				t.Fatalf("%s loses %v because another one goes", m.Instance, lost)
			}
			if more := after.Minus(before).Minus(Desired(members[gone].Instance, members)); !more.Empty() {
				t.Fatalf("%s gets %v, which the one that goes did not have", m.Instance, more)
			}
		}
	})
}

func TestSharesAreAboutEqual(t *testing.T) {
	for n := 2; n <= 8; n++ {
		var members []Member
		for i := range n {
			members = append(members, Member{Instance: fmt.Sprintf("penstock-%d", i)})
		}
		for _, m := range members {
			if got, fair := Desired(m.Instance, members).Partitions.Len(), events.Partitions/n; got < fair/2 || got > 2*fair {
				t.Errorf("%s of %d has %d partitions, a fair share is %d", m.Instance, n, got, fair)
			}
		}
	}
}

// TestNothingHasTwoHoldersOnItsWay has engines come, leave, die and act in any
// order, each on the view that all have of each other.
func TestNothingHasTwoHoldersOnItsWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := some(t, 1)
		step := func(i int) {
			take, release := Decide(members[i].Instance, members)
			if rapid.Bool().Draw(t, "release first") {
				members[i].Holds = members[i].Holds.Minus(release)
			} else {
				members[i].Holds = members[i].Holds.Union(take)
			}
			var all Set
			for _, m := range members {
				if both := all.Intersect(m.Holds); !both.Empty() {
					t.Fatalf("%v have two holders", both)
				}
				all = all.Union(m.Holds)
			}
		}
		for n := range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch i := rapid.IntRange(0, len(members)-1).Draw(t, "who"); rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				members[i].Leaving = !members[i].Leaving
			case 1:
				if len(members) > 1 {
					members = slices.Delete(members, i, i+1)
				}
			case 2:
				members = append(members, Member{Instance: fmt.Sprintf("late-%d-%d", n, rapid.IntRange(0, 1<<30).Draw(t, "late")), Offers: names})
			default:
				step(i)
			}
		}
		for range 2 { // left alone, all come to have what they should
			for i := range members {
				take, release := Decide(members[i].Instance, members)
				members[i].Holds = members[i].Holds.Minus(release).Union(take)
			}
		}
		for _, m := range members {
			if want := Desired(m.Instance, members); !want.Minus(m.Holds).Empty() || !m.Holds.Minus(want).Empty() {
				t.Fatalf("%s holds %v in the end, should hold %v", m.Instance, m.Holds, want)
			}
		}
	})
}

// TestWeightsStay pins the hash: another one would have two versions disagree.
func TestWeightsStay(t *testing.T) {
	for _, c := range []struct {
		instance, thing string
		want            uint64
	}{{"a", "partition 0", 0xf83899920a497216}, {"penstock-1", "partition 255", 0x233f9b157046599}, {"penstock-1", "singleton router", 0x3c34ebe4ba60de88}} {
		if got := weight(c.instance, c.thing); got != c.want {
			t.Errorf("weight(%q, %q) is %#x, was %#x", c.instance, c.thing, got, c.want)
		}
	}
}

func TestSetsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vps := rapid.SliceOfDistinct(rapid.IntRange(0, events.Partitions-1), rapid.ID).Draw(t, "partitions")
		s := Partitions(vps...)
		p, err := s.Partitions.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Bits
		if err := back.UnmarshalText(p); err != nil || back != s.Partitions || back.Len() != len(vps) {
			t.Fatalf("%s is read as %v, %v", p, back.List(), err)
		}
	})
	var b Bits
	for _, bad := range []string{"", "zz", "00"} {
		if b.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is taken for partitions", bad)
		}
	}
}
