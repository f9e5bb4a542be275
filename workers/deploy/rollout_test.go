package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// site is a target in memory. Every call has a number; the calls with the
// numbers in broken return an error, after they have had their effect or
// before, as late says.
type site struct {
	running map[deploy.Group]deploy.Release
	shares  map[deploy.Group]int
	live    deploy.Group
	ready   bool // something is prepared
	groups  int
	calls   []string
	broken  map[int]bool
	late    bool
	at      func(call int) // before a call
}

func newSite() *site {
	return &site{running: map[deploy.Group]deploy.Release{"old": {Artifact: "v1", Settings: deploy.Settings{Instances: 1}}},
		shares: map[deploy.Group]int{"old": 100}, live: "old", broken: map[int]bool{}}
}

var errBroken = errors.New("broken")

func (s *site) call(name string, effect func()) error {
	if s.at != nil {
		s.at(len(s.calls))
	}
	bad := s.broken[len(s.calls)]
	s.calls = append(s.calls, name)
	if !bad || s.late {
		effect()
	}
	if bad {
		return errBroken
	}
	return nil
}

func (s *site) Current(context.Context) (deploy.Running, bool, error) {
	r, ok := s.running[s.live]
	return deploy.Running{Group: s.live, Release: r}, ok, nil
}
func (s *site) Prepare(context.Context, deploy.Release) error {
	return s.call("prepare", func() { s.ready = true })
}
func (s *site) Forgo(context.Context, deploy.Release) error {
	return s.call("forgo", func() { s.ready = false })
}
func (s *site) Start(_ context.Context, r deploy.Release) (deploy.Group, error) {
	var id deploy.Group
	err := s.call("start "+r.Artifact, func() {
		s.groups++
		id = deploy.Group(fmt.Sprint("g", s.groups))
		s.running[id] = r
	})
	if err != nil {
		delete(s.running, id) // by contract nothing runs after an error
	}
	return id, err
}
func (s *site) Healthy(ctx context.Context, g deploy.Group) error {
	return errors.Join(s.call("healthy "+s.running[g].Artifact, func() {}), ctx.Err())
}
func (s *site) Weights(_ context.Context, shares map[deploy.Group]int) error {
	return s.call("weights", func() { s.shares = maps.Clone(shares) })
}
func (s *site) Verify(_ context.Context, g deploy.Group) error {
	return s.call("verify "+s.running[g].Artifact, func() {})
}
func (s *site) Commit(_ context.Context, g deploy.Group) error {
	was := s.live
	err := s.call("commit "+s.running[g].Artifact, func() { s.live = g })
	if err != nil {
		s.live = was
	}
	return err
}
func (s *site) Drain(_ context.Context, g deploy.Group) error {
	return s.call("drain "+s.running[g].Artifact, func() {})
}
func (s *site) Stop(_ context.Context, g deploy.Group) error {
	return s.call("stop "+s.running[g].Artifact, func() { delete(s.running, g) })
}

// picture is what is seen from outside: what runs and what gets traffic, by artifact.
func (s *site) picture() string {
	var runs []string
	for g, r := range s.running {
		runs = append(runs, fmt.Sprintf("%s:%d", r.Artifact, s.shares[g]))
	}
	slices.Sort(runs)
	return fmt.Sprintf("live %s, runs %s", s.running[s.live].Artifact, strings.Join(runs, " "))
}

const (
	before = "live v1, runs v1:100"
	after  = "live v2, runs v2:100"
)

type silent struct{}

func (silent) Progress(string) {}
func (silent) Note(string)     {}
func (silent) Output(string)   {}

func run(ctx context.Context, strategy string, s *site) events.Result {
	return deploy.Run(ctx, deploy.Strategies()[strategy], s, deploy.Release{Artifact: "v2", Settings: deploy.Settings{Instances: 1}}, silent{})
}

func TestOrderOfSteps(t *testing.T) {
	for strategy, want := range map[string]string{
		"blue-green": "prepare, start v2, healthy v2, weights, verify v2, commit v2, drain v1, stop v1",
		"recreate":   "prepare, weights, drain v1, stop v1, start v2, healthy v2, weights, verify v2, commit v2",
	} {
		s := newSite()
		r := run(t.Context(), strategy, s)
		if diff := cmp.Diff(strings.Join(s.calls, ", "), want); diff != "" || s.picture() != after {
			t.Errorf("%s: %s (-got +want):\n%s", strategy, s.picture(), diff)
		}
		if diff := cmp.Diff(r, events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"artifact": "v2", "previous": "v1", "instances": 1}}); diff != "" {
			t.Errorf("%s (-got +want):\n%s", strategy, diff)
		}
	}
}

// Whatever breaks, and whether it breaks before or after it had its effect,
// the outcome tells the truth about what is there.
func TestOutcomeIsTrueWhateverBreaks(t *testing.T) {
	for _, strategy := range []string{"blue-green", "recreate"} {
		for _, late := range []bool{false, true} {
			for one := range 20 {
				for two := one; two < 24; two++ { // the second one is often in the undo
					s := newSite()
					s.broken[one], s.broken[two], s.late = true, true, late
					r := run(t.Context(), strategy, s)
					undone, _ := r.Facts[deploy.FactUndone].(bool)
					name := fmt.Sprintf("%s, calls %d and %d break, late %v: %v: %s, undone %v, %s", strategy, one, two, late, s.calls, r.Outcome, undone, s.picture())
					switch r.Outcome {
					case events.Succeeded:
						if !strings.HasPrefix(s.picture(), "live v2") || !strings.Contains(s.picture(), "v2:100") {
							t.Error(name)
						}
					case events.Failed:
						// A drain that fails is only noted.
						if !undone || s.picture() != before {
							t.Error(name)
						}
					case events.Inconclusive:
						if undone || one == two {
							t.Error(name)
						}
					}
				}
			}
		}
	}
}

func TestCancelAtAnyStepUndoesOrComesTooLate(t *testing.T) {
	for _, strategy := range []string{"blue-green", "recreate"} {
		for when := range 10 {
			s := newSite()
			ctx, cancel := context.WithCancelCause(t.Context())
			s.at = func(call int) {
				if call == when {
					cancel(workers.ErrCancelled)
				}
			}
			r := run(ctx, strategy, s)
			undone, _ := r.Facts[deploy.FactUndone].(bool)
			switch {
			case r.Outcome == events.Cancelled && undone && s.picture() == before:
			case r.Outcome == events.Succeeded && s.picture() == after:
			default:
				t.Errorf("%s, cancelled at call %d: %s, undone %v, %s", strategy, when, r.Outcome, undone, s.picture())
			}
			cancel(nil)
		}
	}
}

func TestFirstDeploymentThatFailsLeavesNothing(t *testing.T) {
	for _, strategy := range []string{"blue-green", "recreate"} {
		s := &site{running: map[deploy.Group]deploy.Release{}, broken: map[int]bool{2: true}}
		r := run(t.Context(), strategy, s)
		if r.Outcome != events.Failed || len(s.running) != 0 || len(s.shares) != 0 || s.live != "" || s.ready {
			t.Errorf("%s: %s, %+v", strategy, r.Outcome, s)
		}
	}
}

func undo(s *site, artifact, taken string) events.Result {
	return deploy.Undo(context.Background(), deploy.Strategies()["blue-green"], s, deploy.Release{Artifact: artifact, Settings: deploy.Settings{Instances: 1}}, taken, silent{})
}

func TestAnUndoTakesBackOnlyWhatItIsToldTo(t *testing.T) {
	for _, c := range []struct{ name, artifact, taken, want, code string }{
		{"brings back what was there", "v0", "v1", "live v0, runs v0:100", ""},
		{"removes where nothing was", "", "v1", "live , runs ", ""},
		{"has nothing to do", "v1", "v2", before, ""},
		{"leaves alone what somebody else brought", "v0", "v2", before, "not_ours"},
		{"removes nothing that somebody else brought", "", "v2", before, "not_ours"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite()
			r := undo(s, c.artifact, c.taken)
			if s.picture() != c.want {
				t.Errorf("%s, want %s", s.picture(), c.want)
			}
			if c.code == "" && r.Outcome != events.Succeeded || c.code != "" && (r.Error == nil || r.Error.Code != c.code || r.Facts[deploy.FactUndone] != true) {
				t.Errorf("%+v", r)
			}
		})
	}
	s := newSite()
	delete(s.running, "old")
	if r := undo(s, "v0", "v1"); r.Error == nil || r.Error.Code != "not_ours" {
		t.Errorf("nothing is live: %+v", r)
	}
	if r := undo(s, "", "v1"); r.Outcome != events.Succeeded {
		t.Errorf("nothing is live, and nothing was: %+v", r)
	}
}

func TestAnUndoThatBreaksTellsTheTruth(t *testing.T) {
	for _, late := range []bool{false, true} {
		for one := range 6 {
			for two := one; two < 8; two++ {
				s := newSite()
				s.broken[one], s.broken[two], s.late = true, true, late
				r := undo(s, "", "v1")
				switch undone, _ := r.Facts[deploy.FactUndone].(bool); {
				case r.Outcome == events.Succeeded && s.live == "old":
					t.Errorf("%d, %d, late %v: it succeeded, and there is %s", one, two, late, s.picture())
				case undone && s.picture() != before:
					t.Errorf("%d, %d, late %v: nothing is left of it, and there is %s", one, two, late, s.picture())
				}
			}
		}
	}
}
