package env

import "github.com/penstock-cd/penstock/engine/record"

// Summary is what stands of the state in the head of its record. There are
// few environments, and all of each is looked at.
func (e *Environment) Summary() record.Summary {
	return record.Summary{Due: e.NextDeadline(), Busy: true}
}

// Summary is what stands of the state in the head of its record.
func (e *Event) Summary() record.Summary { return record.Summary{Busy: len(e.Messages()) > 0} }

// Summary is what stands of the state in the head of its record.
func (k *Key) Summary() record.Summary { return record.Summary{Busy: len(k.Messages()) > 0} }

// Summary is what stands of the state in the head of its record.
func (s *Schedule) Summary() record.Summary {
	return record.Summary{Due: s.NextDeadline(), Busy: len(s.Messages()) > 0}
}
