package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/peer"
	"github.com/penstock-cd/penstock/engine/internal/scale"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

const (
	takeoverEngines = 3
	takeoverRuns    = 10_000          // that wait meanwhile
	takeoverLoad    = 16              // commands at a time
	takeoverBefore  = 3 * time.Second // of load, before one is killed
	shareIn         = 2 * time.Minute // until an engine is ready, and then until it has its share
	lookIn          = 2 * time.Minute // until the record is compared with the ledger
	takeoverIn      = 15 * time.Minute
)

// engineShare is what an engineProcess says when it has its share.
type engineShare struct {
	Held int `json:"held"`
}

// benchTakeover kills one of three engines while commands come, and measures
// how long it takes until every partition answers again.
func benchTakeover(ctx context.Context, o BenchOptions, dir string) (results []BenchResult, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, takeoverIn, fmt.Errorf("it has not ended within %v", takeoverIn))
	defer cancel()
	s, err := o.startStore(ctx, filepath.Join(dir, "nats"), false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	runs := min(o.Runs, takeoverRuns)
	o.Progress(fmt.Sprintf("B5: %d runs that wait for an approval are stored", runs))
	if _, err := fillStore(ctx, s, filepath.Join(dir, "filling"), journal.SyncAlways, runs); err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("B5: %d engines share the partitions", takeoverEngines))
	engines, err := o.startShare(ctx, s, dir)
	defer func() {
		for _, p := range engines {
			err = errors.Join(err, p.Stop())
		}
	}()
	if err != nil {
		return nil, err
	}
	b, err := s.broker(ctx, filepath.Join(dir, "load"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	peers := peer.New(peer.Options{Conn: b.Engine, Instance: "bench", Owner: ownsNothing{}})
	defer peers.Close()
	load := scale.NewLoad(peers.Do)
	o.Progress("B5: one of the engines is killed while commands come")
	last := len(engines) - 1
	victim := engines[last]
	engines = engines[:last]
	took, err := killUnderLoad(ctx, load, victim)
	if err != nil {
		return nil, err
	}
	lost, err := lostInputs(ctx, b, load, runs)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("one of %d engines, %d runs waiting, kill -9 under load", takeoverEngines, runs)
	takeover := atMost("B5", "takeover after kill -9: until every partition answers", "s", took.Seconds(), 10, "10 s")
	takeover.Note = what
	acked := atMost("B5", "acked inputs lost", "", float64(len(lost)), 0, "0")
	acked.Note = strings.Join(append([]string{fmt.Sprintf("%d inputs were acknowledged", load.Inputs())}, lost[:min(len(lost), 10)]...), "; ")
	return []BenchResult{takeover, acked}, nil
}

// startShare starts engines and waits until each has its share of the
// partitions. The first of them puts the definitions in force.
func (o BenchOptions) startShare(ctx context.Context, s *store, dir string) (engines []*scale.Process, err error) {
	defs, err := waitsIn(dir)
	if err != nil {
		return nil, err
	}
	for i := range takeoverEngines {
		own := filepath.Join(dir, fmt.Sprint("engine", i))
		if err := os.MkdirAll(own, 0o700); err != nil {
			return engines, err
		}
		external, err := s.external(own)
		if err != nil {
			return engines, err
		}
		p, err := o.apart(ctx, processEngine, engineProcess{Dir: filepath.Join(own, "data"), External: external, Engines: takeoverEngines, Workflows: defs})
		if err != nil {
			return engines, err
		}
		engines = append(engines, p)
		var r engineReady
		var m engineMemory
		if err := errors.Join(p.Hear(shareIn, &r), p.Hear(shareIn, &m)); err != nil {
			return engines, err
		}
	}
	for _, p := range engines {
		var share engineShare
		if err := p.Hear(shareIn, &share); err != nil {
			return engines, err
		}
	}
	return engines, nil
}

// killUnderLoad kills an engine while commands come, and gives how long it
// takes until every partition has answered a command that was given after it.
func killUnderLoad(ctx context.Context, load *scale.Load, victim *scale.Process) (took time.Duration, err error) {
	if _, err := load.Everywhere(ctx); err != nil {
		victim.Kill()
		return 0, err
	}
	load.Begin(ctx, takeoverLoad)
	defer func() { err = errors.Join(err, load.End()) }()
	pause(ctx, takeoverBefore)
	killed := time.Now()
	victim.Kill()
	if _, err := load.Everywhere(ctx); err != nil {
		return 0, err
	}
	return time.Since(killed), nil
}

// lostInputs compares the ledger with what is stored. The runs that waited
// all the time must be there too.
func lostInputs(ctx context.Context, b *broker.Broker, load *scale.Load, runs int) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookIn, fmt.Errorf("the record was not read within %v", lookIn))
	defer cancel()
	js, err := jetstream.New(b.Engine)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(ctx, js, journal.Options{})
	if err != nil {
		return nil, err
	}
	defer j.Close(context.WithoutCancel(ctx))
	lost, others, err := load.Lost(ctx, j)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil && others < runs {
		err = fmt.Errorf("%d runs waited, %d of them are there", runs, others)
	}
	return lost, err
}

// ownsNothing is the owner of a process that only asks others.
type ownsNothing struct{}

func (ownsNothing) Owns(int) bool                  { return false }
func (ownsNothing) Now() int64                     { return time.Now().UnixMilli() }
func (ownsNothing) Progress(string, string) string { return "" }
func (ownsNothing) Do(context.Context, string, string, record.Input) events.Answer {
	return events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner}
}
func (ownsNothing) Go(_, _ string, _ record.Input, reply func(events.Answer)) {
	reply(events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner})
}
func (ownsNothing) Heartbeat(context.Context, events.HeartbeatRequest) events.Answer {
	return events.Answer{Status: events.StatusBusy, Code: events.CodeNotOwner}
}
func (ownsNothing) State(context.Context, string, string) (any, int64, error) {
	return nil, 0, errors.New("nothing is owned here")
}
