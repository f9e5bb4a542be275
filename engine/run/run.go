// Package run is the pure core: what a run of a workflow does next.
//
//	Step(definitions, state, input) → transition
//
// It knows no clock, no input or output, no goroutine, no random number and
// no map order. Time comes in with the input and never runs backwards.
// Identifiers are derived from the run. The same definitions, state and input
// give the same transition, so replay is a fold, and everything that explains
// or tests a workflow stands on this package.
//
// What it promises:
//
//   - A state is left by one arm: the first whose outcome and condition fit.
//     A condition that cannot be evaluated holds the run there; it never
//     counts as false and never passes.
//   - An attempt of a task is granted once, to the first worker that asks, or,
//     where workers may begin without asking, that reports a result.
//     A report about an attempt that is not current changes nothing.
//   - A person fills one seat of a quorum. Excluded people, people without
//     permission, decisions on something else than what is open now, late and
//     repeated ones are refused, and the refusal is recorded with its reason.
//   - An environment's own rules must hold before anything enters it, and
//     once more when its lock is granted.
//   - A cancel always ends: what runs is told to stop and given up after a while.
//   - The lock of an environment is given back when what runs there succeeded
//     or was undone, and kept when nobody knows (a person then frees it). A
//     grant that was given back is never taken again.
//   - A run that begins again keeps its identity, its definition and its
//     results; nothing that was reported before is taken for what is done anew.
//   - A run that has not ended waits for something that Why names.
//
// docs/semantics.md has the rules, each with the transcript that shows it. One
// file for each: step.go takes inputs apart, flow.go walks states, task.go has
// attempts, join.go parallel states, foreach.go members, wait.go sleeps, signal.go
// events, child.go runs of other workflows, key.go concurrency keys, pause.go,
// cancel.go and again.go commands, invariant.go what must never be, lock.go, door.go, rules.go and glass.go environments, approval.go,
// decide.go, quorum.go, content.go and remind.go people, gate.go gates,
// notify.go notifications, scope.go what expressions see, why.go and its
// neighbours what a run waits for and why a record says what it says, view.go
// what people see of it, verify.go the audit of records.
package run

import (
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Definitions are what a step is decided by: the workflow and the task kinds
// that the run was started with, and the definitions in force now, of which
// environments, roles and channels are read.
type Definitions struct {
	Workflow *workflows.Workflow
	Kinds    map[string]*workflows.TaskKind
	Now      *workflows.Catalog
}

// Transition is what a step decided. With Record false nothing changed and
// nothing is to be stored: a repeat, or a question about something unknown.
type Transition struct {
	Record    bool
	Answer    record.Answer
	At        int64 // version of the record that Answer stands in, for a repeat
	Decisions []record.Decision
	Events    []record.Emitted
	Tasks     []*events.Task
	State     *State
}

// CoreVersion is the version of what the core decides. It grows with every
// change by which the same definitions, state and input give another
// transition, texts included: a run that an older one decided is verified by
// that one.
const CoreVersion = 4

// Periods that no definition sets.
const (
	Heartbeat         = 5 * time.Second  // how often workers report
	HeartbeatTimeout  = 20 * time.Second // without one for so long, a worker is lost
	cancelPatience    = 60 * time.Second // a cancelled task that does not end is given up
	commandValidity   = 15 * time.Minute // people's commands are remembered so long, and none is valid longer
	defaultBackoff    = 2 * time.Second
	defaultMaxBackoff = 5 * time.Minute
	lostAttempts      = 3         // attempts of a repeatable task whose workers are lost, where nothing else is said
	noticeAttempts    = 5         // attempts of a notification
	statusAttempts    = 5         // questions about what became of a lost attempt
	notTakenNotice    = time.Hour // a notification that no worker took by then has failed
	maxSteps          = 200       // states entered in one step; more is a loop that waits for nothing
	maxSeen           = 400       // commands of people that are remembered, while they could be repeated
	maxSeenOf         = 100       // and those of one person
	maxSaid           = 100       // words of people about one approval; more are kept where they are of as many people
	maxEnded          = 32        // attempts whose repeated result is recognised
	maxPath           = 32        // visits kept in the state, besides the latest one of each state; all are in the records
	maxGiven          = 20        // approvals of one state that are kept
)
