package graph

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// The layout stands on ranks: a state is one below the lowest of the states
// that lead to it (loops aside), so that a run goes down the page. An edge to
// the next rank runs in the gap between the two. Every other edge leaves
// through the gap below its state, takes a lane beside the drawing (right for
// those that go down, left for those that go back up) and comes in through the
// gap above its target. All edges to one state share one line: a net.

// Sizes of the drawing, in pixels.
const (
	charName   = 7.6  // width of a character of a name
	charDetail = 6.1  // of a detail or a label
	lineHeight = 15.0 // of a detail
	nameHeight = 18.0
	padX       = 14.0
	padY       = 9.0
	nodeGap    = 40.0 // between two states of a rank
	laneGap    = 16.0
	trackGap   = 12.0
	labelRoom  = 18.0 // below a state that an edge with a label leaves
	gapMin     = 26.0 // between two ranks
	margin     = 20.0
)

type box struct {
	rank       int
	x, y, w, h float64 // x is the middle, y the top
}

// port is where an edge leaves its state: always at the bottom.
type port struct {
	edge *edge
	x    float64
	wide float64 // to the next one: room for its label
}

// net is all edges that lead to one state.
type net struct {
	to          int
	edges       []*edge
	down, up    bool    // it has a lane on the right, on the left
	right, left float64 // where they are
	span        [2]int  // gaps that the right lane crosses: first and last
	upSpan      [2]int  // gaps that the left lane crosses
}

type layout struct {
	c      *chart
	boxes  []box
	out    [][]*edge // of each node, in the order of its arms
	in     [][]*edge
	ranks  [][]int // nodes by rank, from left to right
	ports  [][]*port
	nets   []*net
	netOf  map[int]*net   // by target
	tracks map[[2]int]int // gap and target → track, from the top
	counts []int          // tracks of each gap; gap r lies above rank r
	tops   []float64      // top of each gap
	w, h   float64
}

func newLayout(c *chart) *layout {
	n := len(c.nodes)
	l := &layout{c: c, boxes: make([]box, n), out: make([][]*edge, n), in: make([][]*edge, n), ports: make([][]*port, n),
		netOf: map[int]*net{}, tracks: map[[2]int]int{}}
	for _, e := range c.edges {
		l.out[e.from], l.in[e.to] = append(l.out[e.from], e), append(l.in[e.to], e)
	}
	l.rank()
	l.order()
	l.sizes()
	l.place()
	l.connect()
	l.lanes()
	l.assignTracks()
	l.heights()
	return l
}

// rank gives each node its rank: the longest path that leads to it, loops
// aside. A state that nothing leads to stands just above where it leads.
func (l *layout) rank() {
	back, order := l.backEdges()
	for _, i := range order {
		for _, e := range l.out[i] {
			if !back[e] {
				l.boxes[e.to].rank = max(l.boxes[e.to].rank, l.boxes[i].rank+1)
			}
		}
	}
	for i := range l.boxes {
		lowest := math.MaxInt
		for _, e := range l.out[i] {
			lowest = min(lowest, l.boxes[e.to].rank-1)
		}
		if i != l.c.first && len(l.in[i]) == 0 && lowest > 0 && lowest < math.MaxInt {
			l.boxes[i].rank = lowest
		}
	}
	for i := range l.boxes {
		for len(l.ranks) <= l.boxes[i].rank {
			l.ranks = append(l.ranks, nil)
		}
	}
}

// backEdges finds the edges that close a loop, as seen from the beginning, and
// an order of the nodes in which every other edge leads onward.
func (l *layout) backEdges() (back map[*edge]bool, order []int) {
	back = map[*edge]bool{}
	state := make([]int, len(l.boxes)) // 1: on the way, 2: done
	var walk func(int)
	walk = func(i int) {
		state[i] = 1
		for _, e := range l.out[i] {
			switch state[e.to] {
			case 0:
				walk(e.to)
			case 1:
				back[e] = true
			}
		}
		state[i] = 2
		order = append(order, i)
	}
	if l.c.first >= 0 {
		walk(l.c.first)
	}
	for i := range l.boxes {
		if state[i] == 0 {
			walk(i)
		}
	}
	slices.Reverse(order)
	return back, order
}

// order puts the nodes of each rank in an order in which few edges cross:
// first as they are met from the beginning, the usual way first, then by
// barycentres, down and up.
func (l *layout) order() {
	seen := make([]bool, len(l.boxes))
	var walk func(int)
	walk = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		l.ranks[l.boxes[i].rank] = append(l.ranks[l.boxes[i].rank], i)
		for _, e := range l.out[i] {
			walk(e.to)
		}
	}
	if l.c.first >= 0 {
		walk(l.c.first)
	}
	for i := range l.boxes {
		walk(i)
	}
	best, least := l.copyRanks(), l.crossings()
	for round := range 8 {
		l.sweep(round%2 == 0)
		if n := l.crossings(); n < least {
			best, least = l.copyRanks(), n
		}
	}
	l.ranks = best
}

func (l *layout) copyRanks() [][]int {
	out := make([][]int, len(l.ranks))
	for i, r := range l.ranks {
		out[i] = slices.Clone(r)
	}
	return out
}

// short reports whether an edge leads to the next rank.
func (l *layout) short(e *edge) bool { return l.boxes[e.to].rank == l.boxes[e.from].rank+1 }

// sweep sorts each rank by the mean place of the neighbours in the one before
// it; a node without any keeps its place.
func (l *layout) sweep(down bool) {
	place := l.places()
	for k := range l.ranks {
		r := k
		if !down {
			r = len(l.ranks) - 1 - k
		}
		at := map[int]float64{}
		for i, n := range l.ranks[r] {
			sum, count := 0.0, 0
			for _, other := range l.beside(n, down) {
				sum, count = sum+place[other], count+1
			}
			at[n] = float64(i)
			if count > 0 {
				at[n] = sum / float64(count)
			}
		}
		slices.SortStableFunc(l.ranks[r], func(a, b int) int { return cmp.Compare(at[a], at[b]) })
		for i, n := range l.ranks[r] {
			place[n] = float64(i)
		}
	}
}

// beside gives the nodes of the rank above (or below) that a node has a short
// edge with.
func (l *layout) beside(n int, above bool) (nodes []int) {
	if above {
		for _, e := range l.in[n] {
			if l.short(e) {
				nodes = append(nodes, e.from)
			}
		}
		return nodes
	}
	for _, e := range l.out[n] {
		if l.short(e) {
			nodes = append(nodes, e.to)
		}
	}
	return nodes
}

// places gives the place of each node in its rank.
func (l *layout) places() []float64 {
	place := make([]float64, len(l.boxes))
	for _, r := range l.ranks {
		for i, n := range r {
			place[n] = float64(i)
		}
	}
	return place
}

// crossings counts the crossings of edges between neighbouring ranks.
func (l *layout) crossings() (n int) {
	place := l.places()
	for _, r := range l.ranks {
		var short []*edge
		for _, i := range r {
			for _, e := range l.out[i] {
				if l.short(e) {
					short = append(short, e)
				}
			}
		}
		for i, a := range short {
			for _, b := range short[i+1:] {
				if (place[a.from]-place[b.from])*(place[a.to]-place[b.to]) < 0 {
					n++
				}
			}
		}
	}
	return n
}

// sizes gives each node its width and height, and room to the labels of what
// leaves it.
func (l *layout) sizes() {
	for i, n := range l.c.nodes {
		b := &l.boxes[i]
		b.w = textWidth(shorten(n.name, nameWidth), charName)
		lines := l.lines(i)
		for _, d := range lines {
			b.w = max(b.w, textWidth(d, charDetail))
		}
		b.h = nameHeight + 2*padY + lineHeight*float64(len(lines))
		b.w = max(b.w+2*padX, 2*l.half(i), 72)
	}
}

// half is the room that a node needs on each side of its middle, where the
// first way onward leaves it: ways back leave to the left, the others to the
// right. The label of the last one may stand out.
func (l *layout) half(i int) float64 {
	left, right, last := padX, padX, 0.0
	for _, e := range l.out[i] {
		p := &port{edge: e, wide: 22}
		if e.label != "" {
			p.wide = textWidth(shorten(e.label, svgLabel), charDetail) + 16
		}
		l.ports[i] = append(l.ports[i], p)
		if l.boxes[e.to].rank <= l.boxes[i].rank {
			left += p.wide
		} else {
			right, last = right+p.wide, p.wide
		}
	}
	return max(left, right-last)
}

// lines is what is written below the name of a node.
func (l *layout) lines(i int) (lines []string) {
	n := l.c.nodes[i]
	for _, d := range n.detail {
		if n.kind != "final" || d != n.final {
			lines = append(lines, shorten(d, detailWidth))
		}
	}
	if n.final != "" && n.final != n.name {
		lines = append([]string{n.final}, lines...)
	}
	if i == l.c.abort {
		lines = append(lines, "where a cancelled run goes")
	}
	if n.current {
		lines = append(lines, "the run is here")
	}
	return lines
}

// textWidth is about how wide a text is: letters differ, and a font that is a
// little wider must still fit.
func textWidth(s string, char float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case r == 'i' || r == 'l' || r == '.' || r == ',' || r == '\'' || r == '|' || r == ':' || r == ' ':
			w += 0.62 * char
		case strings.ContainsRune("mw&=<>@+", r) || r == 'M' || r == 'W' || r == '→' || r == '%' || r == '×' || r >= 'A' && r <= 'Z':
			w += 1.3 * char
		case r > 0x2E80: // wide scripts
			w += 2 * char
		default:
			w += char
		}
	}
	return w
}

// place gives each node its x: near the middle of its neighbours, those on the
// usual way first, without overlaps.
func (l *layout) place() {
	for _, r := range l.ranks {
		x := 0.0
		for _, n := range r {
			l.boxes[n].x = x + l.boxes[n].w/2
			x += l.boxes[n].w + nodeGap
		}
	}
	rounds := 12
	if len(l.boxes) < 300 {
		rounds = 100
	}
	for round := range rounds {
		for k := range l.ranks {
			r := k
			if round%2 == 1 {
				r = len(l.ranks) - 1 - k
			}
			l.settle(l.ranks[r])
		}
	}
	left := math.Inf(1)
	for _, b := range l.boxes {
		left = min(left, b.x-b.w/2)
	}
	for i := range l.boxes {
		l.boxes[i].x -= left
	}
}

// settle moves the nodes of a rank as near to where they want to be as their
// widths allow: the least squares, by pooling neighbours that would overlap.
func (l *layout) settle(rank []int) {
	type block struct {
		sum, weight float64 // of the wanted places, each less the room that the nodes before it need
		nodes       int
	}
	var blocks []block
	offset := make([]float64, len(rank))
	for i, n := range rank {
		if i > 0 {
			offset[i] = offset[i-1] + (l.boxes[rank[i-1]].w+l.boxes[n].w)/2 + nodeGap
		}
		want, weight := l.wanted(n)
		blocks = append(blocks, block{(want - offset[i]) * weight, weight, 1})
		for len(blocks) > 1 {
			a, b := blocks[len(blocks)-2], blocks[len(blocks)-1]
			if a.sum/a.weight <= b.sum/b.weight {
				break
			}
			blocks = append(blocks[:len(blocks)-2], block{a.sum + b.sum, a.weight + b.weight, a.nodes + b.nodes})
		}
	}
	i := 0
	for _, b := range blocks {
		for range b.nodes {
			l.boxes[rank[i]].x = b.sum/b.weight + offset[i]
			i++
		}
	}
}

// wanted is where a node would like to be, and how much.
func (l *layout) wanted(n int) (x, weight float64) {
	sum := 0.0
	for _, e := range slices.Concat(l.in[n], l.out[n]) {
		if !l.short(e) {
			continue
		}
		w := 1.0
		if e.mood == onward {
			w = 6
		}
		other := e.from
		if other == n {
			other = e.to
		}
		sum, weight = sum+w*l.boxes[other].x, weight+w
	}
	if weight == 0 {
		return l.boxes[n].x, 0.2
	}
	return sum / weight, weight
}

// connect makes the nets, and puts the ports of each node into an order in
// which its edges do not cross each other: back on the left, then the next
// rank from left to right, then those that go further down.
func (l *layout) connect() {
	for _, e := range l.c.edges {
		t := l.netOf[e.to]
		if t == nil {
			t = &net{to: e.to, span: [2]int{math.MaxInt, -1}, upSpan: [2]int{math.MaxInt, -1}}
			l.netOf[e.to] = t
			l.nets = append(l.nets, t)
		}
		t.edges = append(t.edges, e)
		from, to := l.boxes[e.from].rank, l.boxes[e.to].rank
		switch {
		case to > from+1:
			t.down = true
			t.span = [2]int{min(t.span[0], from+1), max(t.span[1], to)}
		case to <= from:
			t.up = true
			t.upSpan = [2]int{min(t.upSpan[0], to), max(t.upSpan[1], from+1)}
		}
	}
	for i, ports := range l.ports {
		key := func(p *port) (int, float64) {
			from, to := l.boxes[i].rank, l.boxes[p.edge.to].rank
			switch {
			case to <= from:
				return 0, float64(to)
			case to == from+1:
				return 1, l.boxes[p.edge.to].x
			}
			return 2, -float64(to)*1e6 + l.boxes[p.edge.to].x
		}
		slices.SortStableFunc(ports, func(a, b *port) int {
			ga, xa := key(a)
			gb, xb := key(b)
			return cmp.Or(cmp.Compare(ga, gb), cmp.Compare(xa, xb))
		})
		if len(ports) > 0 {
			l.spread(i, ports)
		}
	}
}

// spread gives the ports of a node their places along its bottom: the one
// that leads straight on stands over its target or in the middle, the others
// beside it. A label stands to the right of its line.
func (l *layout) spread(i int, ports []*port) {
	b := l.boxes[i]
	straight := 0
	for k, p := range ports {
		short, before := l.short(p.edge), l.short(ports[straight].edge)
		if short && (!before || p.edge.mood < ports[straight].edge.mood) {
			straight = k
		}
	}
	at := make([]float64, len(ports)) // from the first one
	for k := 1; k < len(ports); k++ {
		at[k] = at[k-1] + ports[k-1].wide
	}
	left, right := b.x-b.w/2+padX, b.x+b.w/2-padX
	want := b.x
	if l.short(ports[straight].edge) {
		want = min(max(l.boxes[ports[straight].edge.to].x, left), right)
	} else {
		want -= at[len(at)-1] / 2
	}
	first := want - at[straight]
	first = max(min(first, right-at[len(at)-1]), left)
	for k, p := range ports {
		p.x = first + at[k]
	}
}

// lanes puts the lanes beside the drawing. Those that cross fewer ranks are
// nearer; two that never meet share a place.
func (l *layout) lanes() {
	right := 0.0
	for _, b := range l.boxes {
		right = max(right, b.x+b.w/2)
	}
	down := slices.DeleteFunc(slices.Clone(l.nets), func(t *net) bool { return !t.down })
	slices.SortStableFunc(down, func(a, b *net) int {
		return cmp.Or(cmp.Compare(a.span[1]-a.span[0], b.span[1]-b.span[0]), cmp.Compare(l.boxes[a.to].x, l.boxes[b.to].x))
	})
	for i, slot := range slots(down, func(t *net) [2]int { return t.span }) {
		down[i].right = right + laneGap*float64(slot+1)
	}
	up := slices.DeleteFunc(slices.Clone(l.nets), func(t *net) bool { return !t.up })
	slices.SortStableFunc(up, func(a, b *net) int { return cmp.Compare(a.upSpan[1]-a.upSpan[0], b.upSpan[1]-b.upSpan[0]) })
	for i, slot := range slots(up, func(t *net) [2]int { return t.upSpan }) {
		up[i].left = -laneGap * float64(slot+1)
	}
}

// slots gives each net the first place in which it meets no other.
func slots(nets []*net, span func(*net) [2]int) []int {
	out := make([]int, len(nets))
	var taken [][][2]int // by place
	for i, t := range nets {
		want := span(t)
		meets := func(o [2]int) bool { return o[0] <= want[1] && want[0] <= o[1] }
		for out[i] < len(taken) && slices.ContainsFunc(taken[out[i]], meets) {
			out[i]++
		}
		if out[i] == len(taken) {
			taken = append(taken, nil)
		}
		taken[out[i]] = append(taken[out[i]], want)
	}
	return out
}
