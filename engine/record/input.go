package record

import (
	"encoding/json"

	"github.com/penstock-cd/penstock/events"
)

// Kinds of inputs. Everything that can happen to an aggregate is one of these.
const (
	// Of a run.
	InStart         = "run.start"
	InAttemptStart  = "attempt.start"
	InAttemptFinish = "attempt.finish"
	InAttemptLost   = "attempt.lost"
	InDecide        = "run.decide"
	InCancel        = "run.cancel"
	InTimer         = "timer"
	InGranted       = "env.granted"
	InFreed         = "env.freed"
	InSendAnswer    = "send.answer"
	InPause         = "run.pause"
	InResume        = "run.resume"
	InRetry         = "run.retry"
	InBreakGlass    = "run.breakGlass"
	InSignal        = "run.signal"  // an event that the run listens for
	InChildEnded    = "child.ended" // a run that this one has started
	InEnvState      = "env.state"   // whether an environment lets anything in
	InProven        = "env.proven"  // whether an artifact succeeded in an environment
	InKeyGranted    = "key.granted" // the run may go on
	InKeyDenied     = "key.denied"  // somebody else has the key, or has taken our place
	// Of an environment; it takes timers too.
	InEnvRequest = "env.request"
	InEnvRelease = "env.release"
	InEnvFree    = "env.free"
	InEnvHold    = "env.hold"
	InEnvUnhold  = "env.unhold"
	InEnvLook    = "env.look"  // a run wants to know whether it lets anything in, and when that changes
	InEnvProve   = "env.prove" // a run asks whether an artifact succeeded there
	// Of a concurrency key.
	InKeyRequest = "key.request"
	InKeyRelease = "key.release"
	// Of a schedule; it takes timers too.
	InScheduleSet = "schedule.set" // definitions were put in force: its next time may be another one
	// Of an event.
	InEvent = "event.received"
)

// Input is the cause of a transition. ID identifies it for its sender: a
// repeat with the same ID is the same input. The field of its kind is set.
type Input struct {
	ID     string   `json:"id"`
	Kind   string   `json:"kind"`
	By     string   `json:"by,omitempty"`     // a user, "event:<publisher>", "worker:<id>" or "engine"
	Groups []string `json:"groups,omitempty"` // that the login of By proved
	Admin  bool     `json:"admin,omitempty"`  // the credential is an administrator's
	Via    string   `json:"via,omitempty"`    // "bus", "http", …

	Start     *Start                  `json:"start,omitempty"`
	Attempt   *Attempt                `json:"attempt,omitempty"`
	Decide    *events.Decide          `json:"decide,omitempty"`
	Cancel    *events.CancelRun       `json:"cancel,omitempty"`
	Granted   *Granted                `json:"granted,omitempty"`
	Freed     *Granted                `json:"freed,omitempty"` // a grant that a person took back
	Sent      *Sent                   `json:"sent,omitempty"`
	Request   *EnvRequest             `json:"request,omitempty"`
	Release   *EnvRelease             `json:"release,omitempty"`
	Pause     *events.PauseRun        `json:"pause,omitempty"` // and of resume
	Retry     *events.RetryRun        `json:"retry,omitempty"`
	Glass     *events.BreakGlass      `json:"glass,omitempty"`
	Signal    *Signal                 `json:"signal,omitempty"`
	Child     *ChildEnded             `json:"child,omitempty"`
	EnvState  *EnvState               `json:"envState,omitempty"`
	Hold      *events.HoldEnvironment `json:"hold,omitempty"`  // and of unhold
	Proof     *Proof                  `json:"proof,omitempty"` // of env.prove and env.proven
	Key       *Claim                  `json:"key,omitempty"`
	Listening []string                `json:"listening,omitempty"` // of an event: runs that listen for its type, at the moment it came
	Event     json.RawMessage         `json:"event,omitempty"`     // a CloudEvent in structured JSON
	Bad       string                  `json:"bad,omitempty"`       // of an event: why it is none
	Workers   map[string]int          `json:"workers,omitempty"`   // of a timer: live workers by "pool/kind", of tasks that nobody took in time, as far as known
}

// Complete reports whether the field of the input's kind is set.
func (in *Input) Complete() bool {
	switch in.Kind {
	case InStart:
		return in.Start != nil
	case InAttemptStart, InAttemptLost:
		return in.Attempt != nil
	case InAttemptFinish:
		return in.Attempt != nil && in.Attempt.Result != nil
	case InDecide:
		return in.Decide != nil
	case InCancel:
		return in.Cancel != nil
	case InGranted:
		return in.Granted != nil
	case InFreed:
		return in.Freed != nil
	case InSendAnswer:
		return in.Sent != nil
	case InEnvRequest:
		return in.Request != nil
	case InEnvRelease:
		return in.Release != nil
	case InPause, InResume:
		return in.Pause != nil
	case InRetry:
		return in.Retry != nil
	case InBreakGlass:
		return in.Glass != nil
	case InSignal:
		return in.Signal != nil
	case InChildEnded:
		return in.Child != nil
	case InEnvState:
		return in.EnvState != nil
	case InEnvHold, InEnvUnhold:
		return in.Hold != nil
	case InEnvLook:
		return in.Request != nil
	case InEnvProve, InProven:
		return in.Proof != nil
	case InKeyRequest, InKeyRelease, InKeyGranted, InKeyDenied:
		return in.Key != nil
	}
	return true
}

// Start starts a run.
type Start struct {
	Run      string        `json:"run"` // id of the run, derived from who started it with what
	Workflow string        `json:"workflow"`
	Inputs   Values        `json:"inputs,omitempty"`
	Cause    *events.Cause `json:"cause,omitempty"`
	Parent   *Parent       `json:"parent,omitempty"`  // the run that waits for this one
	Catalog  string        `json:"catalog,omitempty"` // digest of the definitions to start with; those in force where empty
	// Running are what runs in environments at the start, by environment: the
	// authors of a change are those of what is new to one of them.
	Running map[string]Source `json:"running,omitempty"`
	// Beat and BeatLimit say, in milliseconds, how often workers report and
	// when one is lost; 0 is the default.
	Beat      int64 `json:"beat,omitempty"`
	BeatLimit int64 `json:"beatLimit,omitempty"`
	// Text says that inputs given as text are to be read by their declared type.
	Text bool `json:"text,omitempty"`
}

// Attempt is about one attempt of a task.
type Attempt struct {
	Task   string         `json:"task"`
	Worker string         `json:"worker,omitempty"`
	Pool   string         `json:"pool,omitempty"`  // of the worker's credential; empty in records of before
	Kinds  []string       `json:"kinds,omitempty"` // the only ones that the credential is for; none is no limit
	Result *events.Result `json:"result,omitempty"`
	Took   int64          `json:"took,omitempty"` // how long it took, in milliseconds, as the worker says
}

// Granted tells a run that an environment is its own, and what is deployed there.
type Granted struct {
	Environment string      `json:"env"`
	Grant       int64       `json:"grant"`
	Deployed    *Deployment `json:"deployed,omitempty"`
}

// Parent is the run that has started another one, and the path of the work
// that the other one is.
type Parent struct {
	Run  string `json:"run"`
	Path string `json:"path"`
	Task string `json:"task"` // id of that work: its answer names it
	// RequestedBy and Authors are the parent's, so that nobody hides behind it.
	RequestedBy string   `json:"by,omitempty"`
	Authors     []string `json:"authors,omitempty"`
	AuthorsSet  bool     `json:"authorsSet,omitempty"`
	Keys        []string `json:"keys,omitempty"` // concurrency keys that it and its own parents have: the child needs them no more
}

// Signal is an event that came while the run listens for it.
type Signal struct {
	Cause events.Cause    `json:"cause"`
	Event json.RawMessage `json:"event"` // a CloudEvent in structured JSON
}

// ChildEnded tells a parent how a run that it has started came to its end.
type ChildEnded struct {
	Run     string            `json:"run"`
	Task    string            `json:"task"` // Parent.Task
	Outcome string            `json:"outcome"`
	Outputs Values            `json:"outputs,omitempty"`
	Error   *events.TaskError `json:"error,omitempty"`
}

// EnvState tells a run whether an environment lets anything in now.
type EnvState struct {
	Environment string `json:"env"`
	N           int64  `json:"n"` // grows from one to the next that a run is told
	Open        bool   `json:"open"`
	Reason      string `json:"reason,omitempty"` // why not, in words
	Until       int64  `json:"until,omitempty"`  // milliseconds: when it opens, as far as known
	AtEnd       string `json:"atEnd,omitempty"`  // to the run that has the lock, when its window has ended: hold or undo
}

// Proof is the question whether an artifact succeeded in an environment, and
// its answer.
type Proof struct {
	Run         string `json:"run"`
	Environment string `json:"env"`
	Artifact    string `json:"artifact"`
	Proven      bool   `json:"proven,omitempty"`
	By          string `json:"by,omitempty"` // the run that deployed it
}

// Reasons for which a run does not get its concurrency key.
const (
	Superseded = "superseded" // a later run takes its place
	Taken      = "taken"      // another run has it, and this one does not wait
)

// Claim is about a concurrency key.
type Claim struct {
	Key    string `json:"key"`
	Run    string `json:"run"`
	Grant  int64  `json:"grant,omitempty"`
	Policy string `json:"policy,omitempty"` // of a request
	Asked  int64  `json:"asked,omitempty"`  // number of the run's request, and of a denial the one that it is about
	Reason string `json:"reason,omitempty"` // of a denial
	Holder string `json:"holder,omitempty"` // of a denial: the run that has it, or takes our place
}

// Sent is the answer to a Send: the aggregate's, or that it refused.
type Sent struct {
	ID     string `json:"id"` // of the Send's input
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// EnvRequest asks for an environment.
type EnvRequest struct {
	Run   string `json:"run"`
	State string `json:"state,omitempty"`
	Glass bool   `json:"glass,omitempty"` // a person has broken the glass: windows and holds do not count
	Rules bool   `json:"rules,omitempty"` // of a look: rules keep the run out, and it wants to know of new definitions only
}

// EnvRelease gives an environment back.
type EnvRelease struct {
	Run      string      `json:"run"`
	Grant    int64       `json:"grant"` // 0: withdraw the request
	Deployed *Deployment `json:"deployed,omitempty"`
	Undone   []string    `json:"undone,omitempty"` // artifacts that the run had deployed there and has taken back
}

// Source is a commit of a repository.
type Source struct {
	Repository string `json:"repository"`
	Commit     string `json:"commit"`
}

// Deployment is what is deployed in an environment.
type Deployment struct {
	Run      string `json:"run"`
	Artifact string `json:"artifact"`
	URL      string `json:"url,omitempty"`
	Grant    int64  `json:"grant"`
	At       int64  `json:"at"`              // milliseconds
	Source   Source `json:"source,omitzero"` // what it was built from, as far as known
}
