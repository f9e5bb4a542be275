package record_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/record"
)

// summarized are records with all kinds of heads.
func summarized() map[string]*record.Record {
	with := func(s *record.Summary) *record.Record {
		r := sample()
		r.Summary = s
		return r
	}
	quoted := with(&record.Summary{Workflow: `a"b\c`})
	quoted.ID = "é<&>\u2028"
	first := with(&record.Summary{})
	first.Prev, first.V = "", 1
	return map[string]*record.Record{
		"old": sample(), "empty": with(&record.Summary{}), "first": first, "quoted": quoted,
		"waiting": with(&record.Summary{Due: 1_700_000_000_001, Workflow: "release", Status: "waiting", Started: 1_700_000_000_000}),
		"all":     with(&record.Summary{Due: -1, Busy: true, Workflow: "w", Status: "done", Outcome: "odd", Started: 1, Parent: "p", Listen: []string{"a.*", "b"}}),
		"ears":    with(&record.Summary{Listen: []string{"x"}}), "busy": with(&record.Summary{Busy: true}),
	}
}

func TestTheHeadOfARecordSaysWhatTheRecordDoes(t *testing.T) {
	for name, r := range summarized() {
		p, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := record.DecodeHead(p)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(r.Head(), got); d != "" {
			t.Errorf("%s (-record +head):\n%s", name, d)
		}
		if whole, err := record.Decode(p); err != nil || !cmp.Equal(whole.Head(), got) {
			t.Errorf("%s: the whole record says %+v, %v", name, whole.Head(), err)
		}
	}
}

// TestTheHeadIsReadWithoutTheRest fails when a head is read by way of the
// whole record, whose rest is no JSON here.
func TestTheHeadIsReadWithoutTheRest(t *testing.T) {
	got, err := record.DecodeHead([]byte(`{"f":1,"agg":"run","id":"r1","v":2,"prev":"ab","t":3,"h":{"due":4,"wf":"w","s":"waiting","t0":5},"state":{]}`))
	want := record.Head{Aggregate: record.Run, ID: "r1", V: 2, Prev: "ab", T: 3, Summary: record.Summary{Due: 4, Workflow: "w", Status: "waiting", Started: 5}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

func TestAHeadThatCannotBeReadIsAnError(t *testing.T) {
	for _, bad := range []string{``, `{`, `[]`, `{"f":0}`, `{"f":1,"agg":"run","id":"r1","v":2,"t":3,"h":{}`, `{"f":1,"agg":"run","id":"r1","v":2,"t":3,"h":{"due":"x"}}`,
		`{"f":1,"agg":"run","id":"r1","v":99999999999999999999,"t":3,"h":{}}`} {
		if h, err := record.DecodeHead([]byte(bad)); err == nil {
			t.Errorf("%q was read: %+v", bad, h)
		}
	}
	for _, newer := range []string{`{"f":2,"agg":"run","id":"r9","v":1,"t":1,"h":{}}`, `{"f":2,"agg":"run","id":"r9"}`} {
		_, err := record.DecodeHead([]byte(newer))
		if format := new(record.FormatError); !errors.As(err, &format) || format.ID != "r9" {
			t.Errorf("%s: %v", newer, err)
		}
	}
}

func FuzzDecodeHead(f *testing.F) {
	for _, r := range summarized() {
		p, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		_, _ = record.DecodeHead(p) // whatever it is, it is no panic
		r, err := record.Decode(p)
		if err != nil || !json.Valid(r.State) {
			return
		}
		stored, err := r.Encode()
		if err != nil {
			return
		}
		whole, err := record.Decode(stored)
		if err != nil {
			t.Fatalf("a record that was read and stored cannot be read: %v", err)
		}
		got, err := record.DecodeHead(stored)
		if err != nil {
			t.Fatalf("the head of %s cannot be read: %v", stored, err)
		}
		if d := cmp.Diff(whole.Head(), got); d != "" {
			t.Fatalf("%s (-record +head):\n%s", stored, d)
		}
	})
}

func BenchmarkDecodeHead(b *testing.B) {
	p, err := summarized()["waiting"].Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.DecodeHead(p); err != nil {
			b.Fatal(err)
		}
	}
}
