package run

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Lookup gives the definitions that a record was decided with: the catalog
// that the run was started with and the one in force at the record.
type Lookup func(started, inForce, workflow string) (Definitions, error)

// Verify refolds a run from its stored records, oldest first: versions are
// without gap, each record names the hash of the one before, and the same
// definitions, state and input give the same decisions, events, tasks and
// state again. All rules are thereby evaluated again on their recorded inputs.
func Verify(id string, stored [][]byte, lookup Lookup) events.Verification {
	v := events.Verification{Run: id, Records: len(stored)}
	var prev *State
	head := ""
	for i, p := range stored {
		r, err := record.Decode(p)
		if err != nil {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: %v", i+1, err))
			break
		}
		if r.Aggregate != record.Run || r.ID != id {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: it is of %s %s", i+1, r.Aggregate, r.ID))
		}
		if r.V != int64(i+1) {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: it has version %d: records are missing or out of order", i+1, r.V))
		}
		if r.Prev != head {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: it follows the hash %.12s, but the record before has %.12s: one of them was changed", i+1, r.Prev, head))
		}
		head = record.Hash(p)
		v.Decisions += len(r.Decisions)
		s, err := Load(r.State)
		if err != nil {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: its state cannot be read: %v", i+1, err))
			break
		}
		differ := refold(prev, s, r, p, lookup)
		if len(differ) > 0 && r.Core != CoreVersion {
			differ = append(differ, fmt.Sprintf("record %d: it says that version %d of the core decided it, and this is version %d: verify it with the Penstock of that version", r.V, r.Core, CoreVersion))
		}
		v.Problems = append(v.Problems, differ...)
		prev = s
		if len(v.Problems) > 20 {
			v.Problems = append(v.Problems, "more problems follow; the rest was not looked at")
			break
		}
	}
	v.Head = head
	v.OK = len(v.Problems) == 0 && len(stored) > 0
	return v
}

// outcome is what a record says was decided, as it is stored: decoded and
// encoded again, large numbers would not be the same.
type outcome struct {
	Answer    json.RawMessage `json:"ans"`
	Decisions json.RawMessage `json:"dec"`
	Events    json.RawMessage `json:"ev"`
	Tasks     json.RawMessage `json:"tasks"`
	State     json.RawMessage `json:"state"`
}

// refold decides a record again and tells what differs.
func refold(prev, s *State, r *record.Record, stored []byte, lookup Lookup) (problems []string) {
	defer func() {
		if p := recover(); p != nil { // a state that was changed may be one that cannot be
			problems = append(problems, fmt.Sprintf("record %d: it cannot be decided again: %v", r.V, p))
		}
	}()
	var o outcome
	if err := json.Unmarshal(stored, &o); err != nil {
		return []string{fmt.Sprintf("record %d: %v", r.V, err)}
	}
	d, err := lookup(s.Catalog, r.Catalog, s.Workflow)
	if err != nil {
		return []string{fmt.Sprintf("record %d: its definitions are not there: %v", r.V, err)}
	}
	again := Step(d, prev, r.V, r.In, r.T)
	if !again.Record {
		return []string{fmt.Sprintf("record %d: decided again, its input changes nothing: %s", r.V, again.Answer.Reason)}
	}
	if r.T != s.Now {
		problems = append(problems, fmt.Sprintf("record %d: it says that it was made at %d, its state at %d", r.V, r.T, s.Now))
	}
	compare := func(what string, stored json.RawMessage, decided any, some bool) {
		if !some && stored == nil {
			return // nothing, as decided
		}
		var a bytes.Buffer
		errA := json.Compact(&a, stored)
		b, errB := json.Marshal(decided)
		if a := a.Bytes(); errA != nil || errB != nil || !bytes.Equal(a, b) {
			problems = append(problems, fmt.Sprintf("record %d: decided again, its %s differ: stored %s, again %s", r.V, what, excerpt(a, b), excerpt(b, a)))
		}
	}
	compare("answer", o.Answer, again.Answer, true)
	compare("decisions", o.Decisions, again.Decisions, len(again.Decisions) > 0)
	compare("events", o.Events, again.Events, len(again.Events) > 0)
	compare("tasks", o.Tasks, again.Tasks, len(again.Tasks) > 0)
	compare("state", o.State, again.State, true)
	return problems
}

// excerpt is the part of a around the first difference from b.
func excerpt(a, b []byte) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from, to := max(0, i-40), min(len(a), i+60)
	return fmt.Sprintf("…%s…", a[from:to])
}
