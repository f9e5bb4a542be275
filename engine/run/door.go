package run

import "github.com/penstock-cd/penstock/engine/record"

// environmentState takes what an environment says of itself: whether it lets
// anything in, or that its window has ended.
func (x *step) environmentState(*record.EnvState) {
	x.unrecorded("stale", "", "the run does not ask for it")
}

// proven takes the answer to the question whether an artifact succeeded in the
// environment that another one promotes from.
func (x *step) proven(*record.Proof) { x.unrecorded("stale", "", "the run does not ask for it") }
