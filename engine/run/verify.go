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
		v.Problems = append(v.Problems, refold(prev, r, lookup)...)
		if prev, err = Load(r.State); err != nil {
			v.Problems = append(v.Problems, fmt.Sprintf("record %d: its state cannot be read: %v", i+1, err))
			break
		}
		if len(v.Problems) > 20 {
			v.Problems = append(v.Problems, "more problems follow; the rest was not looked at")
			break
		}
	}
	v.Head = head
	v.OK = len(v.Problems) == 0 && len(stored) > 0
	return v
}

// refold decides a record again and tells what differs.
func refold(prev *State, r *record.Record, lookup Lookup) []string {
	var s State
	if err := json.Unmarshal(r.State, &s); err != nil {
		return []string{fmt.Sprintf("record %d: its state cannot be read: %v", r.V, err)}
	}
	d, err := lookup(s.Catalog, r.Catalog, s.Workflow)
	if err != nil {
		return []string{fmt.Sprintf("record %d: its definitions are not there: %v", r.V, err)}
	}
	again := Step(d, prev, r.V, r.In, r.T)
	if !again.Record {
		return []string{fmt.Sprintf("record %d: decided again, its input changes nothing: %s", r.V, again.Answer.Reason)}
	}
	var problems []string
	compare := func(what string, stored, decided any) {
		a, errA := json.Marshal(stored)
		b, errB := json.Marshal(decided)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			problems = append(problems, fmt.Sprintf("record %d: decided again, its %s differ: stored %s, again %s", r.V, what, excerpt(a, b), excerpt(b, a)))
		}
	}
	compare("answer", r.Answer, again.Answer)
	compare("decisions", r.Decisions, again.Decisions)
	compare("events", r.Events, again.Events)
	compare("tasks", r.Tasks, again.Tasks)
	compare("state", r.State, again.State)
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
