package graph

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// svgLabel is how much of a label is written; a title holds all of it.
const svgLabel = 26

// svgStyle colours the drawing for light and for dark pages. There are no
// variables in it, because not every viewer knows them.
const svgStyle = `
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328}
.page{fill:#fff}.name{font-size:13px;font-weight:600}.more{font-size:10.5px;fill:#57606a}
.box rect{fill:#f6f8fa;stroke:#8c959f;stroke-width:1.2}.deploy rect{fill:#eaf3ff;stroke:#4a86c5}
.approval rect{fill:#fff5d6;stroke:#b58900}.wait rect{stroke-dasharray:4 3}.good rect{fill:#dff5e5;stroke:#2e8b57}
.bad rect{fill:#fdeceb;stroke:#c0392b}.compensate rect{fill:#fdf1e7;stroke:#c46a1b}
.visited rect{stroke:#1f6feb;stroke-width:2.4}.current rect{fill:#1f6feb;stroke:#0b3d91;stroke-width:2.4}
.current text{fill:#fff}
.way{fill:none;stroke:#57606a;stroke-width:1.4}.aside{stroke:#c08b76}
.called{stroke:#8250df}.taken{stroke:#1f6feb;stroke-width:2.6}
.tip{fill:#57606a}.tip.aside{fill:#c08b76}.tip.called{fill:#8250df}.tip.taken{fill:#1f6feb}.tip.aside,.tip.called,.tip.taken{stroke:none}
.label{font-size:10.5px;fill:#57606a;paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.more{fill:#9da7b3}
.box rect{fill:#1b222c;stroke:#6e7681}.deploy rect{fill:#12263f;stroke:#4a86c5}.approval rect{fill:#352a08;stroke:#c69b1c}
.good rect{fill:#10301d;stroke:#3fb26f}.bad rect{fill:#3a1512;stroke:#e0665a}.compensate rect{fill:#35220f;stroke:#d98a3d}
.visited rect{stroke:#58a6ff}.current rect{fill:#1f6feb;stroke:#a5d0ff}.current text{fill:#fff}
.way{stroke:#8b949e}.aside{stroke:#96604b}.called{stroke:#b794f4}.taken{stroke:#58a6ff}
.tip{fill:#8b949e}.tip.aside{fill:#96604b}.tip.called{fill:#b794f4}.tip.taken{fill:#58a6ff}
.label{fill:#9da7b3;stroke:#0d1117}}
`

// SVG draws the workflow. The picture stands alone: it names no font and no
// file, runs nothing, and says in words what it shows.
func SVG(w *workflows.Workflow, t Trace) string {
	c := newChart(w, t)
	l := newLayout(c)
	left := margin
	for _, n := range l.nets {
		left = max(left, margin-n.left)
	}
	width, height := l.w+left+margin, l.h
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="%.0f 0 %.0f %.0f" role="img" aria-labelledby="t d">`+"\n",
		width, height, -left, width, height)
	fmt.Fprintf(&b, "<title id=\"t\">%s</title>\n<desc id=\"d\">%s</desc>\n<style>%s</style>\n", svgText(c.heading()), svgText(c.spoken()), svgStyle)
	fmt.Fprintf(&b, `<rect class="page" x="%.0f" width="%.0f" height="%.0f" rx="8"/>`+"\n", -left, width, height)
	if c.first >= 0 {
		first := l.boxes[c.first]
		fmt.Fprintf(&b, "<circle class=\"tip\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"/>\n", first.x, margin)
		way(&b, "way", "", [][2]float64{{first.x, margin + 6}, {first.x, first.y}})
	}
	over := slices.SortedStableFunc(slices.Values(c.edges), func(a, b *edge) int { return cmp.Compare(a.over(), b.over()) })
	for _, e := range over {
		way(&b, e.class(), e.label, l.route(e))
	}
	for _, e := range c.edges {
		l.label(&b, e)
	}
	for i := range c.nodes {
		l.node(&b, i)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// over says which of two lines is drawn over the other: the usual way over
// the others, that of a run over all.
func (e *edge) over() int {
	if e.taken {
		return 3
	}
	return int(called - e.mood)
}

func (e *edge) class() string {
	class := []string{"way", "way aside", "way called"}[e.mood]
	if e.taken {
		class += " taken"
	}
	return class
}

// way draws an edge with round corners and a tip.
func way(b *strings.Builder, class, title string, points [][2]float64) {
	last := len(points) - 1
	end := points[last]
	points[last][1] -= 6 // the tip
	fmt.Fprintf(b, `<path class="%s" d="M%.1f %.1f`, class, points[0][0], points[0][1])
	for i := 1; i < last; i++ {
		p, q, r := points[i-1], points[i], points[i+1]
		in, out := towards(q, p), towards(q, r)
		fmt.Fprintf(b, "L%.1f %.1fQ%.1f %.1f %.1f %.1f", in[0], in[1], q[0], q[1], out[0], out[1])
	}
	fmt.Fprintf(b, "L%.1f %.1f\">", points[last][0], points[last][1])
	if title != "" {
		fmt.Fprintf(b, "<title>%s</title>", svgText(shorten(title, 400)))
	}
	b.WriteString("</path>\n")
	fmt.Fprintf(b, `<path class="tip%s" d="M%.1f %.1fl-4 -7h8z"/>`+"\n", strings.TrimPrefix(class, "way"), end[0], end[1])
}

// towards is the point where the round corner at p begins, on the way to q.
func towards(p, q [2]float64) [2]float64 {
	d := math.Hypot(q[0]-p[0], q[1]-p[1])
	if d == 0 {
		return p
	}
	r := min(7, d/2)
	return [2]float64{p[0] + (q[0]-p[0])*r/d, p[1] + (q[1]-p[1])*r/d}
}

// label writes on what an edge is taken, below the state that it leaves.
func (l *layout) label(b *strings.Builder, e *edge) {
	if e.label == "" {
		return
	}
	from := l.boxes[e.from]
	fmt.Fprintf(b, `<text class="label" x="%.1f" y="%.1f">%s</text>`+"\n", l.portOf(e).x+5, from.y+from.h+14, svgText(shorten(e.label, svgLabel)))
}

func (l *layout) node(b *strings.Builder, i int) {
	n, at := l.c.nodes[i], l.boxes[i]
	class, round := "box "+n.kind, 6.0
	if n.kind == "final" {
		class, round = "box bad", 18.0
		if n.final == "succeeded" {
			class = "box good"
		}
	}
	if n.visited {
		class += " visited"
	}
	if n.current {
		class += " current"
	}
	fmt.Fprintf(b, `<g class="%s"><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="%.0f"/>`, class, at.x-at.w/2, at.y, at.w, at.h, round)
	y := at.y + padY + 13
	fmt.Fprintf(b, `<text class="name" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`, at.x, y, svgText(shorten(n.name, nameWidth)))
	for _, d := range l.lines(i) {
		y += lineHeight
		fmt.Fprintf(b, `<text class="more" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`, at.x, y, svgText(d))
	}
	b.WriteString("</g>\n")
}

func (c *chart) heading() string {
	title := "The workflow " + shorten(c.title, nameWidth)
	if c.run != "" {
		title += ", and the way of run " + shorten(c.run, nameWidth)
	}
	return title
}

// spoken is the drawing in words.
func (c *chart) spoken() string {
	var parts []string
	if c.first >= 0 {
		parts = append(parts, "A run begins in "+c.nodes[c.first].name+".")
	}
	for i, n := range c.nodes {
		text := n.name + ", " + n.kind
		if n.current {
			text += ", where the run is"
		} else if n.visited {
			text += ", which the run has passed"
		}
		var to []string
		for _, e := range c.edges {
			if e.from != i {
				continue
			}
			word := c.nodes[e.to].name
			if e.label != "" {
				word += " (" + e.label + ")"
			}
			to = append(to, word)
		}
		if n.final != "" {
			text += ", ends the run " + n.final
		} else if len(to) > 0 {
			text += ", leads to " + strings.Join(to, "; ")
		}
		parts = append(parts, text+".")
	}
	return shorten(strings.Join(parts, " "), 8000)
}

var svgEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

func svgText(s string) string { return svgEscape.Replace(s) }
