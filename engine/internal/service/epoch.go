package service

import (
	"cmp"
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
	list, err := s.Epochs(ctx, who.Name, req)
	if err != nil {
		return nil, err
	}
	var unknown error // what other engines have
	if s.o.OtherEpochs != nil && (req.Partition == nil || len(list) == 0) {
		var others []events.Epoch
		others, unknown = s.o.OtherEpochs(ctx, who.Name, req)
		list = append(list, others...)
	}
	switch {
	case req.Partition != nil && len(list) == 0 && unknown != nil:
		return nil, refuse(events.CodeConflict, "it is not known whether partition %d goes on: %v", *req.Partition, unknown)
	case req.Partition != nil && len(list) == 0:
		return nil, refuse(events.CodeConflict, "partition %d is stopped at none of the engines; there is nothing to confirm", *req.Partition)
	case unknown != nil:
		s.o.Log.Warn("not every engine has said which of its partitions are stopped", "error", unknown)
	}
	slices.SortFunc(list, func(a, b events.Epoch) int { return cmp.Compare(a.Partition, b.Partition) })
	return events.Epochs{Epochs: slices.CompactFunc(list, func(a, b events.Epoch) bool { return a.Partition == b.Partition })}, nil
}

// Epochs does what is asked by an administrator with the stopped partitions
// that this engine owns.
func (s *Service) Epochs(ctx context.Context, by string, req events.NewEpoch) ([]events.Epoch, error) {
	stopped := s.o.Partitions.Stopped()
	list := []events.Epoch{}
	for _, vp := range slices.Sorted(maps.Keys(stopped)) {
		if req.Partition != nil && *req.Partition != vp {
			continue
		}
		e, err := s.epoch(ctx, by, vp, stopped[vp], req)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// epoch tells what is lost of a partition and, where that is confirmed, lets
// it go on. What is lost is in the audit log before anything goes on.
func (s *Service) epoch(ctx context.Context, by string, vp int, why error, req events.NewEpoch) (events.Epoch, error) {
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
		entry := audit.Epoch{Partition: vp, Stopped: begun.Stopped, By: by, Reason: req.Reason, Time: s.Now().UnixMilli(),
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
	h := events.Happening{By: by, Reason: fmt.Sprintf("partition %d: %s", vp, req.Reason), Reasons: e.Lost}
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
