package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// maxDefinitions is the largest body with definitions.
const maxDefinitions = 8 << 20

type none struct{}

func (s *server) definitions(ctx context.Context, _ *none) (*body[events.Definitions], error) {
	return get[events.Definitions](ctx, s, events.VerbDefinitions, none{})
}

type applyBody struct {
	Files  []events.SourceFile `json:"files" minItems:"1" nullable:"false" doc:"The files; each may hold several documents."`
	DryRun bool                `json:"dryRun,omitempty" doc:"Only say what would change."`
	Source string              `json:"source,omitempty" maxLength:"500" doc:"The name that they are applied under."`
	Prune  bool                `json:"prune,omitempty" doc:"Also remove what was applied under that name before and is not in the files."`
}

type applyInput struct {
	Key  string `header:"Idempotency-Key" maxLength:"100" doc:"Chosen by the caller. To apply the same files twice changes nothing."`
	Body applyBody
}

type applyOutput struct {
	Key  string `header:"Idempotency-Key" doc:"The key of this request."`
	Body events.Applied
}

// apply puts definitions in force. When one of them is refused the answer is
// a problem, so that nobody takes it for success; it says what came of each.
func (s *server) apply(ctx context.Context, in *applyInput) (*applyOutput, error) {
	key := keyOf(in.Key)
	applied, err := ask[events.Applied](ctx, s, events.VerbApply, events.Apply{ID: key, Files: in.Body.Files, DryRun: in.Body.DryRun, Source: in.Body.Source, Prune: in.Body.Prune})
	if err != nil {
		return nil, err
	}
	for _, raw := range applied.Problems {
		var p workflows.Problem
		if json.Unmarshal(raw, &p) == nil && p.Warning {
			continue
		}
		bad := newProblem(http.StatusUnprocessableEntity, events.CodeInvalid, cmp.Or(applied.Text, "not all definitions are valid"))
		bad.Applied = &applied
		return nil, bad
	}
	return &applyOutput{key, applied}, nil
}

func (s *server) environments(ctx context.Context, _ *none) (*body[events.Environments], error) {
	return get[events.Environments](ctx, s, events.VerbEnvironments, none{})
}

func (s *server) info(ctx context.Context, _ *none) (*body[events.ServerInfo], error) {
	return get[events.ServerInfo](ctx, s, events.VerbServer, none{})
}
