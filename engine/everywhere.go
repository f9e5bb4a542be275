package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

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

// epochIn is how long an engine may take to find out what it has lost.
const epochIn = 25 * time.Second

// epochAsked is what an engine asks the others about stopped partitions.
type epochAsked struct {
	By      string          `json:"by"`
	Request events.NewEpoch `json:"request"`
}

// epochsHere is what one of them answers.
type epochsHere struct {
	Instance string         `json:"instance"`
	Epochs   []events.Epoch `json:"epochs,omitempty"`
	Error    string         `json:"error,omitempty"`
}

// epochsAsked answers another engine.
func (e *Engine) epochsAsked(ctx context.Context, body []byte) (any, error) {
	var q epochAsked
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), epochIn) // which is longer than others are answered for
	defer cancel()
	list, err := e.svc.Epochs(ctx, q.By, q.Request)
	here := epochsHere{Instance: e.o.Instance, Epochs: list}
	if err != nil {
		here.Error = err.Error()
	}
	return here, nil
}

// otherEpochs has the other engines tell which of their partitions are
// stopped, or let one go on.
func (e *Engine) otherEpochs(ctx context.Context, by string, req events.NewEpoch) (list []events.Epoch, err error) {
	got, err := e.peers.Gather(ctx, topicEpoch, epochAsked{by, req}, e.others(), epochIn)
	for _, p := range got {
		var here epochsHere
		if fault := json.Unmarshal(p, &here); fault != nil {
			return list, fmt.Errorf("the answer of another engine cannot be read: %w", fault)
		}
		if here.Error != "" {
			err = errors.Join(err, fmt.Errorf("engine %s: %s", here.Instance, here.Error))
		}
		list = append(list, here.Epochs...)
	}
	return list, err
}

// others is how many other engines are alive.
func (e *Engine) others() int { return len(e.keeper.Members()) - 1 }
