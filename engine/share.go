package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/owner"
	"github.com/penstock-cd/penstock/engine/internal/peer"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// What only one engine does.
const (
	routing   = "router"
	cleaning  = "janitor"
	watching  = "sources"
	schedules = "schedules"
	auditing  = "audit"
)

// alone reports whether there can be no other engine.
func (e *Engine) alone() bool { return e.broker.InProcess() != nil }

// share sets up how partitions come to this engine, and how those of others
// are reached.
func (e *Engine) share(ctx context.Context) error {
	work := map[string]func(context.Context){routing: e.route, cleaning: e.clean, schedules: e.keepSchedules, auditing: e.keepAudit}
	if len(e.o.Workflows) > 0 {
		work[watching] = e.watchSources
	}
	e.hands = &hands{owner: e.owner, work: work, running: map[string]*running{}}
	o := lease.Options{Hands: e.hands, Health: e.health, Log: e.o.Log, Self: lease.Member{Instance: e.o.Instance, Version: e.o.Version,
		Core: run.CoreVersion, Record: record.FormatVersion, TaskKey: e.info.TaskKeys[0], HTTP: e.info.HTTP, Offers: slices.Sorted(maps.Keys(work))}}
	if e.alone() {
		e.keeper = lease.NewAlone(o)
		e.peers = peer.New(peer.Options{Owner: e.owner, Code: codeOf})
		e.hands.peers = e.peers
		return nil
	}
	kv, err := e.js.engine.KeyValue(ctx, events.BucketLive)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", events.BucketLive, err)
	}
	o.Board = lease.OnBucket(kv)
	e.keeper = lease.New(o)
	e.peers = peer.New(peer.Options{Conn: e.broker.Engine, Instance: e.o.Instance, Owner: e.owner, Code: codeOf, Valid: e.keeper.Valid, Log: e.o.Log})
	e.hands.peers = e.peers
	e.tail = newFollower(e.log, e.index.Observe, e.o.Log)
	e.hands.tail = e.tail
	return e.beginTail(ctx, o.Board)
}

// beginTail sees to it that the index comes to know what there is. Where others
// are at work it is read at once, so that what they hand over does not wait for
// that; else when partitions are taken, which are read then in any case.
func (e *Engine) beginTail(ctx context.Context, b lease.Board) error {
	if err := e.tail.begin(ctx); err != nil {
		return err
	}
	others, err := lease.Others(ctx, b, e.o.Instance)
	if err == nil && !others {
		return nil
	}
	return e.tail.load(ctx, nil, nil)
}

// codeOf is the code of an answer for an error of the owner.
func codeOf(err error) string {
	switch {
	case errors.Is(err, owner.ErrNotOwner):
		return events.CodeNotOwner
	case errors.Is(err, owner.ErrStopped):
		return events.CodeStopped
	}
	return ""
}

// send has a command carried out by whoever owns its partition.
func (e *Engine) send(ctx context.Context, agg, id string, in record.Input) events.Answer {
	return e.peers.Do(ctx, agg, id, in)
}

// lost is told of a partition that another engine has taken over.
func (e *Engine) lost(vp int, _ error) {
	e.peers.Quit(vp)
	e.keeper.Lost(vp)
}

// health is what others should know of this engine.
func (e *Engine) health() (h lease.Health) {
	stopped := e.owner.Stopped()
	for _, vp := range slices.Sorted(maps.Keys(stopped)) {
		h.Stopped = append(h.Stopped, lease.Stopped{Partition: vp, Reason: stopped[vp].Error()})
	}
	h.Clock = e.owner.ClockHeld()
	return h
}

// hands take and release for the lease.
type hands struct {
	owner *owner.Owner
	peers *peer.Peers
	tail  *follower // nil where the owner tells the index
	work  map[string]func(ctx context.Context)

	mu      sync.Mutex
	running map[string]*running
}

// running is a singleton at work.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// Take implements lease.Hands.
func (h *hands) Take(ctx context.Context, vps []int) error {
	take := func() error { return h.owner.Take(ctx, vps) }
	if h.tail != nil && h.tail.owing() {
		if err := h.tail.load(ctx, vps, take); err != nil {
			return err
		}
	} else if err := take(); err != nil {
		return err
	}
	return h.peers.Serve(vps...)
}

// Release implements lease.Hands.
func (h *hands) Release(ctx context.Context, vps []int) error {
	h.peers.Quit(vps...)
	return h.owner.Release(ctx, vps)
}

// Start implements lease.Hands.
func (h *hands) Start(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do := h.work[name]
	if do == nil || h.running[name] != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel, make(chan struct{})}
	h.running[name] = r
	go func() {
		defer close(r.ended)
		if h.tail != nil { // what the index says counts
			select {
			case <-h.tail.loaded:
			case <-ctx.Done():
				return
			}
		}
		do(ctx)
	}()
}

// Stop implements lease.Hands.
func (h *hands) Stop(name string) {
	h.mu.Lock()
	r := h.running[name]
	h.mu.Unlock()
	if r == nil {
		return
	}
	r.cancel()
	<-r.ended
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, name)
}

// stop stops every singleton.
func (h *hands) stop() {
	for name := range h.work {
		h.Stop(name)
	}
}

// watchSources brings definitions into force until ctx ends. Where there is
// no other engine, one that cannot read a folder at its start does not go on.
func (e *Engine) watchSources(ctx context.Context) {
	for {
		err := e.sources.Start(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if e.alone() {
			e.fail(err)
			return
		}
		e.o.Log.Error("definitions cannot be read; it is tried again", "error", err)
		pause(ctx, 5*time.Second)
	}
	e.looked.Do(func() { close(e.begun) })
	e.sources.Run(ctx)
}

// keepSchedules sees to it that schedules are as the definitions in force say,
// until ctx ends.
func (e *Engine) keepSchedules(ctx context.Context) {
	e.scheduling.Store(true)
	defer e.scheduling.Store(false)
	for ctx.Err() == nil {
		err := e.setSchedules(ctx)
		if err == nil {
			select {
			case <-e.again:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() == nil {
			e.o.Log.Error("a schedule fires as it did before; it is tried again", "error", err)
		}
		pause(ctx, 5*time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// changed carries on when other definitions are in force, whoever has put them
// there.
func (e *Engine) changed(ctx context.Context) error {
	err := e.ensureConsumers(ctx)
	if !e.scheduling.Load() {
		return err
	}
	failed := e.setSchedules(ctx)
	if failed != nil {
		select {
		case e.again <- struct{}{}:
		default:
		}
	}
	return errors.Join(err, failed)
}

func (e *Engine) definitionsChanged(ctx context.Context) {
	e.o.Log.Info("other definitions are in force", "catalog", e.defs.Current().Digest)
	if err := e.changed(ctx); err != nil {
		e.o.Log.Error("the consumers of task kinds, or the schedules, could not be brought up to date", "error", err)
	}
}

// What engines tell each other, beside what owners are asked.
const (
	topicHello       = "hello"       // a worker has said hello
	topicDefinitions = "definitions" // others are in force; answered when they are in the engine that is told
	topicSources     = "sources"     // how are they? Answered by the engine that watches them
	topicPoke        = "poke"        // repositories are to be looked at now
	topicClock       = "clock"       // an administrator says that the clocks are right; all answer
	topicEpoch       = "epoch"       // an administrator asks what is stopped, or lets it go on; all answer
)

// toldIn is how long it is waited for all engines to have new definitions.
const toldIn = 3 * time.Second

// applied carries on when this engine has put other definitions in force: all
// engines have them when it returns, so that what is asked of any of them next
// is decided with them.
func (e *Engine) applied(ctx context.Context) error {
	err := e.changed(ctx)
	if _, late := e.peers.Gather(ctx, topicDefinitions, nil, e.others(), toldIn); late != nil {
		e.o.Log.Warn("not all engines have said that they have the new definitions; they will", "error", late)
	}
	return err
}

// hello is a worker's, as engines tell each other.
type hello struct {
	Pool  string       `json:"pool"`
	Hello events.Hello `json:"hello"`
}

func (e *Engine) tellHello(pool string, h events.Hello) {
	e.peers.Tell(topicHello, hello{pool, h})
}

// poke has repositories looked at, by the engine that watches them.
func (e *Engine) poke() int {
	e.peers.Tell(topicPoke, nil)
	return e.sources.Poke()
}

// listenToPeers begins to hear what other engines tell.
func (e *Engine) listenToPeers() error {
	return errors.Join(
		e.peers.Listen(topicHello, func(_ context.Context, body []byte) (any, error) {
			var h hello
			if err := json.Unmarshal(body, &h); err != nil {
				return nil, err
			}
			e.svc.Heard(h.Pool, h.Hello)
			return nil, nil
		}),
		e.peers.Listen(topicDefinitions, func(ctx context.Context, _ []byte) (any, error) {
			changed, err := e.defs.Refresh(ctx)
			if changed {
				e.definitionsChanged(ctx)
			}
			return e.defs.Current().Digest, err
		}),
		e.peers.Listen(topicSources, func(context.Context, []byte) (any, error) {
			if !e.keeper.Held().Has(watching) {
				return nil, nil
			}
			return e.sources.Status(), nil
		}),
		e.peers.Listen(topicPoke, func(context.Context, []byte) (any, error) {
			e.sources.Poke()
			return nil, nil
		}),
		e.peers.Listen(topicEpoch, e.epochsAsked),
		e.peers.Listen(topicClock, func(context.Context, []byte) (any, error) {
			return e.acceptClock(), nil
		}))
}

// describe tells what this engine is, and of the others.
func (e *Engine) describe(ctx context.Context) events.ServerInfo {
	info := e.info
	info.TaskKeys, info.Engines = e.keeper.TaskKeys(), e.engines()
	info.Sources = e.sourcesStatus(ctx)
	return info
}

// sourcesStatus is how the sources of definitions are, by the engine that
// watches them.
func (e *Engine) sourcesStatus(ctx context.Context) []events.DefinitionSource {
	if e.alone() || e.keeper.Held().Has(watching) {
		return e.sources.Status()
	}
	watched := slices.ContainsFunc(e.keeper.Members(), func(m lease.Member) bool { return m.Holds.Has(watching) })
	if !watched {
		return nil
	}
	var status []events.DefinitionSource
	got, err := e.peers.Gather(ctx, topicSources, nil, 1, time.Second)
	if err == nil && len(got) == 1 {
		err = json.Unmarshal(got[0], &status)
	}
	if err != nil {
		e.o.Log.Warn("how the sources of definitions are is not known now", "error", err)
	}
	return status
}

// engines are those that are alive.
func (e *Engine) engines() []events.EngineInfo {
	var all []events.EngineInfo
	for _, m := range e.keeper.Members() {
		info := events.EngineInfo{Instance: m.Instance, Version: m.Version, StartedAt: m.Since, HTTP: m.HTTP,
			Partitions: m.Holds.Partitions.Len(), Singletons: m.Holds.Singletons, Leaving: m.Leaving, Clock: m.Clock}
		for _, s := range m.Stopped {
			info.Stopped = append(info.Stopped, events.StoppedPartition{Partition: s.Partition, Reason: s.Reason})
		}
		all = append(all, info)
	}
	return all
}
