package scenario_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/penstock-cd/penstock/engine/scenario"
	"github.com/penstock-cd/penstock/workflows"
	"github.com/penstock-cd/penstock/workflows/parse"
)

// FuzzScenario: a scenario that is accepted can be played, comes to an end,
// and can be looked at on its way.
func FuzzScenario(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	var flows []parse.File
	for _, name := range names {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		base := strings.TrimSuffix(filepath.Base(name), ".txtar")
		for _, file := range ar.Files {
			switch {
			case file.Name == "flow.yaml":
				flows = append(flows, parse.File{Name: base + ".yaml", Content: file.Data})
			case file.Name == "scenarios.yaml":
				for doc := range strings.SplitSeq(string(file.Data), "---\n") {
					f.Add(base, doc)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		for _, flow := range flows {
			if flow.Name != name+".yaml" {
				continue
			}
			set, _ := parse.Files([]parse.File{flow, {Name: "scenario.yaml", Content: []byte(text)}})
			c := set.Catalog()
			for _, s := range c.Scenarios {
				began := time.Now()
				r := scenario.Play(c, s)
				scenario.PlayUntil(c, s, time.Hour)
				cov := scenario.NewCoverage(c, s.Spec.Workflow)
				cov.Add(r)
				if d := time.Since(began); d > 30*time.Second {
					t.Errorf("%s takes %v", s.Metadata.Name, d)
				}
			}
		}
	})
}

// TestAnyScenarioEndsOrWaitsForSomething: whatever a scenario holds, its run
// ends, or the result names what it waits for.
func TestAnyScenarioEndsOrWaitsForSomething(t *testing.T) {
	var catalogs []*workflows.Catalog
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, catalog(t, ar))
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(catalogs).Draw(t, "catalog")
		s := new(*rapid.SampledFrom(c.Scenarios).Draw(t, "scenario"))
		s.Spec.Tasks, s.Spec.People = map[string][]*workflows.TaskAnswer{}, nil
		for _, e := range scenario.Play(c, s).Effects {
			if rapid.Bool().Draw(t, e.Task) {
				s.Spec.Tasks[e.Task] = rapid.SliceOfN(rapid.Custom(anyAnswer), 1, 3).Draw(t, "answers of "+e.Task)
			}
		}
		s.Spec.People = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *workflows.PersonAct { return anyAct(t, c.Workflows[s.Spec.Workflow]) }), 0, 6).Draw(t, "people")
		for _, name := range sorted(c.Environments) {
			if rapid.Bool().Draw(t, name) {
				s.Spec.Environments = maps.Clone(s.Spec.Environments)
				if s.Spec.Environments == nil {
					s.Spec.Environments = map[string]*workflows.Situation{}
				}
				s.Spec.Environments[name] = anySituation(t)
			}
		}
		r := scenario.Play(c, s)
		if r.Outcome == "" && r.At != "" && len(r.Waiting) == 0 {
			t.Fatalf("it is in %s and waits for nothing", r.At)
		}
		for _, f := range r.Failures {
			if strings.Contains(f.Text, "does not come to an end") {
				t.Fatal(f.Text)
			}
		}
	})
}

func anyDuration(t *rapid.T) workflows.Duration {
	return workflows.Duration(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour, 25 * time.Hour}).Draw(t, "duration"))
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func anySituation(t *rapid.T) *workflows.Situation {
	s := &workflows.Situation{LockedFor: anyDuration(t)}
	if rapid.Bool().Draw(t, "deployed") {
		s.Deployed = rapid.SampledFrom([]string{"sha256:old", "sha256:aa", "sha256:new"}).Draw(t, "artifact")
	}
	if rapid.Bool().Draw(t, "held") {
		from := anyDuration(t)
		s.Held = []*workflows.Hold{{From: from, To: from + workflows.Duration(time.Hour)}}
	}
	return s
}

func anyAnswer(t *rapid.T) *workflows.TaskAnswer {
	a := &workflows.TaskAnswer{After: anyDuration(t)}
	switch rapid.IntRange(0, 6).Draw(t, "answer") {
	case 0:
		a.Fails = &workflows.TaskFailure{Code: "broken", Retryable: rapid.Bool().Draw(t, "retryable")}
	case 1:
		a.NeverStarts = true
	case 2:
		a.TimesOut = true
	case 3:
		a.WorkerLost = true
	}
	return a
}

func anyAct(t *rapid.T, wf *workflows.Workflow) *workflows.PersonAct {
	var states []string
	for _, st := range wf.Ordered() {
		states = append(states, st.Name)
	}
	p := &workflows.PersonAct{At: anyDuration(t), User: rapid.SampledFrom([]string{"ana", "marta", "li", "zoe"}).Draw(t, "user")}
	state := rapid.SampledFrom(states).Draw(t, "state")
	switch rapid.IntRange(0, 11).Draw(t, "act") {
	case 9:
		p.BreaksGlass = "production"
	case 0:
		p.Cancels = true
	case 1:
		p.Pauses = true
	case 2:
		p.Resumes = true
	case 3:
		p.Retries = state
	case 4:
		p.Rejects = state
	case 5:
		p.RequestsChanges = state
	case 6:
		p.Withdraws = state
	case 7:
		p.Delegates, p.To = state, "li"
	case 8:
		p.NotBefore, p.Approves = anyDuration(t), state
	default:
		p.Approves = state
	}
	return p
}
