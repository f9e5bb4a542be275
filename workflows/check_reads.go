package workflows

import (
	"fmt"
	"slices"
	"strings"
)

// assigned refuses expressions that read outputs which may not be there: of a
// state that has not surely succeeded before on every path, of a branch that
// may have been cancelled, of an output that is declared as optional. What is
// read as optional (build.?digest), or only where a condition says that it is
// there, is fine.
func (k *check) assigned(f *flow) {
	r := &reads{check: k, f: f, spreads: map[int]*spread{}, told: map[string]bool{}}
	for i, s := range f.states {
		if f.reach[i] {
			r.state(i, s)
		}
	}
	for _, name := range names(f.w.Spec.Outputs) {
		r.atEnd(Join("spec.outputs", name)+".value", f.w.Spec.Outputs[name].Value)
	}
	for i, task := range f.w.Spec.Finally {
		at := index("spec.finally", i)
		r.env(at+".with", withOf(task.With), r.places(&Body{Activity: task.Activity}, nil))
		for _, name := range names(task.With) {
			r.never(Join(at+".with", name), task.With[name])
		}
	}
}

// reads looks at what the expressions of a workflow read.
type reads struct {
	*check
	f       *flow
	spreads map[int]*spread
	told    map[string]bool
}

func (r *reads) spread(state int) *spread {
	if r.spreads[state] == nil {
		r.spreads[state] = r.f.follow(hasOutputs(state))
	}
	return r.spreads[state]
}

// state looks at all that is evaluated while the run is in a state.
func (r *reads) state(i int, s *State) {
	path := Join("spec.states", s.Name)
	r.body(i, path, &s.Body, nil)
	for _, b := range s.Branches() {
		r.body(i, Join(path+".parallel", b.Name), &b.Body, nil)
	}
	if e := s.ForEach; e != nil {
		r.entered(i, path+".forEach.in", e.In)
		if e.Do != nil {
			r.body(i, path+".forEach.do", e.Do, e)
		}
	}
	for j, line := range s.Gate {
		at := index(path+".gate", j)
		r.gate(s, at+".require", line.Require)
		r.gate(s, at+".warn", line.Warn)
		r.gate(s, at+".message", line.Message)
	}
	if a := s.Approval; a != nil {
		r.entered(i, path+".approval.rule", a.Rule)
		r.entered(i, path+".approval.reject", a.Reject)
		r.entered(i, path+".approval.auto", a.Auto)
		r.entered(i, path+".approval.message", a.Message)
	}
	if s.Wait != nil {
		r.entered(i, path+".wait.until", s.Wait.Until)
		r.entered(i, path+".wait.when", s.Wait.When)
	}
	for j, arm := range s.Events {
		r.entered(i, index(path+".events", j)+".when", arm.When)
	}
	for j, arm := range s.Transitions {
		r.left(i, index(path+".transitions", j)+".when", arm)
	}
}

func (r *reads) body(i int, path string, b *Body, each *ForEach) {
	places := r.places(b, each)
	for _, name := range names(b.With) {
		r.entered(i, Join(path+".with", name), b.With[name])
	}
	r.env(path+".with", withOf(b.With), places)
	if d := b.Deploy; d != nil {
		r.entered(i, path+".deploy.artifact", d.Artifact)
		r.env(path+".deploy.artifact", []any{d.Artifact}, places)
		for _, name := range names(d.With) {
			r.entered(i, Join(path+".deploy.with", name), d.With[name])
		}
		r.env(path+".deploy.with", withOf(d.With), places)
	}
	if c := b.Workflow; c != nil {
		for _, name := range names(c.Inputs) {
			r.entered(i, Join(path+".workflow.inputs", name), c.Inputs[name])
		}
	}
	if b.Undo != nil {
		r.env(path+".undo.with", withOf(b.Undo.With), places)
		for _, name := range names(b.Undo.With) {
			r.undone(i, Join(path+".undo.with", name), b.Undo.With[name])
		}
	}
}

func withOf(with map[string]*Data) []any {
	var all []any
	for _, name := range names(with) {
		all = append(all, with[name])
	}
	return all
}

// entered looks at what is read once the run is in a state, whose own outputs
// are not there yet.
func (r *reads) entered(at int, path string, of any) {
	for _, read := range r.f.reading.reads(of) {
		state, ok := r.result(path, read)
		if !ok {
			continue
		}
		if state == at {
			r.missing(path, read, read.Path[0]+" has no outputs yet: this is what it does", "")
			continue
		}
		r.at(path, read, state, at)
	}
}

// at tells of an output that may not be there when a state is entered.
func (r *reads) at(path string, read Read, state, at int) {
	sp := r.spread(state)
	switch {
	case !sp.seen[0][at] || read.When.impossible(facts{absent: gone(read.Path[0])}):
	case !sp.seen[1][at]:
		r.missing(path, read, read.Path[0]+" has no outputs here: it never succeeds before "+r.f.states[at].Name, "lead here only when "+read.Path[0]+" has succeeded")
	default:
		r.missing(path, read, read.Path[0]+" may have no outputs here: "+r.f.told(sp.way(at, 0), at), "lead here only when "+read.Path[0]+" has succeeded")
	}
}

// left looks at the condition of an arm: the state has its outputs there when
// it has succeeded.
func (r *reads) left(at int, path string, arm *Transition) {
	var can []string
	s := r.f.states[at]
	for _, outcome := range outcomes(r.f.c, s) {
		for _, other := range s.Arms() {
			if other == arm {
				can = append(can, outcome)
				break
			}
			if other.Takes(outcome) && (other.When == nil || r.f.reading.cond(other.When).decide(facts{outcome: outcome}) == yes) {
				break // taken before
			}
		}
	}
	for _, read := range r.f.reading.reads(arm.When) {
		own := r.f.states[at].Name
		state, ok := r.result(path, read)
		if !ok {
			continue
		}
		if state != at {
			r.at(path, read, state, at)
			continue
		}
		for _, outcome := range can {
			if outcome != "succeeded" && !read.When.impossible(facts{outcome: outcome, absent: gone(own)}) {
				r.missing(path, read, own+" may have no outputs here: this is also asked when it has "+ended(outcome), `ask outcome == "succeeded" && … first`)
				break
			}
		}
	}
}

func ended(outcome string) string {
	switch outcome {
	case "timedOut":
		return "timed out"
	case "inconclusive":
		return "ended inconclusive"
	case "cancelled", "expired", "rejected", "superseded":
		return "been " + outcome
	}
	return outcome
}

// undone looks at what an undo reads: it is evaluated in the states that
// compensate, where what was there before must still be.
func (r *reads) undone(at int, path string, d *Data) {
	for _, read := range r.f.reading.reads(d) {
		state, ok := r.result(path, read)
		if !ok {
			continue
		}
		if state == at {
			if !read.When.impossible(facts{absent: gone(read.Path[0])}) {
				r.missing(path, read, read.Path[0]+" may have no outputs here: it is undone also when it has not succeeded", "")
			}
			continue
		}
		before := len(r.problems)
		r.at(path, read, state, at)
		for i, s := range r.f.states {
			if len(r.problems) == before && r.f.reach[i] && slices.Contains(s.Compensate, r.f.states[at].Name) {
				r.at(path, read, state, i)
			}
		}
	}
}

// atEnd looks at what is read when the run has succeeded.
func (r *reads) atEnd(path string, d *Data) {
	for _, read := range r.f.reading.reads(d) {
		state, ok := r.result(path, read)
		if !ok || read.When.impossible(facts{absent: gone(read.Path[0])}) {
			continue
		}
		sp := r.spread(state)
		for i, s := range r.f.states {
			if s.Final == "succeeded" && sp.seen[0][i] {
				r.missing(path, read, read.Path[0]+" may have no outputs when the run succeeds: "+r.f.told(sp.way(i, 0), i), "")
				break
			}
		}
	}
}

// never looks at what is read whatever happened before.
func (r *reads) never(path string, d *Data) {
	for _, read := range r.f.reading.reads(d) {
		if _, ok := r.result(path, read); ok && !read.When.impossible(facts{absent: gone(read.Path[0])}) {
			r.missing(path, read, read.Path[0]+" may have no outputs here: finally runs whatever has happened", "")
		}
	}
}

// gate looks at a line of a gate, where branches stand under their own names.
// They have all succeeded, unless one was enough.
func (r *reads) gate(s *State, path string, of any) {
	for _, read := range r.f.reading.reads(of) {
		b := s.Parallel[read.Path[0]]
		if b == nil {
			continue
		}
		if s.Join != "" && s.Join != "all" && (read.Sure > 1 || len(read.Path) == 1) && !read.When.impossible(facts{absent: gone(b.Name)}) {
			r.missing(path, read, fmt.Sprintf("the branch %s may not have ended: with join %s one is enough", b.Name, s.Join), "")
			continue
		}
		r.optional(path, read, &b.Body, 1)
	}
}

// gone tells that the outputs of a state are not there.
func gone(state string) func([]string) bool {
	return func(path []string) bool { return path[0] == state }
}

// result gives the state whose outputs are surely read, and ok false where
// nothing can be missing but what is told here.
func (r *reads) result(path string, read Read) (state int, ok bool) {
	state, ok = r.f.number[read.Path[0]]
	if !ok || read.Sure < 2 && len(read.Path) > 1 {
		return 0, false
	}
	s := r.f.states[state]
	switch s.Kind() {
	case "parallel":
		if len(read.Path) < 2 || s.Parallel[read.Path[1]] == nil {
			break
		}
		if s.Join != "" && s.Join != "all" && !read.When.impossible(facts{absent: gone(s.Name)}) {
			r.missing(path, read, fmt.Sprintf("the branch %s may not have ended: with join %s one is enough", strings.Join(read.Path[:2], "."), s.Join), "")
			return 0, false
		}
		r.optional(path, read, &s.Parallel[read.Path[1]].Body, 2)
	case "forEach":
		if s.ForEach.Do != nil {
			r.optional(path, read, s.ForEach.Do, 2)
		}
	case "task", "deploy":
		r.optional(path, read, &s.Body, 1)
	}
	return state, true
}

// optional tells of an output that is declared as optional and read as if it
// were always there. It stands at a step of the path.
func (r *reads) optional(path string, read Read, b *Body, step int) {
	if len(read.Path) <= step || read.Sure <= step || b.Workflow != nil {
		return
	}
	declared := r.c.OutputsOf(b.Doing())[read.Path[step]]
	if _, optional := Optional(declared); !optional {
		return
	}
	this := strings.Join(read.Path[:step+1], ".")
	if read.When.impossible(facts{absent: func(p []string) bool { return len(p) > step && strings.Join(p[:step+1], ".") == this }}) {
		return
	}
	before := len(r.problems)
	r.missing(path, read, fmt.Sprintf("the output %s is optional: it may be missing", this), "")
	for i := before; i < len(r.problems); i++ {
		p := &r.problems[i]
		p.Warning, p.Code, p.Hint = true, "may-be-missing", "read it as "+strings.Join(read.Path[:step], ".")+".?"+read.Path[step]+".orValue(…)"
	}
}

// missing tells, once for each place, of outputs that may not be there. instead
// is what to do other than reading them as optional.
func (r *reads) missing(path string, read Read, message, instead string) {
	key := path + "\x00" + strings.Join(read.Path, ".")
	if r.told[key] {
		return
	}
	r.told[key] = true
	if len(read.Path) > 1 && !slices.Contains(read.Path, "*") {
		as := "read it as " + read.Path[0] + ".?" + strings.Join(read.Path[1:], ".?") + ".orValue(…)"
		if instead != "" {
			as += ", or " + instead
		}
		instead = as
	}
	r.fail(path, read, message, instead)
}

func (k *check) fail(path string, read Read, message, hint string) {
	p := Problem{Path: path, Code: "not-assigned", Message: message, Hint: hint}
	if read.Pos != nil {
		p.Pos, p.At = read.Pos(), true
	}
	k.add(p)
}

// places gives the environments that a body works on, where all are known.
func (r *reads) places(b *Body, each *ForEach) []string {
	places, open := r.c.environments(b, each)
	if open {
		return nil
	}
	return places
}

// env looks at what is read of the environments' config: each of them must
// have it.
func (r *reads) env(path string, all []any, places []string) {
	for _, of := range all {
		r.config(path, of, places)
	}
}
