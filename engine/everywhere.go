package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/penstock-cd/penstock/events"
)

// acceptClock believes the clock of this engine.
func (e *Engine) acceptClock() events.EngineClock {
	held := e.owner.ClockHeld()
	e.owner.AcceptClock()
	return events.EngineClock{Instance: e.o.Instance, Held: held}
}

// acceptClocks has every engine believe its clock.
func (e *Engine) acceptClocks(ctx context.Context) ([]events.EngineClock, error) {
	all := []events.EngineClock{e.acceptClock()}
	got, err := e.peers.Gather(ctx, topicClock, nil, e.others(), toldIn)
	for _, p := range got {
		var c events.EngineClock
		if err := json.Unmarshal(p, &c); err != nil {
			return all, fmt.Errorf("the answer of another engine cannot be read: %w", err)
		}
		all = append(all, c)
	}
	return all, err
}

// others is how many other engines are alive.
func (e *Engine) others() int { return len(e.keeper.Members()) - 1 }
