package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// Definitions are those of runs that wait for an approval, for thirty days.
const Definitions = `apiVersion: penstock/v1
kind: Roles
metadata: {name: people}
spec:
  roles: {approver: {users: [ana, ben]}}
  permissions:
    - {roles: [approver], allow: [run.approve], workflows: ["*"]}
---
apiVersion: penstock/v1
kind: Workflow
metadata: {name: waits}
spec:
  inputs: {note: {type: string}}
  initial: ask
  states:
    ask:
      approval: {quorum: [{role: approver, count: 1}], binds: [inputs.note], expires: 30d}
      next: done
      onFail: stopped
    done: {final: succeeded}
    stopped: {final: rejected}
`

// Filled is what Fill has stored.
type Filled struct {
	Runs  int
	Bytes int64 // of the records
	State int   // bytes of the state of one
}

// Fill stores the records of n runs that wait for an approval, whose states
// have size bytes, as an engine does: decided by the core, below fences. It
// leaves checkpoints that say that all of it was carried out.
func Fill(ctx context.Context, j journal.Journal, n, size int) (Filled, error) {
	f, err := newFilling(j, size)
	if err != nil {
		return Filled{}, err
	}
	vps := make([]int, events.Partitions)
	for i := range vps {
		vps[i] = i
	}
	if err := j.Own(ctx, vps, []byte("bench")); err != nil {
		return Filled{}, err
	}
	defer j.Disown(vps)
	numbers := make(chan int)
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for i := range numbers {
				f.store(i)
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil && !f.failed(); i++ {
		numbers <- i
	}
	close(numbers)
	work.Wait()
	f.underWay.Wait()
	if err := errors.Join(ctx.Err(), f.err); err != nil {
		return Filled{}, err
	}
	return Filled{n, f.bytes, f.state}, j.Checkpoint(ctx, f.checkpoints())
}

// filling is a Fill under way.
type filling struct {
	j        journal.Journal
	d        run.Definitions
	note     int // length of the note of each run
	state    int
	started  int64
	turns    chan struct{} // bounds what is on its way
	underWay sync.WaitGroup

	mu    sync.Mutex
	err   error
	bytes int64
	last  map[int]owner.Checkpoint
}

func newFilling(j journal.Journal, size int) (*filling, error) {
	set, problems := parse.Files([]parse.File{{Name: "bench.yaml", Content: []byte(Definitions)}})
	if len(problems) > 0 {
		return nil, fmt.Errorf("the definitions: %s", problems[0].Message)
	}
	cat := set.Catalog()
	f := &filling{j: j, d: run.Definitions{Workflow: cat.Workflows["waits"], Kinds: workflows.ShippedKinds(), Now: cat},
		started: time.Now().UnixMilli(), turns: make(chan struct{}, 20_000), last: map[int]owner.Checkpoint{}}
	for range 2 { // a part of the note stands in the state twice
		r, err := f.record(0)
		if err != nil {
			return nil, err
		}
		f.note = max(0, f.note+size-len(r.State))
	}
	r, err := f.record(0)
	if err != nil {
		return nil, err
	}
	f.state = len(r.State)
	return f, nil
}

// note is a text that a store cannot compress, another one for each number.
func note(number, length int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	text := make([]byte, length)
	random := rand.NewPCG(uint64(number), 0)
	for i := range text {
		text[i] = letters[random.Uint64()%uint64(len(letters))]
	}
	return string(text)
}

// record makes the record with which the run of a number begins to wait.
func (f *filling) record(number int) (*record.Record, error) {
	id := record.Derive("bench", "waits", number)
	in := record.Input{ID: id, Kind: record.InStart, By: "bench", Admin: true, Start: &record.Start{Run: id, Workflow: "waits", Inputs: record.Values{"note": note(number, f.note)}}}
	at := f.started + int64(number)/50
	t := run.Step(f.d, nil, 1, in, at)
	if !t.Record || t.State.Status() != run.StatusWaiting {
		return nil, fmt.Errorf("a run does not wait for its approval: %s %s", t.Answer.Code, t.Answer.Reason)
	}
	state, err := json.Marshal(t.State)
	return &record.Record{Aggregate: record.Run, ID: id, V: 1, T: at, Summary: new(t.State.Summary()), Catalog: f.d.Now.Digest, Engine: "bench", Core: run.CoreVersion,
		In: in, Answer: t.Answer, Decisions: t.Decisions, Events: t.Events, Tasks: t.Tasks, State: state}, err
}

func (f *filling) store(number int) {
	r, err := f.record(number)
	if err != nil {
		f.fail(err)
		return
	}
	stored, err := r.Encode()
	if err != nil {
		f.fail(err)
		return
	}
	vp := events.Partition(record.Run, r.ID)
	f.turns <- struct{}{}
	f.underWay.Add(1)
	f.j.Append(vp, events.LogSubject(record.Run, r.ID), stored, func(seq uint64, err error) {
		defer func() { <-f.turns; f.underWay.Done() }()
		if err != nil {
			f.fail(err)
			return
		}
		f.stored(vp, seq, stored)
	})
}

func (f *filling) stored(vp int, seq uint64, stored []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += int64(len(stored))
	if seq > f.last[vp].Seq {
		f.last[vp] = owner.Checkpoint{Seq: seq, Last: seq, Hash: record.Hash(stored)}
	}
}

func (f *filling) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *filling) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

func (f *filling) checkpoints() map[int][]byte {
	stored := map[int][]byte{}
	for vp, c := range f.last {
		stored[vp], _ = json.Marshal(c) // numbers and a text always encode
	}
	return stored
}

// Read reads the last record of each of so many aggregates, as fast as one
// client can, and does nothing with it: nothing that knows the runs of this
// stream can be ready sooner.
func Read(ctx context.Context, js jetstream.JetStream, aggregates int) (took time.Duration, err error) {
	began := time.Now()
	making, cancel := context.WithTimeout(ctx, 2*time.Minute) // the server looks for the last of each before it answers
	defer cancel()
	c, err := js.CreateConsumer(making, events.StreamLog, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy,
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubject: journal.AllRecords, MemoryStorage: true, InactiveThreshold: time.Minute})
	if err != nil {
		return 0, err
	}
	if got := int(c.CachedInfo().NumPending); got != aggregates {
		return 0, fmt.Errorf("%d aggregates are to be read, %d are there", aggregates, got)
	}
	read, done := 0, make(chan struct{})
	reading, err := c.Consume(func(jetstream.Msg) {
		if read++; read == aggregates {
			close(done)
		}
	}, jetstream.PullMaxMessages(10_000))
	if err != nil {
		return 0, err
	}
	defer reading.Stop()
	select {
	case <-done:
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
