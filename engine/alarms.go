package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// partitionStopped tells subscribers of a partition that goes no further; it
// returns at once.
func (e *Engine) partitionStopped(vp int, err error) {
	e.alarm(events.PartitionStopped, fmt.Sprintf("partition %d: %v", vp, err))
}

// clockHeld tells subscribers that no timers fire; it returns at once.
func (e *Engine) clockHeld(why string) {
	if why != "" {
		e.alarm(events.ClockStepped, why)
	}
}

// alarm publishes an event that stands in no record, about the engine itself.
func (e *Engine) alarm(typ, reason string) {
	now := time.Now().UTC()
	data, err := json.Marshal(events.Happening{Reason: reason})
	if err == nil {
		err = e.relay.Emit(events.Event{ID: record.Derive(typ, e.o.Instance, now.UnixNano(), reason), Source: "/penstock/engine",
			Type: typ, Time: now, DataContentType: "application/json", Data: data}, "", "")
	}
	if err != nil {
		e.o.Log.Error("an event was not sent", "type", typ, "error", err)
	}
}
