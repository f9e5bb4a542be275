package graph

import (
	"math"
	"slices"
)

// strand is what one net has in one gap: pins above (ports of the states over
// the gap), pins below (its target), and pins at the sides (its lanes). Its
// horizontal line lies on one track.
type strand struct {
	net      *net
	above    []float64
	below    []float64
	from, to float64 // of the horizontal line
}

// strands gives what runs in the gap above rank g.
func (l *layout) strands(g int) (all []*strand) {
	found := map[int]*strand{}
	at := func(to int) *strand {
		if found[to] == nil {
			found[to] = &strand{net: l.netOf[to], from: math.Inf(1), to: math.Inf(-1)}
			all = append(all, found[to])
		}
		return found[to]
	}
	if g > 0 {
		for _, n := range l.ranks[g-1] {
			for _, p := range l.ports[n] {
				s := at(p.edge.to)
				s.above = append(s.above, p.x)
				s.reach(p.x)
				switch to := l.boxes[p.edge.to].rank; {
				case to > g:
					s.reach(s.net.right)
				case to < g:
					s.reach(s.net.left)
				}
			}
		}
	}
	if g < len(l.ranks) {
		for _, n := range l.ranks[g] {
			if l.netOf[n] == nil {
				continue
			}
			s := at(n)
			s.below = append(s.below, l.boxes[n].x)
			s.reach(l.boxes[n].x)
			if s.net.down {
				s.reach(s.net.right)
			}
			if s.net.up {
				s.reach(s.net.left)
			}
		}
	}
	return all
}

func (s *strand) reach(x float64) { s.from, s.to = min(s.from, x), max(s.to, x) }

func (l *layout) portOf(e *edge) *port {
	for _, p := range l.ports[e.from] {
		if p.edge == e {
			return p
		}
	}
	return &port{edge: e, x: l.boxes[e.from].x} // unreachable: every edge has a port
}

// assignTracks puts the lines of each gap one below the other so that few of
// them cross and none lies on another.
func (l *layout) assignTracks() {
	l.counts = make([]int, len(l.ranks)+1)
	for g := range l.counts {
		all := l.strands(g)
		improve(all)
		level := make([]int, len(all))
		for i, s := range all {
			for j, o := range all[:i] {
				if s.from-4 <= o.to && o.from <= s.to+4 && level[i] <= level[j] {
					level[i] = level[j] + 1
				}
			}
			if s.to-s.from < 1 { // straight down: needs no line
				level[i] = 0
				continue
			}
			l.tracks[[2]int{g, s.net.to}] = level[i]
			l.counts[g] = max(l.counts[g], level[i]+1)
		}
	}
}

// improve moves lines to where they do least harm, until none is better off
// elsewhere.
func improve(all []*strand) {
	if len(all) > 40 { // a drawing that nobody reads line by line
		return
	}
	for range all {
		changed := false
		for i := range all {
			changed = settleTrack(all, i) || changed
		}
		if !changed {
			return
		}
	}
}

// settleTrack moves line i to its best place, if that is better than its own.
func settleTrack(all []*strand, i int) bool {
	s := all[i]
	best, least := i, 0
	for step, sum := -1, 0; step >= -i; step-- { // upwards
		other := all[i+step]
		if sum += faults(s, other) - faults(other, s); sum < least {
			best, least = i+step, sum
		}
	}
	for step, sum := 1, 0; i+step < len(all); step++ { // downwards
		other := all[i+step]
		if sum += faults(other, s) - faults(s, other); sum < least {
			best, least = i+step, sum
		}
	}
	if least >= 0 {
		return false
	}
	copy(all[i:], all[i+1:])
	copy(all[best+1:], all[best:len(all)-1])
	all[best] = s
	return true
}

// faults counts what is wrong when the line of a lies above that of b: each
// crossing once, and each place where two verticals would lie on each other
// much more.
func faults(a, b *strand) (n int) {
	within := func(x float64, s *strand) bool { return s.to-s.from >= 1 && x > s.from+1 && x < s.to-1 }
	for _, x := range b.above { // come down through a's line
		if within(x, a) {
			n++
		}
	}
	for _, x := range a.below { // go down through b's line
		if within(x, b) {
			n++
		}
	}
	for _, x := range b.above {
		if slices.ContainsFunc(a.below, func(y float64) bool { return math.Abs(x-y) < 5 }) {
			n += 20
		}
	}
	// A lane that comes in from above crosses the lines that pass below it
	// on their way to a lane further out.
	if lane := a.net.right; a.below == nil && a.net.down && b.net.down && b.net.right > lane && b.to > lane && b.above != nil {
		n++
	}
	return n
}

// heights gives every gap and every rank its y.
func (l *layout) heights() {
	y := margin
	if l.c.first >= 0 {
		y += 26
	}
	l.tops = make([]float64, len(l.counts))
	for g := range l.counts {
		l.tops[g] = y
		gap := 0.0
		if l.counts[g] > 0 || g > 0 && g < len(l.ranks) {
			gap = gapMin + trackGap*float64(max(l.counts[g]-1, 0)) + l.room(g)
		}
		y += gap
		if g == len(l.ranks) {
			break
		}
		tallest := 0.0
		for _, n := range l.ranks[g] {
			l.boxes[n].y = y
			tallest = max(tallest, l.boxes[n].h)
		}
		y += tallest
	}
	l.h = y + margin
	for _, b := range l.boxes {
		l.w = max(l.w, b.x+b.w/2)
	}
	for _, t := range l.nets {
		l.w = max(l.w, t.right)
	}
}

// room is the height that labels need at the top of a gap.
func (l *layout) room(g int) float64 {
	if g == 0 {
		return 0
	}
	for _, n := range l.ranks[g-1] {
		for _, p := range l.ports[n] {
			if p.edge.label != "" {
				return labelRoom
			}
		}
	}
	return 0
}

// trackY is where the line of a net lies in a gap.
func (l *layout) trackY(g, to int) float64 {
	return l.tops[g] + l.room(g) + 10 + trackGap*float64(l.tracks[[2]int{g, to}])
}

// route gives the corners of an edge, from the bottom of its state to the top
// of the other.
func (l *layout) route(e *edge) [][2]float64 {
	from, to := l.boxes[e.from], l.boxes[e.to]
	x, g, t := l.portOf(e).x, from.rank+1, l.netOf[e.to]
	points := [][2]float64{{x, from.y + from.h}}
	turn := func(x float64, g int) {
		y := l.trackY(g, e.to)
		points = append(points, [2]float64{points[len(points)-1][0], y}, [2]float64{x, y})
	}
	switch {
	case to.rank == g && math.Abs(x-to.x) < 1:
	case to.rank == g:
		turn(to.x, g)
	case to.rank > g:
		turn(t.right, g)
		turn(to.x, to.rank)
	default:
		turn(t.left, g)
		turn(to.x, to.rank)
	}
	return append(points, [2]float64{to.x, to.y})
}
