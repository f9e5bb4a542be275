package peer

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// formatVersion is the form of requests and answers that this code writes, and
// the newest that it reads. Fields are added, never given another meaning.
const formatVersion = 1

// What is asked of an owner.
const (
	opDo        = "do"
	opState     = "state"
	opHeartbeat = "heartbeat"
	opProgress  = "progress"
)

// request asks the owner of a partition.
type request struct {
	Format    int                      `json:"f"`
	Op        string                   `json:"op"`
	Aggregate string                   `json:"agg,omitempty"`
	ID        string                   `json:"id,omitempty"`
	Input     *record.Input            `json:"in,omitempty"`
	Heard     bool                     `json:"heard,omitempty"` // that nobody listens is known: nil and none are not the same
	Beat      *events.HeartbeatRequest `json:"beat,omitempty"`
	Tasks     []string                 `json:"tasks,omitempty"`
}

// response is the owner's answer. Answer is empty but for its status where
// something else was asked for.
type response struct {
	Format   int               `json:"f"`
	Answer   events.Answer     `json:"answer"`
	State    json.RawMessage   `json:"state,omitempty"`
	V        int64             `json:"v,omitempty"`
	Progress map[string]string `json:"progress,omitempty"`
}

// partition is the one that the request is about.
func (r *request) partition() int { return events.Partition(r.Aggregate, r.ID) }

// encode gives a request as JSON, no larger than the server passes on.
func (r *request) encode(most int64) ([]byte, error) {
	r.Format = formatVersion
	r.Heard = r.Input != nil && r.Input.Listening != nil
	p, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if int64(len(p)) > most {
		return nil, fmt.Errorf("the command has %d bytes for the engine that owns its partition, and the NATS server passes on %d at most", len(p), most)
	}
	return p, nil
}

// versionError says that two engines do not understand each other.
type versionError struct {
	what string
	got  int
}

func (e *versionError) Error() string {
	return fmt.Sprintf("the %s of the other engine has form %d, and this engine knows 1 to %d: bring all engines to one version", e.what, e.got, formatVersion)
}

func decodeRequest(p []byte) (*request, error) {
	var r request
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("the request of another engine cannot be read: %w", err)
	}
	if r.Format < 1 || r.Format > formatVersion {
		return nil, &versionError{"request", r.Format}
	}
	if r.Heard && r.Input != nil && r.Input.Listening == nil {
		r.Input.Listening = []string{}
	}
	switch {
	case r.Op == opDo && r.Input != nil && r.Input.Complete(), r.Op == opState, r.Op == opHeartbeat && r.Beat != nil, r.Op == opProgress:
		return &r, nil
	case r.Op == opDo || r.Op == opHeartbeat:
		return nil, errors.New("the request of another engine is not complete")
	}
	return nil, fmt.Errorf("another engine asks for %.40q, which this one does not know: bring all engines to one version", r.Op)
}

func decodeResponse(p []byte) (*response, error) {
	var r response
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("the answer of another engine cannot be read: %w", err)
	}
	if r.Format < 1 || r.Format > formatVersion {
		return nil, &versionError{"answer", r.Format}
	}
	return &r, nil
}

// loadState reads the state of an aggregate; nil when there is none.
func loadState(aggregate string, p json.RawMessage) (any, error) {
	if len(p) == 0 || string(p) == "null" {
		return nil, nil
	}
	switch aggregate {
	case record.Run:
		return run.Load(p)
	case record.Environment:
		return env.LoadEnvironment(p)
	case record.Event:
		return env.LoadEvent(p)
	case record.Key:
		return env.LoadKey(p)
	case record.Schedule:
		return env.LoadSchedule(p)
	}
	return nil, fmt.Errorf("there are no aggregates of type %q", aggregate)
}
