package local

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// State is what Status tells of an environment.
type State struct {
	Dir         string        `json:"dir"`
	Environment string        `json:"environment,omitempty"`
	Supervisor  int           `json:"supervisor,omitempty"` // its process id; 0 when it is not running
	URL         string        `json:"url,omitempty"`        // of the router; "" before the first deployment
	Live        *Live         `json:"live,omitempty"`       // nil when nothing is live
	Groups      []GroupStatus `json:"groups,omitempty"`     // what is running
	Deploying   []string      `json:"deploying,omitempty"`  // attempts that are going on
	Restoring   bool          `json:"restoring,omitempty"`  // the live release is just being started again
	Requests    Requests      `json:"requests"`             // since the supervisor started
	Fence       events.Fence  `json:"fence"`                // the highest seen
}

// Live is the release that gets the traffic.
type Live struct {
	Artifact string    `json:"artifact"`
	Previous string    `json:"previous,omitempty"` // what was live before
	Run      string    `json:"run"`
	Attempt  string    `json:"attempt"`
	Since    time.Time `json:"since"`
}

// GroupStatus is the instances of one release.
type GroupStatus struct {
	Group     deploy.Group     `json:"group"`
	Artifact  string           `json:"artifact"`
	Weight    int              `json:"weight"` // share of the traffic, in relation to the others'
	InFlight  int              `json:"inFlight"`
	Instances []InstanceStatus `json:"instances"`
}

// InstanceStatus is one process.
type InstanceStatus struct {
	PID      int    `json:"pid"`
	Port     int    `json:"port"`
	Running  bool   `json:"running"`
	Restarts int    `json:"restarts,omitempty"`
	Log      string `json:"log"` // file with what it prints
}

// describe is what of a state on disk is in a State.
func describe(dir string, st state) State {
	out := State{Dir: dir, Environment: st.Environment, Fence: st.Fence}
	if st.Port != 0 {
		out.URL = "http://" + loopback(st.Port)
	}
	if l := st.Live; l != nil {
		out.Live = &Live{Artifact: l.Release.Artifact, Previous: l.Previous, Run: l.Release.Run, Attempt: l.Release.Attempt, Since: l.Since}
	}
	for _, p := range st.Pending {
		out.Deploying = append(out.Deploying, p.Attempt)
	}
	return out
}

func (s *supervisor) status() State {
	s.mu.Lock()
	out := describe(s.dir, s.state)
	out.Restoring = s.restoring
	groups := slices.SortedFunc(maps.Values(s.groups), func(a, b *group) int {
		return cmp.Or(cmp.Compare(len(a.id), len(b.id)), cmp.Compare(a.id, b.id)) // g9 before g10
	})
	s.mu.Unlock()
	out.Requests = s.router.counts()
	for _, g := range groups {
		out.Groups = append(out.Groups, g.status())
	}
	return out
}

func (g *group) status() GroupStatus {
	out := GroupStatus{Group: g.id, Artifact: g.release.Artifact, Weight: g.s.router.weight(g.id)}
	out.InFlight, _ = g.s.router.inFlight(g.id)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, in := range g.instances {
		p := in.process
		out.Instances = append(out.Instances, InstanceStatus{PID: p.pid, Port: p.port, Running: !p.ended(), Restarts: in.restarts, Log: p.log})
	}
	return out
}

// logs are the names of the group's log files.
func (g *group) logs() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, in := range g.instances {
		names = append(names, filepath.Base(in.process.log), filepath.Base(in.process.log)+".1")
	}
	return names
}

func (r *router) weight(g deploy.Group) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.weights[g]
}

// keepLogs is how many log files of ended instances are kept.
const keepLogs = 20

func pruneLogs(dir string, inUse []string) {
	prune(filepath.Join(dir, logsDir), keepLogs, func(name string) bool { return slices.Contains(inUse, name) })
}
