package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Catalogs gives definitions by digest.
type Catalogs interface {
	ByDigest(digest string) (*workflows.Catalog, error)
}

// folded is an aggregate as far as its records were folded.
type folded struct {
	v     int64
	hash  [sha256.Size]byte
	seq   uint64
	t     int64  // logical time of the last record
	at    uint64 // message of the audit log that has the last record; 0 when LOG has it
	state any
	known bool // state is that after v
	over  bool // it has ended, and may begin again; its state is not kept

	excused string // the next record need not follow, because of this
	lost    bool   // all that was folded is not in LOG any more, which is written down
}

// fold decides the next record of an aggregate again and compares. before is
// what its earlier records gave; the zero value when there is none, and one
// with a version and without a state when the state before is not known. It
// gives the number of rules that were evaluated, and problems; after any of
// them the record is taken as it is.
func fold(before folded, seq uint64, subject string, stored []byte, defs Catalogs) (after folded, decisions int, problems []problem) {
	r, err := record.Decode(stored)
	if err != nil {
		before.known, before.state, before.seq = false, nil, seq
		return before, 0, []problem{{grave: true, text: err.Error()}}
	}
	wrong := func(format string, args ...any) {
		problems = append(problems, problem{grave: true, text: fmt.Sprintf(format, args...)})
	}
	after = folded{v: r.V, hash: sha256.Sum256(stored), seq: seq, t: r.T, known: true}
	if events.LogSubject(r.Aggregate, r.ID) != subject {
		wrong("record %d is of %s %s and stands on another's subject", r.V, r.Aggregate, r.ID)
	}
	switch {
	case before.v == 0 && r.V == 1 && r.Prev == "":
	case r.V != before.v+1 && (before.v > 0 || before.known):
		wrong("version %d follows version %d: records are missing or out of order", r.V, before.v)
		before.known = false
	case r.V != before.v+1: // its beginning is elsewhere
		before.known = false
	case r.Prev != hex.EncodeToString(before.hash[:]):
		wrong("record %d follows the hash %.12s, but the record before has %s: one of them was changed", r.V, r.Prev, hex.EncodeToString(before.hash[:6]))
		before.known = false
	}
	state, err := load(r)
	if err != nil {
		after.known = false
		wrong("record %d: its state cannot be read: %v", r.V, err)
		return after, 0, problems
	}
	after.state, after.over = state, over(state)
	if before.known || r.V == 1 {
		for _, text := range again(before.state, state, r, stored, defs) {
			problems = append(problems, problem{grave: r.Core == run.CoreVersion, text: text})
		}
		if len(problems) > 0 && r.Core != run.CoreVersion {
			problems = append(problems, problem{text: fmt.Sprintf("record %d: it says that version %d of the core decided it, and this is version %d: verify it with the Penstock of that version", r.V, r.Core, run.CoreVersion)})
		}
		decisions = len(r.Decisions)
	}
	return after, decisions, problems
}

// load reads the state of a record.
func load(r *record.Record) (any, error) {
	switch r.Aggregate {
	case record.Run:
		return run.Load(r.State)
	case record.Environment:
		return env.LoadEnvironment(r.State)
	case record.Event:
		return env.LoadEvent(r.State)
	case record.Key:
		return env.LoadKey(r.State)
	case record.Schedule:
		return env.LoadSchedule(r.State)
	}
	return nil, fmt.Errorf("there are no aggregates of type %q", r.Aggregate)
}

// over reports whether an aggregate has come to its end, so that records of it
// need not stay in LOG.
func over(state any) bool {
	switch s := state.(type) {
	case *run.State:
		return s.Done() && s.Idle()
	case *env.Event:
		return len(s.Messages()) == 0
	}
	return false
}

// again decides a record again and tells what differs.
func again(before, state any, r *record.Record, stored []byte, defs Catalogs) (problems []string) {
	defer func() {
		if p := recover(); p != nil { // a state that was changed may be one that cannot be
			problems = append(problems, fmt.Sprintf("record %d: it cannot be decided again: %v", r.V, p))
		}
	}()
	if r.Aggregate == record.Run {
		prev, _ := before.(*run.State)
		return run.Refold(prev, state.(*run.State), r, stored, lookup(defs))
	}
	var cat *workflows.Catalog
	if r.Aggregate != record.Key {
		var err error
		if cat, err = defs.ByDigest(r.Catalog); err != nil {
			return []string{fmt.Sprintf("record %d: its definitions are not there: %v", r.V, err)}
		}
	}
	var t env.Transition
	switch r.Aggregate {
	case record.Environment:
		prev, _ := before.(*env.Environment)
		t = env.StepEnvironment(cat, r.ID, prev, r.V, r.In, r.T)
	case record.Event:
		prev, _ := before.(*env.Event)
		t = env.StepEvent(cat, prev, r.V, r.In, r.T)
	case record.Key:
		prev, _ := before.(*env.Key)
		t = env.StepKey(r.ID, prev, r.In, r.T)
	case record.Schedule:
		prev, _ := before.(*env.Schedule)
		t = env.StepSchedule(cat, r.ID, prev, r.V, r.In, r.T)
	}
	if !t.Record {
		return []string{fmt.Sprintf("record %d: decided again, its input changes nothing: %s", r.V, t.Answer.Reason)}
	}
	return record.Differences(stored, r.V, record.Outcome{Answer: t.Answer, Decisions: t.Decisions, Events: t.Events, State: t.State})
}

// lookup finds what a run is decided by.
func lookup(defs Catalogs) run.Lookup {
	return func(started, inForce, workflow string) (run.Definitions, error) {
		pinned, err := defs.ByDigest(started)
		if err != nil {
			return run.Definitions{}, err
		}
		now, err := defs.ByDigest(inForce)
		if err != nil {
			return run.Definitions{}, err
		}
		wf := pinned.Workflows[workflow]
		if wf == nil {
			return run.Definitions{}, errors.New("definitions " + started + " have no workflow " + workflow)
		}
		return run.Definitions{Workflow: wf, Kinds: pinned.Kinds, Now: now}, nil
	}
}
