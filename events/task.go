package events

import (
	"encoding/json"
	"time"
)

// The task protocol. One attempt of a task goes through these steps; the
// JSON of each is a contract for workers in any language (docs/workers.md).
//
//  1. The engine publishes a Task on the subject of its pool and kind.
//  2. A worker fetches it and asks, on its verb "attempt.start", to start it
//     (StartRequest). The engine records the start and answers (Answer): the
//     first one is granted, every other one is refused.
//  3. The worker acknowledges the message at once. From here the engine owns
//     every timeout.
//  4. While it works it sends HeartbeatRequest on "attempt.heartbeat" every
//     Task.Heartbeat and obeys the verdict. Without an answer for half of
//     Task.HeartbeatTimeout it must stop having effects.
//  5. It sends FinishRequest on "attempt.finish" until it is answered.
//
// A task that says AtOnce needs no step 2 and 3 before the work: the worker
// begins, asks as in step 2 only when the work has gone on for BeginWithin, and
// acknowledges when that or step 5 was answered. Until then nobody but the bus,
// which gives the message to another worker after 30 s, knows who has it, so
// two may do the work; the first result counts and the other is stale.
//
// What it prints goes to the output subject, in chunks.

// Whether a task of a kind may run twice.
const (
	RunsOnce       = "once"       // must not run twice: a lost worker ends it inconclusive
	RunsRepeatable = "repeatable" // may run again: a lost worker leads to the next try
)

// BeginWithin is after how long a worker that began at once reports the start.
const BeginWithin = 2 * time.Second

// Modes of a task.
const (
	ModeRun    = "run"    // do the work
	ModeStatus = "status" // the worker of this attempt was lost: report what became of it, change nothing
)

// Task is one attempt of one piece of work, as a worker receives it.
type Task struct {
	ID       string `json:"id"`             // derived from run, state, visit and attempt; the same for a repeat
	Run      string `json:"run"`            // id of the run
	Workflow string `json:"workflow"`       // name of its workflow
	State    string `json:"state"`          // path of the state, for example "verify.test"
	Attempt  int    `json:"attempt"`        // 1 for the first
	Pool     string `json:"pool"`           //
	Kind     string `json:"kind"`           // "build", "test", …
	Mode     string `json:"mode,omitempty"` // ModeRun when empty
	Runs     string `json:"runs"`           // RunsOnce or RunsRepeatable
	// AtOnce says that a worker may begin without asking. It reports the start
	// only when the work has gone on for BeginWithin, and acknowledges the
	// message when its start or its result was answered.
	AtOnce bool           `json:"atOnce,omitempty"`
	With   map[string]any `json:"with,omitempty"` // the inputs, evaluated
	// Environment is set for a task that uses one.
	Environment *TaskEnvironment `json:"environment,omitempty"`
	// Fence orders the effects on a target: a target refuses a task whose
	// fence is below the highest that it has seen.
	Fence Fence `json:"fence"`
	// Timeout is how long the attempt may run, in milliseconds; 0 is no limit.
	Timeout int64 `json:"timeoutMs,omitempty"`
	// Heartbeat is how often to send one, HeartbeatTimeout after how long
	// without one the engine gives the worker up, both in milliseconds.
	Heartbeat        int64     `json:"heartbeatMs"`
	HeartbeatTimeout int64     `json:"heartbeatTimeoutMs"`
	Issued           time.Time `json:"issued"`
	Trace            string    `json:"traceparent,omitempty"`
}

// TaskEnvironment is what a task may know of the environment it works on.
type TaskEnvironment struct {
	Name    string            `json:"name"`
	Target  map[string]any    `json:"target,omitempty"`
	Config  map[string]any    `json:"config,omitempty"`
	Secrets map[string]string `json:"secrets,omitempty"` // references, resolved in the worker
}

// Fence is a fencing token: compared by Grant, then by Version.
type Fence struct {
	Grant   int64 `json:"grant"`   // number of the environment's grant
	Version int64 `json:"version"` // version of the run's record that made the task
}

// Before reports whether f is older than g.
func (f Fence) Before(g Fence) bool {
	return f.Grant < g.Grant || f.Grant == g.Grant && f.Version < g.Version
}

// StartRequest asks to start an attempt.
type StartRequest struct {
	Task   string `json:"task" validate:"max=200"` // Task.ID
	Run    string `json:"run" validate:"max=200"`
	Worker string `json:"worker" validate:"max=200"` // who asks: stable while the process lives
}

// HeartbeatRequest says that the attempt is being worked on.
type HeartbeatRequest struct {
	Task     string `json:"task" validate:"max=200"`
	Run      string `json:"run" validate:"max=200"`
	Worker   string `json:"worker" validate:"max=200"`
	Progress string `json:"progress,omitempty"` // one line for people, 500 bytes at most, not recorded
}

// FinishRequest reports the end of an attempt.
type FinishRequest struct {
	Task   string `json:"task" validate:"max=200"`
	Run    string `json:"run" validate:"max=200"`
	Worker string `json:"worker" validate:"max=200"`
	Result Result `json:"result"`
	// Took is how long the work took, in milliseconds, where its start was not
	// reported (Task.AtOnce).
	Took int64 `json:"tookMs,omitempty" validate:"min=0"`
}

// Outcomes of a task and of other states.
const (
	Succeeded    = "succeeded"
	Failed       = "failed"
	TimedOut     = "timedOut"
	Cancelled    = "cancelled"
	Inconclusive = "inconclusive"
	Rejected     = "rejected"
	Expired      = "expired"
	Superseded   = "superseded"
)

// Result is what came of an attempt.
type Result struct {
	Outcome string         `json:"outcome"` // Succeeded, Failed, TimedOut, Cancelled or Inconclusive
	Outputs map[string]any `json:"outputs,omitempty"`
	Error   *TaskError     `json:"error,omitempty"` // for every outcome but Succeeded
	// Facts are what the worker learned that the engine may use by itself:
	// "authors" (list of e-mail addresses) from a build.
	Facts map[string]any `json:"facts,omitempty"`
}

// TaskError says why an attempt did not succeed.
type TaskError struct {
	Code      string `json:"code"`    // stable, snake_case: "clone_failed", "worker_lost"
	Message   string `json:"message"` // for people, one or a few lines
	Retryable bool   `json:"retryable,omitempty"`
}

func (e *TaskError) Error() string { return e.Code + ": " + e.Message }

// Error codes that the engine itself gives.
const (
	CodeWorkerLost  = "worker_lost" // no heartbeat for the heartbeat timeout
	CodeNotTaken    = "not_taken"   // no worker took it within the start timeout
	CodeTimeout     = "timeout"     // taken, not finished within its timeout
	CodeBadOutputs  = "bad_outputs" // the result does not match the declared outputs
	CodeInvariant   = "invariant"   // an invariant of the workflow forbids it
	CodeConcurrency = "concurrency" // another run has the concurrency key
	CodeRuleError   = "rule_error"  // an expression could not be evaluated
	CodeGate        = "gate"        // a gate's requirement does not hold
)

// Chunk is a piece of an attempt's output, published on its output subject.
type Chunk struct {
	Seq    int64     `json:"seq"` // 1, 2, … within the attempt
	At     time.Time `json:"at"`
	Stream string    `json:"stream"` // "stdout", "stderr" or "worker"
	Text   string    `json:"text"`
	// Truncated is set on the last chunk when the output was cut at its cap.
	Truncated bool `json:"truncated,omitempty"`
	// End is set on the attempt's last chunk.
	End bool `json:"end,omitempty"`
}

// Statuses of an Answer.
const (
	StatusApplied = "applied" // recorded now
	StatusAlready = "already" // had been recorded before; Record says where
	StatusRefused = "refused" // recorded as refused; Reason says why; do not repeat
	StatusStale   = "stale"   // about something that is no longer current; do not repeat
	StatusBusy    = "busy"    // not recorded; repeat after RetryAfter
	StatusError   = "error"   // not recorded; Code and Reason say why
)

// Verdicts of a heartbeat.
const (
	GoOn   = "goOn"
	Cancel = "cancel" // stop, then finish as Cancelled
	Stale  = "stale"  // the attempt is not this worker's any more: stop, send nothing
)

// Answer is the engine's reply to every request. Record is the version of
// the aggregate's record that holds the outcome.
type Answer struct {
	Status     string          `json:"status"`
	Record     int64           `json:"record,omitempty"`
	Code       string          `json:"code,omitempty"` // for refused and error: CodeInvalid, …
	Reason     string          `json:"reason,omitempty"`
	Verdict    string          `json:"verdict,omitempty"` // of a heartbeat
	RetryAfter int64           `json:"retryAfterMs,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"` // what was asked for, by verb
}

// Final reports whether the answer settles the request: repeating it would be
// answered the same. A busy answer and a fault of the engine are not final.
func (a Answer) Final() bool {
	return a.Status != StatusBusy && (a.Status != StatusError || a.Code != CodeInternal)
}
