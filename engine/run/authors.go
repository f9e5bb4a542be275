package run

import (
	"maps"
	"slices"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/workflows"
)

// Who wrote a change is told by a build: the authors of the commits since what
// runs now. What runs now was looked up when the run started.

// Enters lists the environments that a workflow deploys to, sorted.
func Enters(w *workflows.Workflow, cat *workflows.Catalog) []string {
	var names []string
	add := func(b *workflows.Body) {
		if b.Deploy != nil && b.Deploy.Environment != "" {
			names = append(names, b.Deploy.Environment)
		}
	}
	for _, st := range w.Spec.States {
		add(&st.Body)
		for _, b := range st.Parallel {
			add(&b.Body)
		}
		if e := st.ForEach; e != nil && e.Do != nil {
			add(e.Do)
			if e.Environments != nil {
				names = append(names, cat.Selected(e.Environments)...)
			}
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return cat.Environments[name] == nil })
	slices.Sort(names)
	return slices.Compact(names)
}

// tellRunning tells a build which commits of its repository run now.
func (x *step) tellRunning(t *Task, with map[string]any) {
	if t.Kind != "build" || t.Detached || with["running"] != nil {
		return
	}
	commits := map[string]bool{}
	for _, s := range x.s.Ran {
		if s.Commit != "" && s.Repository == with["repository"] {
			commits[s.Commit] = true
		}
	}
	if len(commits) > 0 {
		with["running"] = workflows.Normal(slices.Sorted(maps.Keys(commits)))
	}
}

// learnSource notes what a build was made from.
func (x *step) learnSource(t *Task, facts map[string]any) {
	commit, ok := facts["commit"].(string)
	if !ok || t.Kind != "build" {
		return
	}
	repository := ""
	if d := x.activity(t).With["repository"]; d != nil {
		if v, err := x.data("repository", d, x.memberScope(t)); err == nil {
			repository = record.Text(v)
		}
	}
	x.s.Source = record.Source{Repository: repository, Commit: commit}
}
