package service

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Partitions are those that this engine owns. An owner.Owner is it.
type Partitions interface {
	Stopped() map[int]error
	NewEpoch(ctx context.Context, vp int, confirm func(owner.Epoch) error) error
}

// newEpoch tells what is lost of stopped partitions, and lets one go on.
func (s *Service) newEpoch(ctx context.Context, who Principal, body []byte) (any, error) {
	if who.Kind != "admin" {
		return nil, refuse(events.CodeDenied, "only an administrator may let a partition go on, and %s is a %s", who.Name, who.Kind)
	}
	var req events.NewEpoch
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if req.Confirm && (req.Partition == nil || req.Reason == "") {
		return nil, refuse(events.CodeInvalid, "to let a partition go on takes its number and a reason")
	}
	stopped := s.o.Partitions.Stopped()
	vps := slices.Sorted(maps.Keys(stopped))
	if req.Partition != nil {
		if stopped[*req.Partition] == nil {
			return nil, refuse(events.CodeConflict, "partition %d is not stopped here; there is nothing to confirm", *req.Partition)
		}
		vps = []int{*req.Partition}
	}
	out := events.Epochs{Epochs: []events.Epoch{}}
	for _, vp := range vps {
		e, err := s.epoch(ctx, who, vp, stopped[vp], req)
		if err != nil {
			return nil, err
		}
		out.Epochs = append(out.Epochs, e)
	}
	return out, nil
}

// epoch tells what is lost of a partition and, where that is confirmed, lets
// it go on. What is lost is in the audit log before anything goes on.
func (s *Service) epoch(ctx context.Context, who Principal, vp int, why error, req events.NewEpoch) (events.Epoch, error) {
	e := events.Epoch{Partition: vp, Stopped: why.Error()}
	v := &audit.Verifier{Log: s.o.Journal, Store: s.o.Audit, Definitions: s.o.Definitions}
	report, err := v.Partition(ctx, vp, time.Time{})
	if err != nil {
		return e, fmt.Errorf("partition %d: what is lost cannot be found out: %w", vp, err)
	}
	e.Lost, e.Problems = fitting(lines(report.Lost, 0)), report.Problems
	if !req.Confirm {
		e.Checkpoint, err = s.checkpoint(ctx, vp)
		return e, err
	}
	err = s.o.Partitions.NewEpoch(ctx, vp, func(begun owner.Epoch) error {
		e.Checkpoint, e.Last = begun.Known.Last, begun.Newest.Seq
		entry := audit.Epoch{Partition: vp, Stopped: begun.Stopped, By: who.Name, Reason: req.Reason, Time: s.Now().UnixMilli(),
			Last: begun.Newest.Seq, Hash: begun.Newest.Hash, Checkpoint: begun.Known.Last, CheckpointHash: begun.Known.Hash, Lost: report.Lost}
		for _, u := range begun.Unreadable {
			entry.Lost = append(entry.Lost, audit.Affected{Aggregate: u.Subject, Why: u.Why})
		}
		return audit.PutEpoch(ctx, s.o.Audit, s.o.Info(ctx).Instance, entry, time.Now())
	})
	if err != nil {
		return e, refuse(events.CodeConflict, "partition %d stays stopped: %v", vp, err)
	}
	e.Resumed = true
	h := events.Happening{By: who.Name, Reason: fmt.Sprintf("partition %d: %s", vp, req.Reason), Reasons: e.Lost}
	for _, a := range report.Lost {
		if a.Aggregate == record.Run {
			h.Runs = append(h.Runs, a.ID)
		}
	}
	h.Runs = fitting(h.Runs)
	s.Emit(events.PartitionResumed, h)
	return e, nil
}

// checkpoint is the newest record of a partition that is known to have been stored.
func (s *Service) checkpoint(ctx context.Context, vp int) (uint64, error) {
	stored, err := s.o.Journal.LoadCheckpoints(ctx)
	var c owner.Checkpoint
	if err != nil || stored[vp] == nil || json.Unmarshal(stored[vp], &c) != nil {
		return 0, err // one that cannot be read is a reason to stop by itself
	}
	return max(c.Last, c.Seq), nil
}
