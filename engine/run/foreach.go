package run

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// maxMembers is how many members a forEach state has at most.
const maxMembers = 1000

// beginEach finds the members of a forEach state; eachOutcome begins them.
func (x *step) beginEach(st *workflows.State) {
	e := &Each{}
	x.s.Each = e
	x.s.Values[st.Name] = map[string]any{}
	var err error
	code := events.CodeRuleError
	if f := st.ForEach; f.In != nil {
		e.Members, err = x.members(f.In)
	} else if e.Members = x.d.Now.Selected(f.Environments); len(e.Members) == 0 {
		code, err = "no_members", fmt.Errorf("no environment has the labels %s", labelText(f.Environments.Labels))
	}
	if err == nil && len(e.Members) > maxMembers {
		code, err = "too_many_members", fmt.Errorf("%d members, at most %d are possible", len(e.Members), maxMembers)
	}
	if err != nil {
		e.Members, e.Outcome, e.Error = nil, events.Failed, &events.TaskError{Code: code, Message: err.Error()}
	}
	e.WaveEnd = waveEnd(st.ForEach, e)
}

// members evaluates the list: distinct texts.
func (x *step) members(in *workflows.Expr) ([]string, error) {
	v, err := x.value(in, fmt.Sprintf("spec.states.%s.forEach.in", x.s.At), nil)
	if err != nil {
		return nil, err
	}
	list, ok := workflows.Normal(v).([]any)
	if !ok {
		return nil, fmt.Errorf("%s: %q gives %v, want a list", in.Pos, in.Source, v)
	}
	seen := map[string]bool{}
	var out []string
	for i, m := range list {
		name, ok := m.(string)
		if !ok || name == "" || len(name) > maxKey {
			return nil, fmt.Errorf("%s: element %d of %q is %v, want a text of 1 to %d bytes", in.Pos, i, in.Source, m, maxKey)
		}
		if seen[name] {
			return nil, fmt.Errorf("%s: %q has %q twice", in.Pos, in.Source, name)
		}
		seen[name] = true
		out = append(out, name)
	}
	return out, nil
}

func labelText(labels map[string]string) string {
	var list []string
	for _, k := range sortedKeys(labels) {
		list = append(list, k+"="+labels[k])
	}
	return strings.Join(list, ", ")
}

// waveEnd is the index behind the last member of the present wave. Members
// that are left over when the sizes run out are the last wave.
func waveEnd(f *workflows.ForEach, e *Each) int {
	if e.Wave >= len(f.Waves) {
		return len(e.Members)
	}
	size, ok := waveSize(f.Waves[e.Wave])
	if !ok {
		return len(e.Members)
	}
	return min(e.Next+size, len(e.Members))
}

// waveSize reads the size of a wave; ok is false for "rest".
func waveSize(v any) (int, bool) {
	switch n := v.(type) {
	case int:
		return n, n > 0
	case int64:
		return int(n), n > 0
	case uint64:
		return int(n), n > 0
	case float64:
		return int(n), n >= 1
	}
	return 0, false
}

// eachOutcome takes note of the members that have ended, goes on with the next
// ones and tells whether all are through.
func (x *step) eachOutcome(st *workflows.State) (string, *events.TaskError, bool) {
	e, f := x.s.Each, st.ForEach
	if e.Asleep && x.s.WakeAt == 0 {
		x.nextWave(f)
	}
	for {
		x.skipClosed(f)
		x.absorb(st)
		stop := e.Error != nil && e.Failed >= max(f.StopAfterFailures, 1) || e.Error != nil && e.Members == nil
		if !stop && !e.Asleep && x.beginMembers(st) {
			continue // one may have ended at once
		}
		switch through := e.Next >= len(e.Members); {
		case x.going() > 0:
			return "", nil, false
		case stop || through && e.Error != nil:
			return cmp.Or(e.Outcome, events.Failed), e.Error, true
		case through:
			return events.Succeeded, nil, true
		case e.Next < e.WaveEnd || e.Asleep:
			return "", nil, false
		case f.Between == nil || f.Between.Wait <= 0:
			x.nextWave(f)
		default:
			e.Asleep, x.s.WakeAt = true, x.now+f.Between.Wait.D().Milliseconds()
			return "", nil, false
		}
	}
}

func (x *step) nextWave(f *workflows.ForEach) {
	e := x.s.Each
	e.Asleep = false
	e.Wave++
	e.WaveEnd = waveEnd(f, e)
}

// going counts the members that go on.
func (x *step) going() (n int) {
	for _, t := range x.s.Tasks {
		if !t.Detached && t.Status != taskDone {
			n++
		}
	}
	return n
}

// beginMembers begins as many members of the wave as there may be at a time;
// false when it has begun none.
func (x *step) beginMembers(st *workflows.State) (begun bool) {
	e, f := x.s.Each, st.ForEach
	for n := x.going(); e.Next < e.WaveEnd && (f.MaxParallel == 0 || n < f.MaxParallel); n++ {
		member := e.Members[e.Next]
		e.Next++
		x.begin(st.Name+"."+member, f.Do, member)
		begun = true
	}
	x.askPeople()
	return begun
}

// absorb forgets members that have ended: their results stand in the state's
// value, and the first failures in its error. What they had is given back.
func (x *step) absorb(st *workflows.State) {
	e := x.s.Each
	var over []*Task
	x.s.Tasks = slices.DeleteFunc(x.s.Tasks, func(t *Task) bool {
		done := !t.Detached && t.Member != "" && t.Of == "" && t.Status == taskDone
		if done {
			over = append(over, t)
		}
		return done
	})
	for _, t := range over {
		if t.Outcome != events.Succeeded {
			e.Failed++
			x.memberFailed(t)
		}
	}
	if len(over) > 0 {
		x.releaseAll()
	}
}

// maxTold is how many failed members the error of a state tells of.
const maxTold = 5

func (x *step) memberFailed(t *Task) {
	e, err := x.s.Each, branchError(t.Member, t)
	switch {
	case e.Error == nil:
		e.Outcome, e.Error = branchOutcome(t.Outcome), err
	case e.Failed <= maxTold:
		e.Error = &events.TaskError{Code: e.Error.Code, Message: e.Error.Message + "; " + err.Message}
	case e.Failed == maxTold+1:
		e.Error = &events.TaskError{Code: e.Error.Code, Message: e.Error.Message + "; and more"}
	}
}

// skips reports whether a task is for a member that is left out rather than
// wait for its environment.
func (x *step) skips(t *Task) bool {
	st := x.state()
	return t.Member != "" && t.Of == "" && st != nil && st.ForEach != nil && st.ForEach.OnHold == "skip"
}

// skipClosed leaves out members that wait for an environment that lets nothing
// in, where the state does not wait for it.
func (x *step) skipClosed(f *workflows.ForEach) {
	if f.OnHold != "skip" {
		return
	}
	x.s.Tasks = slices.DeleteFunc(x.s.Tasks, func(t *Task) bool {
		d := x.s.Doors[t.Env]
		if !x.skips(t) || t.Status != taskLocked || !d.shut() {
			return false
		}
		e := x.s.Each
		if e.Skipped == nil {
			e.Skipped = map[string]string{}
		}
		e.Skipped[t.Member] = d.Reason
		x.emit(events.MemberLeft, events.Happening{State: t.Path, Environment: t.Env, Reason: d.Reason})
		return true
	})
}
