package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/penstock-cd/penstock/workers/deploy"
)

// config is the "local" part of an environment's target.
type config struct {
	Port int `json:"port"` // of the router; 0 takes a free one at the first deployment and keeps it
	deploy.Settings
}

// plan reads what r asks for, and reports everything that is wrong.
func plan(r deploy.Request) (deploy.Release, config, error) {
	var c config
	if err := deploy.Decode(r.Target, &c); err != nil {
		return deploy.Release{}, c, fmt.Errorf("environment %q: target.local: %w", r.Environment, err)
	}
	set, err := c.Settings.Over(r.With).Complete()
	if c.Port < 0 || c.Port > 65535 {
		err = errors.Join(err, fmt.Errorf("port: %d is not between 0 and 65535", c.Port))
	}
	if err != nil {
		return deploy.Release{}, c, fmt.Errorf("environment %q: %w", r.Environment, err)
	}
	return deploy.Release{Artifact: r.Artifact, Run: r.Run, Attempt: r.Attempt, Settings: set, Environ: r.Environ()}, c, nil
}

// target is the environment of a supervisor, for one rollout.
type target struct {
	s    *supervisor
	to   deploy.Reporter
	port int // asked for; 0 is the one that there is
	door int // that the router has for this rollout
}

// Current implements deploy.Target.
func (t *target) Current(context.Context) (deploy.Running, bool, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.s.live == nil {
		return deploy.Running{}, false, nil
	}
	return deploy.Running{Group: t.s.live.id, Release: t.s.live.release}, true, nil
}

// Prepare implements deploy.Target.
func (t *target) Prepare(_ context.Context, r deploy.Release) error {
	if err := verifyArtifact(t.s.dir, r.Artifact); err != nil {
		return &deploy.Failure{Code: "artifact_unavailable", Message: err.Error(), Retryable: true}
	}
	port := t.port
	if port == 0 {
		port = t.s.port()
	}
	door, err := t.s.router.open(port)
	if err != nil {
		return &deploy.Failure{Code: "port_unavailable", Message: err.Error(), Retryable: true}
	}
	t.door = door
	return nil
}

// Forgo implements deploy.Target.
func (t *target) Forgo(ctx context.Context, _ deploy.Release) error {
	if t.door != 0 && t.door != t.s.port() {
		return t.s.router.shut(ctx, t.door)
	}
	return nil
}

// Start implements deploy.Target.
func (t *target) Start(_ context.Context, r deploy.Release) (deploy.Group, error) {
	id := t.s.newGroupID()
	g, err := t.s.startGroup(id, r)
	if err != nil {
		return "", err
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.groups[id] = g
	return id, nil
}

// Healthy implements deploy.Target.
func (t *target) Healthy(ctx context.Context, id deploy.Group) error {
	g, err := t.s.group(id)
	if err != nil {
		return err
	}
	return g.healthy(ctx, t.to)
}

// Weights implements deploy.Target.
func (t *target) Weights(_ context.Context, shares map[deploy.Group]int) error {
	for id := range shares {
		g, err := t.s.group(id)
		if err != nil {
			return err
		}
		g.attach()
	}
	t.s.router.setWeights(maps.Clone(shares))
	return nil
}

// Verify implements deploy.Target.
func (t *target) Verify(ctx context.Context, id deploy.Group) error {
	g, err := t.s.group(id)
	if err != nil {
		return err
	}
	if g.release.Settings.Health == deploy.HealthTCP {
		return nil // it may speak another protocol than HTTP's
	}
	for range g.release.Settings.Instances {
		if err := t.s.router.check(ctx, t.door, g.release.Settings.Health, g.release.Artifact); err != nil {
			return &deploy.Failure{Code: "verify_failed", Message: "it was healthy, but not through the router: " + err.Error(), Retryable: true}
		}
	}
	return nil
}

// Commit implements deploy.Target.
func (t *target) Commit(_ context.Context, id deploy.Group) error {
	if id == "" {
		return t.s.commitNothing()
	}
	g, err := t.s.group(id)
	if err != nil {
		return err
	}
	before := t.s.port()
	if err := t.s.commit(g, t.door, t.port == 0); err != nil {
		return err
	}
	g.keep()
	if now := t.s.port(); before != 0 && before != now {
		go func() { // connections to the old port may end what they began
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(g.release.Settings.Drain))
			defer cancel()
			t.s.router.shut(ctx, before)
		}()
	}
	return nil
}

// Drain implements deploy.Target.
func (t *target) Drain(ctx context.Context, id deploy.Group) error {
	g, err := t.s.group(id)
	if err != nil {
		return nil // it has been stopped
	}
	return t.s.router.drain(ctx, id, time.Duration(g.release.Settings.Drain))
}

// Stop implements deploy.Target.
func (t *target) Stop(_ context.Context, id deploy.Group) error {
	g, err := t.s.group(id)
	if err != nil {
		return nil // it has been stopped
	}
	g.stop()
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	delete(t.s.groups, id)
	return nil
}

func (s *supervisor) newGroupID() deploy.Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastGroup++
	return deploy.Group(fmt.Sprintf("g%d", s.lastGroup))
}

func (s *supervisor) group(id deploy.Group) (*group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("group %s is not running", id)
}

func (s *supervisor) port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Port
}

// commitNothing leaves nothing live.
func (s *supervisor) commitNothing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.update(func(st *state) { st.Live = nil }); err != nil {
		return &deploy.Failure{Code: "state_not_saved", Message: err.Error(), Retryable: true}
	}
	s.live = nil
	return nil
}

// commit makes g the live release. A release that was live before, and was
// only started again, keeps its record.
func (s *supervisor) commit(g *group, port int, chosen bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.state.Live != nil && s.state.Live.Release.Attempt == g.release.Attempt
	if !again {
		err := s.update(func(st *state) {
			previous := ""
			if st.Live != nil {
				previous = st.Live.Release.Artifact
			}
			st.Live = &liveRelease{Release: g.release, Previous: previous, Since: time.Now().UTC()}
			if st.Port != port {
				st.Port, st.Chosen = port, chosen
			}
		})
		if err != nil {
			return &deploy.Failure{Code: "state_not_saved", Message: err.Error(), Retryable: true}
		}
	}
	s.live = g
	return nil
}
