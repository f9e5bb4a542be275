package events

import (
	"encoding/json"
	"time"
)

// Verbs of the engine's API. A person, bot or program sends a JSON request to
// UserSubject(uid, verb) and gets an Answer whose Result has the type that is
// named here. The HTTP API offers the same.
const (
	VerbStart        = "run.start"          // StartRun → RunView
	VerbList         = "run.list"           // ListRuns → RunList
	VerbGet          = "run.get"            // GetRun → RunView
	VerbWhy          = "run.why"            // GetRun → WhyView
	VerbEval         = "run.eval"           // EvalRun → Evaluation
	VerbDecide       = "run.decide"         // Decide → nothing
	VerbCancel       = "run.cancel"         // CancelRun → nothing
	VerbPause        = "run.pause"          // PauseRun → nothing
	VerbResume       = "run.resume"         // PauseRun → nothing
	VerbRetry        = "run.retry"          // RetryRun → nothing
	VerbRecords      = "run.records"        // GetRun → Records
	VerbVerify       = "run.verify"         // GetRun → Verification
	VerbAuditVerify  = "audit.verify"       // VerifyAudit → AuditReport; who may read all runs
	VerbAuditLog     = "audit.log"          // ReadAudit → AuditPage; who may read all runs
	VerbNewEpoch     = "admin.newEpoch"     // NewEpoch → Epochs; administrators
	VerbClockAccept  = "admin.clockAccept"  // AcceptClock → ClockAccepted; administrators
	VerbOutput       = "run.output"         // ReadOutput → Output
	VerbArtifact     = "artifact.read"      // ReadArtifact → ArtifactPart
	VerbEvents       = "event.list"         // ReadEvents → EventPage
	VerbPublish      = "event.publish"      // Event in structured JSON → nothing
	VerbApply        = "definition.apply"   // Apply → Applied
	VerbDefinitions  = "definition.list"    // nothing → Definitions
	VerbTexts        = "definition.read"    // ReadDefinitions → DefinitionPage
	VerbServer       = "server.info"        // nothing → ServerInfo
	VerbEnvironments = "environment.list"   // nothing → Environments
	VerbEnvFree      = "environment.free"   // FreeEnvironment → nothing
	VerbEnvHold      = "environment.hold"   // HoldEnvironment → nothing
	VerbEnvUnhold    = "environment.unhold" // HoldEnvironment → nothing
	VerbBreakGlass   = "run.breakGlass"     // BreakGlass → nothing
	VerbAuthAdd      = "auth.add"           // AddPrincipal → a bus credential; administrators
	VerbAuthList     = "auth.list"          // nothing → Principals; administrators
	VerbAuthRevoke   = "auth.revoke"        // RevokePrincipal → nothing; administrators
)

// Verbs of workers, on WorkerSubject.
const (
	VerbAttemptStart     = "attempt.start"     // StartRequest
	VerbAttemptHeartbeat = "attempt.heartbeat" // HeartbeatRequest
	VerbAttemptFinish    = "attempt.finish"    // FinishRequest
	VerbWorkerHello      = "worker.hello"      // Hello: says which kinds it serves; answered with ServerInfo
)

// Codes of an Answer that refuses or fails.
const (
	CodeInvalid  = "invalid"   // the request makes no sense as it stands
	CodeNotFound = "not_found" // no such run, workflow, state
	CodeConflict = "conflict"  // finished, decided already, changed since it was shown
	CodeDenied   = "denied"    // not allowed to this principal
	CodeFull     = "full"      // the store takes no more; nothing was stored
	CodeInternal = "internal"  // logged at the engine
	CodeNotOwner = "not_owner" // another engine owns the partition, or none yet; nothing was decided
	CodeStopped  = "stopped"   // the partition is stopped until somebody has looked; nothing was decided
)

// Decisions on an approval.
const (
	Approve        = "approved"
	Reject         = "rejected"
	RequestChanges = "requestChanges" // blocks until its author approves or withdraws
	Delegate       = "delegate"       // somebody else decides in one's place
	Defer          = "deferred"       // an approval that counts from a time on
	Escalate       = "escalated"      // the next role is told now
	Withdraw       = "withdrawn"      // one's earlier word is taken back
)

// StartRun starts a run. ID is chosen by the caller; a repeat with the same
// ID is the same start.
type StartRun struct {
	ID       string         `json:"id" validate:"required,max=100"`
	Workflow string         `json:"workflow" validate:"required"`
	Inputs   map[string]any `json:"inputs,omitempty"`
}

// GetRun names a run, by its id or a prefix of it that fits one run only.
type GetRun struct {
	Run   string `json:"run" validate:"max=200"`
	At    int64  `json:"at,omitempty"`
	After uint64 `json:"after,omitempty"` // of run.records: only those behind this sequence
}

// ListRuns selects runs, newest first.
type ListRuns struct {
	Workflow string `json:"workflow,omitempty"`
	Status   string `json:"status,omitempty" validate:"omitempty,oneof=running waiting done succeeded failed rejected expired cancelled superseded"` // "running", "waiting", "done", or an outcome
	Limit    int    `json:"limit,omitempty" validate:"gte=0"`                                                                                        // 50 when 0, at most 1000
	Cursor   string `json:"cursor,omitempty"`                                                                                                        // from the page before
}

// RunList is a page of runs.
type RunList struct {
	Runs []RunView `json:"runs"`
	Next string    `json:"next,omitempty"`
}

// RunView is a run as people see it.
type RunView struct {
	ID          string     `json:"id"`
	Workflow    string     `json:"workflow"`
	Definition  string     `json:"definition"`       // digest of the workflow it runs
	Origin      *Origin    `json:"origin,omitempty"` // where that came from
	Title       string     `json:"title"`
	Status      string     `json:"status"`            // "running", "waiting" (for people) or "done"
	Outcome     string     `json:"outcome,omitempty"` // of a done run
	State       string     `json:"state"`             // where it is, or ended
	RequestedBy string     `json:"requestedBy"`
	Authors     []string   `json:"authors,omitempty"`
	StartedAt   time.Time  `json:"startedAt"`
	EndedAt     *time.Time `json:"endedAt,omitempty"`
	Records     int64      `json:"records"` // number of its records
	Cause       *Cause     `json:"cause,omitempty"`
	Parent      string     `json:"parent,omitempty"` // the run that waits for this one
	// The following stand in an answer to run.get only.
	Inputs   map[string]any `json:"inputs,omitempty"`
	Path     []Step         `json:"path,omitempty"`
	Tasks    []TaskView     `json:"tasks,omitempty"`    // of the state it is in
	Waiting  []WaitReason   `json:"waiting,omitempty"`  // what it waits for
	Outputs  map[string]any `json:"outputs,omitempty"`  // of a run that has succeeded
	Children []string       `json:"children,omitempty"` // runs that it has started, as far as known
}

// Origin says where a definition came from, as Definition does.
type Origin struct {
	Source string `json:"source,omitempty"`
	File   string `json:"file,omitempty"`
	Commit string `json:"commit,omitempty"`
	Author string `json:"author,omitempty"`
}

// Step is one visit of a state.
type Step struct {
	State     string         `json:"state"`
	Visit     int            `json:"visit"`
	Outcome   string         `json:"outcome,omitempty"`
	EnteredAt time.Time      `json:"enteredAt"`
	LeftAt    *time.Time     `json:"leftAt,omitempty"`
	Outputs   map[string]any `json:"outputs,omitempty"`
	Error     *TaskError     `json:"error,omitempty"`
}

// TaskView is a task of a run.
type TaskView struct {
	ID        string     `json:"id"`
	State     string     `json:"state"`
	Kind      string     `json:"kind"`
	Attempt   int        `json:"attempt"`
	Status    string     `json:"status"` // "locked", "queued", "running", "backoff", "cancelling", "paused", "child", "stopping", "done"
	Outcome   string     `json:"outcome,omitempty"`
	Worker    string     `json:"worker,omitempty"`
	StartedAt *time.Time `json:"startedAt,omitempty"`
	Progress  string     `json:"progress,omitempty"`
	Child     string     `json:"child,omitempty"` // the child run that it is
	Error     *TaskError `json:"error,omitempty"`
}

// WaitReason is one thing that a run waits for.
type WaitReason struct {
	State   string     `json:"state"`
	What    string     `json:"what"`              // "approval", "task", "worker", "lock", "timer", "held", "event", "key", "child", "paused"
	Summary string     `json:"summary"`           // one sentence
	Rule    string     `json:"rule,omitempty"`    // the expression, or the quorum in words
	Missing []string   `json:"missing,omitempty"` // what is still needed
	Have    []string   `json:"have,omitempty"`    // what is there already
	Can     []string   `json:"can,omitempty"`     // who could act
	Cannot  []string   `json:"cannot,omitempty"`  // who could not, with the reason
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Content string     `json:"content,omitempty"` // digest that a decision must name
	// Environment, Kind and Pool say which lock or which worker.
	Environment string `json:"environment,omitempty"`
	Kind        string `json:"kind,omitempty"`
	Pool        string `json:"pool,omitempty"`
	Key         string `json:"key,omitempty"` // of the concurrency key
	Run         string `json:"run,omitempty"` // the child run
	// Rules are the conditions behind it, each with how it comes to its value.
	Rules   []RuleReason `json:"rules,omitempty"`
	Place   int          `json:"place,omitempty"`   // of a lock or key: the place in the queue, 1 for the next one
	Holder  string       `json:"holder,omitempty"`  // of a lock or key: the run that has it
	Workers *int         `json:"workers,omitempty"` // of a task that nobody took: how many live workers serve its kind
	Next    []string     `json:"next,omitempty"`    // commands that would help
}

// RuleReason is a condition, and how it comes to its value.
type RuleReason struct {
	Name     string           `json:"name"`               // "four eyes", "quorum", "rule", "auto", "reject", "when", …
	Of       string           `json:"of"`                 // whose it is: "Workflow/release", "Environment/production", "Policy/two-people"
	At       string           `json:"at,omitempty"`       // where it stands: file:line:column
	Source   string           `json:"source"`             // the expression, or the condition in words
	Value    any              `json:"value,omitempty"`    // missing where it has none
	Error    string           `json:"error,omitempty"`    // why it has none
	Parts    []EvaluationPart `json:"parts,omitempty"`    // what was evaluated of it, outer parts first
	Residual string           `json:"residual,omitempty"` // what is left to be decided by people
	Missing  string           `json:"missing,omitempty"`  // what it still needs, in words
}

// WhyView says what a run waits for, or why it ended as it did.
type WhyView struct {
	Run     RunView      `json:"run"`
	Short   string       `json:"short"` // one line
	Waiting []WaitReason `json:"waiting,omitempty"`
	Ended   []string     `json:"ended,omitempty"` // for a done run: how it came to its end, in words
	At      *RecordWhy   `json:"at,omitempty"`    // the record that was asked for; then the rest is as it was after it
}

// RecordWhy says why a record of a run says what it says.
type RecordWhy struct {
	Record    int64        `json:"record"`
	Time      time.Time    `json:"time"`
	Cause     string       `json:"cause"`            // what came in, in words
	Answer    string       `json:"answer,omitempty"` // what that was answered, where it was refused
	Decisions []RuleReason `json:"decisions,omitempty"`
	Happened  []string     `json:"happened"` // in words
}

// EvalRun asks for the value of an expression on what a run knows now.
type EvalRun struct {
	Run         string `json:"run" validate:"required,max=200"`
	Expression  string `json:"expression" validate:"required,max=8192"`
	Environment string `json:"environment,omitempty" validate:"max=200"` // whose rules' names it may read, too
}

// Evaluation is the value of an expression, and how it comes about.
type Evaluation struct {
	Value    any              `json:"value,omitempty"`
	Error    string           `json:"error,omitempty"`    // why there is no value
	Parts    []EvaluationPart `json:"parts,omitempty"`    // what was evaluated of it, outer parts first
	Problems []string         `json:"problems,omitempty"` // why it is no expression, each with a caret under the place
}

// EvaluationPart is a part of an expression with its value.
type EvaluationPart struct {
	Source string `json:"source"`
	Depth  int    `json:"depth"` // 0 is the whole
	Value  any    `json:"value,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Decide is a decision on an approval.
type Decide struct {
	ID        string    `json:"id" validate:"required,max=100"` // chosen by the caller; a repeat is the same decision
	Run       string    `json:"run" validate:"required"`
	State     string    `json:"state,omitempty"` // may be empty when one approval is open
	Decision  string    `json:"decision" validate:"required,oneof=approved rejected requestChanges delegate deferred escalated withdrawn"`
	To        string    `json:"to,omitempty"`       // of delegate: the person who decides instead
	NotBefore time.Time `json:"notBefore,omitzero"` // of deferred: when it begins to count
	Comment   string    `json:"comment,omitempty" validate:"max=2000"`
	Content   string    `json:"content,omitempty"` // digest of what was shown; a decision on something else is refused
	NotAfter  time.Time `json:"notAfter,omitzero"` // it must not count after; 15 minutes from now at most
	Via       string    `json:"via,omitempty"`     // "cli", "http", "slack"
}

// CancelRun cancels a run.
type CancelRun struct {
	ID     string `json:"id" validate:"required,max=100"`
	Run    string `json:"run" validate:"required"`
	Reason string `json:"reason,omitempty" validate:"max=2000"`
}

// PauseRun pauses a run, or lets it go on.
type PauseRun struct {
	ID     string `json:"id" validate:"required,max=100"`
	Run    string `json:"run" validate:"required"`
	Reason string `json:"reason,omitempty" validate:"max=2000"`
}

// RetryRun lets a run that has ended, or is held, begin again at a state.
type RetryRun struct {
	ID     string `json:"id" validate:"required,max=100"`
	Run    string `json:"run" validate:"required"`
	From   string `json:"from,omitempty"` // a state; the last one that is no end where empty
	Reason string `json:"reason,omitempty" validate:"max=2000"`
}

// BreakGlass passes an environment's rules, windows and holds for one run.
type BreakGlass struct {
	ID          string `json:"id" validate:"required,max=100"`
	Run         string `json:"run" validate:"required"`
	Environment string `json:"environment" validate:"required"`
	Reason      string `json:"reason" validate:"required,max=2000"`
}

// HoldEnvironment keeps everything out of an environment, or takes a hold away.
type HoldEnvironment struct {
	ID          string    `json:"id" validate:"required,max=100"`
	Environment string    `json:"environment" validate:"required"`
	Hold        string    `json:"hold,omitempty"` // of an unhold: the id of the hold; all of them where empty
	Until       time.Time `json:"until,omitzero"` // for good where zero
	Reason      string    `json:"reason,omitempty" validate:"max=2000"`
}

// Records are the records of a run, oldest first, as stored. Next is set when
// there are more than fit into one answer: GetRun.After of the next request.
type Records struct {
	Records []StoredRecord `json:"records"`
	Next    uint64         `json:"next,omitempty"`
}

// StoredRecord is a record with its place in the stream.
type StoredRecord struct {
	Seq    uint64          `json:"seq"`
	Hash   string          `json:"hash"`
	Record json.RawMessage `json:"record"`
}

// Verification is what an audit of a run found.
type Verification struct {
	Run       string   `json:"run"`
	Records   int      `json:"records"`
	Decisions int      `json:"decisions"` // rules evaluated again
	Head      string   `json:"head"`      // hash of the last record
	OK        bool     `json:"ok"`
	Problems  []string `json:"problems,omitempty"`
}

// VerifyAudit asks to have a partition verified: all of its aggregates, in the
// store and in the audit log. Without one, the audit log is, by itself.
type VerifyAudit struct {
	Partition *int `json:"partition,omitempty" validate:"omitempty,gte=0,lt=256"`
}

// AuditReport is what such a verification found.
type AuditReport struct {
	Messages   int      `json:"messages"`             // of the audit log
	Records    int      `json:"records"`              // decided again, or counted in the audit log
	Aggregates int      `json:"aggregates,omitempty"` // runs, environments, events, keys and schedules
	Decisions  int      `json:"decisions,omitempty"`  // rules evaluated again
	OK         bool     `json:"ok"`
	Problems   []string `json:"problems,omitempty"`
	Known      []string `json:"known,omitempty"` // what was wrong, and is written down with who let it go on and why
}

// NewEpoch lets a stopped partition go on from what there is of its record.
// Without Confirm it only tells what is lost; without a partition, of all that
// are stopped.
type NewEpoch struct {
	Partition *int   `json:"partition,omitempty" validate:"omitempty,gte=0,lt=256"`
	Reason    string `json:"reason,omitempty" validate:"max=2000"`
	Confirm   bool   `json:"confirm,omitempty"`
}

// Epochs are partitions that are, or were, stopped.
type Epochs struct {
	Epochs []Epoch `json:"epochs"`
}

// Epoch is a partition that was stopped, and what is known to be lost of it.
type Epoch struct {
	Partition  int      `json:"partition"`
	Stopped    string   `json:"stopped"`              // why
	Checkpoint uint64   `json:"checkpoint,omitempty"` // the newest record that is known to have been stored
	Last       uint64   `json:"last,omitempty"`       // the newest that there is
	Lost       []string `json:"lost,omitempty"`       // "run k3f9: had 7 records, has 5"
	Problems   []string `json:"problems,omitempty"`   // all that is wrong
	Resumed    bool     `json:"resumed,omitempty"`
}

// AcceptClock says that the clocks of all engines are right, so that timers
// go on where they are held.
type AcceptClock struct {
	Reason string `json:"reason" validate:"required,max=2000"` // stands in the audit log
}

// ClockAccepted tells of each engine why it had held timers.
type ClockAccepted struct {
	Engines []EngineClock `json:"engines"`
}

// EngineClock is an engine whose clock was accepted.
type EngineClock struct {
	Instance string `json:"instance"`
	Held     string `json:"held,omitempty"` // why its timers were held; empty when they were not
}

// ReadAudit asks for what stands in the audit log beside the records.
type ReadAudit struct {
	After uint64 `json:"after,omitempty"` // cursor: AuditPage.Next of the answer before
}

// AuditPage is a part of it, oldest first; Next is set when there may be more.
type AuditPage struct {
	Entries []AuditEntry `json:"entries"`
	Next    uint64       `json:"next,omitempty"`
}

// AuditEntry is what was done or refused without a record: by whom, when, how
// it was answered; or a partition that was let go on after a loss.
type AuditEntry struct {
	Seq       uint64    `json:"seq"` // of the message in the audit log
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"` // "api", "epoch" or "loss"
	By        string    `json:"by,omitempty"`
	Principal string    `json:"principal,omitempty"` // kind of By: user, admin, worker, publisher
	Via       string    `json:"via,omitempty"`
	Verb      string    `json:"verb,omitempty"`
	What      string    `json:"what,omitempty"`
	Status    string    `json:"status,omitempty"`
	Code      string    `json:"code,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Count     int       `json:"count,omitempty"` // of refusals like this one that were too many to be noted
	Partition *int      `json:"partition,omitempty"`
	Lost      []string  `json:"lost,omitempty"` // "run k3f9: had 7 records, has 5"
}

// ReadOutput asks for output of a run's tasks.
type ReadOutput struct {
	Run   string `json:"run"`
	State string `json:"state,omitempty"` // path of a state or branch; empty means all
	After uint64 `json:"after,omitempty"` // cursor: Output.Next of the answer before
	Limit int    `json:"limit,omitempty" validate:"gte=0"`
	Wait  int64  `json:"waitMs,omitempty" validate:"gte=0"` // how long to wait when there is nothing, at most 20000
}

// Output is a piece of output.
type Output struct {
	Chunks []OutputChunk `json:"chunks"`
	Next   uint64        `json:"next"`
	// Done says that the run has ended and no more will come.
	Done bool `json:"done,omitempty"`
}

// OutputChunk is a Chunk with its task.
type OutputChunk struct {
	State string `json:"state"`
	Task  string `json:"task"`
	Chunk
}

// ReadArtifact asks for a part of an artifact: what a build made, its bill of
// materials, the report of a scan.
type ReadArtifact struct {
	Digest string `json:"digest" validate:"required,max=71"` // "sha256:…"
	After  uint64 `json:"after,omitempty"`                   // ArtifactPart.Next of the answer before
}

// ArtifactPart is a part of an artifact. The parts in their order are the
// whole; whoever puts them together compares its digest.
type ArtifactPart struct {
	Data []byte `json:"data"` // base64 in JSON
	Size uint64 `json:"size"` // of the whole, in bytes
	Next uint64 `json:"next"`
	Done bool   `json:"done,omitempty"` // this was the last one
}

// ReadEvents asks for events that were sent, oldest first.
type ReadEvents struct {
	After uint64   `json:"after,omitempty"` // cursor
	Run   string   `json:"run,omitempty"`
	Types []string `json:"types,omitempty"` // full types or short ones; a final * matches any rest
	Limit int      `json:"limit,omitempty" validate:"gte=0"`
	Wait  int64    `json:"waitMs,omitempty" validate:"gte=0"`
	// End asks for no events, only for Next: the cursor of the newest event.
	End bool `json:"end,omitempty"`
}

// EventPage is a page of events. Next is the cursor behind the page: it moves
// on over events that were not asked for, and is After when nothing came after.
// A page may be empty and there may be more all the same, as long as Next moves.
type EventPage struct {
	Events  []Event  `json:"events"`
	Cursors []uint64 `json:"cursors,omitempty"` // the cursor behind each event
	Next    uint64   `json:"next"`
}

// Apply puts definitions in force.
type Apply struct {
	ID     string       `json:"id" validate:"required,max=100"`
	Files  []SourceFile `json:"files" validate:"required,min=1"`
	DryRun bool         `json:"dryRun,omitempty"`
	// Source is the name that these files are applied under.
	Source string `json:"source,omitempty" validate:"max=500"`
	// Prune removes what was applied under that name and is not in Files.
	Prune bool `json:"prune,omitempty"`
}

// SourceFile is a file of definitions.
type SourceFile struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Applied says what came of an Apply. With problems that are not warnings
// nothing of the bad documents is in force; the good ones are.
type Applied struct {
	Definitions []Definition      `json:"definitions"`
	Problems    []json.RawMessage `json:"problems,omitempty"` // of workflows.Problem
	Text        string            `json:"text,omitempty"`     // the problems for people
	Meaning     []Meaning         `json:"meaning,omitempty"`  // of the change, what weakens something first
}

// Meaning is one thing that a change of definitions means.
type Meaning struct {
	Text   string `json:"text"`             // "Workflow release, approve: quorum lowered from 2 × lead to 1 × lead"
	Weaker bool   `json:"weaker,omitempty"` // it lets through what was held before
}

// Definition is a document in force.
type Definition struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Change string `json:"change,omitempty"` // of an Apply: "created", "changed", "unchanged", "removed", "refused"
	File   string `json:"file,omitempty"`
	Source string `json:"source,omitempty"` // "folder:PATH", "apply:NAME", or the address of a Git repository
	Commit string `json:"commit,omitempty"` // of the Git repository, that it was changed in last
	Author string `json:"author,omitempty"` // of that commit, by address; or who applied it
}

// Definitions lists what is in force.
type Definitions struct {
	Catalog     string       `json:"catalog"` // digest
	Definitions []Definition `json:"definitions"`
}

// ReadDefinitions asks for the text of definitions: of one document, or of all
// in a catalog, page by page.
type ReadDefinitions struct {
	Digest  string `json:"digest,omitempty" validate:"max=71"`  // of one document, which is or was in force
	Catalog string `json:"catalog,omitempty" validate:"max=71"` // what is in force when empty
	After   int    `json:"after,omitempty" validate:"gte=0"`    // DefinitionPage.Next of the answer before
}

// DefinitionPage is a page of documents, in the order of the catalog. Next is
// 0 when there are no more.
type DefinitionPage struct {
	Catalog   string           `json:"catalog,omitempty"` // digest; the next request names it
	Documents []DefinitionText `json:"documents"`
	Next      int              `json:"next,omitempty"`
}

// DefinitionText is a document as it was written.
type DefinitionText struct {
	Definition
	Line int    `json:"line,omitempty"` // of File, where it begins
	Text string `json:"text"`
}

// ServerInfo tells what the engine is.
type ServerInfo struct {
	Version   string       `json:"version"`
	Instance  string       `json:"instance"`
	StartedAt time.Time    `json:"startedAt"`
	HTTP      string       `json:"http,omitempty"`
	NATS      string       `json:"nats,omitempty"`
	Data      string       `json:"data,omitempty"`
	Runs      int          `json:"runs"`
	Waiting   int          `json:"waiting"`
	Workers   []WorkerInfo `json:"workers,omitempty"`
	Engines   []EngineInfo `json:"engines,omitempty"`  // those that are alive, the one that answers first
	TaskKeys  []string     `json:"taskKeys,omitempty"` // base64 ed25519 keys that sign tasks
	// Sources are those of definitions that the engine watches.
	Sources []DefinitionSource `json:"sources,omitempty"`
}

// EngineInfo is a live engine.
type EngineInfo struct {
	Instance   string    `json:"instance"`
	Version    string    `json:"version"`
	StartedAt  time.Time `json:"startedAt"`
	HTTP       string    `json:"http,omitempty"`
	Partitions int       `json:"partitions"`           // that it holds, of 256
	Singletons []string  `json:"singletons,omitempty"` // what only one engine does, and this one does it
	Leaving    bool      `json:"leaving,omitempty"`    // it is being stopped
	// Stopped are partitions in which nothing goes on until somebody has looked.
	Stopped []StoppedPartition `json:"stopped,omitempty"`
	Clock   string             `json:"clock,omitempty"` // why its timers are held; empty when they are not
}

// StoppedPartition is a partition whose record is not what it was.
type StoppedPartition struct {
	Partition int    `json:"partition"`
	Reason    string `json:"reason"`
}

// DefinitionSource is a folder or a Git repository that definitions come from.
type DefinitionSource struct {
	Source   string     `json:"source"`
	Commit   string     `json:"commit,omitempty"`   // the newest that was read
	Author   string     `json:"author,omitempty"`   // of it, by address
	ReadAt   *time.Time `json:"readAt,omitempty"`   // when something new was read last
	Problems int        `json:"problems,omitempty"` // that keep something of it out of force
	Error    string     `json:"error,omitempty"`    // why it cannot be read now
	Since    *time.Time `json:"since,omitempty"`    // when that began
}

// Hello is what a worker says of itself, when it starts and every 10 s.
type Hello struct {
	Worker  string   `json:"worker" validate:"max=200"`
	Kinds   []string `json:"kinds" validate:"max=1000,dive,max=100"`
	Host    string   `json:"host,omitempty" validate:"max=300"`
	Version string   `json:"version,omitempty" validate:"max=200"`
	Busy    int      `json:"busy"`
	Slots   int      `json:"slots"`
	Bye     bool     `json:"bye,omitempty"`
}

// WorkerInfo is a live worker.
type WorkerInfo struct {
	Hello
	Pool   string    `json:"pool"`
	SeenAt time.Time `json:"seenAt"`
}

// Environments lists the environments that are defined or were used.
type Environments struct {
	Environments []EnvironmentView `json:"environments"`
}

// EnvironmentView is an environment as people see it.
type EnvironmentView struct {
	Name     string     `json:"name"`
	Holder   string     `json:"holder,omitempty"` // run that has the lock
	Grant    int64      `json:"grant,omitempty"`  // number of its grant
	Since    *time.Time `json:"since,omitempty"`
	Queue    []string   `json:"queue,omitempty"` // runs that wait, first in, first out
	Artifact string     `json:"artifact,omitempty"`
	Run      string     `json:"run,omitempty"` // that deployed it
	URL      string     `json:"url,omitempty"`
	At       *time.Time `json:"at,omitempty"`

	Open   bool       `json:"open"`             // it lets in who gets the lock
	Closed string     `json:"closed,omitempty"` // why it does not, in words
	Until  *time.Time `json:"until,omitempty"`  // when it opens or closes, as far as known
	Holds  []HoldView `json:"holds,omitempty"`
}

// HoldView is a hold that keeps everything out of an environment.
type HoldView struct {
	ID     string     `json:"id"`
	By     string     `json:"by"`
	Reason string     `json:"reason,omitempty"`
	At     time.Time  `json:"at"`
	Until  *time.Time `json:"until,omitempty"`
}

// FreeEnvironment takes the lock of an environment from a run that ended
// without knowing what it left there.
type FreeEnvironment struct {
	ID          string `json:"id" validate:"required,max=100"`
	Environment string `json:"environment" validate:"required"`
	Reason      string `json:"reason,omitempty" validate:"max=2000"`
}

// AddPrincipal makes a credential.
type AddPrincipal struct {
	Kind string `json:"kind" validate:"required,oneof=user worker publisher admin"`
	Name string `json:"name" validate:"required,max=100"`
	Pool string `json:"pool,omitempty"` // of a worker
}

// RevokePrincipal makes a credential useless.
type RevokePrincipal struct {
	Kind string `json:"kind" validate:"required,oneof=user worker publisher admin"`
	Name string `json:"name" validate:"required"`
}

// Principals lists credentials, never their secrets.
type Principals struct {
	Principals []Principal `json:"principals"`
}

// Principal is somebody whom the server knows.
type Principal struct {
	Kind      string    `json:"kind"` // "user", "worker", "publisher", "admin"
	Name      string    `json:"name"`
	Pool      string    `json:"pool,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}
