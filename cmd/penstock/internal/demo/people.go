package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// person is somebody on the bus, with a credential of their own.
type person struct {
	name string
	conn *bus.Conn
}

// ask sends a request as this person.
func (p person) ask(ctx context.Context, verb string, request, result any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := p.conn.Request(ctx, verb, request, result)
	return err
}

// decide decides on what the run waits for now, bound to exactly that.
func (p person) decide(ctx context.Context, run, decision, comment string) error {
	var why events.WhyView
	if err := p.ask(ctx, events.VerbWhy, events.GetRun{Run: run}, &why); err != nil {
		return err
	}
	for _, w := range why.Waiting {
		if w.What == "approval" {
			return p.ask(ctx, events.VerbDecide, events.Decide{ID: uuid.NewString(), Run: run, State: w.State, Decision: decision,
				Comment: comment, Content: w.Content, NotAfter: time.Now().Add(5 * time.Minute).UTC(), Via: "demo"}, nil)
		}
	}
	return fmt.Errorf("run %s waits for no approval: %s", run, why.Short)
}

// refusal is why the engine refused; ok is false when err is no refusal.
func refusal(err error) (reason string, ok bool) {
	r, ok := errors.AsType[*bus.Refusal](err)
	if !ok || r.Code != events.CodeDenied {
		return "", false
	}
	return r.Reason, true
}
