package compact_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/internal/compact"
	"github.com/penstock-cd/penstock/engine/record"
)

// identifier draws one that is packed, or looks nearly like one that is.
func identifier() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string { return record.Derive(rapid.IntRange(0, 500).Draw(t, "n")) }),
		rapid.StringOfN(rapid.RuneFrom([]rune("0az")), 16, 16, -1), // many that begin alike
		rapid.StringOfN(rapid.RuneFrom([]rune("0azilou/é")), 0, 17, -1),
	)
}

func TestIdentifiersAreKeptAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x compact.IDs
		texts := rapid.SliceOfN(identifier(), 1, 20).Draw(t, "texts")
		for _, text := range texts {
			id := x.Of(text)
			if again, ok := x.Find(text); !ok || again != id || x.Text(id) != text {
				t.Fatalf("%q is %v and %v, %v, and reads %q", text, id, again, ok, x.Text(id))
			}
			for _, other := range texts {
				if got, want := x.Compare(id, x.Of(other)), strings.Compare(text, other); got != want {
					t.Fatalf("%q compared with %q: %d, want %d", text, other, got, want)
				}
			}
		}
	})
}

// TestATableFindsWhatAMapFinds puts rows in and takes them out at random.
func TestATableFindsWhatAMapFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x compact.IDs
		rows := []compact.ID{}
		table := compact.NewTable(func(row uint32) compact.ID { return rows[row] })
		want := map[string]uint32{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				text := identifier().Draw(t, "text")
				if _, there := want[text]; there {
					return
				}
				rows = append(rows, x.Of(text))
				want[text] = uint32(len(rows) - 1)
				table.Add(want[text])
			},
			"delete": func(t *rapid.T) {
				text := identifier().Draw(t, "text")
				if len(want) > 0 && rapid.Bool().Draw(t, "one that is there") {
					text = rapid.SampledFrom(slices.Sorted(keys(want))).Draw(t, "which")
				}
				table.Delete(x.Of(text))
				delete(want, text)
			},
			"": func(t *rapid.T) {
				if table.Len() != len(want) {
					t.Fatalf("%d rows, want %d", table.Len(), len(want))
				}
				for text, row := range want {
					if got, ok := table.Get(x.Of(text)); !ok || got != row {
						t.Fatalf("%q is in row %d, %v; want %d", text, got, ok, row)
					}
				}
				checkPrefix(t, &x, table, want, identifier().Draw(t, "prefix of"))
			},
		})
	})
}

func checkPrefix(t *rapid.T, x *compact.IDs, table *compact.Table, want map[string]uint32, of string) {
	prefix := of[:rapid.IntRange(0, len(of)).Draw(t, "length")]
	var got, fits []uint32
	if first, last, ok := compact.Span(prefix); ok {
		got = slices.Collect(table.Between(first, last))
	}
	for id := range x.Odd(prefix) {
		if row, ok := table.Get(id); ok {
			got = append(got, row)
		}
	}
	for text, row := range want {
		if strings.HasPrefix(text, prefix) {
			fits = append(fits, row)
		}
	}
	slices.Sort(got)
	slices.Sort(fits)
	if !slices.Equal(got, fits) {
		t.Fatalf("with %q begin %v, want %v", prefix, got, fits)
	}
}

func keys(m map[string]uint32) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func BenchmarkTable(b *testing.B) {
	const n = 1_000_000
	rows := make([]compact.ID, n)
	var x compact.IDs
	for i := range rows {
		rows[i] = x.Of(record.Derive(i))
	}
	table := compact.NewTable(func(row uint32) compact.ID { return rows[row] })
	b.Run("add", func(b *testing.B) {
		for b.Loop() {
			table = compact.NewTable(func(row uint32) compact.ID { return rows[row] })
			for i := range rows {
				table.Add(uint32(i))
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
	})
	b.Run("get", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, ok := table.Get(rows[i*7919%n]); !ok {
				b.Fatal("it is not there")
			}
		}
	})
	for _, length := range []int{2, 4, 8} {
		b.Run(fmt.Sprintf("prefix of %d", length), func(b *testing.B) {
			first, last, _ := compact.Span(x.Text(rows[5])[:length])
			for b.Loop() {
				for range table.Between(first, last) {
				}
			}
		})
	}
}
