package workflows

import (
	"slices"
	"strings"
)

// children lists the workflows that a workflow starts, with where it does.
func children(w *Workflow) (found []call) {
	add := func(path string, b *Body) {
		if b != nil && b.Workflow != nil && b.Workflow.Name != "" {
			found = append(found, call{to: b.Workflow.Name, path: path + ".workflow.name"})
		}
	}
	for _, s := range w.Ordered() {
		path := Join("spec.states", s.Name)
		add(path, &s.Body)
		for _, b := range s.Branches() {
			add(Join(path+".parallel", b.Name), &b.Body)
		}
		if s.ForEach != nil {
			add(path+".forEach.do", s.ForEach.Do)
		}
	}
	return found
}

// call is a place where a workflow starts another one.
type call struct{ to, path string }

// startsItself refuses a workflow that starts itself, alone or by way of others.
func (k *check) startsItself(w *Workflow) {
	told := map[string]bool{}
	for _, c := range children(w) {
		if told[c.to] || len(told) == maxWays || !k.together(w.Metadata.Name, c.to) {
			continue
		}
		told[c.to] = true
		way := append([]string{w.Metadata.Name}, k.way(c.to, w.Metadata.Name)...)
		if len(way) > 8 {
			way = slices.Concat(way[:3], []string{"…"}, way[len(way)-2:])
		}
		k.value(c.path, "starts-itself", "one of them must not start the next", "this never ends: %s", strings.Join(way, " starts "))
	}
}

// together reports whether two workflows, of which the first starts the
// second, are part of one circle.
func (ck *Checker) together(from, to string) bool {
	circle := ck.circles()
	return from == to || circle[from] != 0 && circle[from] == circle[to]
}

// maxWays is how many circles are told of one workflow.
const maxWays = 5

// maxWay bounds the search for a chain to tell of.
const maxWay = 1000

// way gives the shortest chain of workflows that start each other, both ends
// included; where it is very long, only its ends.
func (ck *Checker) way(from, to string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0 && len(before) < maxWay; queue = queue[1:] {
		name := queue[0]
		if name == to {
			var way []string
			for ; name != ""; name = before[name] {
				way = append(way, name)
			}
			slices.Reverse(way)
			return way
		}
		for _, next := range ck.starts()[name] {
			if _, seen := before[next]; !seen && ck.together(name, next) {
				before[next] = name
				queue = append(queue, next)
			}
		}
	}
	return []string{from, "…", to}
}

// circlesOf numbers the workflows that are part of a circle of more than one.
func (ck *Checker) circlesOf() map[string]int {
	all := names(ck.c.Workflows)
	number := map[string]int{}
	for i, name := range all {
		number[name] = i
	}
	to := make([][]int, len(all))
	for name, starts := range ck.starts() {
		for _, other := range starts {
			if j, ok := number[other]; ok {
				to[number[name]] = append(to[number[name]], j)
			}
		}
	}
	circle := map[string]int{}
	for i, part := range components(to) {
		if len(part) > 1 {
			for _, at := range part {
				circle[all[at]] = i + 1
			}
		}
	}
	return circle
}

// startsOf gives the workflows that each one starts, in the order of the file.
func (ck *Checker) startsOf() map[string][]string {
	out := map[string][]string{}
	for name, w := range ck.c.Workflows {
		if TooLarge(w) {
			continue
		}
		for _, c := range children(w) {
			if !slices.Contains(out[name], c.to) {
				out[name] = append(out[name], c.to)
			}
		}
	}
	return out
}
