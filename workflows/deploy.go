package workflows

import (
	"slices"
	"time"
)

// DefaultSteps are those of a canary that names none.
func DefaultSteps() []*Step {
	pause := Duration(5 * time.Minute)
	return []*Step{{Weight: 10}, {Pause: pause}, {Weight: 50}, {Pause: pause}, {Weight: 100}}
}

// Expanded gives the steps of a deployment as they are carried out: those of
// the file, or of a canary the default ones, and at the end all of the
// traffic where no step gives it. Other strategies have none: their worker
// does all of it in one go.
func (d *Deploy) Expanded() []*Step {
	steps := slices.Clone(d.Steps)
	switch {
	case len(steps) == 0 && d.Strategy != "canary":
		return nil
	case len(steps) == 0:
		return DefaultSteps()
	}
	if !slices.ContainsFunc(steps, func(s *Step) bool { return s.Weight == 100 }) {
		steps = append(steps, &Step{Weight: 100})
	}
	return steps
}
