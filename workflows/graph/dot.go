package graph

import (
	"fmt"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// DOT gives the workflow in the language of Graphviz.
func DOT(w *workflows.Workflow, t Trace) string {
	c := newChart(w, t)
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n", dotText(c.title, nameWidth))
	b.WriteString("  graph [rankdir=TB, fontname=\"sans-serif\", nodesep=0.4, ranksep=0.5]\n" +
		"  node [shape=box, style=\"rounded,filled\", fillcolor=\"#ffffff\", color=\"#57606a\", fontname=\"sans-serif\", fontsize=11]\n" +
		"  edge [color=\"#57606a\", fontname=\"sans-serif\", fontsize=10]\n")
	for i, n := range c.nodes {
		fmt.Fprintf(&b, "  n%d [label=%s%s]\n", i, dotLabel(n), dotStyle(n))
	}
	if c.first >= 0 {
		fmt.Fprintf(&b, "  start [shape=circle, label=\"\", width=0.15, fillcolor=\"#57606a\"]\n  start -> n%d\n", c.first)
	}
	for _, e := range c.edges {
		var attrs []string
		if e.label != "" {
			attrs = append(attrs, "label="+dotText(e.label, labelWidth))
		}
		if e.mood != onward {
			attrs = append(attrs, "style=dashed")
		}
		if e.taken {
			attrs = append(attrs, "color=\"#1f6feb\"", "penwidth=2.5")
		}
		fmt.Fprintf(&b, "  n%d -> n%d", e.from, e.to)
		if len(attrs) > 0 {
			b.WriteString(" [" + strings.Join(attrs, ", ") + "]")
		}
		b.WriteByte('\n')
	}
	if c.abort >= 0 {
		fmt.Fprintf(&b, "  cancel [shape=plaintext, style=\"\", label=\"cancel\"]\n  cancel -> n%d [style=dashed]\n", c.abort)
	}
	b.WriteString("}\n")
	return b.String()
}

func dotLabel(n *node) string {
	lines := []string{n.name}
	for _, d := range n.detail {
		if n.kind != "final" || d != n.final || d != n.name {
			lines = append(lines, d)
		}
	}
	if n.current {
		lines = append(lines, "the run is here")
	}
	for i := range lines {
		lines[i] = dotEscape(shorten(lines[i], detailWidth))
	}
	return "\"" + strings.Join(lines, "\\n") + "\""
}

func dotStyle(n *node) string {
	style := ""
	switch {
	case n.current:
		return ", fillcolor=\"#1f6feb\", fontcolor=\"#ffffff\", color=\"#0b3d91\", penwidth=2.5"
	case n.kind == "approval":
		style = ", shape=hexagon, style=filled, fillcolor=\"#fff3cd\", color=\"#b58900\""
	case n.final == "succeeded":
		style = ", fillcolor=\"#d9f2e0\", color=\"#2e8b57\""
	case n.final != "":
		style = ", fillcolor=\"#fbe0de\", color=\"#c0392b\""
	}
	if n.visited {
		style += ", penwidth=2.5, color=\"#1f6feb\""
	}
	return style
}

// dotText writes a text as a quoted string.
func dotText(s string, most int) string { return "\"" + dotEscape(shorten(s, most)) + "\"" }

// dotEscape hides what ends a string, and what would be an escape of DOT.
func dotEscape(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }
