package lease

import (
	"encoding/json"
	"fmt"
	"time"
)

// formatVersion is the form of a member that this code writes. Fields are
// added, never given another meaning, so that engines of two versions read
// each other.
const formatVersion = 1

// Member is what an engine tells the others of itself, once a second.
type Member struct {
	Format   int       `json:"f"`
	Instance string    `json:"instance"`
	Life     string    `json:"life"` // tells this process from an earlier one of the same name
	Counter  uint64    `json:"n"`    // of what it has told
	Since    time.Time `json:"since"`
	Version  string    `json:"version"`
	Core     int       `json:"core"`    // version of the core by which it decides
	Record   int       `json:"record"`  // the newest form of a record that it reads
	TaskKey  string    `json:"taskKey"` // that it signs tasks with, base64
	HTTP     string    `json:"http,omitempty"`
	Offers   []string  `json:"offers"` // singletons that it can run
	Holds    Set       `json:"holds"`  // what it has, or is about to take
	Leaving  bool      `json:"leaving,omitempty"`
	Health
}

// Health is what else others should know of an engine.
type Health struct {
	Stopped []Stopped `json:"stopped,omitempty"` // partitions that were stopped
	Clock   string    `json:"clock,omitempty"`   // why its timers are held; empty when they are not
}

// Stopped is a partition in which nothing goes on until somebody has looked.
type Stopped struct {
	Partition int    `json:"vp"`
	Reason    string `json:"reason"`
}

// What an engine tells of stopped partitions, so that it fits.
const (
	maxStopped = 32
	maxReason  = 300
)

func (h Health) bounded() Health {
	if len(h.Stopped) > maxStopped {
		h.Stopped = h.Stopped[:maxStopped]
	}
	for i, s := range h.Stopped {
		if len(s.Reason) > maxReason {
			h.Stopped[i].Reason = s.Reason[:maxReason]
		}
	}
	return h
}

func decodeMember(p []byte) (m Member, err error) {
	if err := json.Unmarshal(p, &m); err != nil {
		return m, err
	}
	if m.Format < 1 || m.Instance == "" || m.Life == "" {
		return m, fmt.Errorf("it is no engine's: %.100q", p)
	}
	return m, nil
}
