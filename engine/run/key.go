package run

import "github.com/penstock-cd/penstock/engine/record"

// keyGranted takes the concurrency key: the run goes on.
func (x *step) keyGranted(*record.Claim) { x.unrecorded("stale", "", "the run does not wait for it") }

// keyDenied ends a run that does not get its concurrency key.
func (x *step) keyDenied(*record.Claim) { x.unrecorded("stale", "", "the run does not wait for it") }
