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
	// Of an environment.
	InEnvRequest = "env.request"
	InEnvRelease = "env.release"
	InEnvFree    = "env.free"
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

	Start   *Start            `json:"start,omitempty"`
	Attempt *Attempt          `json:"attempt,omitempty"`
	Decide  *events.Decide    `json:"decide,omitempty"`
	Cancel  *events.CancelRun `json:"cancel,omitempty"`
	Granted *Granted          `json:"granted,omitempty"`
	Freed   *Granted          `json:"freed,omitempty"` // a grant that a person took back
	Sent    *Sent             `json:"sent,omitempty"`
	Request *EnvRequest       `json:"request,omitempty"`
	Release *EnvRelease       `json:"release,omitempty"`
	Event   json.RawMessage   `json:"event,omitempty"` // a CloudEvent in structured JSON
	Bad     string            `json:"bad,omitempty"`   // of an event: why it is none
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
	}
	return true
}

// Start starts a run.
type Start struct {
	Run      string        `json:"run"` // id of the run, derived from who started it with what
	Workflow string        `json:"workflow"`
	Inputs   Values        `json:"inputs,omitempty"`
	Cause    *events.Cause `json:"cause,omitempty"`
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
}

// Granted tells a run that an environment is its own.
type Granted struct {
	Environment string `json:"env"`
	Grant       int64  `json:"grant"`
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
}

// EnvRelease gives an environment back.
type EnvRelease struct {
	Run      string      `json:"run"`
	Grant    int64       `json:"grant"` // 0: withdraw the request
	Deployed *Deployment `json:"deployed,omitempty"`
}

// Deployment is what is deployed in an environment.
type Deployment struct {
	Run      string `json:"run"`
	Artifact string `json:"artifact"`
	URL      string `json:"url,omitempty"`
	Grant    int64  `json:"grant"`
	At       int64  `json:"at"` // milliseconds
}
