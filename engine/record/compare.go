package record

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/penstock-cd/penstock/events"
)

// Outcome is what was decided in a transition.
type Outcome struct {
	Answer    Answer
	Decisions []Decision
	Events    []Emitted
	Tasks     []*events.Task
	State     any
}

// Differences tells in what a stored record differs from what deciding its
// input again gives. v is its version.
func Differences(stored []byte, v int64, again Outcome) (problems []string) {
	// As they are stored: decoded and encoded again, large numbers would not
	// be the same.
	var o struct {
		Answer    json.RawMessage `json:"ans"`
		Decisions json.RawMessage `json:"dec"`
		Events    json.RawMessage `json:"ev"`
		Tasks     json.RawMessage `json:"tasks"`
		State     json.RawMessage `json:"state"`
	}
	if err := json.Unmarshal(stored, &o); err != nil {
		return []string{fmt.Sprintf("record %d: %v", v, err)}
	}
	compare := func(what string, stored json.RawMessage, decided any, some bool) {
		if !some && stored == nil {
			return // nothing, as decided
		}
		var a bytes.Buffer
		errA := json.Compact(&a, stored)
		b, errB := json.Marshal(decided)
		if a := a.Bytes(); errA != nil || errB != nil || !bytes.Equal(a, b) {
			problems = append(problems, fmt.Sprintf("record %d: decided again, its %s differ: stored %s, again %s", v, what, excerpt(a, b), excerpt(b, a)))
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
