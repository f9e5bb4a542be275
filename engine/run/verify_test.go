package run_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// story is a run with decisions of every sort, to its end.
func story(t *testing.T) *world {
	w := newWorld(t, simCatalogs(t)[0], "road")
	w.start("marta", nil)
	do := func(path string, authors bool) {
		task := w.tasks[path][len(w.tasks[path])-1].ID
		w.take(task, "w1")
		r := result(events.Succeeded)
		if authors {
			r.Facts["authors"] = []any{"ana@acme.example"}
		}
		w.finish(task, "w1", r)
		w.answerAll()
	}
	do("build", true)
	w.grant("staging", 1)
	do("verify.test", false)
	do("verify.scan", false)
	do("staging", false)
	do("smoke", false)
	w.decide("1", "ana", events.Approve, events.Decide{Content: w.content()})
	w.decide("2", "li", events.Approve, events.Decide{Content: w.content()})
	w.decide("3", "jonas", events.Approve, events.Decide{Content: w.content()})
	w.grant("guarded", 4)
	do("production", false)
	w.grant("staging", 9)
	do("finally.1", false)
	if !w.state.Done() || w.state.Outcome != events.Succeeded {
		t.Fatalf("the story does not come to its end: %s %s, waits %+v", w.state.At, w.state.Outcome, w.why())
	}
	return w
}

func TestRecordsVerify(t *testing.T) {
	w := story(t)
	v := run.Verify(w.id, w.stored, w.lookup)
	if !v.OK || v.Records != len(w.stored) || v.Head != record.Hash(w.stored[len(w.stored)-1]) || v.Decisions < 10 {
		t.Fatalf("verification: %+v", v)
	}
}

func TestAMissingOrMovedRecordIsFound(t *testing.T) {
	w := story(t)
	for i := range w.stored {
		gone := slices.Delete(slices.Clone(w.stored), i, i+1)
		v := run.Verify(w.id, gone, w.lookup)
		if last := i == len(w.stored)-1; v.OK && !last || last && v.Head == record.Hash(w.stored[i]) {
			t.Errorf("record %d was taken out, and nobody noticed", i+1)
		}
		if i > 0 {
			swapped := slices.Clone(w.stored)
			swapped[i], swapped[i-1] = swapped[i-1], swapped[i]
			if run.Verify(w.id, swapped, w.lookup).OK {
				t.Errorf("records %d and %d were swapped, and nobody noticed", i, i+1)
			}
		}
		if run.Verify(w.id, slices.Insert(slices.Clone(w.stored), i, w.stored[i]), w.lookup).OK {
			t.Errorf("record %d stands there twice, and nobody noticed", i+1)
		}
	}
	if run.Verify("other", w.stored, w.lookup).OK {
		t.Error("the records of another run verify")
	}
	if run.Verify(w.id, nil, w.lookup).OK {
		t.Error("nothing verifies")
	}
}

// leaf is a value in a decoded record, with its place.
type leaf struct {
	path string
	set  func(any)
	old  any
}

func leaves(path string, v any, set func(any)) (out []leaf) {
	switch x := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(x) {
			out = append(out, leaves(path+"."+k, x[k], func(n any) { x[k] = n })...)
		}
		return out
	case []any:
		for i := range x {
			out = append(out, leaves(fmt.Sprintf("%s[%d]", path, i), x[i], func(n any) { x[i] = n })...)
		}
		return out
	}
	return []leaf{{path, set, v}}
}

// changed is another value of the same sort.
func changed(v any) any {
	switch x := v.(type) {
	case string:
		return x + "x"
	case bool:
		return !x
	case json.Number:
		if x == "0" { // no number begins with a zero
			return json.Number("1")
		}
		return json.Number(x.String() + "1")
	}
	return "x"
}

func decodeAny(t *testing.T, p []byte) map[string]any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAForgedRecordIsFound changes one value of one record, and chains the
// records after it anew as a forger would. What was answered, decided, told
// and published, and the state, are found to be different when decided again.
func TestAForgedRecordIsFound(t *testing.T) {
	w := story(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range 100 {
		i := rnd.IntN(len(w.stored))
		m := decodeAny(t, w.stored[i])
		all := slices.DeleteFunc(leaves("", m, nil), func(l leaf) bool {
			section, _, _ := strings.Cut(strings.TrimPrefix(l.path, "."), ".")
			section, _, _ = strings.Cut(section, "[")
			return !slices.Contains([]string{"v", "id", "agg", "cat", "t", "ans", "dec", "ev", "tasks", "state"}, section)
		})
		l := all[rnd.IntN(len(all))]
		l.set(changed(l.old))
		p, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if v := run.Verify(w.id, rechained(t, w.stored, i, p), w.lookup); v.OK {
			t.Fatalf("seed %d: record %d, %s was changed from %v to %v, and nobody noticed", seed, i+1, l.path, l.old, changed(l.old))
		}
	}
}

// rechained puts p in the place of record i and gives those after it the
// hashes that fit.
func rechained(t *testing.T, stored [][]byte, i int, p []byte) [][]byte {
	t.Helper()
	out := slices.Clone(stored)
	out[i] = p
	for j := i + 1; j < len(out); j++ {
		old, head := record.Hash(stored[j-1]), record.Hash(out[j-1])
		out[j] = bytes.Replace(out[j], []byte(old), []byte(head), 1)
	}
	return out
}

// TestAnyOtherByteIsFound changes one byte anywhere: the chain breaks, or the
// head is not the one that was known.
func TestAnyOtherByteIsFound(t *testing.T) {
	w := story(t)
	head := run.Verify(w.id, w.stored, w.lookup).Head
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 3))
	for range 60 {
		i := rnd.IntN(len(w.stored))
		p := bytes.Clone(w.stored[i])
		p[rnd.IntN(len(p))] ^= byte(1 + rnd.IntN(255))
		forged := slices.Clone(w.stored)
		forged[i] = p
		if v := run.Verify(w.id, forged, w.lookup); v.OK && (i < len(w.stored)-1 || v.Head == head) {
			t.Fatalf("seed %d: a byte of record %d was changed, and nobody noticed", seed, i+1)
		}
	}
}

func TestLargeNumbersVerify(t *testing.T) {
	w := newWorld(t, simCatalogs(t)[0], "cross")
	w.start("marta", nil)
	w.answerAll()
	w.grant("production", 1<<60+1)
	task := w.tasks["both.b"][0].ID
	w.take(task, "w1")
	r := result(events.Succeeded)
	r.Outputs["size"], r.Outputs["ratio"] = 9007199254740991, 1e300
	w.finish(task, "w1", r)
	w.verify()
}

func TestADifferenceNamesTheVersionOfTheCoreThatDecided(t *testing.T) {
	w := story(t)
	r, err := record.Decode(w.stored[1])
	if err != nil {
		t.Fatal(err)
	}
	r.Core, r.Answer.Reason = run.CoreVersion+7, "in other words"
	p, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v := run.Verify(w.id, rechained(t, w.stored, 1, p), w.lookup)
	if v.OK || !strings.Contains(strings.Join(v.Problems, "\n"), fmt.Sprintf("version %d of the core decided it", run.CoreVersion+7)) {
		t.Errorf("%+v", v)
	}
}
