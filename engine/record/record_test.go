package record_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/penstock-cd/penstock/engine/record"
)

func TestValuesKeepTheirTypes(t *testing.T) {
	v := record.Values{
		"int": int64(3), "big": int64(math.MaxInt64), "small": int64(math.MinInt64), "whole": 3.0, "half": 0.5, "huge": 1e300, "tiny": 5e-324,
		"minus": math.Copysign(0, -1), "inf": math.Inf(1), "less": math.Inf(-1), "nan": math.NaN(), "yes": true, "nil": nil, "text": "<&>\u2028\x00",
		"time": time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), "took": 90 * time.Second,
		"list": []any{int64(1), 1.0, "x", nil, []any{}, map[string]any{}}, "empty": map[string]any{},
		"$time": "2026-01-02T03:04:05Z", "trap": map[string]any{"$time": "2026-01-02T03:04:05Z"}, "$$x": map[string]any{"$double": "NaN"},
	}
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got record.Values
	if err := json.Unmarshal(p, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(v, got, cmpopts.EquateNaNs()); d != "" {
		t.Errorf("stored and read again (-stored +read):\n%s", d)
	}
	if again, _ := json.Marshal(got); !bytes.Equal(p, again) {
		t.Errorf("stored twice: %s, then %s", p, again)
	}
	if math.Signbit(got["minus"].(float64)) != true {
		t.Error("-0.0 has lost its sign")
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `{"$time":"2026-01-02T03:04:05Z"}`, `{"a":{"$time":"2026-01-02T03:04:05.1Z"},"b":[1,1.0,1e999,-0,-0.0]}`,
		`{"a":{"$double":"NaN"},"$$":{"$duration":"1s"},"é":"\ud800"}`, `[]`, `{"a":18446744073709551616}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var v record.Values
		if json.Unmarshal(p, &v) != nil {
			return
		}
		once, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("what was read cannot be stored: %v", err)
		}
		var w record.Values
		if err := json.Unmarshal(once, &w); err != nil {
			t.Fatalf("what was stored cannot be read: %s: %v", once, err)
		}
		if d := cmp.Diff(v, w, cmpopts.EquateNaNs()); d != "" {
			t.Fatalf("stored and read again (-stored +read):\n%s", d)
		}
		record.Plain(map[string]any(v))
		record.Text(map[string]any(v.Clone()))
	})
}

func FuzzDecodeRecord(f *testing.F) {
	r := sample()
	p, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte(`{"f":1,"in":{"start":{"inputs":{"$time":"2026-01-02T03:04:05Z"}}},"state":null}`))
	f.Add([]byte(`{"f":2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := record.Decode(p)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			return // an envelope within that is none, such as a time beyond the year 9999
		}
		if _, err := record.Decode(again); err != nil {
			t.Fatalf("a record that was read and stored cannot be read: %v", err)
		}
	})
}

func TestARecordIsReadAsItWasStored(t *testing.T) {
	r := sample()
	p, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := record.Decode(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(p, again) {
		t.Errorf("stored as %s, then as %s (%v)", p, again, err)
	}
	if len(record.Hash(p)) != 64 || record.Hash(p) == record.Hash(append(p, ' ')) {
		t.Error("the hash does not tell records apart")
	}
}

func TestAnUnknownFormStopsTheReader(t *testing.T) {
	_, err := record.Decode([]byte(`{"f":2,"agg":"run","id":"r9"}`))
	var format *record.FormatError
	if !errors.As(err, &format) || format.Format != 2 || format.ID != "r9" || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("form 2: %v", err)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"f":0}`, `{"f":"1"}`} {
		if _, err := record.Decode([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestIdentifiersDependOnTheirPartsAlone(t *testing.T) {
	if a, b := record.Derive("run", "s", "1", "w", 0), record.Derive("run", "s", "1", "w", 0); a != b || len(a) != 16 {
		t.Errorf("the same parts give %s and %s", a, b)
	}
	seen := map[string][]any{}
	for _, parts := range [][]any{{"a", "b"}, {"ab"}, {"a\x00b"}, {"a\x00", "b"}, {"a", "\x00b"}, {"a\x01", "b"}, {"a", "\x01b"}, {"a\x01\x02b"}, {"a", "b", ""}, {"", "a", "b"}, {}} {
		id := record.Derive(parts...)
		if other, there := seen[id]; there {
			t.Errorf("%q and %q give the same identifier", other, parts)
		}
		seen[id] = parts
	}
}

func TestCutGivesWhatIsReadAndChangesNothing(t *testing.T) {
	scope := func() map[string]any {
		return map[string]any{"a": map[string]any{"b": map[string]any{"c": int64(1), "d": int64(2)}, "e": "x"}, "f": int64(3), "g": []any{int64(1)}}
	}
	for _, c := range []struct {
		name string
		refs [][]string
		want record.Values
	}{
		{"nothing", nil, record.Values{}},
		{"a name", [][]string{{"f"}}, record.Values{"f": int64(3)}},
		{"a chain", [][]string{{"a", "b", "c"}}, record.Values{"a": map[string]any{"b": map[string]any{"c": int64(1)}}}},
		{"two chains", [][]string{{"a", "b", "c"}, {"a", "e"}}, record.Values{"a": map[string]any{"b": map[string]any{"c": int64(1)}, "e": "x"}}},
		{"long, then short", [][]string{{"a", "b", "c"}, {"a", "b"}}, record.Values{"a": map[string]any{"b": map[string]any{"c": int64(1), "d": int64(2)}}}},
		{"short, then long", [][]string{{"a", "b"}, {"a", "b", "c", "z"}, {"a", "b", "zz"}}, record.Values{"a": map[string]any{"b": map[string]any{"c": int64(1), "d": int64(2)}}}},
		{"twice", [][]string{{"a", "e"}, {"a", "e"}}, record.Values{"a": map[string]any{"e": "x"}}},
		{"whole and part", [][]string{{"a", "b", "c"}, {"a"}}, record.Values{"a": scope()["a"]}},
		{"through a value", [][]string{{"f", "x"}, {"f", "y"}}, record.Values{"f": int64(3)}},
		{"not there", [][]string{{"a", "zz"}, {"zz", "b"}}, record.Values{"a": map[string]any{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scope()
			got := record.Cut(func(n string) (any, bool) { v, ok := s[n]; return v, ok }, c.refs)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if d := cmp.Diff(scope(), s); d != "" {
				t.Errorf("the scope was changed:\n%s", d)
			}
		})
	}
}

func TestCloneSharesNothing(t *testing.T) {
	v := record.Values{"m": map[string]any{"l": []any{int64(1)}}}
	c := v.Clone()
	c["m"].(map[string]any)["l"].([]any)[0] = int64(2)
	if v["m"].(map[string]any)["l"].([]any)[0] != int64(1) {
		t.Error("a change of the clone is a change of the original")
	}
	if record.Values(nil).Clone() != nil {
		t.Error("the clone of nothing is something")
	}
}

func TestOnlyFiniteNumbersArePlain(t *testing.T) {
	for _, v := range []any{nil, 1.5, int64(1), "x", []any{map[string]any{"a": 1.0}}} {
		if !record.Plain(v) {
			t.Errorf("%v is not plain", v)
		}
	}
	for _, v := range []any{math.NaN(), math.Inf(1), []any{map[string]any{"a": math.Inf(-1)}}} {
		if record.Plain(v) {
			t.Errorf("%v is plain", v)
		}
	}
}

func TestAnInputIsCompleteWithTheFieldOfItsKind(t *testing.T) {
	for _, kind := range []string{record.InStart, record.InAttemptStart, record.InAttemptFinish, record.InAttemptLost, record.InDecide, record.InCancel,
		record.InGranted, record.InFreed, record.InSendAnswer, record.InEnvRequest, record.InEnvRelease} {
		if (&record.Input{Kind: kind}).Complete() {
			t.Errorf("%s is complete without anything", kind)
		}
	}
	for _, kind := range []string{record.InTimer, record.InEnvFree} {
		if !(&record.Input{Kind: kind}).Complete() {
			t.Errorf("%s needs nothing more", kind)
		}
	}
}

func TestTextIsForPeople(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{{nil, "null"}, {"a b", "a b"}, {true, "true"}, {int64(3), "3"}, {0.5, "0.5"}, {[]any{"a", int64(1)}, `["a",1]`}, {map[string]any{"a": 1.5}, `{"a":1.5}`},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05Z"}} {
		if got := record.Text(c.v); got != c.want {
			t.Errorf("%v is %q, want %q", c.v, got, c.want)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	p, err := sample().Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Decode(p); err != nil {
			b.Fatal(err)
		}
	}
}
