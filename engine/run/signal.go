package run

import "github.com/penstock-cd/penstock/engine/record"

// signal takes an event that came while the run listens for it.
func (x *step) signal(*record.Signal) {
	x.unrecorded("stale", "", "the run does not listen for it")
}
