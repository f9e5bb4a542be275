package workflows

import (
	"fmt"
	"slices"
	"strings"
)

// Edit is what is added to a mapping of a document, so that it shows what
// stands in no file: defaults, and short forms written out. With its edits a
// document still means the same.
type Edit struct {
	Path  string   // of the mapping: "spec.states.build"
	Set   []Pair   // keys that are added; one that is there is replaced
	Drop  []string // keys whose meaning is in Set now
	Above []string // what there is to know of it, in words, one line each
}

// Pair is a key with its value: a text, a number, a []any, a []Pair, or an
// Aside. Why says where it comes from: "default", "of the kind build".
type Pair struct {
	Key   string
	Value any
	Why   string
}

// Aside is a value with a word about it.
type Aside struct {
	Value any
	Why   string
}

// Expand gives the edits that write a workflow out, among the definitions that
// it stands with.
func Expand(c *Catalog, w *Workflow) []Edit {
	x := &expander{c: c, w: w}
	if con := w.Spec.Concurrency; con != nil && con.Policy == "" {
		x.set("spec.concurrency", Pair{"policy", "queue", "default"})
	}
	for i, t := range w.Spec.Triggers {
		if t.Schedule != nil && t.Schedule.Timezone == "" {
			x.set(index("spec.triggers", i)+".schedule", Pair{"timezone", "UTC", "default"})
		}
	}
	for _, s := range w.Ordered() {
		x.state(Join("spec.states", s.Name), s)
	}
	for i, f := range w.Spec.Finally {
		x.activity(index("spec.finally", i), &f.Activity)
	}
	return x.edits
}

type expander struct {
	c     *Catalog
	w     *Workflow
	edits []Edit
}

// at gives the edit of a path.
func (x *expander) at(path string) *Edit {
	for i := range x.edits {
		if x.edits[i].Path == path {
			return &x.edits[i]
		}
	}
	x.edits = append(x.edits, Edit{Path: path})
	return &x.edits[len(x.edits)-1]
}

func (x *expander) set(path string, pairs ...Pair) {
	e := x.at(path)
	e.Set = append(e.Set, pairs...)
}

func (x *expander) say(path string, lines ...string) {
	e := x.at(path)
	e.Above = append(e.Above, lines...)
}

func (x *expander) state(path string, s *State) {
	switch s.Kind() {
	case "task", "deploy", "workflow":
		x.body(path, &s.Body, "")
	case "parallel":
		if s.Join == "" {
			x.set(path, Pair{"join", "all", "default: every branch must succeed"})
		}
		for _, b := range s.Branches() {
			x.body(Join(path+".parallel", b.Name), &b.Body, "")
		}
	case "forEach":
		x.forEach(path+".forEach", s.ForEach)
	case "approval":
		x.approval(path, s.Approval)
	case "compensate":
		x.compensate(path, s)
	}
	x.arms(path, s)
}

func (x *expander) body(path string, b *Body, as string) {
	switch {
	case b.Deploy != nil && b.Deploy.Resume != "":
		return
	case b.Deploy != nil:
		x.deploy(path, b.Deploy, as)
	case b.Workflow != nil:
		return
	}
	x.activity(path, b.Doing())
	if b.Deploy == nil && b.Environment != "" {
		x.environment(path, b.Environment, as)
	}
}

func (x *expander) activity(path string, a *Activity) {
	kind := x.c.Kinds[a.Task]
	if a.Pool == "" {
		x.set(path, Pair{"pool", "default", "default"})
	}
	if a.Outputs == nil && kind != nil && len(kind.Spec.Outputs) > 0 {
		var outputs []Pair
		for _, name := range names(kind.Spec.Outputs) {
			outputs = append(outputs, Pair{Key: name, Value: kind.Spec.Outputs[name]})
		}
		x.set(path, Pair{"outputs", outputs, "all of the kind " + a.Task})
	}
	switch {
	case a.Retry == nil:
		why := "default"
		if kind != nil && kind.Spec.Runs == "repeatable" {
			why = "default; where its worker is lost up to three, as it may run twice"
		}
		x.set(path, Pair{"retry", []Pair{{Key: "attempts", Value: 1}}, why})
	default:
		if a.Retry.Backoff == 0 {
			x.set(path+".retry", Pair{"backoff", "2s", "default"})
		}
		if a.Retry.Max == 0 {
			x.set(path+".retry", Pair{"max", "5m", "default"})
		}
		if a.Retry.When == nil {
			x.say(path, "tried again where the worker says that this may help")
		}
	}
	if a.Timeout == 0 {
		x.say(path, "no timeout: an attempt may run for ever")
	}
}

// strategies are the steps of the strategies whose worker does all of it.
var strategies = map[string]string{
	"recreate":   "recreate: stop the old one, start the new one, check its health",
	"blue-green": "blue-green: start the new one beside the old one, check its health, switch the traffic, stop the old one",
	"rolling":    "rolling: replace one instance after the other, each when the one before is healthy",
}

func (x *expander) deploy(path string, d *Deploy, as string) {
	if text := strategies[d.Strategy]; text != "" {
		x.say(path, text)
	}
	if steps := d.Expanded(); len(steps) > len(d.Steps) {
		var list []any
		for i, s := range steps {
			why := "default"
			if i < len(d.Steps) {
				why = ""
			}
			list = append(list, Aside{stepPair(s), why})
		}
		x.set(path+".deploy", Pair{Key: "steps", Value: list})
	}
	for i, m := range d.Analysis {
		if m.Fail == nil {
			x.say(index(path+".deploy.analysis", i), "a sample that does not pass has failed")
		}
		if m.Failures == 0 {
			x.set(index(path+".deploy.analysis", i), Pair{"failures", 0, "default: the first sample that fails undoes the deployment"})
		}
	}
	x.environment(path, d.Environment, as)
	x.say(path, "a deployment that fails has been undone")
}

func stepPair(s *Step) []Pair {
	switch {
	case s.Pause > 0:
		return []Pair{{Key: "pause", Value: s.Pause.String()}}
	case s.Analyze > 0:
		return []Pair{{Key: "analyze", Value: s.Analyze.String()}}
	}
	return []Pair{{Key: "weight", Value: s.Weight}}
}

// environment says what holds where something enters an environment.
func (x *expander) environment(path, name, as string) {
	if member := MemberName(name, as, ""); member != name {
		return // which one it is stands with the members
	}
	if e := x.c.Environments[name]; e != nil {
		x.say(path, e.Words(x.c, x.w.Metadata.Name)...)
	}
}

// Words says what holds where a workflow enters the environment, one line each.
func (e *Environment) Words(c *Catalog, workflow string) []string {
	name := e.Metadata.Name
	var lines []string
	for _, r := range e.Spec.Require {
		lines = append(lines, fmt.Sprintf("%s requires %s: %s", name, r.Name, oneLine(r.Expression)))
	}
	for _, p := range names(c.Policies) {
		if policy := c.Policies[p]; policy.Matches(e, workflow) {
			for _, r := range policy.Spec.Require {
				lines = append(lines, fmt.Sprintf("%s requires %s by the policy %s: %s", name, r.Name, p, oneLine(r.Expression)))
			}
		}
	}
	if e.Spec.PromotesFrom != "" {
		lines = append(lines, fmt.Sprintf("%s takes only what succeeded in %s", name, e.Spec.PromotesFrom))
	}
	if w := e.Spec.Windows; w != nil {
		lines = append(lines, w.words(name)...)
	}
	if b := e.Spec.BreakGlass; b != nil {
		lines = append(lines, fmt.Sprintf("%s may break the glass of %s", strings.Join(b.Roles, " or "), name))
	}
	return append(lines, name+" has one run at a time, in the order of asking")
}

func (w *Windows) words(name string) (lines []string) {
	zone := w.Timezone
	if zone == "" {
		zone = "UTC"
	}
	var open []string
	for _, a := range w.Allow {
		on := "every day"
		if len(a.Days) > 0 {
			on = strings.Join(a.Days, ", ")
		}
		from, to := a.From, a.To
		if from == "" {
			from = "00:00"
		}
		if to == "" {
			to = "24:00"
		}
		open = append(open, on+" "+from+" to "+to)
	}
	if len(open) > 0 {
		lines = append(lines, fmt.Sprintf("%s is open %s (%s)", name, strings.Join(open, "; "), zone))
	}
	for _, f := range w.Freeze {
		when := f.From + " to " + f.To
		if f.RRule != "" {
			when = f.RRule + " for " + f.For.String()
		}
		line := name + " is frozen " + when
		if f.Reason != "" {
			line += ", " + f.Reason
		}
		lines = append(lines, line)
	}
	return lines
}

func oneLine(e *Expr) string {
	if e == nil {
		return ""
	}
	return strings.Join(strings.Fields(e.Source), " ")
}

func (x *expander) forEach(path string, f *ForEach) {
	if f.Environments != nil {
		members := x.c.Selected(f.Environments)
		if len(members) == 0 {
			x.say(path, "no environment has these labels")
		} else {
			x.say(path, "now "+strings.Join(members, ", "))
		}
		for _, m := range members {
			x.say(path, x.c.Environments[m].Words(x.c, x.w.Metadata.Name)...)
		}
	}
	if f.Waves == nil {
		x.set(path, Pair{"waves", []any{"rest"}, "default: one wave"})
	}
	if f.OnHold == "" {
		x.set(path, Pair{"onHold", "wait", "default"})
	}
	if f.StopAfterFailures == 0 {
		x.set(path, Pair{"stopAfterFailures", 1, "default"})
	}
	if f.MaxParallel == 0 {
		x.say(path, "a whole wave at a time")
	}
	if f.Do != nil {
		x.body(path+".do", f.Do, f.As)
	}
}

func (x *expander) approval(path string, a *Approval) {
	if q := a.QuorumWords(); q != "" {
		x.say(path, "needs "+q+"; each person fills one seat")
		for _, s := range a.Quorum {
			x.say(path, s.Role+" is held by "+x.holders(s.Role))
		}
	}
	for _, name := range a.Environments {
		if e := x.c.Environments[name]; e != nil {
			for _, line := range e.Words(x.c, x.w.Metadata.Name) {
				if strings.HasPrefix(line, name+" requires ") {
					x.say(path, line)
				}
			}
		}
	}
	if a.Reject == nil {
		x.say(path, "a rejection by anybody who may decide ends it")
	}
	if a.Expires == 0 {
		x.say(path, "it waits for ever")
	}
}

func (x *expander) holders(role string) string {
	who := x.c.Holders(role)
	for _, doc := range x.c.Roles {
		if r := doc.Spec.Roles[role]; r != nil {
			for _, g := range r.Groups {
				who = append(who, "the members of "+g)
			}
		}
	}
	if len(who) == 0 {
		return "nobody"
	}
	return strings.Join(who, ", ")
}

func (x *expander) compensate(path string, s *State) {
	x.say(path, "in reverse of the record, what was begun and is not proven to have done nothing:")
	for _, name := range s.Compensate {
		of := x.w.Spec.States[name]
		if of == nil {
			continue
		}
		for _, b := range append([]*Body{&of.Body}, allBodies(of)...) {
			switch {
			case b.Deploy != nil:
				x.say(path, name+" by bringing back what was there, if what is there is still its own")
			case b.Undo != nil:
				x.say(path, name+" by "+b.Undo.Task)
			}
		}
	}
}

// allBodies gives the bodies of the branches and members of a state.
func allBodies(s *State) (all []*Body) {
	for _, b := range s.Branches() {
		all = append(all, &b.Body)
	}
	if s.ForEach != nil && s.ForEach.Do != nil {
		all = append(all, s.ForEach.Do)
	}
	return all
}

// arms writes the short forms of a state's arms as transitions, each with the
// outcomes that it takes.
func (x *expander) arms(path string, s *State) {
	if s.Kind() == "final" {
		return
	}
	open := outcomes(x.c, s)
	var list []any
	var drop []string
	for _, arm := range s.Arms() {
		takes := slices.DeleteFunc(slices.Clone(open), func(o string) bool { return !arm.Takes(o) })
		if arm.When != nil {
			list = append(list, Aside{Value: []Pair{{Key: "when", Value: oneLine(arm.When)}, {Key: "to", Value: arm.To}}})
			if len(takes) == 0 {
				continue
			}
			if only := outcomesOf(arm.When.Source); only != nil {
				open = slices.DeleteFunc(slices.Clone(open), func(o string) bool { return slices.Contains(only, o) })
			}
			continue
		}
		open = slices.DeleteFunc(slices.Clone(open), arm.Takes)
		if arm.Key == "" {
			list = append(list, Aside{Value: []Pair{{Key: "to", Value: arm.To}}})
			continue
		}
		drop = append(drop, arm.Key)
		if len(takes) == 0 {
			continue
		}
		list = append(list, Aside{Value: []Pair{{Key: "when", Value: outcomeIs(takes)}, {Key: "to", Value: arm.To}}, Why: arm.Key})
	}
	if len(drop) > 0 {
		e := x.at(path)
		e.Drop = append(e.Drop, drop...)
		x.set(path, Pair{Key: "transitions", Value: list})
	}
	open = slices.DeleteFunc(open, func(o string) bool { return s.Kind() != "workflow" && (o == "cancelled" || o == "superseded") })
	if len(open) > 0 {
		x.say(path, "the run ends here with "+strings.Join(open, ", "))
	}
}

// outcomeIs is a condition that holds for these outcomes.
func outcomeIs(outcomes []string) string {
	if len(outcomes) == 1 {
		return fmt.Sprintf("outcome == %q", outcomes[0])
	}
	quoted := make([]string, len(outcomes))
	for i, o := range outcomes {
		quoted[i] = fmt.Sprintf("%q", o)
	}
	return "outcome in [" + strings.Join(quoted, ", ") + "]"
}

// outcomesOf gives the outcomes that a condition is for, when it says nothing
// else; nil otherwise.
func outcomesOf(source string) []string {
	text := strings.ReplaceAll(strings.TrimSpace(source), " ", "")
	rest, ok := strings.CutPrefix(text, "outcome==")
	if !ok {
		if rest, ok = strings.CutPrefix(text, "outcomein["); !ok || !strings.HasSuffix(rest, "]") {
			return nil
		}
		rest = strings.TrimSuffix(rest, "]")
	}
	var found []string
	for _, word := range strings.Split(rest, ",") {
		plain := strings.Trim(word, `"'`)
		if len(plain) != len(word)-2 || strings.Trim(plain, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return nil
		}
		found = append(found, plain)
	}
	return found
}

// Outcomes gives the outcomes that a state can have, knowing its task kinds.
func (c *Catalog) Outcomes(s *State) []string { return outcomes(c, s) }

// OutcomesOf gives the outcomes that the condition of an arm is for, when it
// says nothing else; nil otherwise.
func (t *Transition) OutcomesOf() []string {
	if t.When == nil {
		return nil
	}
	return outcomesOf(t.When.Source)
}
