package workflows

// components gives the strongly connected components of a graph: nodes that
// reach each other, in an order in which no component leads to a later one.
// (Tarjan, without recursion: graphs may be long.)
func components(to [][]int) [][]int {
	t := tarjan{to: to, order: make([]int, len(to)), low: make([]int, len(to)), on: make([]bool, len(to))}
	for v := range to {
		if t.order[v] == 0 {
			t.walk(v)
		}
	}
	return t.found
}

type tarjan struct {
	to         [][]int
	order, low []int // 0: not seen
	on         []bool
	stack      []int
	next       int
	found      [][]int
}

type frame struct{ node, edge int }

func (t *tarjan) walk(root int) {
	t.enter(root)
	for frames := []frame{{node: root}}; len(frames) > 0; {
		f := &frames[len(frames)-1]
		if f.edge < len(t.to[f.node]) {
			w := t.to[f.node][f.edge]
			f.edge++
			if t.order[w] == 0 {
				t.enter(w)
				frames = append(frames, frame{node: w})
			} else if t.on[w] {
				t.low[f.node] = min(t.low[f.node], t.order[w])
			}
			continue
		}
		v := f.node
		frames = frames[:len(frames)-1]
		if len(frames) > 0 {
			up := frames[len(frames)-1].node
			t.low[up] = min(t.low[up], t.low[v])
		}
		if t.low[v] == t.order[v] {
			t.take(v)
		}
	}
}

func (t *tarjan) enter(v int) {
	t.next++
	t.order[v], t.low[v], t.on[v] = t.next, t.next, true
	t.stack = append(t.stack, v)
}

func (t *tarjan) take(v int) {
	for i := len(t.stack) - 1; ; i-- {
		w := t.stack[i]
		t.on[w] = false
		if w == v {
			t.found = append(t.found, append([]int(nil), t.stack[i:]...))
			t.stack = t.stack[:i]
			return
		}
	}
}
