// Package record is the form of what Penstock never loses: the record of one
// transition of one aggregate.
//
// An aggregate is a thing with a life of its own and a log subject of its own:
// a run, an environment, an incoming event. Its records have the versions
// 1..n without gap. Each holds its cause (Input), what was answered, what was
// decided and on which facts, what happened (Events), what is to be done
// (Commands) and the full new state, so that one message is the whole
// transition and the newest one is all that is needed to go on. Prev is the
// hash of the record before, so that a hole, a change or a lost tail shows.
//
// The stored form is JSON. Fields are added, never renamed or given another
// meaning; a record whose Format is higher than FormatVersion must stop its
// reader, never be skipped.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/events"
)

// FormatVersion is the newest form that this code reads and the one it writes.
const FormatVersion = 1

// Types of aggregates.
const (
	Run         = "run"
	Environment = "env"
	Event       = "event"
	Key         = "key"
	Schedule    = "schedule"
)

// Record is one transition as it is stored.
type Record struct {
	Format    int             `json:"f"`
	Aggregate string          `json:"agg"`
	ID        string          `json:"id"`
	V         int64           `json:"v"`
	Prev      string          `json:"prev,omitempty"` // Hash of version V-1; empty for 1
	T         int64           `json:"t"`              // logical time, milliseconds since 1970 UTC
	Summary   *Summary        `json:"h,omitempty"`    // of State; up to here it is the head
	Catalog   string          `json:"cat,omitempty"`  // digest of the definitions in force that it was decided with
	Engine    string          `json:"eng,omitempty"`  // instance that wrote it
	Core      int             `json:"core,omitempty"` // version of the core that decided it (run.CoreVersion)
	In        Input           `json:"in"`
	Answer    Answer          `json:"ans"`
	Decisions []Decision      `json:"dec,omitempty"`
	Events    []Emitted       `json:"ev,omitempty"`
	Tasks     []*events.Task  `json:"tasks,omitempty"` // to be published
	State     json.RawMessage `json:"state"`
}

// Answer is what the cause of a record was answered.
type Answer struct {
	Status string `json:"status"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Decision is a rule that was evaluated: on these inputs it gave this.
// Evaluated again on them, it must give the same.
type Decision struct {
	Rule   string `json:"rule"`            // where the rule stands: "states.verify.gate.tests.require"
	Source string `json:"src"`             // the expression
	Of     string `json:"of"`              // whose rule: "Workflow/checkout-release", "Environment/production"
	Inputs Values `json:"in,omitempty"`    // all that the expression reads, and no more
	Value  any    `json:"value,omitempty"` // nil when Error is set
	Error  string `json:"error,omitempty"`
}

// Emitted is an event as the core emits it. The relay makes the envelope: id
// and source are derived from the record, so a repeat is the same event.
type Emitted struct {
	Type string           `json:"type"`
	Data events.Happening `json:"data"`
}

// Send is a command from one aggregate to another. It stays in the sender's
// state until its answer is an input of the sender.
type Send struct {
	To    string `json:"to"` // type of the aggregate
	ID    string `json:"id"` // its identity
	Input Input  `json:"in"`
}

// Hash is the identity of a stored record: the hex sha256 of its bytes.
func Hash(stored []byte) string {
	h := sha256.Sum256(stored)
	return hex.EncodeToString(h[:])
}

// Encode gives the stored form. State, which is the largest part, is JSON
// already, as its AppendJSON or json.Marshal gives it, and is put in as it is.
func (r *Record) Encode() ([]byte, error) {
	r.Format = FormatVersion
	return r.AppendJSON(make([]byte, 0, 1024+2*len(r.State)))
}

// Decode reads a stored record.
func Decode(p []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if r.Format < 1 || r.Format > FormatVersion {
		return nil, &FormatError{Aggregate: r.Aggregate, ID: r.ID, Format: r.Format}
	}
	return &r, nil
}

// FormatError is a record of a form that this code does not know. Its
// partition must stop: whoever wrote it knew something that we do not.
type FormatError struct {
	Aggregate, ID string
	Format        int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("record of %s %s has form %d, this version of Penstock reads up to %d; run the newer version", e.Aggregate, e.ID, e.Format, FormatVersion)
}

// Derive gives an identifier that depends on parts only: 16 characters of
// lower-case base32 without look-alikes.
//
// Different parts give different identifiers, wherever one ends.
func Derive(parts ...any) string {
	var room [256]byte
	b := room[:0]
	for _, p := range parts {
		switch x := p.(type) {
		case string:
			b = appendPart(b, x)
		case int:
			b = strconv.AppendInt(b, int64(x), 10)
		case int64:
			b = strconv.AppendInt(b, x, 10)
		default:
			b = appendPart(b, fmt.Sprint(p))
		}
		b = append(b, 0)
	}
	sum := sha256.Sum256(b)
	out := make([]byte, derivedLength)
	for i := range out {
		out[i] = derivedAlphabet[sum[i]&31]
	}
	return string(out)
}

// appendPart appends a part so that its end does not stand in it.
func appendPart(b []byte, part string) []byte {
	for i := range len(part) {
		switch c := part[i]; c {
		case 0:
			b = append(b, 1, 2)
		case 1:
			b = append(b, 1, 1)
		default:
			b = append(b, c)
		}
	}
	return b
}

const (
	derivedLength   = 16
	derivedAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
)

// IsDerived reports whether a text has the form of what Derive gives.
func IsDerived(s string) bool {
	return len(s) == derivedLength && strings.Trim(s, derivedAlphabet) == ""
}
