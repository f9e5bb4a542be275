package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/workers/deploy"
)

// A live instance that ends is started again after a pause that doubles.
const (
	restartPause    = 200 * time.Millisecond
	restartPauseMax = 10 * time.Second
)

// group is the instances of one release.
//
// A group begins with its processes started and not yet in the router. keep
// puts them there, and from then on a goroutine per instance owns it: starts
// it again when it ends, until stop.
type group struct {
	id      deploy.Group
	release deploy.Release
	s       *supervisor

	ctx     context.Context // ends with stop
	end     context.CancelFunc
	keepers sync.WaitGroup

	mu        sync.Mutex
	instances []*instance
	kept      bool
}

// instance is a place in a group. mu of the group guards it.
type instance struct {
	process  *process
	backend  *backend // nil while it gets no traffic
	restarts int
}

// startTries is how often an instance is started when somebody else took its
// port in between.
const startTries = 3

// startGroup starts all instances of a release, or none.
func (s *supervisor) startGroup(id deploy.Group, r deploy.Release) (*group, error) {
	g := &group{id: id, release: r, s: s}
	g.ctx, g.end = context.WithCancel(context.Background())
	for range r.Settings.Instances {
		p, err := s.startProcess(r, string(id))
		if err != nil {
			g.stop()
			return nil, err
		}
		g.instances = append(g.instances, &instance{process: p})
	}
	return g, nil
}

// healthy waits until every instance is healthy.
func (g *group) healthy(ctx context.Context, to deploy.Reporter) error {
	ctx, cancel := context.WithCancelCause(ctx) // the first that fails ends the wait for the others
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(g.instances))
	for i, in := range g.instances {
		wg.Go(func() {
			if errs[i] = g.instanceHealthy(ctx, in, to); errs[i] != nil {
				cancel(errOtherInstance)
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && !errors.Is(err, errOtherInstance) {
			return g.neverHealthy(i, err)
		}
	}
	return errors.Join(errs...)
}

var errOtherInstance = errors.New("another instance is not healthy")

func (g *group) instanceHealthy(ctx context.Context, in *instance, to deploy.Reporter) error {
	for try := 1; ; try++ {
		g.mu.Lock()
		p := in.process
		g.mu.Unlock()
		err := awaitHealth(ctx, p, g.release.Settings)
		if err == nil {
			to.Note(fmt.Sprintf("%s pid %d on :%d healthy after %s", g.id, p.pid, p.port, time.Since(p.started).Round(10*time.Millisecond)))
			return nil
		}
		if ctx.Err() != nil || try == startTries || !p.ended() || !portTaken(p.port) {
			return err
		}
		to.Note(fmt.Sprintf("%s pid %d: somebody else took port %d; starting it again", g.id, p.pid, p.port))
		next, err := g.s.startProcess(g.release, string(g.id))
		if err != nil {
			return err
		}
		g.mu.Lock()
		in.process = next
		g.mu.Unlock()
	}
}

// neverHealthy says what was seen of an instance.
func (g *group) neverHealthy(i int, err error) error {
	g.mu.Lock()
	p := g.instances[i].process
	g.mu.Unlock()
	printed := tail(p.log, 8<<10)
	message := fmt.Sprintf("instance %d of %s (pid %d, port %d) did not become healthy: %v", i+1, g.release.Artifact, p.pid, p.port, err)
	if last := lastLines(printed, 5); last != "" {
		message += "; the last it printed: " + last
	}
	return &deploy.Failure{Code: "never_healthy", Message: message, Output: printed}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.Join(lines[max(0, len(lines)-n):], " | ")
	if len(last) > 500 {
		last = "…" + strings.ToValidUTF8(last[len(last)-500:], "")
	}
	return last
}

// attach puts the instances into the router, which sends them traffic by the
// weight of the group.
func (g *group) attach() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, in := range g.instances {
		if in.backend == nil && !in.process.ended() {
			in.backend = g.s.router.add(g.id, loopback(in.process.port), g.release.Artifact)
		}
	}
}

// keep sees to it that the instances are there, from now until stop.
func (g *group) keep() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kept {
		return
	}
	g.kept = true
	for _, in := range g.instances {
		g.keepers.Go(func() { g.keepInstance(in) })
	}
}

// keepInstance owns in: whenever its process ends, or does not become
// healthy, it starts another one.
func (g *group) keepInstance(in *instance) {
	pause := restartPause
	for {
		g.mu.Lock()
		p, b := in.process, in.backend
		g.mu.Unlock()
		if b == nil && !p.ended() && awaitHealth(g.ctx, p, g.release.Settings) == nil {
			b = g.s.router.add(g.id, loopback(p.port), g.release.Artifact)
			g.setInstance(in, p, b)
		}
		if b != nil {
			select {
			case <-p.done:
			case <-g.ctx.Done():
				return
			}
			g.s.router.remove(b)
			if time.Since(p.started) > time.Minute {
				pause = restartPause
			}
		}
		if g.ctx.Err() != nil {
			return
		}
		p.stop()
		g.s.log.Warn("instance ended or is not healthy; starting it again", "group", g.id, "pid", p.pid, "exit", p.exit, "pause", pause)
		select {
		case <-time.After(pause):
		case <-g.ctx.Done():
			return
		}
		pause = min(2*pause, restartPauseMax)
		next, err := g.s.startProcess(g.release, string(g.id))
		if err != nil {
			g.s.log.Error("instance cannot be started", "group", g.id, "error", err)
			next = p // it has ended: the next round tries again
		}
		g.setInstance(in, next, nil)
	}
}

func (g *group) setInstance(in *instance, p *process, b *backend) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if in.process != p {
		in.restarts++
	}
	in.process, in.backend = p, b
}

// stop ends all instances and forgets them. It may be called twice.
func (g *group) stop() {
	g.end()
	g.keepers.Wait()
	var wg sync.WaitGroup
	g.mu.Lock()
	for _, in := range g.instances {
		if in.backend != nil {
			g.s.router.remove(in.backend)
			in.backend = nil
		}
		wg.Go(in.process.stop)
	}
	g.mu.Unlock()
	wg.Wait()
}
