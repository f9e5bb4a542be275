package run

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/workflows"
)

// A piece of work stands at a path: the state's name, with "." and the branch
// or the member behind it where the state does several things. What is done
// there is found in the definition by the path alone.

// bodyAt finds the body of the work at a path; nil when there is none.
func (x *step) bodyAt(path string) *workflows.Body {
	head, rest, inner := strings.Cut(path, ".")
	st := x.d.Workflow.Spec.States[head]
	switch {
	case st == nil:
		return nil
	case st.Kind() == "parallel":
		if b := st.Parallel[rest]; b != nil {
			return &b.Body
		}
		return nil
	case st.Kind() == "forEach":
		return st.ForEach.Do
	case inner:
		return nil
	}
	return &st.Body
}

// memberName is what the body of the present forEach state calls its member.
func (x *step) memberName() string {
	if st := x.state(); st != nil && st.ForEach != nil {
		return st.ForEach.As
	}
	return ""
}

// memberScope holds the member that a task is for, by its name.
func (x *step) memberScope(t *Task) map[string]any {
	scope := map[string]any{}
	head, _, _ := strings.Cut(t.definedAt(), ".")
	if st := x.d.Workflow.Spec.States[head]; st != nil && st.ForEach != nil && t.Member != "" {
		scope[st.ForEach.As] = t.Member
	}
	return scope
}

// activityOf is the task that a body is: a deployment is one of the kind deploy.
func (x *step) activityOf(b *workflows.Body, as, member string) workflows.Activity {
	a := b.Activity
	if d := b.Deploy; d != nil {
		a.Task, a.Environment = "deploy", d.Environment
		a.With = maps.Clone(d.With)
		if a.With == nil {
			a.With = map[string]*workflows.Data{}
		}
		a.With["artifact"] = d.Artifact
		a.With["strategy"] = &workflows.Data{Value: d.Strategy}
	}
	a.Environment = workflows.MemberName(a.Environment, as, member)
	return a
}

// activity finds the definition of a task by its path.
func (x *step) activity(t *Task) workflows.Activity {
	switch {
	case t.Detached: // not by its path: a state may be called notify
		return workflows.Activity{Task: "notify", StartTimeout: workflows.Duration(notTakenNotice), Timeout: workflows.Duration(5 * time.Minute),
			Retry: &workflows.Retry{Attempts: noticeAttempts, Backoff: workflows.Duration(10 * time.Second)}}
	case t.Of != "":
		return x.partActivity(t)
	case t.Closing:
		var n int
		fmt.Sscanf(t.Path, "finally.%d", &n)
		if n >= 1 && n <= len(x.d.Workflow.Spec.Finally) {
			return x.d.Workflow.Spec.Finally[n-1].Activity
		}
		return workflows.Activity{} // unreachable unless the definition is not the pinned one
	}
	b := x.bodyAt(t.Path)
	if b == nil {
		return workflows.Activity{} // likewise
	}
	if t.Resumes != "" {
		return x.resumedActivity(t, b)
	}
	head, _, _ := strings.Cut(t.Path, ".")
	as := ""
	if st := x.d.Workflow.Spec.States[head]; st.ForEach != nil {
		as = st.ForEach.As
	}
	return x.activityOf(b, as, t.Member)
}
