// Package scenario plays scenarios: tests of a workflow on the real core, in
// virtual time.
//
//	Play(definitions, scenario) → result
//
// It is as pure as the core: no clock, no input or output, no goroutine, no
// random number. Time is a number that jumps from one thing to the next, so a
// day of waiting takes microseconds, and the same scenario gives the same
// result for ever.
//
// # The world
//
// A world is small: one run with the runs that it starts, and the
// environments, concurrency keys and events that it talks to. Each of them is
// the aggregate that the engine has (packages run and env), stepped with the
// inputs that the engine would give it. Nothing here knows what a state does:
// what the core publishes is answered, what it sends to others is delivered
// and answered at once, what it waits for comes when its deadline does.
//
// The clock starts at spec.start, and all times of a scenario count from
// there. What happens at the same moment happens in this order: reports of
// workers, events, people and holds, deadlines; of two of a sort the one that
// stands first.
//
// # Workers
//
// There is always a worker that takes a task at once. What it answers stands
// under spec.tasks at the path of the work: "build", "verify.test" for a
// branch, "rollout.eu" for a member, "undo.production", "finally.1"; for a run
// that another one starts the path of the state that waits for it, a dot, and
// the path in there. The answers of a path are used in order, one for each
// attempt or question what became of one; each is used as often as its times
// says, and the last one repeats.
//
//   - A task without an answer succeeds at once.
//   - Outputs that a successful answer leaves out get plausible values: an
//     input of the same name, else the text "path.name" for a string, 0, false,
//     an empty list or map for the others; an optional one is left out. A
//     deployment knows what was deployed before, and the baseline of a sample
//     is its value. An output that is given as null is not there.
//   - after is how long it works. One that would work longer than its timeout
//     ends itself at the timeout, timed out, as timesOut does.
//   - neverStarts: no worker takes it. workerLost: one takes it and is not
//     heard of again; when that is found out is for the engine to say.
//   - A worker that is told to stop has stopped at once, and a deployment that
//     is stopped or runs out of time has been undone, as workers promise.
//   - Notifications are delivered.
//
// The first report of a worker to a run carries facts.authors and
// facts.attestations, if they are given: until then, or without them, nobody
// knows who wrote the change. A name that is no user's is one nevertheless.
//
// # People and events
//
// A person decides on what is shown at that moment. An act is expected to be
// accepted unless it says expect: refused; what is refused makes no difference
// to the run, as ever.
//
// The run is started by facts.requestedBy, who needs the permission; without
// it, or with "event:<source>", an event has started it. With trigger it is an
// event that stands in the scenario, and a trigger of the workflow decides.
//
// # The end
//
// A world goes on until its run has ended and nothing is under way, or until
// nothing more can happen: then the run waits, and the result says for what. It
// is also left when a thousand deadlines in a row have moved nothing, which is
// how reminders of an approval that never expires look.
//
// Expectations that are left out may be anything. Times are compared to the
// second, where they are given in whole seconds.
package scenario

import (
	"errors"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Bounds of a world.
const (
	maxInputs = 20_000 // given to its aggregates
	maxIdle   = 1_000  // deadlines in a row that move nothing
	maxRuns   = 1_000
)

// firstMonday is when a scenario starts that does not say: a Monday morning.
var firstMonday = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// Result is what came of a scenario.
type Result struct {
	Scenario *workflows.Scenario
	Failures []Failure // what is not as expected; none: it has passed
	Story    []Moment

	Path     []string // states that the run entered
	Outcome  string   // "" while it has not ended
	At       string   // the state it is in, or ended in
	Took     time.Duration
	Outputs  record.Values
	Waiting  []events.WaitReason // what it waits for, when it has not ended
	Effects  []Effect
	Notified map[string]int // notifications by channel

	seen seen
	end  *world
}

// Passed reports whether everything came as expected.
func (r *Result) Passed() bool { return len(r.Failures) == 0 }

// Failure is an expectation that was not met. Want and Got are lines of which
// some differ.
type Failure struct {
	Pos  workflows.Pos
	Text string
	Want []string
	Got  []string
}

// Moment is something that happened in a world.
type Moment struct {
	At    time.Duration // after the start
	Run   string        // the path of a run that another one started; "" is the run itself
	Event record.Emitted
	Text  string // of what makes no event: what a person did, what a worker does not do
}

// Effect is an attempt that a worker began.
type Effect struct {
	Task string // path
	Kind string
	At   time.Duration // after the start
	With map[string]any
}

// Play plays a scenario with the definitions of a catalog.
func Play(c *workflows.Catalog, s *workflows.Scenario) *Result { return PlayUntil(c, s, -1) }

// PlayUntil plays a scenario up to a time after its start; what is expected of
// its end is not looked at then. A negative time is its end.
func PlayUntil(c *workflows.Catalog, s *workflows.Scenario, until time.Duration) *Result {
	w := newWorld(c, s)
	w.until = until
	if w.begin() {
		w.play()
	}
	r := w.result()
	if until < 0 {
		w.expect(r)
	}
	return r
}

// Evaluate gives the value of an expression on what the run knows at the end
// of the result. It errs when there is no run: then it was not started.
func (r *Result) Evaluate(p workflows.Program, environment string) (events.Evaluation, error) {
	a := r.end.main()
	if a.run() == nil {
		return events.Evaluation{}, errors.New("the run is not started: " + r.end.why)
	}
	return run.Evaluation(run.Inspect(a.defs, a.run(), p, environment, r.end.now)), nil
}
