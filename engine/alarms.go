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
	e.emit("/penstock/engine", typ, time.Now().UTC(), events.Happening{Reason: reason})
}

// ingressLost tells subscribers that incoming events may have been lost with
// their stream; it returns at once.
func (e *Engine) ingressLost(recorded, last uint64) {
	e.emit("/penstock/events", events.EventRefused, time.UnixMilli(e.peers.Now()).UTC(), events.Happening{Reasons: []string{fmt.Sprintf(
		"the stream of incoming events was made anew, or restored from a backup, or has lost its end: it ends at %d, and events up to %d were recorded before; what it has lost must be sent again", last, recorded)}})
}

// emit publishes an event that stands in no record.
func (e *Engine) emit(source, typ string, now time.Time, h events.Happening) {
	data, err := json.Marshal(h)
	if err == nil {
		err = e.relay.Emit(events.Event{ID: record.Derive(typ, e.o.Instance, now.UnixNano(), data), Source: source,
			Type: typ, Time: now, DataContentType: "application/json", Data: data}, "", "")
	}
	if err != nil {
		e.o.Log.Error("an event was not sent", "type", typ, "error", err)
	}
}
