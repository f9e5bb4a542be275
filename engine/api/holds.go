package api

import (
	"cmp"
	"context"
	"time"

	"github.com/penstock-cd/penstock/events"
)

type holdBody struct {
	Reason string    `json:"reason,omitempty" maxLength:"2000" doc:"Shown to those who wait." example:"an incident"`
	Until  time.Time `json:"until,omitzero" doc:"When the hold ends by itself; for good where it is missing."`
}

type holdInput struct {
	Environment string `path:"environment" doc:"Name of the environment." example:"production"`
	Key         string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same hold, and the key is the hold's id. One is made when it is missing."`
	Body        *holdBody
}

func (s *server) hold(ctx context.Context, in *holdInput) (*commandOutput, error) {
	b, key := cmp.Or(in.Body, &holdBody{}), keyOf(in.Key)
	return s.command(ctx, key, events.VerbEnvHold, events.HoldEnvironment{ID: key, Environment: in.Environment, Reason: b.Reason, Until: b.Until})
}

type unholdBody struct {
	Hold string `json:"hold,omitempty" doc:"Id of one hold; all of them where it is missing."`
}

type unholdInput struct {
	Environment string `path:"environment" doc:"Name of the environment." example:"production"`
	Key         string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller: a request with the same key is the same one. One is made when it is missing."`
	Body        *unholdBody
}

func (s *server) unhold(ctx context.Context, in *unholdInput) (*commandOutput, error) {
	b, key := cmp.Or(in.Body, &unholdBody{}), keyOf(in.Key)
	return s.command(ctx, key, events.VerbEnvUnhold, events.HoldEnvironment{ID: key, Environment: in.Environment, Hold: b.Hold})
}
