package record_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

func sample() *record.Record {
	state, _ := json.Marshal(map[string]any{"id": "r1", "note": "<a> & \u2028 \"b\"", "path": []string{"build", "verify.test"}})
	return &record.Record{Aggregate: record.Run, ID: "r1", V: 7, Prev: "abc", Catalog: "sha256:1", T: 1_700_000_000_000, Engine: "e",
		In:     record.Input{ID: "i", Kind: record.InAttemptStart, By: "worker:<w>", Attempt: &record.Attempt{Task: "t", Worker: "w"}},
		Answer: record.Answer{Status: events.StatusApplied},
		Events: []record.Emitted{{Type: events.TaskStarted, Data: events.Happening{Run: "r1", State: "build"}}},
		State:  state}
}

func TestRecordIsStoredAsItsPlainJSON(t *testing.T) {
	for name, r := range map[string]*record.Record{"full": sample(), "without state": {Aggregate: record.Event, ID: "e", V: 1}} {
		got, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r.Format = record.FormatVersion
		want, _ := json.Marshal(r)
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		back, err := record.Decode(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Encode()
		if err != nil || string(again) != string(got) {
			t.Errorf("%s: read and stored again it is %s, %v", name, again, err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	r := sample()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
