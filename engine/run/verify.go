package run

import (
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
		differ := Refold(prev, s, r, p, lookup)
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

// Refold decides a record of a run again and tells what differs. prev is the
// state before it, nil for the first; s is its own state.
func Refold(prev, s *State, r *record.Record, stored []byte, lookup Lookup) (problems []string) {
	defer func() {
		if p := recover(); p != nil { // a state that was changed may be one that cannot be
			problems = append(problems, fmt.Sprintf("record %d: it cannot be decided again: %v", r.V, p))
		}
	}()
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
	return append(problems, record.Differences(stored, r.V, record.Outcome{Answer: again.Answer, Decisions: again.Decisions,
		Events: again.Events, Tasks: again.Tasks, State: again.State})...)
}
