package service

import (
	"context"
	"errors"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// artifact gives a part of what a task stored. An artifact is named by its
// digest and belongs to no run, so whoever may read any run may read it.
func (s *Service) artifact(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ReadArtifact
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if !s.reads(who)("") {
		return nil, refuse(events.CodeDenied, "%s may not read artifacts: it takes a permission on any workflow", who.Name)
	}
	part, err := s.artifacts.Part(ctx, req.Digest, req.After)
	if errors.Is(err, bus.ErrNoArtifact) {
		return nil, refuse(events.CodeNotFound, "there is no artifact %s", req.Digest)
	}
	if err != nil {
		return nil, refuse(events.CodeInvalid, "%v", err)
	}
	return part, nil
}
