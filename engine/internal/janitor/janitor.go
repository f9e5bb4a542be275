// Package janitor makes room in the streams that are full one day if nobody
// does: TASKS, INGRESS and LOG refuse what is new instead of dropping what is
// old.
//
// It removes three things and nothing else. A task is removed when the workers
// of its pool and kind have acknowledged it and all before it: what became of
// the attempt is in the record. An incoming event is removed when the router
// has had it recorded and has stored its mark behind it. A record is removed
// when the audit log has it and what it belongs to has ended (see Records).
// The streams of output and of what is reported are not touched.
//
// The beginning of TASKS that nobody needs any more goes in one piece, which
// costs the server next to nothing. Only when the stream is half full are
// single subjects cleared as well, because removing messages from between
// others is slow: then one kind whose workers are away keeps the tasks of the
// others in store.
package janitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// Every is how often Run sweeps.
const Every = time.Minute

// Options configure a janitor.
type Options struct {
	Work jetstream.JetStream // of the account that holds the tasks
	Ext  jetstream.JetStream // of the account that holds incoming events
	// Mark gives the sequence up to which incoming events are recorded.
	Mark func(ctx context.Context) (uint64, error)
	Log  *slog.Logger
}

// Run sweeps until ctx ends.
func Run(ctx context.Context, o Options) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		if err := Sweep(ctx, o); err != nil && ctx.Err() == nil {
			o.Log.Warn("room could not be made in the streams; it is tried again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Sweep makes room once.
func Sweep(ctx context.Context, o Options) error {
	return errors.Join(tasks(ctx, o.Work), ingress(ctx, o))
}

// ingress removes the events that are recorded.
func ingress(ctx context.Context, o Options) error {
	mark, err := o.Mark(ctx)
	if err != nil {
		return err
	}
	s, err := o.Ext.Stream(ctx, events.StreamIngress)
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamIngress, err)
	}
	st := s.CachedInfo().State
	if mark > st.LastSeq {
		return nil // the mark is of another stream; the router has the word
	}
	return purge(ctx, s, st, mark, "")
}

// purge removes what is at or below a sequence, of one subject where it is given.
func purge(ctx context.Context, s jetstream.Stream, st jetstream.StreamState, upTo uint64, subject string) error {
	if upTo < st.FirstSeq || st.Msgs == 0 {
		return nil
	}
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSequence(upTo + 1)}
	if subject != "" {
		opts = append(opts, jetstream.WithPurgeSubject(subject))
	}
	if err := s.Purge(ctx, opts...); err != nil {
		return fmt.Errorf("stream %s: remove what is done up to %d: %w", s.CachedInfo().Config.Name, upTo, err)
	}
	return nil
}

// tasks removes the tasks that were taken.
func tasks(ctx context.Context, js jetstream.JetStream) error {
	s, err := js.Stream(ctx, events.StreamTasks)
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamTasks, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("penstock.task.>"))
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamTasks, err)
	}
	taken, err := floors(ctx, s)
	if err != nil {
		return err
	}
	upTo, err := prefix(ctx, s, taken, info.State)
	if err == nil {
		err = purge(ctx, s, info.State, upTo, "")
	}
	if err != nil {
		return err
	}
	if info.Config.MaxBytes <= 0 || info.State.Bytes < uint64(info.Config.MaxBytes)/2 {
		return nil
	}
	for _, place := range slices.Sorted(maps.Keys(taken)) {
		if err := purge(ctx, s, info.State, taken[place], place+".*"); err != nil {
			return err
		}
	}
	return nil
}

// floors tells for each place, "penstock.task.<pool>.<kind>", up to where its
// tasks were taken and acknowledged. That a consumer says that nothing is
// pending counts for nothing: it hears of a message after the publisher does.
func floors(ctx context.Context, s jetstream.Stream) (map[string]uint64, error) {
	out := map[string]uint64{}
	list := s.ListConsumers(ctx)
	for c := range list.Info() {
		place, all := strings.CutSuffix(c.Config.FilterSubject, ".*")
		if !all || strings.Count(place, ".") != 3 || c.Config.AckPolicy != jetstream.AckExplicitPolicy {
			continue // not one of ours
		}
		floor := c.AckFloor.Stream
		if known, ok := out[place]; ok {
			floor = min(floor, known)
		}
		out[place] = floor
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", events.StreamTasks, err)
	}
	return out, nil
}

// prefix is the sequence up to which nobody needs any task: before the first
// one of each place that was not taken. A place of which there are tasks and
// no consumer keeps everything.
func prefix(ctx context.Context, s jetstream.Stream, taken map[string]uint64, st jetstream.StreamState) (uint64, error) {
	for subject := range st.Subjects {
		if _, ok := taken[subject[:max(strings.LastIndexByte(subject, '.'), 0)]]; !ok {
			return 0, nil
		}
	}
	upTo := st.LastSeq
	for _, place := range slices.Sorted(maps.Keys(taken)) {
		floor := taken[place]
		if floor >= upTo {
			continue
		}
		first, err := s.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(place+".*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("stream %s: the first task of %s: %w", events.StreamTasks, place, err)
		}
		upTo = min(upTo, first.Sequence-1)
	}
	return upTo, nil
}
