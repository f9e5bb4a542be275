package service

import (
	"context"

	"github.com/penstock-cd/penstock/events"
)

// acceptClock lets timers go on that all engines hold since they do not know
// what time it is.
func (s *Service) acceptClock(ctx context.Context, who Principal, body []byte) (any, error) {
	if who.Kind != "admin" {
		return nil, refuse(events.CodeDenied, "only an administrator may say that the clocks are right, and %s is a %s", who.Name, who.Kind)
	}
	var req events.AcceptClock
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	engines, err := s.o.AcceptClock(ctx)
	if err != nil {
		return nil, refuse(events.CodeInternal, "not every engine has accepted its clock; do it again: %v", err)
	}
	s.o.Log.Info("the clocks were accepted", "by", who.Name, "reason", req.Reason)
	return events.ClockAccepted{Engines: engines}, nil
}
