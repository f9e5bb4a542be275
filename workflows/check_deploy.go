package workflows

import (
	"strings"
	"time"
)

// deploy checks a deployment: a new one, or the rest of one that another state
// has begun.
func (k *check) deploy(w *Workflow, path string, b *Body, each *ForEach, s *State) {
	d, at := b.Deploy, path+".deploy"
	if d.Resume != "" {
		k.resume(w, at, d, s)
		return
	}
	for _, key := range []struct {
		name string
		set  bool
		hint string
	}{{"environment", d.Environment != "", "where to"}, {"strategy", d.Strategy != "", "one of recreate, blue-green, rolling, canary"},
		{"artifact", d.Artifact != nil, "a digest, as a build gives it: '${{ build.digest }}'"}} {
		if !key.set {
			k.fault(at, "missing", key.hint, "%s is missing", key.name)
		}
	}
	k.site(at+".environment", d.Environment, each)
	a := b.Doing()
	k.secrets(path, a, each)
	k.with(at, a, "artifact", "strategy")
	for _, name := range []string{"weight", "step", "undo"} {
		if a.With[name] != nil {
			k.fault(Join(at+".with", name), "misplaced-key", "the steps say it", "%s is given by the engine", name)
		}
	}
	k.withSecrets(at+".with", a.With)
	k.outputs(path, a)
	k.steps(at, d)
}

func (k *check) resume(w *Workflow, at string, d *Deploy, s *State) {
	for _, key := range []struct {
		name string
		set  bool
	}{{"environment", d.Environment != ""}, {"strategy", d.Strategy != ""}, {"artifact", d.Artifact != nil}, {"with", d.With != nil},
		{"steps", d.Steps != nil}, {"analysis", d.Analysis != nil}} {
		if key.set {
			k.fault(at+"."+key.name, "misplaced-key", "it goes on as it was begun", "a deploy with resume has no %s", key.name)
		}
	}
	if s == nil {
		k.fault(at+".resume", "misplaced-key", "make it a state of its own", "a deployment goes on in a state, not in a branch or a member")
		return
	}
	if !knownIn(k, at+".resume", "state", d.Resume, w.Spec.States) {
		return
	}
	switch of := w.Spec.States[d.Resume]; {
	case of == s:
		k.value(at+".resume", "nothing-to-resume", "name the state that begins the deployment", "%s cannot go on with itself", s.Name)
	case of.Deploy == nil:
		k.value(at+".resume", "nothing-to-resume", "name a state with a deploy", "the state %s begins no deployment", d.Resume)
	case of.Deploy.Resume != "":
		k.value(at+".resume", "nothing-to-resume", "name "+of.Deploy.Resume+", which begins it", "the state %s begins no deployment", d.Resume)
	case of.Deploy.Strategy != "canary" && of.Deploy.Strategy != "":
		k.value(at+".resume", "nothing-to-resume", "only a canary stops part of the way", "a %s deployment is whole or undone", of.Deploy.Strategy)
	}
}

// maxStepsOfDeploy is how many steps a deployment can have.
const maxStepsOfDeploy = 100

// steps checks the way of a canary: weights that grow to 100, and metrics that
// are looked at.
func (k *check) steps(at string, d *Deploy) {
	if d.Strategy != "canary" && d.Strategy != "" {
		if d.Steps != nil {
			k.fault(at+".steps", "misplaced-key", "write strategy: canary", "a deployment by %s has no steps", d.Strategy)
		}
		if d.Analysis != nil {
			k.fault(at+".analysis", "misplaced-key", "write strategy: canary, and steps with analyze", "a deployment by %s has no analysis", d.Strategy)
		}
		return
	}
	if len(d.Steps) > maxStepsOfDeploy {
		k.fault(at+".steps", "too-many", "", "a deployment has %d steps at most", maxStepsOfDeploy)
		return
	}
	weight, analyzed := 0, time.Duration(0)
	for i, step := range d.Steps {
		path := index(at+".steps", i)
		set := 0
		for _, is := range []bool{step.Weight != 0, step.Pause != 0, step.Analyze != 0} {
			if is {
				set++
			}
		}
		switch {
		case set != 1:
			k.fault(path, "one-step", "make it a step of its own", "a step is one of weight, pause, analyze")
		case step.Weight != 0 && step.Weight <= weight:
			k.value(path+".weight", "weights-fall", "to go back is to undo", "the weight %d does not grow, it was %d before", step.Weight, weight)
		case step.Analyze != 0 && len(d.Analysis) == 0:
			k.fault(path+".analyze", "no-analysis", "list metrics under analysis", "there is nothing to analyze")
		case step.Analyze != 0 && weight == 0:
			k.fault(path+".analyze", "no-weight", "begin with a weight", "nothing is deployed yet, so there is nothing to analyze")
		}
		weight = max(weight, step.Weight)
		if step.Analyze != 0 && (analyzed == 0 || step.Analyze.D() < analyzed) {
			analyzed = step.Analyze.D()
		}
	}
	if len(d.Steps) > 0 && weight != 100 {
		k.fault(at+".steps", "ends-early", "let the last weight be 100", "the steps end at %d per cent, so the deployment never ends", weight)
	}
	k.metrics(at, d, analyzed)
}

func (k *check) metrics(at string, d *Deploy, analyzed time.Duration) {
	if len(d.Analysis) > 0 && analyzed == 0 {
		k.fault(at+".analysis", "never-analyzed", "add {analyze: 10m} to steps", "no step looks at these metrics")
	}
	seen := map[string]bool{}
	for i, m := range d.Analysis {
		path := index(at+".analysis", i)
		if m.Name != "" {
			if what := CheckField(m.Name); what != "" {
				k.value(path+".name", "bad-name", "", "%s", what)
			}
			if seen[m.Name] {
				k.value(path+".name", "repeated-name", "give it a name of its own", "there are two metrics named %s", m.Name)
			}
			seen[m.Name] = true
		}
		for _, provider := range names(m.Query) {
			if strings.TrimSpace(m.Query[provider]) == "" {
				k.value(Join(path+".query", provider), "empty-value", "write what is asked", "the query is empty")
			}
		}
		if analyzed > 0 && m.Every.D() > analyzed {
			k.value(path+".every", "never-sampled", "make the period longer, or every shorter", "a sample every %s is longer than the analysis, which takes %s", m.Every, Duration(analyzed))
		}
	}
}
