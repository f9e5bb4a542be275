package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// What of a stream's files is damaged while their index is whole, the server
// finds when it reads it: a consumer stands still before such a message, or
// passes over it without a word, and a question for the message is answered as
// if there were none. So whoever reads the last of each subject counts what
// ought to come, and says what does not. Of what is read in order the end is
// known to be missing; a gap before it shows in the versions of the records.

// pastDamage looks whether nothing comes because there is nothing. Where it is
// because the server cannot read a message, that is told, and the reading goes
// on behind it.
func (r *reader) pastDamage(ctx context.Context) error {
	next := max(r.next, 1)
	s, err := r.l.t.Stream(ctx, r.stream)
	if err != nil {
		return fmt.Errorf("stream %s: reading: %w", r.stream, err)
	}
	last := s.CachedInfo().State.LastSeq
	if next > last {
		return nil
	}
	if readable, err := r.readable(ctx, next); err != nil || readable {
		return err // it is on its way
	}
	if there, err := r.l.matching(ctx, r.stream, r.filter(), 0); err != nil || len(there.Subjects) == 0 {
		return err
	}
	// From every sequence up to the damaged one the server finds nothing;
	// from the next one on it does.
	low, high := next, last+1
	for step := uint64(1); low+step <= last; step *= 2 {
		found, err := r.readable(ctx, low+step)
		if err != nil {
			return err
		}
		if found {
			high = low + step
			break
		}
		low += step
	}
	for low+1 < high {
		middle := low + (high-low)/2
		found, err := r.readable(ctx, middle)
		if err != nil {
			return err
		}
		if found {
			high = middle
		} else {
			low = middle
		}
	}
	if err := r.fn(Entry{Seq: high - 1, Damaged: true}); err != nil {
		if errors.Is(err, errEnough) {
			return err
		}
		return final{err}
	}
	r.next = high
	return fmt.Errorf("stream %s: reading: a message up to %d cannot be read", r.stream, high-1)
}

// readable reports whether the server finds the first message from a sequence
// on that is to be read.
func (r *reader) readable(ctx context.Context, seq uint64) (bool, error) {
	one, cancel := oneRequest(ctx)
	defer cancel()
	_, err := r.l.get(one, r.stream, r.filter(), map[string]any{"seq": seq, "next_by_subj": r.filter()})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// filter is that of a reader that has one at most.
func (r *reader) filter() string {
	if len(r.filters) == 0 {
		return ">"
	}
	return r.filters[0]
}

// MendCheckpoints puts another checkpoint in the place of each that cannot be
// read: the server takes nothing in its place, so all are stored anew. Nobody
// else may store any meanwhile. It gives the partitions.
func (l *Log) MendCheckpoints(ctx context.Context, js jetstream.JetStream, instead []byte) (vps []int, err error) {
	all, err := l.LoadCheckpoints(ctx)
	if err != nil {
		return nil, err
	}
	for vp, data := range all {
		if len(data) == 0 {
			all[vp] = instead
			vps = append(vps, vp)
		}
	}
	if len(vps) == 0 {
		return nil, nil
	}
	one, cancel := oneRequest(ctx)
	defer cancel()
	s, err := js.Stream(one, events.StreamCkpt)
	if err == nil {
		err = s.Purge(one)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: removing what cannot be read: %w", events.StreamCkpt, err)
	}
	l.forgetCheckpoints(slices.Collect(maps.Keys(all)))
	return vps, l.Checkpoint(ctx, all)
}

// state is what the server says of a stream.
type state struct {
	Last     uint64            `json:"last_seq"`
	All      uint64            `json:"num_subjects"`
	Subjects map[string]uint64 `json:"subjects"` // those that were asked for
	Lost     *struct {
		Bytes uint64 `json:"bytes"`
	} `json:"lost"` // what it cut off when it started
}

// Damaged reports whether the server has found the files of LOG damaged, and
// has cut off what comes behind the damage in each. Between its files records
// may be missing then that no later one tells of.
func Damaged(ctx context.Context, js jetstream.JetStream) (bool, error) {
	now, err := (&Log{t: On(js)}).matching(ctx, events.StreamLog, probeLog, 0)
	return now.Lost != nil, err
}

// matching asks for the subjects that match a filter, from an offset on as many
// as the server tells at once.
func (l *Log) matching(ctx context.Context, stream, filter string, offset int) (state, error) {
	ctx, cancel := oneRequest(ctx)
	defer cancel()
	body, err := json.Marshal(map[string]any{"subjects_filter": filter, "offset": offset})
	if err != nil {
		return state{}, err
	}
	answer, err := l.t.API(ctx, "STREAM.INFO."+stream, body)
	if err != nil {
		return state{}, fmt.Errorf("stream %s: looking at %s: %w", stream, filter, err)
	}
	var got struct {
		Error *refusal `json:"error"`
		State state    `json:"state"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return state{}, fmt.Errorf("stream %s: looking at %s: unreadable answer: %w", stream, filter, err)
	}
	if got.Error != nil {
		got.Error.stream = stream
		return state{}, fmt.Errorf("looking at %s: %w", filter, got.Error)
	}
	return got.State, nil
}

// subjects counts those that match filters, no two of which match the same.
func (l *Log) subjects(ctx context.Context, filters []string) (n uint64, err error) {
	if slices.Equal(filters, []string{AllRecords}) { // without a list of all
		now, err := l.matching(ctx, events.StreamLog, "penstock.own.>", 0)
		return now.records(), err
	}
	if len(filters) > fewQuestions {
		now, err := l.matching(ctx, events.StreamLog, probeLog, 0)
		if err != nil {
			return 0, err
		}
		if now.All <= fewSubjects {
			return l.among(ctx, filters)
		}
	}
	err = l.pages(ctx, events.StreamLog, filters, func(page map[string]uint64) error {
		n += uint64(len(page))
		return nil
	})
	return n, err
}

// pages calls fn with the subjects that match filters, as many at a time as the
// server tells at once. An error of fn ends that and is returned.
func (l *Log) pages(ctx context.Context, stream string, filters []string, fn func(page map[string]uint64) error) error {
	for _, f := range filters {
		for offset := 0; ; {
			page, err := l.matching(ctx, stream, f, offset)
			if err == nil {
				err = fn(page.Subjects)
			}
			if err != nil {
				return err
			}
			if offset += len(page.Subjects); len(page.Subjects) < mostSubjects {
				break
			}
		}
	}
	return nil
}

// records is how many subjects have records, at least: the server counts all
// subjects first and lists the owner records then, and somebody may have stored
// more of these in between.
func (s state) records() uint64 { return s.All - min(s.All, uint64(len(s.Subjects))) }

// among is subjects by a list of all: one question, where there are few.
func (l *Log) among(ctx context.Context, filters []string) (n uint64, err error) {
	list, err := l.matching(ctx, events.StreamLog, AllRecords, 0)
	matches := matcher(filters)
	for subject := range list.Subjects {
		if matches(subject) {
			n++
		}
	}
	return n, err
}

// matcher reports whether a subject matches one of many filters, most of which
// are all that begins with something.
func matcher(filters []string) func(subject string) bool {
	begins, others := map[string]bool{}, []string{}
	for _, f := range filters {
		if prefix, all := strings.CutSuffix(f, ">"); all && !strings.Contains(prefix, "*") {
			begins[prefix] = true
		} else {
			others = append(others, f)
		}
	}
	return func(subject string) bool {
		for i := range subject {
			if subject[i] == '.' && begins[subject[:i+1]] {
				return true
			}
		}
		return slices.ContainsFunc(others, func(f string) bool { return events.MatchSubject(f, subject) })
	}
}

const (
	fewSubjects  = 10_000
	mostSubjects = 100_000 // the server tells at once
)

// unread tells of the subjects whose last message was not given because it
// cannot be read, and gives all others, since one may have been passed over for
// a request that ran out. It reads all of them once more: it is rarely asked.
func (l *Log) unread(ctx context.Context, stream string, filters []string, fn func(Entry) error) error {
	due, err := l.subjects(ctx, filters)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	again := &reader{l: l, stream: stream, filters: filters, lasts: true, due: due, fn: func(e Entry) error {
		seen[e.Subject] = true
		return fn(e) // the one that was not given may be given now
	}}
	if err := again.untilLasts(ctx); err != nil {
		return err
	}
	return l.pages(ctx, stream, filters, func(page map[string]uint64) error {
		for _, subject := range slices.Sorted(maps.Keys(page)) {
			if seen[subject] {
				continue
			}
			if err := l.look(ctx, stream, subject, fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// look gives the last message of a subject, which may be damaged; nothing when
// there is none.
func (l *Log) look(ctx context.Context, stream, subject string, fn func(Entry) error) error {
	e, err := l.last(ctx, stream, subject)
	if !errors.Is(err, ErrNotFound) {
		if err != nil {
			return err
		}
		return fn(e)
	}
	if there, err := l.matching(ctx, stream, subject, 0); err != nil || len(there.Subjects) == 0 {
		return err
	}
	one, cancel := oneRequest(ctx)
	defer cancel()
	r := &reader{l: l, stream: stream, filters: []string{subject}, lasts: true}
	cons, err := r.consumer(one)
	if err != nil {
		return err
	}
	defer r.drop(cons)
	return fn(Entry{Seq: cons.CachedInfo().Delivered.Stream + 1, Subject: subject, Damaged: true})
}

// missedCheckpoints adds the checkpoints that were not given: they are read
// one by one, and one that cannot be read is empty, which is no checkpoint and
// not none.
func (l *Log) missedCheckpoints(ctx context.Context, all map[int][]byte) error {
	there, err := l.matching(ctx, events.StreamCkpt, ckptFilter, 0)
	for subject := range there.Subjects {
		vp, probe, err := checkpointOf(subject)
		if err != nil || probe || all[vp] != nil {
			continue
		}
		e, err := l.last(ctx, events.StreamCkpt, subject)
		switch {
		case err == nil:
			all[vp] = e.Data
		case errors.Is(err, ErrNotFound):
			all[vp] = []byte{}
		default:
			return err
		}
	}
	return err
}
