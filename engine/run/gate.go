package run

import (
	"fmt"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// gate judges the results of a parallel state, every line of it, so that
// people see all that is wrong at once. A line that cannot be evaluated fails.
func (x *step) gate(st *workflows.State) *events.TaskError {
	if len(st.Gate) == 0 {
		return nil
	}
	extra, _ := x.s.Values[st.Name].(map[string]any) // branches by their bare names
	var failed, warnings []string
	code := events.CodeGate
	for i, r := range st.Gate {
		path := fmt.Sprintf("spec.states.%s.gate[%d]", st.Name, i)
		if r.Require != nil {
			ok, err := x.rule(r.Require, path+".require", extra)
			switch {
			case err != nil:
				code = events.CodeRuleError
				failed = append(failed, fmt.Sprintf("%s: cannot be evaluated: %v", r.Name, err))
			case !ok:
				failed = append(failed, r.Name+": "+x.message(r.Message, extra, r.Require.Source+" does not hold"))
			}
		}
		if r.Warn != nil {
			ok, err := x.rule(r.Warn, path+".warn", extra)
			switch {
			case err != nil:
				warnings = append(warnings, fmt.Sprintf("%s: cannot be evaluated: %v", r.Name, err))
			case ok:
				warnings = append(warnings, r.Name+": "+x.message(r.Message, extra, r.Warn.Source))
			}
		}
	}
	outcome := events.Succeeded
	if len(failed) > 0 {
		outcome = events.Failed
	}
	x.emit(events.GateEvaluated, events.Happening{State: st.Name, Visit: x.s.Visit, Outcome: outcome, Reasons: failed, Warnings: warnings})
	if len(failed) == 0 {
		return nil
	}
	return &events.TaskError{Code: code, Message: joinLines(failed)}
}
