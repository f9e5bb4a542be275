package run

import (
	"cmp"
	"fmt"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// forbidden says which invariant the run would break by entering a state, or
// by ending with an outcome where to is empty; nil when it breaks none. One
// that cannot be evaluated counts as broken.
func (x *step) forbidden(to, outcome string) error {
	if len(x.d.Workflow.Spec.Invariants) == 0 {
		return nil
	}
	if to != "" {
		outcome = ""
		if st := x.d.Workflow.Spec.States[to]; st != nil {
			outcome = st.Final
		}
	}
	if outcome != "" && x.s.Cancel != nil {
		outcome = events.Cancelled
	}
	extra := x.history(to, outcome)
	for i, inv := range x.d.Workflow.Spec.Invariants {
		broken, err := x.rule(inv.Never, fmt.Sprintf("spec.invariants[%d].never", i), extra)
		switch {
		case err != nil:
			return fmt.Errorf("the invariant %q cannot be evaluated: %w", inv.Never.Source, err)
		case broken:
			return fmt.Errorf("to go to %s would break the invariant %q: %s", cmp.Or(to, "an end that is "+outcome), inv.Never.Source, cmp.Or(inv.Message, "it must never be so"))
		}
	}
	return nil
}

// history is what invariants see: the way that the run has gone, with its next
// step.
func (x *step) history(to, outcome string) map[string]any {
	entered, approved := map[string]any{}, map[string]any{}
	for name := range x.d.Workflow.Spec.States {
		entered[name] = x.s.Visits[name] > 0 || name == to
	}
	for _, a := range x.s.Given {
		if !a.Implicit {
			approved[a.State] = true
		}
	}
	labels := map[string]any{}
	for k, v := range x.s.Labels {
		labels[k] = v
	}
	return map[string]any{"entered__": entered, "approved__": approved, "outcome__": outcome, "labels": labels}
}

// page calls the role that an end names.
func (x *step) page(st *workflows.State) {
	if st.Page == "" {
		return
	}
	outcome := st.Final
	if x.s.Cancel != nil {
		outcome = events.Cancelled
	}
	x.emit(events.RunPaged, events.Happening{State: st.Name, Outcome: outcome, Roles: []string{st.Page}})
}
