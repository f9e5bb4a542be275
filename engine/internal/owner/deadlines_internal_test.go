package owner

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/record"
)

// earliest is what a plain map of deadlines says.
func earliest(m map[key]int64) int64 {
	at := int64(never)
	for _, t := range m {
		at = min(at, t)
	}
	return at
}

func TestTheEarliestDeadlineComesFirst(t *testing.T) {
	aggregate := rapid.Custom(func(t *rapid.T) key {
		n := rapid.IntRange(0, 30).Draw(t, "aggregate")
		switch {
		case n < 20:
			return key{record.Run, record.Derive(n)}
		case n < 25:
			return key{record.Run, fmt.Sprintf("run/%d", n)}
		}
		return key{record.Schedule, fmt.Sprintf("w/%d", n)}
	})
	rapid.Check(t, func(t *rapid.T) {
		d, want := newDeadlines(), map[key]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				k, at := aggregate.Draw(t, "of"), rapid.Int64Range(0, 50).Draw(t, "at")
				d.set(k, at)
				want[k] = at
				if at == 0 {
					delete(want, k)
				}
			},
			"take": func(t *rapid.T) {
				now := rapid.Int64Range(0, 50).Draw(t, "now")
				k, at, ok := d.take(now)
				first := earliest(want)
				if at != first || ok != (first <= now) || ok && want[k] != at {
					t.Fatalf("at %d: %v at %d, %v; want %d", now, k, at, ok, first)
				}
				if ok {
					delete(want, k)
				}
			},
		})
		for len(want) > 0 {
			k, at, ok := d.take(never - 1)
			if !ok || want[k] != at || at != earliest(want) {
				t.Fatalf("%v at %d, %v; want %v", k, at, ok, want)
			}
			delete(want, k)
		}
		if k, at, ok := d.take(never - 1); ok || at != never {
			t.Fatalf("nothing is left, but %v at %d", k, at)
		}
	})
}

// TestAnEarlierDeadlineIsNotWaitedPast sets one while another one, an hour
// ahead, is waited for.
func TestAnEarlierDeadlineIsNotWaitedPast(t *testing.T) {
	c := newClock(newTimes().realTime())
	d := newDeadlines()
	late, soon := key{record.Run, record.Derive("late")}, key{record.Run, record.Derive("soon")}
	d.set(late, c.now()+time.Hour.Milliseconds())
	got := make(chan key, 1)
	go func() {
		k, _, _ := d.wait(t.Context(), c)
		got <- k
	}()
	d.set(soon, c.now()+1)
	select {
	case k := <-got:
		if k != soon {
			t.Errorf("%v came first", k)
		}
	case <-time.After(30 * time.Second):
		t.Error("nothing came")
	}
}

func TestADeadlineTakesLittleMemory(t *testing.T) {
	const n, most = 200_000, 60
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what a finalizer has held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	d := newDeadlines()
	for i := range n {
		d.set(key{record.Run, record.Derive(i)}, int64(1+i*7919%n))
	}
	if each := (heap() - before) / n; each > most {
		t.Errorf("a deadline takes %d bytes, at most %d are allowed", each, most)
	}
	runtime.KeepAlive(d)
}

func BenchmarkDeadlines(b *testing.B) {
	const n = 1_000_000
	d := newDeadlines()
	keys := make([]key, n)
	for i := range keys {
		keys[i] = key{record.Run, record.Derive(i)}
		d.set(keys[i], int64(1+i))
	}
	b.Run("set", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d.set(keys[i*7919%n], int64(1+i))
		}
	})
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			k, at, ok := d.take(never - 1)
			if !ok {
				b.Fatal("nothing is left")
			}
			d.set(k, at+n)
		}
	})
}
