package scenario

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// Bounds of a search.
const (
	maxPlays   = 4_000 // scenarios that are tried for one workflow
	maxQueued  = 400   // that are worth to go on from
	maxLiteral = 6     // values that are tried for one output or input
)

// Generated is a scenario that takes transitions, or enters states, which no
// other one does.
type Generated struct {
	Scenario *workflows.Scenario
	Covers   []string // names of items
}

// Generate looks for scenarios that take the transitions of a workflow which
// those of list do not take. It changes one thing at a time of scenarios that
// it knows (what a task answers, who decides what, an event, an input, a fact)
// and goes on from what leads somewhere new. Each scenario that it gives was
// played, and expects what came of it. The search is bounded, so that it may
// miss a transition; it gives the same for ever.
//
// each calls a function for 0 … n-1 and may do so at the same time; nil is one
// after the other.
func Generate(c *workflows.Catalog, name string, list []*workflows.Scenario, each func(n int, do func(i int))) []Generated {
	wf := c.Workflows[name]
	if wf == nil {
		return nil
	}
	if each == nil {
		each = func(n int, do func(int)) {
			for i := range n {
				do(i)
			}
		}
	}
	g := &search{each: each, cat: c, wf: wf, words: wordsOf(c, wf), covered: map[string]bool{}, paths: map[string]bool{}, names: map[string]bool{}, users: map[string]bool{}, tried: map[string]bool{}}
	for _, doc := range c.Roles {
		for user := range doc.Spec.Users {
			g.users[user] = true
		}
		for _, role := range doc.Spec.Roles {
			for _, user := range role.Users {
				g.users[user] = true
			}
		}
	}
	for _, it := range NewCoverage(c, name).Items {
		if it.Sort != SortRule {
			g.items = append(g.items, it)
		}
	}
	for _, s := range c.Scenarios {
		g.names[s.Metadata.Name] = true
	}
	for _, s := range list {
		r := Play(c, s)
		g.cover(r)
		g.queue = append(g.queue, candidate{s, true})
	}
	g.try([]*workflows.Scenario{{Spec: workflows.ScenarioSpec{Workflow: name, Inputs: plainInputs(wf), Facts: workflows.Facts{Authors: []string{"author"}}}}})
	for len(g.queue) > 0 && g.plays < maxPlays && g.missing() > 0 {
		i := slices.IndexFunc(g.queue, func(c candidate) bool { return c.fresh }) // what covered something first
		next := g.queue[max(i, 0)].scenario
		g.queue = slices.Delete(g.queue, max(i, 0), max(i, 0)+1)
		g.try(g.neighbours(next))
	}
	return g.found
}

// search is the state of a search.
type search struct {
	each    func(n int, do func(i int))
	cat     *workflows.Catalog
	wf      *workflows.Workflow
	words   map[string][]any // by the last part of a name: literals that rules compare it with
	items   []*Item
	covered map[string]bool // keys of items
	paths   map[string]bool // that were seen
	names   map[string]bool // of scenarios
	users   map[string]bool
	tried   map[string]bool // changes, each with the way that leads to its place
	queue   []candidate
	found   []Generated
	plays   int
}

// candidate is a scenario to go on from.
type candidate struct {
	scenario *workflows.Scenario
	fresh    bool // it took what none had taken
}

func (g *search) missing() (n int) {
	for _, it := range g.items {
		if !g.covered[it.key] {
			n++
		}
	}
	return n
}

func took(r *Result, it *Item) bool { return r.seen.states[it.key] || r.seen.arms[it.key] }

// cover notes what a result takes, and gives what is new.
func (g *search) cover(r *Result) []*Item {
	var fresh []*Item
	for _, it := range g.items {
		if !g.covered[it.key] && took(r, it) {
			g.covered[it.key] = true
			fresh = append(fresh, it)
		}
	}
	return fresh
}

// try plays scenarios and keeps those that lead somewhere new.
func (g *search) try(list []*workflows.Scenario) {
	results := make([]*Result, len(list))
	g.each(len(list), func(i int) { results[i] = Play(g.cat, list[i]) })
	g.plays += len(list)
	for i, r := range results {
		if r.end.main().run() == nil {
			continue
		}
		fresh := g.cover(r)
		way := strings.Join(r.Path, " ") + " " + r.Outcome
		if len(fresh) == 0 && (g.paths[way] || len(g.queue) >= maxQueued) {
			continue
		}
		g.paths[way] = true
		g.queue = append(g.queue, candidate{list[i], len(fresh) > 0})
		if len(fresh) > 0 {
			g.keep(list[i], fresh)
		}
	}
}

// keep makes a scenario as small as it can be and lets it expect what comes.
func (g *search) keep(s *workflows.Scenario, fresh []*Item) {
	s = g.shrink(s, fresh)
	var names []string
	for _, it := range fresh {
		names = append(names, it.Name)
	}
	last := names[len(names)-1]
	for _, it := range fresh {
		if it.Sort == SortTransition {
			last = it.Name
		}
	}
	s.Metadata.Name = last
	for n := 2; g.names[s.Metadata.Name]; n++ {
		s.Metadata.Name = fmt.Sprintf("%s, %d", last, n)
	}
	g.names[s.Metadata.Name] = true
	r := Play(g.cat, s)
	s.Spec.Expect = workflows.Expectation{Path: r.Path, Outcome: r.Outcome}
	if r.Outcome == "" {
		s.Spec.Expect.Waits = r.At
	}
	if Play(g.cat, s).Passed() {
		g.found = append(g.found, Generated{s, names})
	}
}

// shrink leaves out what is not needed to take the items, and what is refused.
func (g *search) shrink(s *workflows.Scenario, items []*Item) *workflows.Scenario {
	good := func(s *workflows.Scenario) bool {
		r := Play(g.cat, s)
		return !slices.ContainsFunc(items, func(it *Item) bool { return !took(r, it) })
	}
	s = with(s, func(spec *workflows.ScenarioSpec) { spec.Expect = workflows.Expectation{} })
	for i := len(s.Spec.People) - 1; i >= 0; i-- {
		if less := with(s, func(spec *workflows.ScenarioSpec) { spec.People = slices.Delete(spec.People, i, i+1) }); good(less) {
			s = less
		}
	}
	for i := len(s.Spec.Events) - 1; i >= 0; i-- {
		if less := with(s, func(spec *workflows.ScenarioSpec) { spec.Events = slices.Delete(spec.Events, i, i+1) }); good(less) {
			s = less
		}
	}
	for _, path := range sortedKeys(s.Spec.Tasks) {
		if less := with(s, func(spec *workflows.ScenarioSpec) { delete(spec.Tasks, path) }); good(less) {
			s = less
		}
	}
	for _, name := range sortedKeys(s.Spec.Environments) {
		if less := with(s, func(spec *workflows.ScenarioSpec) { delete(spec.Environments, name) }); good(less) {
			s = less
		}
	}
	if less := with(s, func(spec *workflows.ScenarioSpec) { spec.Facts.Attestations = nil }); good(less) {
		s = less
	}
	if less := with(s, func(spec *workflows.ScenarioSpec) { spec.Facts.Authors = nil }); good(less) {
		s = less
	}
	if len(s.Spec.People) == 0 {
		s.Spec.People = nil
	}
	if len(s.Spec.Events) == 0 {
		s.Spec.Events = nil
	}
	refused := Play(g.cat, s).end.refusedActs
	return with(s, func(spec *workflows.ScenarioSpec) {
		for i, p := range spec.People {
			spec.People[i] = new(*p)
			spec.People[i].Expect = ""
			if refused[i] {
				spec.People[i].Expect = "refused"
			}
		}
	})
}

// with is a copy of a scenario with a change; the lists and maps of the copy
// may be changed, not what they hold.
func with(s *workflows.Scenario, change func(*workflows.ScenarioSpec)) *workflows.Scenario {
	out := new(*s)
	out.Origin = workflows.Origin{}
	out.Spec.Inputs = cloned(s.Spec.Inputs)
	out.Spec.Tasks = cloned(s.Spec.Tasks)
	out.Spec.Environments = cloned(s.Spec.Environments)
	out.Spec.People = slices.Clone(s.Spec.People)
	out.Spec.Events = slices.Clone(s.Spec.Events)
	change(&out.Spec)
	return out
}

func cloned[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

// neighbours are the scenarios that differ from one in one thing.
func (g *search) neighbours(s *workflows.Scenario) []*workflows.Scenario {
	r := Play(g.cat, s)
	var out []*workflows.Scenario
	add := func(change func(*workflows.ScenarioSpec)) { out = append(out, with(s, change)) }
	seen := map[string]bool{}
	way := ""
	once := func(change string) bool {
		change = way + "\x00" + change
		again := g.tried[change]
		g.tried[change] = true
		return !again
	}
	for _, m := range r.Story {
		path := m.Event.Data.State
		if m.Run != "" {
			path = m.Run + "." + path
		}
		key := m.Event.Type + " " + path
		if seen[key] && m.Event.Type != events.StateEntered {
			continue
		}
		seen[key] = true
		switch m.Event.Type {
		case events.TaskQueued:
			g.answers(s, r, path, m.Event.Data.Kind, once, add)
		case events.ApprovalRequested:
			if once(path + " is decided") {
				g.decisions(s, path, m.At, add)
			}
		case events.StateEntered:
			if m.Event.Data.Kind != "" { // its task is published with it
				g.answers(s, r, path, m.Event.Data.Kind, once, add)
			}
			way += " " + path
			if once("events come") {
				g.arrivals(s, path, m, add)
				g.together(r, path, add)
			}
		}
	}
	g.inputs(s, add)
	g.situations(s, r, add)
	add(func(spec *workflows.ScenarioSpec) {
		if spec.Facts.Authors == nil {
			spec.Facts.Authors = []string{"author"}
		} else {
			spec.Facts.Authors = nil
		}
	})
	return out
}

// answers tries what a task could answer, and what after its answer when it is
// asked more than once.
func (g *search) answers(s *workflows.Scenario, r *Result, path, kind string, once func(string) bool, add func(func(*workflows.ScenarioSpec))) {
	ends := []*workflows.TaskAnswer{{}, {Fails: &workflows.TaskFailure{Code: "failed"}}, {Fails: &workflows.TaskFailure{Code: "failed", Retryable: true}},
		{TimesOut: true}, {NeverStarts: true}, {WorkerLost: true}, {After: workflows.Duration(time.Hour)}}
	for _, code := range g.words["code"] {
		if text, ok := code.(string); ok {
			ends = append(ends, &workflows.TaskAnswer{Fails: &workflows.TaskFailure{Code: text}})
		}
	}
	var outputs map[string]string
	if k := g.cat.Kinds[kind]; k != nil {
		outputs = k.Spec.Outputs
	}
	for _, name := range sortedKeys(outputs) {
		typ, _ := workflows.Optional(outputs[name])
		for _, v := range g.values(name, typ) {
			ends = append(ends, &workflows.TaskAnswer{Outputs: map[string]any{name: v}})
		}
	}
	had, begun := s.Spec.Tasks[path], 0
	for _, e := range r.Effects {
		if e.Task == path {
			begun++
		}
	}
	for i, a := range ends {
		if !once(fmt.Sprint(path, i, len(had))) {
			continue
		}
		add(func(spec *workflows.ScenarioSpec) { spec.Tasks[path] = []*workflows.TaskAnswer{a} })
		if len(had) == 1 && had[0].Fails == nil && a.Outputs != nil { // one more output beside those it has
			both := new(*had[0])
			both.Outputs = cloned(had[0].Outputs)
			maps.Copy(both.Outputs, a.Outputs)
			add(func(spec *workflows.ScenarioSpec) { spec.Tasks[path] = []*workflows.TaskAnswer{both} })
		}
		if begun > 1 && len(had) > 0 && len(had) < 3 {
			add(func(spec *workflows.ScenarioSpec) { spec.Tasks[path] = append(slices.Clone(had), a) })
		}
	}
}

// values are what an output or input could be that rules speak of by its name.
func (g *search) values(name string, t workflows.Type) []any {
	literals, spoken := g.words[name]
	if !spoken {
		return nil
	}
	var out []any
	add := func(v any) {
		if c, err := t.Conform(v); err == nil && len(out) < maxLiteral && !slices.ContainsFunc(out, func(x any) bool { return reflect.DeepEqual(x, c) }) {
			out = append(out, c)
		}
	}
	switch kind, _ := t.Split(); kind {
	case "bool":
		add(true)
		add(false)
	case "int", "double":
		for _, l := range literals {
			switch n := l.(type) {
			case int64:
				add(n + 1)
				add(n)
				add(n - 1)
			case float64:
				add(n * 2)
				add(n / 2)
			}
		}
		add(int64(1000))
	case "string", "any":
		for _, l := range literals {
			add(l)
		}
		add("other")
	case "list":
		add([]any{"other"})
	}
	return out
}

// decisions tries what people could decide on an approval: all who can approve
// it, one rejects it, nobody does anything.
func (g *search) decisions(s *workflows.Scenario, path string, at time.Duration, add func(func(*workflows.ScenarioSpec))) {
	var can []string
	for _, reason := range PlayUntil(g.cat, s, at).Waiting {
		if reason.Content != "" && reason.State == path {
			can = slices.DeleteFunc(slices.Clone(reason.Can), func(who string) bool { return !g.users[who] })
		}
	}
	on := func(p *workflows.PersonAct) bool {
		return slices.Contains([]string{p.Approves, p.Rejects, p.RequestsChanges, p.Withdraws, p.Delegates, p.Escalates}, path)
	}
	others := slices.DeleteFunc(slices.Clone(s.Spec.People), on)
	acts := func(make func(user string, at workflows.Duration) *workflows.PersonAct, users ...string) {
		people := slices.Clone(others)
		for i, user := range users {
			people = append(people, make(user, workflows.Duration(at+time.Duration(i+1)*time.Minute)))
		}
		add(func(spec *workflows.ScenarioSpec) { spec.People = people })
	}
	approves := func(user string, at workflows.Duration) *workflows.PersonAct {
		return &workflows.PersonAct{At: at, User: user, Approves: path}
	}
	acts(approves)
	acts(approves, can...)
	rejects := func(user string, at workflows.Duration) *workflows.PersonAct {
		return &workflows.PersonAct{At: at, User: user, Rejects: path}
	}
	for i := range min(len(can), 3) {
		acts(approves, can[i])
		acts(rejects, can[i])
	}
	acts(rejects, can...)
	if len(can) > 0 {
		acts(func(user string, at workflows.Duration) *workflows.PersonAct {
			return &workflows.PersonAct{At: at, User: user, Cancels: true}
		}, can[0])
	}
}

// together lets all that is done in a state fail.
func (g *search) together(r *Result, state string, add func(func(*workflows.ScenarioSpec))) {
	var paths []string
	for _, e := range r.Effects {
		if strings.HasPrefix(e.Task, state+".") && !slices.Contains(paths, e.Task) {
			paths = append(paths, e.Task)
		}
	}
	if len(paths) > 1 {
		add(func(spec *workflows.ScenarioSpec) {
			for _, path := range paths {
				spec.Tasks[path] = []*workflows.TaskAnswer{{Fails: &workflows.TaskFailure{Code: "failed"}}}
			}
		})
	}
}

// situations tries what environments ask for: that an artifact succeeded
// somewhere before, and attestations for which their rules probably hold.
func (g *search) situations(s *workflows.Scenario, r *Result, add func(func(*workflows.ScenarioSpec))) {
	proofs := r.end.main().run().Proofs
	for _, key := range sortedKeys(proofs) {
		if p := proofs[key]; !p.Proven {
			add(func(spec *workflows.ScenarioSpec) {
				spec.Environments[p.Environment] = &workflows.Situation{Succeeded: []string{p.Artifact}}
			})
		}
	}
	var attested []map[string]any
	for _, env := range environmentsOf(g.cat, g.wf) {
		visit := func(_ string, e *workflows.Expr) {
			if words := tokens(e.Source); len(words) > 0 && words[0].text == "attestations" {
				attested = append(attested, fieldsFor(words))
			}
		}
		eachExpr(reflect.ValueOf(g.cat.Environments[env]).Elem(), "", visit)
		for _, name := range sortedKeys(g.cat.Policies) {
			if p := g.cat.Policies[name]; p.Matches(g.cat.Environments[env], g.wf.Metadata.Name) {
				eachExpr(reflect.ValueOf(p).Elem(), "", visit)
			}
		}
	}
	if len(attested) > 0 && s.Spec.Facts.Attestations == nil {
		add(func(spec *workflows.ScenarioSpec) { spec.Facts.Attestations = attested })
	}
}

// fieldsFor makes a map for which a condition over its fields probably holds.
func fieldsFor(words []token) map[string]any {
	out := map[string]any{}
	for i := 1; i+2 < len(words); i++ {
		if words[i-1].kind != 'i' || !words[i].is(".") || words[i+1].kind != 'i' || words[i+2].is("(") {
			continue
		}
		if v, ok := wanted(words, i+2); ok {
			out[words[i+1].text] = v
		}
	}
	return out
}

// wanted is the value for which a comparison holds whose operator stands at i;
// a name that is compared with nothing is wanted to be true.
func wanted(words []token, i int) (any, bool) {
	if i >= len(words) || words[i].is("&&") || words[i].is("||") || words[i].is(")") {
		return true, true
	}
	if i+1 >= len(words) || words[i].kind != 'o' {
		return nil, false
	}
	v, ok := literal(words[i+1])
	if n, isInt := v.(int64); isInt && words[i].is(">") {
		v = n + 1
	}
	return v, ok
}

// arrivals tries the events that a state listens for, while it is busy.
func (g *search) arrivals(s *workflows.Scenario, path string, m Moment, add func(func(*workflows.ScenarioSpec))) {
	wf := g.wf
	if m.Run != "" {
		wf = g.cat.Workflows[m.Event.Data.Workflow]
	}
	if wf == nil || wf.Spec.States[m.Event.Data.State] == nil {
		return
	}
	st := wf.Spec.States[m.Event.Data.State]
	arms := slices.Clone(st.Events)
	if st.Wait != nil && st.Wait.Event != "" {
		arms = append(arms, &workflows.EventArm{Event: st.Wait.Event, When: st.Wait.When})
	}
	read := readOf(wf, st.Name)
	for _, arm := range arms {
		ev := &workflows.EventAct{At: workflows.Duration(m.At + time.Minute), Type: strings.ReplaceAll(arm.Event, "*", "x"), Data: dataFor(arm.When)}
		for _, path := range read {
			put(&ev.Data, path, strings.Join(path, "."), false)
		}
		add(func(spec *workflows.ScenarioSpec) {
			spec.Events = append(spec.Events, ev)
			for _, b := range sortedKeys(st.Parallel) {
				spec.Tasks[path+"."+b] = []*workflows.TaskAnswer{{After: workflows.Duration(time.Hour)}}
			}
			if k := st.Kind(); k == "task" || k == "deploy" {
				spec.Tasks[path] = []*workflows.TaskAnswer{{After: workflows.Duration(time.Hour)}}
			}
		})
	}
}

// inputs tries other inputs, where rules speak of them or only some are allowed.
func (g *search) inputs(_ *workflows.Scenario, add func(func(*workflows.ScenarioSpec))) {
	for _, name := range sortedKeys(g.wf.Spec.Inputs) {
		in := g.wf.Spec.Inputs[name]
		values := in.Enum
		if values == nil {
			values = g.values(name, workflows.Type(in.Type))
		}
		for _, v := range values {
			add(func(spec *workflows.ScenarioSpec) { spec.Inputs[name] = v })
		}
	}
}

// wordsOf collects, for each name that the rules of a workflow speak of, the
// literals that stand in the same rule.
func wordsOf(c *workflows.Catalog, wf *workflows.Workflow) map[string][]any {
	out := map[string][]any{}
	visit := func(_ string, e *workflows.Expr) {
		words := tokens(e.Source)
		var literals []any
		for _, t := range words {
			if v, ok := literal(t); ok {
				literals = append(literals, v)
			}
		}
		for i, t := range words {
			if i > 0 && t.kind == 'i' && (words[i-1].is(".") || words[i-1].is(".?")) {
				out[t.text] = append(out[t.text], literals...)
			}
		}
	}
	eachExpr(reflect.ValueOf(wf).Elem(), "", visit)
	for _, env := range environmentsOf(c, wf) {
		eachExpr(reflect.ValueOf(c.Environments[env]).Elem(), "", visit)
	}
	return out
}

// literal reads a number or a simple text.
func literal(t token) (any, bool) {
	switch t.kind {
	case 'n':
		if n, err := strconv.ParseInt(t.text, 10, 64); err == nil {
			return n, true
		}
		f, err := strconv.ParseFloat(t.text, 64)
		return f, err == nil
	case 's':
		if len(t.text) >= 2 && !strings.ContainsAny(t.text[1:len(t.text)-1], `\"'`) {
			return t.text[1 : len(t.text)-1], true
		}
	}
	return nil, false
}

// dataFor makes data of an event for which a condition probably holds: what it
// compares with a literal is that literal.
func dataFor(when *workflows.Expr) map[string]any {
	if when == nil {
		return nil
	}
	var data map[string]any
	words := tokens(when.Source)
	for i := 0; i+2 < len(words); i++ {
		if words[i].text != "event" || !words[i+1].is(".") || words[i+2].text != "data" {
			continue
		}
		var path []string
		j := i + 3
		for ; j+1 < len(words) && words[j].is(".") && words[j+1].kind == 'i'; j += 2 {
			path = append(path, words[j+1].text)
		}
		if v, ok := wanted(words, j); ok && len(path) > 0 {
			put(&data, path, v, true)
		}
	}
	return data
}

// put puts a value where a path leads; over says that it takes the place of
// what is there.
func put(into *map[string]any, path []string, v any, over bool) {
	if *into == nil {
		*into = map[string]any{}
	}
	m := *into
	for _, key := range path[:len(path)-1] {
		next, ok := m[key].(map[string]any)
		if !ok {
			if m[key] != nil && !over {
				return
			}
			next = map[string]any{}
			m[key] = next
		}
		m = next
	}
	if last := path[len(path)-1]; over || m[last] == nil {
		m[last] = v
	}
}

// readOf lists what a workflow reads of the data of the event that a state
// waits for.
func readOf(wf *workflows.Workflow, state string) [][]string {
	var out [][]string
	see := func(refs [][]string) {
		for _, ref := range refs {
			if len(ref) > 3 && ref[0] == state && ref[1] == "event" && ref[2] == "data" {
				out = append(out, ref[3:])
			}
		}
	}
	eachPart(reflect.ValueOf(wf).Elem(), "", func(_ string, v reflect.Value) {
		switch part := v.Addr().Interface().(type) {
		case *workflows.Data:
			see(part.Refs())
		case *workflows.Expr:
			if part.Program != nil {
				see(part.Program.Refs())
			}
		}
	})
	return out
}
