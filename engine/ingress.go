package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// ingressLost tells subscribers that incoming events may have been lost with
// their stream; it returns at once.
func (e *Engine) ingressLost(recorded, last uint64) {
	now := time.UnixMilli(e.peers.Now()).UTC()
	data, err := json.Marshal(events.Happening{Reasons: []string{fmt.Sprintf(
		"the stream of incoming events was made anew or restored from a backup: it ends at %d, and events up to %d were recorded before; what it has lost must be sent again", last, recorded)}})
	if err == nil {
		err = e.relay.Emit(events.Event{ID: record.Derive("ingress lost", now.UnixNano(), recorded, last), Source: "/penstock/events", Type: events.EventRefused,
			Time: now, DataContentType: "application/json", Data: data}, "", "")
	}
	if err != nil {
		e.o.Log.Error("an event was not sent", "type", events.EventRefused, "error", err)
	}
}
